//! Databases by chance: commands before a base, after it, and while the next one is made; the copies of the base, and those of the end, hold
//! what the source held. What fails is made as small as it goes before it is told.

mod grammar;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use holdfast_core::Timestamp;
use holdfast_engines::Driver as _;
use jiff::SignedDuration;
use rand::rngs::StdRng;

pub(super) use grammar::words;

use crate::valkey::harness::{Archive, Base, Server};
use crate::valkey::reading::{Reading, reading, same};
use crate::valkey::wire::{Answer, Wire};

/// `HOLDFAST_SEED` asks for another; soaks do.
const SEED: u64 = 14;
/// `HOLDFAST_CASES` asks for more.
const CASES: u32 = 2;
/// How long a smaller case is looked for.
const SHRINKING: Duration = Duration::from_secs(120);
/// Deadlines of the grammar's are past by then, or far.
const SHORT: Duration = Duration::from_millis(200);
/// What some of the deadlines come in.
const PAUSE: Duration = Duration::from_millis(12);
/// Between commands while a base is made, so that it falls among them.
const PACE: Duration = Duration::from_millis(1);

#[derive(Clone)]
struct Case {
    /// Before a base, after it, while another is made, and after that one.
    parts: [Vec<String>; 4],
}

impl Case {
    fn random(random: &mut StdRng) -> Self {
        let before = [grammar::beginning(random), grammar::lines(random)].concat();
        Self { parts: [before, grammar::lines(random), grammar::lines(random), grammar::lines(random)] }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    fn without(&self, from: usize, count: usize) -> Self {
        let mut at = 0;
        let mut left = self.clone();
        for part in &mut left.parts {
            part.retain(|_| {
                at += 1;
                !(from..from + count).contains(&(at - 1))
            });
        }
        left
    }

    fn tell(&self) {
        let names =
            ["before the base", "after it", "while the next one is made, by two clients", "after that one"];
        for (name, part) in names.iter().zip(&self.parts) {
            println!("{name}:\n  {}", part.join("\n  "));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_database_comes_back() -> Result<()> {
    if holdfast_testkit::holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = holdfast_testkit::seed::generator_or("valkey any_database_comes_back", SEED);
    let cases = std::env::var("HOLDFAST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    for number in 1..=cases {
        let case = Case::random(&mut random);
        if let Err(error) = tried(&case).await {
            println!("case {number}: {error:#}");
            let (case, error) = smaller(case, error).await;
            case.tell();
            return Err(error.context(format!("case {number}")));
        }
    }
    Ok(())
}

/// Takes commands out as long as the case still fails, many first.
async fn smaller(mut case: Case, mut error: anyhow::Error) -> (Case, anyhow::Error) {
    let began = Instant::now();
    let mut count = case.len() / 2;
    while count > 0 {
        let mut from = 0;
        while from < case.len() {
            if began.elapsed() > shrinking() {
                return (case, error);
            }
            let left = case.without(from, count);
            match tried(&left).await {
                Err(still) => (case, error) = (left, still),
                Ok(()) => from += count,
            }
        }
        count /= 2;
    }
    (case, error)
}

fn shrinking() -> Duration {
    std::env::var("HOLDFAST_SHRINK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(SHRINKING, Duration::from_secs)
}

async fn tried(case: &Case) -> Result<()> {
    let server = Server::start().await?.context("engines are there")?;
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let tried = compared(case, &server, &archive).await;
    reader.abort();
    server.stop().await?;
    tried
}

async fn compared(case: &Case, server: &Server, archive: &Archive) -> Result<()> {
    let [before, after, during, rest] = &case.parts;
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
    let found = reading(&copy).await?;
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
    same(found, &reading(copy).await?, SignedDuration::ZERO..SignedDuration::ZERO, false)
}

/// A reading behind which nothing comes to its deadline. Ends with a key by which it is seen how far deadlines are moved.
async fn settled(server: &Server) -> Result<Reading> {
    tokio::time::sleep(SHORT).await;
    let read = reading(server).await?;
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
            Answer::Refused(why) if std::env::var_os("HOLDFAST_REFUSALS").is_some() => {
                println!("{why}: {line}");
            }
            Answer::Refused(_) => {}
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
