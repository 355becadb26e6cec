//! The script of docs/format.md opens every kind of object that a real service leaves, as our own opener does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use holdfast_seal::{Header, ObjectKind, open_to_vec};
use holdfast_store::survey::{FoundService, SurveyProgress, choose, names, survey_service};
use holdfast_store::{ObjectName, ObjectPrefix, Store};

use crate::rebuild::Left;

pub(crate) async fn opens_every_kind_of_object(left: &Left) -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let kit = holdfast_server::rebuild::read_kit(&left.kit)?;
    let store = Store::open(&left.store)?;
    let scope = choose(&names(&store, &kit).await?, "ledger").map_err(anyhow::Error::msg)?;
    let (found, _) = survey_service(&store, &kit, scope, &SurveyProgress::default()).await?;
    let mut seen = Vec::new();
    let mut objects = store.list(&ObjectPrefix::Service(scope));
    while let Some(object) = objects.try_next().await? {
        let Some(context) = object.name.context("") else { continue };
        // Three of each kind: files of a backup, log and index files lie in one repository.
        if seen.iter().filter(|kind| **kind == context.kind).count() < 3 {
            seen.push(context.kind);
            one(left, &python, &found, &object.name)?;
        }
    }
    let expected = [
        ObjectKind::BackupFile,
        ObjectKind::Log,
        ObjectKind::RepositoryInfo,
        ObjectKind::Manifest,
        ObjectKind::Coverage,
        ObjectKind::Service,
    ];
    for kind in expected {
        ensure!(seen.contains(&kind), "no {kind} was there: {seen:?}");
    }
    println!("docs/open_object.py opened {} objects of {} kinds", seen.len(), expected.len());
    Ok(())
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("HOLDFAST_ORACLE_PYTHON");
    let required = std::env::var("HOLDFAST_REQUIRE_ORACLE").is_ok_and(|value| value == "1");
    assert!(python.is_some() || !required, "set HOLDFAST_ORACLE_PYTHON");
    if python.is_none() {
        println!("SKIPPED: docs/open_object.py: HOLDFAST_ORACLE_PYTHON names no Python (scripts/python.sh)");
    }
    python.map(PathBuf::from)
}

/// Opens the object with both, and compares.
fn one(left: &Left, python: &Path, found: &FoundService, name: &ObjectName) -> Result<()> {
    let bucket = left.folder.join("bucket");
    let object = bucket.join(name.to_string());
    let sealed = std::fs::read(&object)?;
    let header = Header::parse(&sealed[..32])?;
    let key = found.owned_key(holdfast_core::KeyId(header.key_id)).context("its key")?;
    let context = name.context(&key.owner).context("it is sealed")?;
    let ours = open_to_vec(&key.key, &context, &sealed)?;

    let wrapped = bucket.join(ObjectName::KeyRecovery { service: found.scope, key: key.key_id }.to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/open_object.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg("--kit").arg(&left.kit).arg("--object").arg(&object);
    command.args(["--name", &name.to_string()]);
    let which = command.output()?;
    ensure!(String::from_utf8_lossy(&which.stdout).trim() == key.key_id.to_string(), "{name}: {which:?}");
    command.arg("--wrapped-key").arg(wrapped);
    match context.kind {
        ObjectKind::BackupFile => drop(command.args(["--backup", &key.owner])),
        ObjectKind::Service => drop(command.args(["--lineage", &found.lineage.to_string()])),
        _ => {}
    }
    let opened = command.output()?;
    ensure!(opened.status.success(), "{name}: {}", String::from_utf8_lossy(&opened.stderr));
    ensure!(opened.stdout == ours, "{name}: the script opened something else");
    Ok(())
}
