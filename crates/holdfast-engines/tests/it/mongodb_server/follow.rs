//! The oplog is followed without loss and without doubles, and what cannot be followed is a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use holdfast_engines::{Driver as _, Instance};
use mongodb::Client;

use super::world::{Archive, World, tenant};

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

/// The archive is what the server's oplog has, from where it begins to now, byte by byte. Returns how many entries.
async fn ensure_the_same(source: &Instance, archive: &Archive) -> Result<usize> {
    let client = tenant(source).await?;
    let first = archive.with(|all| all.first.clone()).context("a beginning")?.0;
    let from = bson::Timestamp {
        time: u32::try_from(first["ts"]["t"].as_u64().context("t")?)?,
        increment: u32::try_from(first["ts"]["i"].as_u64().context("i")?)?,
    };
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
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
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("rolled").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| all.caught_up.is_some()).await?;
    following.abort();
    let pid = std::fs::read_to_string(source.folder.join("run/mongod.pid"))?;
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.trim()))?;
    world.driver.stop(&source, 30).await?;

    // The same server with a short oplog, while nobody follows it.
    let mut line: Vec<String> =
        line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    line.retain(|part| !part.is_empty() && part != "--sync-on-commit");
    line.push("--oplog-max-entries=50".to_owned());
    let surrogate =
        holdfast_testkit::holdfast::engines().context("engines")?.join("mongodb-surrogate/bin/surrogate");
    let arguments = line.iter().skip_while(|part| !part.starts_with("--"));
    let mut command = tokio::process::Command::new(surrogate);
    command.args(arguments).current_dir(&source.folder).env("HOME", &source.folder).kill_on_drop(true);
    if let Some(user) = &source.run_as {
        command.uid(user.uid).gid(user.gid);
    }
    let mut short = command.spawn()?;
    let client = tenant(&source).await?;
    let ledger = client.database("d").collection::<Document>("ledger");
    for round in 0..5 {
        // The stand-in looks for what it may overwrite now and then only.
        let many: Vec<Document> = (0..1000).map(|n| doc! { "round": round, "n": n }).collect();
        let mut tries = 0;
        while let Err(error) = ledger.insert_many(&many).await {
            tries += 1;
            ensure!(tries < 10, "write: {error}");
        }
    }
    drop(client);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(short.id().context("a process")?)?),
        nix::sys::signal::SIGTERM,
    )?;
    short.wait().await?;
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
