//! PostgreSQL's WAL tail: what is lost with the host, kills of the agent in the middle of shipping, commits that wait for
//! the store, and log that the archive of whole segments misses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::exactness::between;
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use serde_json::Value;

use crate::BINARY;

const KILLS: usize = 5;

/// A service with a first backup and somebody who writes.
struct World {
    holdfast: Holdfast,
    client: Client,
    source: String,
    writer: Writer,
    from: Timestamp,
}

impl World {
    async fn new(wal_tail: &str) -> Result<Self> {
        let holdfast = Holdfast::start_with(BINARY, "tail", &[("HOLDFAST_WAL_TAIL", wal_tail)]).await?;
        let client = holdfast.client();
        let source = client.create("ledger").await?;
        client.wait_first_backup(&source).await?;
        let writer = Writer::start(&client.connection_string(&source).await?, Ledger::default(), 1).await?;
        let from = Timestamp::now();
        let world = Self { holdfast, client, source, writer, from };
        world.archived(from).await?;
        Ok(world)
    }

    /// Waits until the store has everything up to `point`.
    async fn archived(&self, point: Timestamp) -> Result<()> {
        let pitr = format!("/managed-services/{}/metrics", self.source);
        wait_for("the log is archived", 60, || async {
            let metrics = self.client.get(&pitr).await?;
            let lag = metrics["pitr"]["archive_lag_seconds"].as_f64().unwrap_or(f64::MAX);
            let age = Timestamp::now().duration_since(point).as_secs_f64();
            Ok((lag < age).then_some(()))
        })
        .await
    }

    async fn exact(&self, what: &str, point: Timestamp) -> Result<()> {
        let name = format!("r-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let copy = self.client.restore_to(&self.source, &point.to_string(), &name).await?;
        self.client.wait_running(&copy, 180).await.context(what.to_owned())?;
        let found = rows(&self.client.connection_string(&copy).await?).await?;
        self.writer.ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
        self.client.delete(&format!("/managed-services/{copy}")).await
    }

    async fn gaps(&self) -> Result<Vec<Value>> {
        let pitr = self.client.get(&format!("/managed-services/{}/pitr", self.source)).await?;
        Ok(pitr["gaps"].as_array().cloned().unwrap_or_default())
    }

    async fn kill_agent(&self) -> Result<()> {
        let before = self.holdfast.agent_pid();
        self.holdfast.kill_agent()?;
        wait_for("a new agent", 20, || async {
            Ok(self.holdfast.agent_pid().filter(|pid| Some(*pid) != before).map(drop))
        })
        .await
    }

    /// Kills everything at once and takes the disk away; what stays is the bucket and the kit. Returns what was restored
    /// from them to the latest instant, and that instant.
    async fn lose_the_host(mut self) -> Result<Left> {
        let ledger = self.writer.ledger.clone();
        let postmasters = self.holdfast.postmasters();
        self.holdfast.kill_serve()?; // its agent dies with it
        for pid in postmasters {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        self.writer.stop().await?;
        for name in self.holdfast.instance_folders() {
            std::fs::remove_dir_all(self.holdfast.instances.join(name))?;
        }
        let opened = open(&self.holdfast)?;
        let _engine = Engine(text(&opened, "stop")?);
        let found = rows(&text(&opened, "connection_string")?).await?;
        Ok(Left { point: text(&opened, "restore_point")?.parse()?, found, ledger })
    }
}

struct Left {
    point: Timestamp,
    found: HashMap<i64, i64>,
    ledger: Ledger,
}

impl Left {
    /// Nothing that the window promised is lost; how long the last writes that are lost took.
    fn judge(&self, what: &str) -> Result<f64> {
        self.ledger.judge(&self.found, self.point).ensure_exact(&format!("{what} {}", self.point))?;
        let acknowledged =
            self.ledger.entries().into_iter().filter_map(|e| Some((e.number, e.acknowledged_at?)));
        let (there, lost): (Vec<_>, Vec<_>) =
            acknowledged.partition(|(number, _)| self.found.contains_key(number));
        let last = |entries: &[(i64, Timestamp)]| entries.iter().map(|(_, at)| *at).max();
        let seconds = match (last(&there), last(&lost)) {
            (Some(there), Some(lost)) => lost.duration_since(there).as_secs_f64().max(0.0),
            _ => 0.0,
        };
        println!("{what}: {} acknowledged transactions lost, {seconds:.2} s", lost.len());
        Ok(seconds)
    }
}

/// `holdfast open` on what is left.
fn open(holdfast: &Holdfast) -> Result<Value> {
    let target = holdfast.folder.join("opened");
    let ended = Command::new(BINARY)
        .args(["open", "-o", "json", "--service", "ledger", "--store"])
        .arg(format!("file://{}", holdfast.objects().display()))
        .arg("--recovery-kit")
        .arg(holdfast.data().join("recovery-kit.txt"))
        .arg("--engines")
        .arg(holdfast::engines().context("no engines")?)
        .arg("--target")
        .arg(target)
        .env_remove("HOLDFAST_DATA")
        .stdin(Stdio::null())
        .output()?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// An engine that nobody supervises; it ends with the test.
struct Engine(String);

impl Drop for Engine {
    fn drop(&mut self) {
        let words: Vec<&str> = self.0.split(' ').collect();
        let stopped =
            Command::new(words[0]).args(&words[1..]).args(["-m", "immediate"]).stdout(Stdio::null()).status();
        assert!(std::thread::panicking() || stopped.is_ok_and(|status| status.success()), "it is stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_agents_leave_no_hole_and_a_lost_host_loses_about_a_second() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("killed_agents_leave_no_hole_and_a_lost_host_loses_about_a_second");
    let world = World::new("on").await?;
    // The store may have had everything up to `from` in whole segments; what is written now comes in parts.
    let objects = world.holdfast.objects();
    wait_for("parts of the tail are in the store", 60, || async {
        Ok((!pieces(&objects).is_empty()).then_some(()))
    })
    .await?;
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        world.kill_agent().await?;
    }
    let until = Timestamp::now();
    world.archived(until).await?;
    ensure!(world.gaps().await?.is_empty(), "{:?}", world.gaps().await?);
    for what in ["between the kills", "between the kills"] {
        world.exact(what, between(&mut random, world.from, until)).await?;
    }
    world.exact("after the kills", Timestamp::from_microsecond(Timestamp::now().as_microsecond())?).await?;
    ensure!(world.gaps().await?.is_empty(), "{:?}", world.gaps().await?);
    // The log that the restore to the present closed is archived: its part of the tail goes.
    wait_for("spent parts are removed", 60, || async { Ok((spent(&objects) == 0).then_some(())) }).await?;
    tokio::time::sleep(Duration::from_millis(random.random_range(2000..4000))).await;
    // What is lost is told, not asserted: this machine may be busy. What was promised is there.
    world.lose_the_host().await?.judge("the host was lost").map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_for_the_store_outlive_the_host() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let world = World::new("synchronous").await?;
    let url = world.client.connection_string(&world.source).await?;
    wait_for("commits wait for the store", 60, || async {
        let database = connect(&url).await?;
        let names: String = database.query_one("SHOW synchronous_standby_names", &[]).await?.get(0);
        Ok((!names.is_empty()).then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.kill_agent().await?; // commits wait until there is one again
    let commits = world.writer.ledger.acknowledged();
    wait_for("commits go on", 60, || async {
        Ok((world.writer.ledger.acknowledged() > commits + 50).then_some(()))
    })
    .await?;
    let left = world.lose_the_host().await?;
    let lost = left.judge("the host of commits that wait was lost")?;
    ensure!(lost == 0.0, "acknowledged and lost");
    let is_there = |number: &i64| left.found.contains_key(number);
    let acknowledged = left.ledger.entries().into_iter().filter(|entry| entry.acknowledged_at.is_some());
    let missing: Vec<i64> = acknowledged.map(|entry| entry.number).filter(|n| !is_there(n)).collect();
    ensure!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_the_archive_misses_is_in_the_tail() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let world = World::new("on").await?;
    let folder = world.holdfast.instances.join(&world.source);
    let (conf, away) = (folder.join("conf/pgbackrest.conf"), folder.join("conf/pgbackrest.away"));
    std::fs::rename(&conf, &away)?;
    let bulk =
        "CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 8) AS text FROM generate_series(1, 200000) g";
    connect(&world.client.connection_string(&world.source).await?).await?.batch_execute(bulk).await?;
    let inside = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    world.archived(inside).await?;
    // The second of the segments that wait is forgotten: the archiver is at the first one.
    let status = folder.join("data/pg_wal/archive_status");
    let forgotten = wait_for("finished segments wait", 30, || async {
        let mut ready: Vec<PathBuf> =
            std::fs::read_dir(&status)?.flatten().map(|entry| entry.path()).collect();
        ready.retain(|path| path.extension().is_some_and(|extension| extension == "ready"));
        ready.sort();
        Ok((ready.len() >= 3).then(|| ready[1].clone()))
    })
    .await?;
    std::fs::rename(&forgotten, forgotten.with_extension("done"))?;
    world.exact("while nothing is archived", inside).await?;
    std::fs::rename(&away, &conf)?;
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    world.exact("behind the forgotten segment", now).await?;
    ensure!(world.gaps().await?.is_empty(), "{:?}", world.gaps().await?);
    world.kill_agent().await?;
    world.archived(Timestamp::now()).await?;
    world.exact("after a restart of the agent", now).await?;
    ensure!(world.gaps().await?.is_empty(), "{:?}", world.gaps().await?);
    world.writer.stop().await.map(drop)
}

/// Parts of tails, by their names: segment and timeline.
fn pieces(objects: &Path) -> Vec<(u64, u32)> {
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let timeline = u32::from_str_radix(path.parent()?.file_name()?.to_str()?, 16).ok()?;
        Some((u64::from_str_radix(name.split_once('-')?.0, 16).ok()? >> 24, timeline))
    };
    files(objects)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/log/"))
        .filter_map(named)
        .collect()
}

/// Parts whose segment is archived too.
fn spent(objects: &Path) -> usize {
    let archived: Vec<(u64, u32)> = files(objects).iter().filter_map(|path| archived_segment(path)).collect();
    pieces(objects).iter().filter(|piece| archived.contains(piece)).count()
}

/// `…/archive/…/00000001000000000000002A-<checksum>.zst`
fn archived_segment(path: &Path) -> Option<(u64, u32)> {
    let name = path.file_name()?.to_str()?.split_once('-')?.0;
    if name.len() != 24 || !path.to_string_lossy().contains("/archive/") {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).ok();
    Some(((part(8)? << 8) + part(16)?, u32::try_from(part(0)?).ok()?))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
