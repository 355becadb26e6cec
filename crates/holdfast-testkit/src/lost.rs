//! The host is lost under load: every process killed at once, the data folder and the instances gone. A new host has the bucket
//! and the recovery kit. What it restores is judged, and what was acknowledged and is not in it is the loss.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_conformance::service::{self, From, Made};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use rand::Rng;

use crate::{Holdfast, Trial, wait_for};

const PATIENCE_SECONDS: u64 = 300;

/// What a lost host cost.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// From the restored instant to the last acknowledgement; 0 when nothing acknowledged is missing.
    pub seconds: f64,
    /// Acknowledged writes that are not there.
    pub writes: usize,
    pub acknowledged: usize,
    /// From the bucket alone until the copy took writes.
    pub back_after_seconds: f64,
}

/// Loses a host once.
///
/// # Errors
/// When the bucket does not give everything up to what it says it has, or the restored copy is not exact.
pub async fn lose(binary: &str, kind: EngineKind, random: &mut impl Rng) -> Result<Loss> {
    let mut holdfast = Holdfast::prepare(binary, &format!("lost-{kind}"), &[])?;
    let bucket = format!("file://{}", holdfast.folder.join("bucket").display());
    holdfast.set("HOLDFAST_STORE_URL", &bucket);
    holdfast.spawn().await?;
    holdfast.wait_for_agent().await?;
    let mut trial = Trial::start(&holdfast, kind, 4, Duration::from_millis(10)).await?;
    let kit = holdfast.folder.join("kit.txt");
    std::fs::copy(holdfast.data().join("recovery-kit.txt"), &kit)?;
    trial.covered(Timestamp::now(), 60).await?; // the archive runs
    let told = || async { Ok(tells_of_a_window(binary, &bucket, &kit)?.then_some(())) };
    wait_for("the bucket tells of a window", 90, told).await?;
    tokio::time::sleep(Duration::from_millis(random.random_range(2000..4000))).await;

    let agent = holdfast.agent_pid();
    holdfast.kill_engines();
    holdfast.kill_serve()?;
    for _ in 0..100 {
        holdfast.kill_engines();
        let is_there = agent.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        if !is_there && holdfast.engine_processes().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::remove_dir_all(holdfast.data())?;
    std::fs::remove_dir_all(&holdfast.instances)?;
    trial.stop_writing().await?;

    let began = std::time::Instant::now();
    let rebuilt = Command::new(binary)
        .args(["rebuild", "--store", &bucket, "--recovery-kit"])
        .arg(&kit)
        .arg("--data")
        .arg(holdfast.data())
        .stdin(Stdio::null())
        .output()?;
    ensure!(rebuilt.status.success(), "rebuild: {}", String::from_utf8_lossy(&rebuilt.stderr));
    holdfast.spawn().await?;
    holdfast.wait_for_agent().await?;
    judge(&holdfast, &trial, began).await
}

/// Whether the bucket alone says what can be restored.
fn tells_of_a_window(binary: &str, bucket: &str, kit: &Path) -> Result<bool> {
    let arguments = ["open", "--list", "-o", "json", "--store", bucket, "--recovery-kit"];
    let listed = Command::new(binary).args(arguments).arg(kit).stdin(Stdio::null()).output()?;
    let list: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    Ok(list["services"][0]["window"].as_array().is_some_and(|windows| !windows.is_empty()))
}

async fn judge(holdfast: &Holdfast, trial: &Trial, began: std::time::Instant) -> Result<Loss> {
    let client = holdfast.client();
    let pitr = service::pitr(&client, trial.source).await?;
    let latest = pitr.latest_restore_point.context("the bucket tells of a window")?;
    let made = Made::default();
    let from = From::Point(trial.unit().floor(latest));
    let copy =
        service::restore(&client, &made, trial.source, from, "after-the-fire", PATIENCE_SECONDS).await?;
    let back_after_seconds = began.elapsed().as_secs_f64();
    let reached =
        copy.restored_from.and_then(|from| from.restore_point).context("it says what it reached")?;
    let database = service::database(&client, trial.kind, copy.id, trial.database.space).await?;
    let verdict = trial.ledger.judge(&database.read().await?, reached, reached);
    verdict.ensure_exact(&format!("after the loss of the host, {reached}"))?;
    let late = trial.ledger.entries().into_iter().filter_map(|entry| entry.acknowledged_at);
    let late: Vec<Timestamp> = late.filter(|at| *at > reached).collect();
    let last = late.iter().max().copied().unwrap_or(reached);
    Ok(Loss {
        seconds: last.duration_since(reached).as_secs_f64(),
        writes: late.len(),
        acknowledged: trial.ledger.acknowledged(),
        back_after_seconds,
    })
}
