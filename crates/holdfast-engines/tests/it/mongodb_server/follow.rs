//! The oplog is followed without loss and without doubles, and what cannot be followed is a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use holdfast_engines::{Driver as _, Instance, LogCursor};
use mongodb::{Client, Collection};

use super::world::{Archive, World, owner, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_killed_five_times_loses_nothing_and_doubles_nothing() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("killed").await?;
    let archive = Archive::default();
    let mut following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write(tenant(&source).await?, writer, Arc::clone(&stop)));
    }
    for _ in 0..5 {
        let before = archive.with(|all| all.pieces.len());
        archive.wait("log to come", |all| all.pieces.len() > before + 2).await?;
        following.abort();
        tokio::time::sleep(Duration::from_millis(300)).await;
        following = archive.follow(&world, &source);
    }
    // And the server itself, once.
    world.driver.stop(&source, 30).await?;
    assert!(holdfast_testkit::ports::is_free(source.port), "what was stopped has its port");
    world.driver.start(&source).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    while let Some(done) = writers.join_next().await {
        acknowledged += done??;
    }
    archive.wait_for(Timestamp::now()).await?;
    following.abort();
    ensure!(
        archive.with(|all| all.begun == [None]),
        "it began anew: {:?}",
        archive.with(|all| all.begun.clone())
    );

    let entries = ensure_the_same(&source, &archive).await?;
    println!("{acknowledged} acknowledged writes, {entries} entries, the same byte by byte");
    world.end().await
}

async fn oplog(source: &Instance) -> Result<Collection<RawDocumentBuf>> {
    Ok(owner(source).await?.database("local").collection("oplog.rs"))
}

/// Where a cursor is.
fn stamp(cursor: &LogCursor) -> Result<bson::Timestamp> {
    let part = |name: &str| {
        Ok::<_, anyhow::Error>(u32::try_from(cursor.0["ts"][name].as_u64().context("a stamp")?)?)
    };
    Ok(bson::Timestamp { time: part("t")?, increment: part("i")? })
}

/// The archive is what the server's oplog has, from where it begins to now, byte by byte. Returns how many entries.
async fn ensure_the_same(source: &Instance, archive: &Archive) -> Result<usize> {
    let from = stamp(&archive.with(|all| all.first.clone()).context("a beginning")?)?;
    let oplog = oplog(source).await?;
    let all: Vec<RawDocumentBuf> = oplog.find(doc! { "ts": { "$gt": from } }).await?.try_collect().await?;
    let server: Vec<u8> = all.iter().flat_map(|entry| entry.as_bytes().iter().copied()).collect();
    let archived = archive.bytes();
    ensure!(server.starts_with(&archived), "the archive is not the oplog's beginning, byte by byte");
    // A noop or two may have come since.
    ensure!(server.len() - archived.len() < 1000, "the archive ends early");
    Ok(all.len())
}

/// Catching up takes long, and the server writes on meanwhile: it is caught up with again and again, without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_caught_up_with_piece_by_piece() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("slow").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| all.caught_up.is_some()).await?;
    following.abort();
    let ledger = tenant(&source).await?.database("d").collection::<Document>("large");
    let insert = |count: i32| {
        let many: Vec<Document> = (0..count).map(|_| doc! { "text": "x".repeat(100_000) }).collect();
        let ledger = ledger.clone();
        async move { ledger.insert_many(many).await }
    };
    for _ in 0..4 {
        insert(50).await?;
    }
    archive.set_slow(Duration::from_millis(250));
    let following = archive.follow(&world, &source);
    // Each longer than a piece, while the first pass is under way.
    for _ in 0..4 {
        insert(20).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let half_way = archive.with(|all| all.pieces.len());
    archive.set_slow(Duration::ZERO);
    archive.wait_for(Timestamp::now()).await?;
    following.abort();
    ensure!(half_way < 25, "it was not slow: {half_way} pieces");
    ensure!(archive.with(|all| all.begun == [None]), "it began anew");
    ensure!(archive.with(|all| all.pieces.iter().all(|(bytes, _)| bytes.len() < 4 << 20)), "a large piece");
    ensure_the_same(&source, &archive).await?;
    world.end().await
}

async fn write(client: Client, writer: i32, stop: Arc<AtomicBool>) -> Result<u32> {
    let ledger = client.database("d").collection::<Document>("ledger");
    let mut acknowledged = 0;
    while !stop.load(Ordering::Relaxed) {
        // Not while the server restarts.
        if ledger.insert_one(doc! { "writer": writer, "text": "x".repeat(200) }).await.is_ok() {
            acknowledged += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(acknowledged)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_rolled_over_and_one_that_was_reset_are_gaps() -> Result<()> {
    let Some(world) = World::with_oplog(1)? else { return Ok(()) };
    let source = world.create("rolled").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| all.caught_up.is_some()).await?;
    following.abort();

    // Nobody follows it while more is written than it holds. It overwrites nothing behind the newest checkpoint, of which
    // there is one a minute, unless it is told otherwise.
    let pid = std::fs::read_to_string(source.folder.join("run/mongod.pid"))?;
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.trim()))?;
    world.driver.stop(&source, 30).await?;
    assert!(holdfast_testkit::ports::is_free(source.port), "what was stopped has its port");
    let line: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let mut command = tokio::process::Command::new(&line[0]);
    command.args(&line[1..]).arg("--syncdelay=1").current_dir(&source.folder).env("HOME", &source.folder);
    command.stdout(std::process::Stdio::null()).kill_on_drop(true);
    if let Some(user) = &source.run_as {
        command.uid(user.uid).gid(user.gid);
    }
    let mut hasty = command.spawn()?;
    let ledger = tenant(&source).await?.database("d").collection::<Document>("ledger");
    let text = "x".repeat(1_000);
    let mut rolled = false;
    for _ in 0..300 {
        // Not while it comes up.
        let _ = ledger.insert_many((0..500).map(|n| doc! { "n": n, "text": &text })).await;
        let last = doc! { "ts": { "$lte": stamp(&archive.cursor().context("a cursor")?)? } };
        rolled = oplog(&source).await?.find_one(last).await.is_ok_and(|found| found.is_none());
        if rolled {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(rolled, "the oplog keeps everything");
    let pid = i32::try_from(hasty.id().context("a process")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM)?;
    hasty.wait().await?;
    world.driver.start(&source).await?;

    let following = archive.follow(&world, &source);
    archive.wait("the gap", |all| all.begun.len() == 2).await?;
    following.abort();
    let cause = archive.with(|all| all.begun[1].clone()).context("a cause")?;
    ensure!(cause.contains("overwritten"), "{cause}");
    println!("{cause}");

    // An archive of another server's oplog.
    let other = world.create("other").await?;
    let following = archive.follow(&world, &other);
    archive.wait("the other gap", |all| all.begun.len() == 3).await?;
    following.abort();
    println!("{:?}", archive.with(|all| all.begun[2].clone()));
    world.end().await
}
