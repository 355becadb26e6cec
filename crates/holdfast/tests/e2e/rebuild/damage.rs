//! What is damaged or missing is told, and hides nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::BINARY;
use crate::rebuild::Left;
use crate::rebuild::bucket::{self, Run, run};

/// A damage, done to a bucket of its own, and words that must be told of it.
type Case<'a> = (&'a str, Box<dyn Fn(&Path) -> Result<()> + 'a>, &'a [&'a str]);

pub(crate) fn is_told(left: &Left) -> Result<()> {
    let id = &left.labelled;
    let one = |bucket: &Path, text: &str| -> Result<PathBuf> {
        bucket::named(bucket, text)?.into_iter().next().with_context(|| format!("no object {text}"))
    };
    let of_ledger = |bucket: &Path| bucket::named(bucket, &left.running);
    let manifest = format!("/manifest/{id}");
    let cases: Vec<Case> = vec![
        (
            "the newest backup was rolled back",
            Box::new(|bucket| Ok(std::fs::remove_file(one(bucket, &manifest)?)?)),
            &["the newest when this was described, has no manifest", "its manifest is missing"],
        ),
        (
            "a backup lost an object",
            Box::new(|bucket| {
                let bundle =
                    of_ledger(bucket)?.into_iter().find(|path| path.to_string_lossy().contains("/bundle/"));
                Ok(std::fs::remove_file(bundle.context("a bundle")?)?)
            }),
            &["objects are missing or cut"],
        ),
        (
            "a manifest was changed",
            Box::new(|bucket| {
                let path = one(bucket, &manifest)?;
                let mut bytes = std::fs::read(&path)?;
                bytes[100] ^= 1;
                Ok(std::fs::write(&path, bytes)?)
            }),
            &["does not authenticate"],
        ),
        (
            "a description is gone",
            Box::new(|bucket| {
                for path in
                    of_ledger(bucket)?.iter().filter(|path| path.to_string_lossy().contains("/description/"))
                {
                    std::fs::remove_file(path)?;
                }
                Ok(())
            }),
            &["it has no description", "recovered-"],
        ),
        (
            "another service's manifest lies in the place of ours",
            Box::new(|bucket| {
                let mut others = bucket::named(bucket, "/manifest/")?;
                others.retain(|path| !path.to_string_lossy().contains(&left.running));
                std::fs::copy(others.first().context("a manifest of another")?, one(bucket, &manifest)?)?;
                Ok(())
            }),
            &["is missing or does not open with this recovery key"],
        ),
        (
            "an older description lies under a newer number",
            Box::new(|bucket| {
                let mut descriptions = of_ledger(bucket)?;
                descriptions.retain(|path| path.to_string_lossy().contains("/description/"));
                let known = descriptions.last().context("a description")?;
                std::fs::copy(known, known.with_file_name("00000000000000000999"))?;
                Ok(())
            }),
            &["a description does not open", "before the fire"],
        ),
        (
            "log is gone",
            Box::new(|bucket| {
                let mut log = of_ledger(bucket)?;
                log.retain(|path| {
                    path.to_string_lossy().contains("/archive/") && path.to_string_lossy().ends_with(".zst")
                });
                Ok(std::fs::remove_file(&log[log.len() / 2])?)
            }),
            &["log is missing in 1 of"],
        ),
    ];
    for (what, damage, words) in cases {
        let bucket = left.folder.join("damaged");
        bucket::copy(&left.folder.join("bucket"), &bucket)?;
        damage(&bucket)?;
        let told = run(&["rebuild", "--check"], &format!("file://{}", bucket.display()), &left.kit)?;
        ensure!(told.code == 1, "{what}: {told:?}");
        for word in words {
            ensure!(
                told.stderr.contains(word) || told.stdout.contains(word),
                "{what}: no {word:?} in {told:?}"
            );
        }
        ensure!(told.stdout.contains("doomed"), "{what}: the others are still there: {told:?}");
        std::fs::remove_dir_all(&bucket)?;
        println!("told: {what}");
    }
    left_out_only_if_asked(left)?;
    wrong_kit(left)?;
    no_bucket(left)
}

/// A service of which no key opens any more is missing afterwards: nobody gets such a catalog by chance.
fn left_out_only_if_asked(left: &Left) -> Result<()> {
    let (bucket, data) = (left.folder.join("damaged"), left.folder.join("partial"));
    bucket::copy(&left.folder.join("bucket"), &bucket)?;
    for path in bucket::named(&bucket, &left.running)? {
        if path.ends_with("recovery") {
            std::fs::write(path, [0; 80])?;
        }
    }
    let store = format!("file://{}", bucket.display());
    let folder = data.to_str().context("a path of text")?;
    let refused = run(&["rebuild", "--data", folder], &store, &left.kit)?;
    ensure!(refused.code == 1 && refused.stderr.contains("--partial"), "{refused:?}");
    ensure!(!data.exists(), "{refused:?}");
    let done = run(&["rebuild", "--partial", "--data", folder], &store, &left.kit)?;
    ensure!(done.code == 0 && done.stderr.contains("the catalog of 4 services"), "{done:?}");
    ensure!(done.stderr.contains("nothing of it opens"), "{done:?}");
    std::fs::remove_dir_all(&bucket)?;
    Ok(())
}

/// A kit of another Holdfast opens nothing, and the error says so.
fn wrong_kit(left: &Left) -> Result<()> {
    // The private half of the test vectors in docs/format.md.
    let other = left.folder.join("other-kit.txt");
    let line = "HFPRIV1-40GJ-48S4-4MK2-EA19-58NJ-RB9E-5WR3-2CHK-6GTK-CDSR-74X3-PF1X-7RZP-P40P";
    std::fs::write(&other, line)?;
    let told = run(&["rebuild", "--check"], &left.store, &other)?;
    ensure!(told.code == 1 && told.stderr.contains("another recovery kit"), "{told:?}");
    ensure!(!told.stderr.contains("40GJ"), "the kit's line was repeated: {told:?}");
    std::fs::write(&other, "a shopping list")?;
    let told = run(&["open", "--list"], &left.store, &other)?;
    ensure!(told.code == 1 && told.stderr.contains("recovery-kit.txt"), "{told:?}");
    Ok(())
}

/// A mistyped folder is told and not made.
fn no_bucket(left: &Left) -> Result<()> {
    let nowhere = left.folder.join("nowhere");
    let told = run(&["open", "--list"], &format!("file://{}", nowhere.display()), &left.kit)?;
    ensure!(told.code == 1 && told.stderr.contains("no object store of Holdfast's"), "{told:?}");
    ensure!(!nowhere.exists());
    let told = Run::of(
        std::process::Command::new(BINARY)
            .args(["--url", "http://x", "open", "--list", "--store", "file:///x"])
            .args(["--recovery-kit", "x"]),
    )?;
    ensure!(told.code == 2, "{told:?}");
    Ok(())
}
