//! Databases by chance: commands before a base, after it, and while the next one is made; the copies of the base, and those of the end, hold
//! what the source held. What fails is made as small as it goes before it is told.

mod grammar;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_core::Timestamp;
use holdfast_engines::Driver as _;
use holdfast_testkit::cases::{self, Case, Cases};
use holdfast_testkit::valkey::{Reading, reading, same};
use jiff::SignedDuration;
use rand::rngs::StdRng;

pub(super) use grammar::words;

use crate::valkey::harness::{Archive, Base, Server};
use crate::valkey::wire::{Answer, Wire};

const CASES: Cases<4> = Cases {
    name: "valkey any_database_comes_back",
    seed: 14,
    count: 2,
    parts: ["before the base", "after it", "while the next one is made, by two clients", "after that one"],
};
/// Deadlines of the grammar's are past by then, or far.
const SHORT: Duration = Duration::from_millis(200);
/// What some of the deadlines come in.
const PAUSE: Duration = Duration::from_millis(12);
/// Between commands while a base is made, so that it falls among them.
const PACE: Duration = Duration::from_millis(1);

fn case(random: &mut StdRng) -> Case<4> {
    let before = [grammar::beginning(random), grammar::lines(random)].concat();
    Case([before, grammar::lines(random), grammar::lines(random), grammar::lines(random)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_database_comes_back() -> Result<()> {
    match holdfast_testkit::holdfast::engines() {
        Some(_) => CASES.all_hold(case, tried).await,
        None => Ok(()),
    }
}

async fn tried(case: &Case<4>) -> Result<()> {
    let server = Server::start().await?.context("engines are there")?;
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let tried = compared(case, &server, &archive).await;
    reader.abort();
    server.stop().await?;
    tried
}

async fn compared(
    Case([before, after, during, rest]): &Case<4>,
    server: &Server,
    archive: &Archive,
) -> Result<()> {
    run(server, before, Duration::ZERO).await?;
    let of_base = settled(server).await?;
    let base = server.backup().await.context("back up")?;
    run(server, after, Duration::ZERO).await?;
    let (one, other) = during.split_at(during.len() / 2);
    let (amid, ran, also) = tokio::join!(server.backup(), run(server, one, PACE), run(server, other, PACE));
    let amid = amid.context("back up amid commands")?;
    ran.and(also)?;
    run(server, rest, Duration::ZERO).await?;
    let of_end = settled(server).await?;
    let end = next_second().await?;
    archive.caught_up().await?;
    ensure!(archive.lock().begins == [None], "the archive has a gap: {:?}", archive.lock().begins);
    comes_back(&base, archive, None, &of_base).await.context("the copy of the base")?;
    comes_back(&base, archive, Some(end), &of_end).await.context("the copy of the end")?;
    comes_back(&amid, archive, Some(end), &of_end).await.context("the end, from the base amid commands")?;
    // No reading is of its instant; its fingerprint is compared nevertheless.
    let (copy, _) = Server::restore(&amid, archive, None).await.context("restore the base amid commands")?;
    copy.stop().await
}

/// Also when the copy has read its own log again.
async fn comes_back(
    base: &Base,
    archive: &Archive,
    target: Option<Timestamp>,
    source: &Reading,
) -> Result<()> {
    let began = Timestamp::now();
    let (copy, restored) = Server::restore(base, archive, target).await.context("restore")?;
    let found = reading(copy.agent().await?).await?;
    let moved = began.duration_since(restored.reached)..Timestamp::now().duration_since(restored.reached);
    let compared = match same(source, &found, moved, target.is_none()) {
        Ok(()) => stays(&copy, &found).await.context("started again"),
        differs => differs,
    };
    copy.stop().await?;
    compared
}

async fn stays(copy: &Server, found: &Reading) -> Result<()> {
    copy.driver.stop(&copy.instance, 20).await?;
    copy.driver.start(&copy.instance).await?;
    same(found, &reading(copy.agent().await?).await?, SignedDuration::ZERO..SignedDuration::ZERO, false)
}

/// A reading behind which nothing comes to its deadline. Ends with a key by which it is seen how far deadlines are moved.
async fn settled(server: &Server) -> Result<Reading> {
    tokio::time::sleep(SHORT).await;
    let read = reading(server.agent().await?).await?;
    println!("{}", read.summary());
    Ok(read)
}

async fn next_second() -> Result<Timestamp> {
    let end = Timestamp::from_second(Timestamp::now().as_second() + 1)?;
    let left = end.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    Ok(end)
}

/// Ends with nothing open. Commands may fail; the server may not.
async fn run(server: &Server, lines: &[String], pace: Duration) -> Result<()> {
    let mut tenant = Wire::connect(server).await?;
    let (mut made, mut last) = (0, Vec::new());
    for line in lines {
        if line == grammar::PAUSE {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        match tenant.ask(&grammar::words(line, &last)).await.with_context(|| line.clone())? {
            Answer::Refused(why) => cases::refused(&why, line),
            Answer::Bytes(bytes) if line.contains("DUMP") => (made, last) = (made + 1, bytes),
            _ => made += 1,
        }
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }
    println!("{made} of {} commands", lines.len());
    Ok(())
}
