//! On the host: engines run as users of their own, who reach neither each other nor the keys.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::Holdfast;

use super::support::{files, start};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_reaches_neither_keys_nor_other_engines() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root gives each service a user of its own");
        return Ok(());
    }
    let Some(holdfast) = start("host").await? else { return Ok(()) };
    let client = holdfast.client();
    let (a, b) = tokio::try_join!(client.create("one"), client.create("two"))?;
    let (a, b) = (holdfast.instances.join(a), holdfast.instances.join(b));
    let (user_a, user_b) = (user_of(&a)?, user_of(&b)?);
    ensure!(user_a != user_b && user_a.0 != 0 && user_b.0 != 0, "users {user_a:?} and {user_b:?}");
    for (folder, user) in [(&a, user_a), (&b, user_b)] {
        let users = users_of_processes_in(&folder.join("data"));
        ensure!(users.len() >= 5, "only {} processes were found in {}", users.len(), folder.display());
        ensure!(users.iter().all(|uid| *uid == user.0), "processes of {} run as {users:?}", folder.display());
    }
    confined(&holdfast, &a, &b, user_a)?;
    confined(&holdfast, &b, &a, user_b)
}

/// User and group that own the instance's data.
fn user_of(instance: &Path) -> Result<(u32, u32)> {
    let meta = std::fs::metadata(instance.join("data"))?;
    Ok((meta.uid(), meta.gid()))
}

/// Real users of all processes whose working folder this is: the postmaster and its children.
fn users_of_processes_in(folder: &Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder))
        .filter_map(|process| {
            let status = std::fs::read_to_string(process.path().join("status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
        })
        .collect()
}

/// Whether a command succeeds as that user, as the agent starts engines.
fn succeeds(user: (u32, u32), command: &[&str]) -> Result<bool> {
    let ended = Command::new("setpriv")
        .args([format!("--reuid={}", user.0), format!("--regid={}", user.1)])
        .args(["--clear-groups", "--no-new-privs", "--"])
        .args(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("start setpriv")?;
    Ok(ended.success())
}

fn confined(holdfast: &Holdfast, own: &Path, other: &Path, user: (u32, u32)) -> Result<()> {
    let reads = |path: &Path| succeeds(user, &["head", "-c1", &path.to_string_lossy()]);
    let lists = |path: &Path| succeeds(user, &["ls", &path.to_string_lossy()]);
    // What must work, so that a refusal below says something.
    for path in ["data/PG_VERSION", "conf/postgresql.conf", "conf/server.key", "conf/pgbackrest.conf"] {
        ensure!(reads(&own.join(path))?, "{user:?} must read its own {path}");
    }

    let data = holdfast.data();
    let mut secret: Vec<PathBuf> = files(&data.join("keys"));
    ensure!(!secret.is_empty(), "no keys were found");
    secret.extend(
        ["agent.token", "agent/host.key", "recovery-kit.txt", "catalog.db"].map(|file| data.join(file)),
    );
    secret.extend(files(&holdfast.objects()).into_iter().take(3));
    let of_others =
        ["data/PG_VERSION", "conf/pgbackrest.conf", "conf/server.key", "conf/pg_hba.conf", "instance.json"];
    secret.extend(of_others.map(|file| other.join(file)));
    secret.extend(["instance.json", "keys.sealed"].map(|file| own.join(file)));
    for path in &secret {
        ensure!(path.is_file(), "{} is not there", path.display());
        ensure!(!reads(path)?, "{user:?} can read {}", path.display());
    }
    for folder in [&data, &holdfast.instances, &other.join("data"), &other.join("run"), &other.join("log")] {
        ensure!(!lists(folder)?, "{user:?} can list {}", folder.display());
    }
    // Nor does it change what configures its own archiving, or leave something where the agent would find it.
    let appends = |path: &Path| {
        succeeds(
            user,
            &["dd", "if=/dev/null", &format!("of={}", path.display()), "oflag=append", "conv=notrunc"],
        )
    };
    ensure!(appends(&own.join("data/PG_VERSION"))?, "{user:?} must be able to write its data");
    for path in ["conf/postgresql.conf", "conf/pg_hba.conf", "conf/pgbackrest.conf", "conf/new", "new"] {
        ensure!(!appends(&own.join(path))?, "{user:?} can write its own {path}");
    }
    Ok(())
}
