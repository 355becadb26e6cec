//! Things that happen at the same time: each ends whole, or is refused with a word.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_catalog::StepOutcome;
use holdfast_core::ServiceId;
use holdfast_core::job::{JobKind, JobState, Step};
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, wait_for};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::crash::invariants;
use crate::crash::world::{At, Running, World};

/// A manual backup queues behind an automated one; a second manual one is refused.
pub(crate) async fn backups_beside_each_other(world: &World) -> Result<()> {
    let client = &world.client;
    let point = world.set("any", JobKind::Backup, Step::RunBackup, At::Before, "wait 3000")?;
    let service = client.create("beside").await?;
    met(&point).await?;
    let path = format!("/managed-services/{service}/backups");
    let manual = client.trigger(&service).await?;
    let second = client.send("POST", &path, Some(json!({"backup_type": "manual"}))).await?;
    ensure!(second.status == 409, "{second:?}");
    client.wait_backup(&service, &manual, 120).await?;
    let list = client.get(&path).await?;
    let statuses: Vec<&Value> =
        list["backups"].as_array().into_iter().flatten().map(|b| &b["status"]).collect();
    ensure!(statuses == ["completed", "completed"], "{list}");
    client.delete(&format!("/managed-services/{service}")).await
}

/// A backup is deleted, and expires, while the next one is made.
pub(crate) async fn expiry_beside_a_backup(world: &World) -> Result<()> {
    let (client, service) = (&world.client, &world.archive);
    let first = client.trigger(service).await?;
    client.wait_backup(service, &first, 120).await?;
    let point = world.set(service, JobKind::Backup, Step::RunBackup, At::Before, "wait 1500")?;
    let second = client.trigger(service).await?;
    met(&point).await?;
    client.delete(&format!("/managed-services/{service}/backups/{first}")).await?;
    client.wait_backup(service, &second, 120).await?;
    world.quiet(service).await
}

/// The source is deleted while it is read, and the target while it is made.
pub(crate) async fn deletion_beside_a_restore(world: &World) -> Result<()> {
    let client = &world.client;
    let source = client.create("read-from").await?;
    let backup = text(&client.wait_first_backup(&source).await?, "id")?;
    let restore = async |name: &str| {
        let point = world.set("any", JobKind::Restore, Step::RestoreInstance, At::Before, "wait 1500")?;
        let path = format!("/managed-services/{source}/backups/{backup}/restore");
        let answer = client.post(&path, json!({"target_service_name": name})).await?;
        met(&point).await?;
        text(&answer, "service_id")
    };
    let unwanted = restore("unwanted").await?;
    client.delete(&format!("/managed-services/{unwanted}")).await?;
    let wanted = restore("wanted").await?;
    client.delete(&format!("/managed-services/{source}")).await?;
    client.wait_running(&wanted, 120).await?;
    invariants::nothing_left(world, unwanted.parse()?).await?;
    client.delete(&format!("/managed-services/{wanted}")).await
}

/// An agent that stands still until its lease went to somebody else: it leaves the step, and later does it anew.
pub(crate) async fn a_late_worker(running: &Running) -> Result<()> {
    let (world, agent) = (&running.world, running.holdfast.agent_pid().context("an agent")?);
    invariants::at_rest(world).await?;
    let archive: ServiceId = world.archive.parse()?;
    let before = world.jobs(JobKind::Backup, Some(archive)).await?;
    let point = world.set(&world.archive, JobKind::Backup, Step::RunBackup, At::Before, "wait 300")?;
    world.client.trigger(&world.archive).await?;
    met(&point).await?;
    tokio::time::sleep(Duration::from_millis(800)).await; // somewhere in the copy
    kill(Pid::from_raw(agent), Signal::SIGSTOP)?;
    let stolen = steal(world).await;
    kill(Pid::from_raw(agent), Signal::SIGCONT)?;
    stolen?;
    let job = world.new_job(JobKind::Backup, Some(archive), &before).await?;
    let tries = world.completed(&job).await?;
    let copies: Vec<StepOutcome> =
        tries.iter().filter(|one| one.step == Step::RunBackup).map(|one| one.outcome).collect();
    // The agent's own waiting request may have been given the step, too, while it stood still.
    let (last, earlier) = copies.split_last().context("no try")?;
    let lost = earlier.iter().all(|outcome| *outcome == StepOutcome::Lost);
    ensure!(*last == StepOutcome::Done && lost && earlier.len() >= 2, "{copies:?}");
    Ok(())
}

/// The tool of a try that was cut off outlives its agent for a moment, and stores one more file when the next try has begun:
/// it is gone once that one is done.
pub(crate) async fn a_file_that_comes_late(world: &World) -> Result<()> {
    world.quiet(&world.archive).await?;
    let before = backup_folders(world, &world.archive);
    let backup = world.client.trigger(&world.archive).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let begun = loop {
        let new = backup_folders(world, &world.archive).into_iter().find(|folder| !before.contains(folder));
        if let Some(new) = new {
            break new;
        }
        ensure!(tokio::time::Instant::now() < deadline, "the backup writes nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let late = begun.with_file_name("20200101-000000F").join("bundle/1");
    std::fs::create_dir_all(late.parent().context("a folder")?)?;
    std::fs::write(&late, "of a try that was cut off")?;
    world.client.wait_backup(&world.archive, &backup, 120).await?;
    ensure!(!late.exists(), "{} is left", late.display());
    Ok(())
}

/// Where the files of a service's backups lie in the store, a folder each: `…/repo/backup/STANZA/LABEL`.
fn backup_folders(world: &World, service: &str) -> BTreeSet<PathBuf> {
    let label = |file: PathBuf| {
        let path = file.to_string_lossy().into_owned();
        let (before, inside) = path.split_once("/repo/backup/").filter(|_| path.contains(service))?;
        let mut parts = inside.split('/');
        let (stanza, label) = (parts.next()?, parts.next()?);
        // Beside them lie `backup.info` and `backup.history`.
        label.starts_with('2').then(|| PathBuf::from(format!("{before}/repo/backup/{stanza}/{label}")))
    };
    invariants::files(&world.objects).into_iter().filter_map(label).collect()
}

/// Leases the step as an agent does, once its holder's lease has lapsed, and never works on it.
async fn steal(world: &World) -> Result<Value> {
    let token = std::fs::read_to_string(world.data.join("agent.token"))?;
    let id = std::fs::read_to_string(world.data.join("agent/id"))?;
    let body = json!({"agent_id": id.trim(), "wait_ms": 1000});
    wait_for("the lease lapses", 60, || async {
        let answer = world.client.as_agent(token.trim(), "lease", &body).await?;
        Ok((answer["step"] == "run_backup").then_some(answer))
    })
    .await
}

/// Two clients do everything at once; nothing answers with a fault of the server's own.
pub(crate) async fn storm(world: &World, seeds: [u64; 2], seconds: u64) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let one = |seed| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let mut calls = 0;
        while tokio::time::Instant::now() < end {
            call(&world.client, &mut random).await?;
            calls += 1;
        }
        anyhow::Ok(calls)
    };
    let (a, b) = tokio::try_join!(one(seeds[0]), one(seeds[1]))?;
    println!("storm: {a} and {b} calls");
    // A service that a client left on its way up or down comes to rest by itself.
    wait_for("the storm is over", 240, || async {
        let open = holdfast_catalog::JobFilter {
            states: vec![JobState::Queued, JobState::Running],
            ..holdfast_catalog::JobFilter::default()
        };
        Ok(world.catalog.jobs(1000, &open).await?.is_empty().then_some(()))
    })
    .await
}

async fn call(client: &Client, random: &mut StdRng) -> Result<()> {
    let services = client.get("/managed-services").await?;
    let services: Vec<Value> = services["services"].as_array().cloned().unwrap_or_default();
    // The source and its writer are left alone.
    let toys: Vec<&Value> = services.iter().filter(|s| s["name"] != "source").collect();
    let name = format!("storm-{:06x}", random.random_range(0..0xff_ffff));
    let create = json!({"name": name, "database_type": "postgresql", "plan_name": "tier-1"});
    let Some(toy) = toys.choose(random).filter(|_| toys.len() < 5 || random.random_bool(0.9)) else {
        return sent(client, "POST", "/managed-services".to_owned(), create).await;
    };
    let path = format!("/managed-services/{}", toy["id"].as_str().unwrap_or_default());
    match random.random_range(0..12) {
        0 if toys.len() < 5 => sent(client, "POST", "/managed-services".to_owned(), create).await,
        0 | 1 => sent(client, "DELETE", path, Value::Null).await,
        2 | 3 => sent(client, "POST", format!("{path}/backups"), json!({"backup_type": "incremental"})).await,
        4 => sent(client, "POST", format!("{path}/stop"), json!({})).await,
        5 | 6 => sent(client, "POST", format!("{path}/start"), json!({})).await,
        7 => sent(client, "PATCH", path, json!({"allowed_cidrs": ["127.0.0.0/8"]})).await,
        8 if toys.len() < 5 => {
            let body = json!({"restore_point": Timestamp::now().to_string(), "target_service_name": name});
            sent(client, "POST", format!("{path}/backups/restore"), body).await
        }
        _ => {
            let list = client.send("GET", &format!("{path}/backups"), None).await?;
            let backups = list.body["backups"].as_array().cloned().unwrap_or_default();
            let Some(backup) = backups.choose(random).and_then(|b| b["id"].as_str()) else { return Ok(()) };
            sent(client, "DELETE", format!("{path}/backups/{backup}"), Value::Null).await
        }
    }
}

async fn sent(client: &Client, method: &str, path: String, body: Value) -> Result<()> {
    let answer = client.send(method, &path, Some(body).filter(|body| !body.is_null())).await?;
    ensure!(answer.status < 500, "{method} {path}: {answer:?}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

async fn met(point: &Path) -> Result<()> {
    wait_for("the fault point is met", 120, || async { Ok((!point.exists()).then_some(())) }).await
}
