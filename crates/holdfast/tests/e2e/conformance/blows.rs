//! What a running archive must survive: the agent killed in mid-stream again and again, the engine restarted, bulk loads and
//! changes of the schema in the middle of a backup, and the host lost with its disk.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_conformance::service;
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, Trial, lost, seed, wait_for};
use jiff::Timestamp;
use rand::Rng;

use crate::BINARY;
use crate::conformance::support::{holdfast_for, is_there};

const WRITERS: i32 = 4;
const PAUSE: Duration = Duration::from_millis(10);
const KILLS: usize = 5;
/// Each is a backup, of an engine that takes its time.
const KILLS_IN_BACKUPS: usize = 3;
const KILLS_OF_A_SOAK: usize = 50;

fn is_soak() -> bool {
    std::env::var("HOLDFAST_SOAK").as_deref() == Ok("1")
}

/// SIGKILL of the agent while it streams the log, under load: nothing in the archive is lost and nothing is there twice.
pub(crate) async fn the_agent_dies_in_mid_stream(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "kills").await? else { return Ok(()) };
    let mut random = seed::generator(&format!("kills of the agent of {kind}"));
    let mut trial = Trial::start(&holdfast, kind, WRITERS, PAUSE).await?;
    let kills = if is_soak() { KILLS_OF_A_SOAK } else { KILLS };
    let began = Timestamp::now();
    let mut points = Vec::new();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        let killed = kill_agent(&holdfast).await?;
        points.push(killed);
        // It streams again.
        trial.covered(Timestamp::now(), 90).await?;
    }
    let paused = trial.stop_writing().await?;
    println!(
        "{kind}: {kills} kills, {} writes, longest wait of a writer {} ms",
        trial.ledger.acknowledged(),
        paused.as_millis()
    );
    ensure!(paused < Duration::from_secs(10), "writes stood still for {paused:?}");
    no_gaps(&trial).await?;
    let end = Timestamp::now();
    let any = random.random_range(began.as_microsecond()..end.as_microsecond());
    let killed = points[random.random_range(0..points.len())];
    trial.exact("at a kill", killed).await?;
    trial.exact("between kills", Timestamp::from_microsecond(any)?).await?;
    trial.exact("after all kills", end).await
}

async fn kill_agent(holdfast: &Holdfast) -> Result<Timestamp> {
    let before = holdfast.agent_pid();
    holdfast.kill_agent()?;
    let killed = Timestamp::now();
    wait_for("there is a new agent", 30, || async {
        let now = holdfast.agent_pid();
        Ok((now.is_some() && now != before).then_some(()))
    })
    .await?;
    Ok(killed)
}

async fn no_gaps(trial: &Trial) -> Result<()> {
    let pitr = service::pitr(&trial.client, trial.source).await?;
    ensure!(pitr.gaps.is_empty() && pitr.windows.len() == 1, "{:?} {:?}", pitr.gaps, pitr.windows);
    Ok(())
}

/// SIGKILL of the agent in backups and in restores, of an engine without a log: a backup that says completed is exact, a restore ends.
pub(crate) async fn the_agent_dies_in_backups_and_restores(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "kills").await? else { return Ok(()) };
    let mut random = seed::generator(&format!("kills of the agent of {kind}"));
    let mut trial = Trial::start(&holdfast, kind, WRITERS, PAUSE).await?;
    let kills = if is_soak() { KILLS_OF_A_SOAK } else { KILLS_IN_BACKUPS };
    let mut completed = Vec::new();
    for number in 0..=kills {
        let began = Timestamp::now();
        let backup = trial.client.trigger(&trial.source.to_string()).await?;
        // The last one is left alone.
        if number < kills {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
            kill_agent(&holdfast).await?;
        }
        let ended = end_of(&trial, &backup).await?;
        println!("{kind}: backup {number}, {backup}: {ended}");
        if ended == "completed" {
            completed.push((backup, (began, Timestamp::now())));
        }
    }
    trial.stop_writing().await?;
    let (last, made_in) = completed.last().context("nothing disturbed the last backup")?;
    let blow = async {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..8000))).await;
        kill_agent(&holdfast).await
    };
    tokio::try_join!(trial.exact_backup("restored through a kill", last, *made_in), blow)?;
    let (any, made_in) = &completed[random.random_range(0..completed.len())];
    trial.exact_backup("made through kills", any, *made_in).await
}

/// In the middle of a backup: a bulk load, changes of the schema, a crash of the engine. The backup ends completed or failed, the
/// next one completed, and every instant stays exact.
pub(crate) async fn much_happens_in_a_backup(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "t24").await? else { return Ok(()) };
    let mut trial = Trial::start(&holdfast, kind, WRITERS, PAUSE).await?;
    trial.database.open().await?.fill(24_000_000).await?;
    let began = Timestamp::now();
    let backup = trial.client.trigger(&trial.source.to_string()).await?;
    let mut session = trial.database.open().await?;
    session.change_schema(1).await?;
    session.fill(12_000_000).await?;
    session.change_schema(2).await?;
    drop(session);
    let ended = end_of(&trial, &backup).await?;
    println!("{kind}: the backup with a bulk load and changes of the schema in it: {ended}");
    ensure!(ended == "completed", "the backup with a bulk load in it: {ended}");
    let changed = Timestamp::now();

    let backup = trial.client.trigger(&trial.source.to_string()).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    holdfast.kill_engines();
    let ended = end_of(&trial, &backup).await?;
    println!("{kind}: the backup with a crash of the engine in it: {ended}");
    trial.covered(Timestamp::now(), 90).await?;
    service::back_up(&trial.client, trial.source, 120).await?;
    let restarted = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    trial.stop_writing().await?;
    let middle = began.checked_add(changed.duration_since(began) / 2)?;
    trial.exact("between changes of the schema", middle).await?;
    trial.exact("after a bulk load", changed).await?;
    trial.exact("after a crash of the engine", restarted).await
}

async fn end_of(trial: &Trial, backup: &str) -> Result<String> {
    let path = service::path(trial.source, &format!("/backups/{backup}"));
    wait_for("the backup ends", 240, || async {
        let status = trial.client.get(&path).await?["status"].as_str().unwrap_or_default().to_owned();
        Ok(["completed", "failed"].contains(&status.as_str()).then_some(status))
    })
    .await
}

/// The host is lost with its disk: a new one has everything but the last moment.
pub(crate) async fn the_host_is_lost(kind: EngineKind) -> Result<()> {
    if !is_there(kind) {
        return Ok(());
    }
    let mut random = seed::generator(&format!("the host of {kind} is lost"));
    let loss = lost::lose(BINARY, kind, &mut random).await?;
    println!(
        "{kind}: the host was lost: {:.2} s and {} of {} acknowledged writes are gone; back after {:.1} s",
        loss.seconds, loss.writes, loss.acknowledged, loss.back_after_seconds
    );
    Ok(())
}
