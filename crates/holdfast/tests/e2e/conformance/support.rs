//! A whole Holdfast for a test of one engine, and `holdfast check engine` against it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, holdfast, seed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::BINARY;

/// To random instants, beside those at the edges.
const RESTORES: usize = 5;
/// Of backups, where there are no instants.
const RESTORES_OF_BACKUPS: usize = 2;
/// In `make soak`.
const RESTORES_OF_A_SOAK: usize = 10;

/// Whether there is anything to try: a driver, and the engines (or they need not be there).
pub(crate) fn is_there(kind: EngineKind) -> bool {
    if !kind.capability().available {
        println!("{kind}: this release has no driver for it");
        return false;
    }
    holdfast::engines().is_some()
}

/// A Holdfast for an engine; `None` where there is nothing to try.
pub(crate) async fn holdfast_for(kind: EngineKind, test: &str) -> Result<Option<Holdfast>> {
    holdfast_with(kind, test, &[]).await
}

pub(crate) async fn holdfast_with(
    kind: EngineKind,
    test: &str,
    environment: &[(&str, &str)],
) -> Result<Option<Holdfast>> {
    if !is_there(kind) {
        return Ok(None);
    }
    let holdfast = Holdfast::start_with(BINARY, &format!("{test}-{kind}"), environment).await?;
    holdfast.wait_for_agent().await?;
    Ok(Some(holdfast))
}

fn check(holdfast: &Holdfast, kind: EngineKind, more: &[&str]) -> Result<Child> {
    let mut command = Command::new(BINARY);
    command.args(["check", "engine", kind.as_str(), "-o", "json"]).args(more);
    command.env("HOLDFAST_URL", holdfast.base()).env("HOLDFAST_PASSWORD", holdfast::PASSWORD);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("start the check")
}

/// The whole suite by the command, which leaves nothing.
pub(crate) async fn keeps_every_promise(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "conf").await? else { return Ok(()) };
    let seed = seed::generator(&format!("conformance of {kind}")).random::<u64>().to_string();
    let has_instants = kind.capability().point_in_time;
    let wanted = match (std::env::var_os("HOLDFAST_SOAK"), has_instants) {
        (Some(_), true) => RESTORES_OF_A_SOAK,
        (None, false) => RESTORES_OF_BACKUPS,
        _ => RESTORES,
    };
    let mut check = check(&holdfast, kind, &["--restores", &wanted.to_string(), "--seed", &seed])?;
    let mut lines = BufReader::new(check.stderr.take().context("piped")?).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
    }
    let ended = check.wait_with_output().await?;
    ensure!(ended.status.success(), "{kind}: {}", ended.status);
    let report: Value = serde_json::from_slice(&ended.stdout)?;
    println!("archive lag of {kind} under load: {}", report["archive_lag_seconds"]);
    let restores = report["restores"].as_array().map_or(0, Vec::len);
    // Special points, backups, a second generation; without points in time as many backups and that.
    let least = if has_instants { wanted + 6 } else { wanted + 1 };
    ensure!(report["good"] == true && restores >= least, "{restores} restores");
    nothing_is_left(&holdfast).await
}

/// Ctrl-C while the service is asked for, which may have been made or not, and while copies are: the command removes what it made.
pub(crate) async fn cleans_up_when_interrupted(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "ctrlc").await? else { return Ok(()) };
    for moment in ["making a", "restoring"] {
        let mut check = check(&holdfast, kind, &["--restores", "3"])?;
        let mut lines = BufReader::new(check.stderr.take().context("piped")?).lines();
        while let Some(line) = lines.next_line().await? {
            println!("{line}");
            if line.contains(moment) {
                let pid = i32::try_from(check.id().context("it runs")?)?;
                kill(Pid::from_raw(pid), Signal::SIGINT)?;
            }
        }
        let ended = check.wait().await?;
        ensure!(ended.code() == Some(130), "{moment}: {ended}");
        nothing_is_left(&holdfast).await.context(moment)?;
    }
    Ok(())
}

async fn nothing_is_left(holdfast: &Holdfast) -> Result<()> {
    let client = holdfast.client();
    ensure!(client.get("/managed-services").await?["total"] == 0, "services are left");
    holdfast_testkit::wait_for("the instances are gone", 60, || async {
        Ok(holdfast.instance_folders().is_empty().then_some(()))
    })
    .await
}
