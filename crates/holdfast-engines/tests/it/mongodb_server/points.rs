//! Restores to instants under load: what was acknowledged at or before is there, what was sent after is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use mongodb::error::TRANSIENT_TRANSACTION_ERROR;
use mongodb::{Client, ClientSession, Collection};
use rand::Rng as _;

use super::world::{Archive, World, tenant};

const WRITERS: i64 = 3;

/// One acknowledged write: a document, and a counter that goes up with it in one transaction.
struct Written {
    writer: i64,
    n: i64,
    sent: Timestamp,
    acknowledged: Timestamp,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_under_load_is_exact() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let mut random = holdfast_testkit::seed::generator("every_point_under_load_is_exact");
    let source = world.create("ledger").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(tenant(&source).await?, writer, Arc::clone(&stop)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let base = world.backup(&source).await?;
    let from = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    while let Some(done) = writers.join_next().await {
        written.extend(done??);
    }
    let to = Timestamp::now();
    archive.wait_for(to).await?;
    following.abort();
    ensure!(archive.with(|all| all.begun.len()) == 1, "a gap that nobody made");

    let mut points = vec![base.1.consistent_at, to];
    // At the very stamp of a commit, a millisecond before and a millisecond after it.
    let one = written.iter().filter(|one| one.sent > from).nth(10).expect("seconds of writes");
    points.push(one.acknowledged);
    for _ in 0..3 {
        let ms = random.random_range(from.as_millisecond()..to.as_millisecond());
        points.push(Timestamp::from_millisecond(ms)?);
    }
    for (n, point) in points.into_iter().enumerate() {
        let (copy, restored) = world.restore(&format!("copy-{n}"), &base, Some((point, &archive))).await?;
        let found = judge(&tenant(&copy).await?, &written, point).await?;
        println!("{point}: {found} of {} writes are there, {}", written.len(), restored.position);
        holdfast_engines::Driver::stop(&*world.driver, &copy, 20).await?;
    }
    world.end().await
}

async fn write(client: Client, writer: i64, stop: Arc<AtomicBool>) -> Result<Vec<Written>> {
    let ledger = client.database("bank").collection::<Document>("ledger");
    let counters = client.database("bank").collection::<Document>("counters");
    let mut session = client.start_session().await?;
    let mut written = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let sent = Timestamp::now();
        if let Err(error) = attempt(&mut session, &ledger, &counters, writer, n).await {
            ensure!(error.contains_label(TRANSIENT_TRANSACTION_ERROR), "write: {error}");
            let _ = session.abort_transaction().await; // nothing of it is there
            continue;
        }
        written.push(Written { writer, n, sent, acknowledged: Timestamp::now() });
        n += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(written)
}

/// A document and a counter in one transaction.
async fn attempt(
    session: &mut ClientSession,
    ledger: &Collection<Document>,
    counters: &Collection<Document>,
    writer: i64,
    n: i64,
) -> mongodb::error::Result<()> {
    session.start_transaction().await?;
    let document = doc! { "_id": writer * 1_000_000 + n, "writer": writer, "n": n };
    ledger.insert_one(document).session(&mut *session).await?;
    let change = doc! { "$inc": { "count": 1 }, "$push": { "last": { "$each": [n], "$slice": -3 } } };
    counters.update_one(doc! { "_id": writer }, change).upsert(true).session(&mut *session).await?;
    session.commit_transaction().await
}

/// Number of writes that are there.
async fn judge(client: &Client, written: &[Written], point: Timestamp) -> Result<usize> {
    let bank = client.database("bank");
    let ledger: Vec<Document> = bank.collection("ledger").find(doc! {}).await?.try_collect().await?;
    let mut there: Vec<(i64, i64)> = Vec::new();
    for document in &ledger {
        there.push((document.get_i64("writer")?, document.get_i64("n")?));
    }
    for one in written {
        let is_there = there.contains(&(one.writer, one.n));
        // The engine stamps milliseconds: what was acknowledged in the point's own may have been stamped in it.
        ensure!(
            is_there || one.acknowledged > point,
            "{}/{} was acknowledged at {} and is lost",
            one.writer,
            one.n,
            one.acknowledged
        );
        ensure!(
            !is_there || one.sent <= point,
            "{}/{} was sent at {} and is there",
            one.writer,
            one.n,
            one.sent
        );
    }
    for writer in 0..WRITERS {
        let count = there.iter().filter(|(of, _)| *of == writer).count();
        let counter = bank.collection::<Document>("counters").find_one(doc! { "_id": writer }).await?;
        let counted = counter.as_ref().map_or(0, |counter| counter.get_i32("count").unwrap_or(-1));
        ensure!(usize::try_from(counted)? == count, "writer {writer}: {count} documents, counter {counted}");
        let newest = there.iter().filter(|(of, _)| *of == writer).map(|(_, n)| *n).max();
        let last = counter.and_then(|counter| counter.get_array("last").ok()?.last()?.as_i64());
        ensure!(newest == last, "writer {writer}: newest {newest:?}, counter {last:?}");
    }
    Ok(there.len())
}
