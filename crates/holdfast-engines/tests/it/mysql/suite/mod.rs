//! MySQL's own regression tests as a workload (Debian's package `mysql-testsuite`): files of it are run as a tenant, a base is made in
//! their midst, and the copies of it, and of instants behind it and from the beginning, hold what the source held. Most statements of
//! a suite are there to be odd; whether a test passes does not matter, and it does not here.

mod files;
mod rewrite;
mod run;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;

use self::files::Suite;
use self::run::Runner;
use crate::mysql::reading::{Reading, reading, same};
use crate::mysql::rig::{Archive, Base, Server, archived, base, engines};

const NAME: &str = "mysqls_own_tests_come_back";

fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `HOLDFAST_SUITE_FILES`: how many before the base, and how many behind it. `HOLDFAST_SUITE`: a part of their names.
/// `HOLDFAST_SUITE_PART=2/15`: the second of fifteen parts of all of them, in place of files by chance.
#[cfg_attr(feature = "suites", tokio::test(flavor = "multi_thread"))]
#[cfg_attr(not(feature = "suites"), expect(dead_code, reason = "make soak alone has the suite"))]
async fn mysqls_own_tests_come_back() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let mut random = holdfast_testkit::seed::generator(NAME);
    let suite = Suite::find(&engines, &told("HOLDFAST_SUITE").unwrap_or_default())?;
    let files = told("HOLDFAST_SUITE_FILES").and_then(|text| text.parse().ok()).unwrap_or(10);
    println!("{} files in the suite", suite.all().len());
    for _ in 0..told("HOLDFAST_CASES").and_then(|text| text.parse().ok()).unwrap_or(1) {
        round(&engines, &suite, files, &mut random).await?;
    }
    Ok(())
}

async fn round(engines: &std::path::Path, suite: &Suite, files: usize, random: &mut StdRng) -> Result<()> {
    let (server, archive, _follower) = archived(engines).await?;
    let empty = base(&server, &archive).await.context("back up an empty server")?;
    let runner = Runner::new(suite, &server, engines).await?;
    let (first, second) = match told("HOLDFAST_SUITE_PART") {
        None => (suite.some(files, random), suite.some(files, random)),
        Some(part) => halves(suite, &part)?,
    };
    runner.run(&first, random).await?;
    let of_base = reading(&server).await?;
    let middle = base(&server, &archive).await.context("back up")?;
    if let Some(instead) = &middle.facts.instead {
        println!("by {}: {}", instead.method, instead.reason);
    }
    let at_base = archive.catch_up().await?;
    runner.run(&second, random).await?;
    let of_end = reading(&server).await?;
    let at = archive.catch_up().await?;
    ensure!(archive.state().begins.len() == 1, "the archive has a gap: {:?}", archive.state().errors);
    told_of(&server, &of_end, first.len() + second.len()).await?;
    let tries = [
        ("the base", &middle, None, &of_base),
        ("the end behind the base", &middle, Some(at), &of_end),
        ("the instant of the base by replay alone", &empty, Some(at_base), &of_base),
        ("the end by replay alone", &empty, Some(at), &of_end),
    ];
    let mut failed = Vec::new();
    for (what, base, at, expected) in tries {
        if let Err(error) = comes_back(engines, &server, &archive, base, at, expected).await {
            println!("{what}: {error:#}");
            failed.push(what);
        }
    }
    if let Err(error) = dumped(engines, &server, &archive, &of_end).await {
        println!("a dump: {error:#}");
        failed.push("a dump");
    }
    if !failed.is_empty() {
        if let Some(seconds) = told("HOLDFAST_SUITE_STAY").and_then(|text| text.parse().ok()) {
            println!("the server stays: {}", server.instance.folder.display());
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        bail!("{failed:?} differ, after {first:?} and {second:?}");
    }
    Ok(())
}

fn halves(suite: &Suite, part: &str) -> Result<(Vec<String>, Vec<String>)> {
    let (number, parts) = part.split_once('/').context("HOLDFAST_SUITE_PART=2/15")?;
    let mut names = suite.part(number.parse()?, parts.parse()?);
    let second = names.split_off(names.len() / 2);
    Ok((names, second))
}

async fn comes_back(
    engines: &std::path::Path,
    server: &Server,
    archive: &Archive,
    base: &Base,
    at: Option<holdfast_core::Timestamp>,
    expected: &Reading,
) -> Result<()> {
    let began = Instant::now();
    let (copy, _) = server.restored(engines, base, at, archive).await.context("restore")?;
    let counters = at.is_none() && base.facts.instead.is_none();
    same(expected, &reading(&copy).await?, counters)?;
    println!("came back in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Takes away what a dump cannot hold, database by database, until one is made; it is all that is left.
async fn dumped(
    engines: &std::path::Path,
    server: &Server,
    archive: &Archive,
    of_end: &Reading,
) -> Result<()> {
    let mut databases: Vec<String> = server.root().await?.query("SHOW DATABASES").await?;
    databases.retain(|name| {
        !["mysql", "sys", "information_schema", "performance_schema", "defaultdb"].contains(&&**name)
    });
    let all = databases.len();
    loop {
        let made = base(server, archive).await.context("back up")?;
        let Some(instead) = &made.facts.instead else {
            println!("a dump holds {} of {all} databases", databases.len());
            let left = reading(server).await?;
            ensure!(left.len() <= of_end.len(), "less is left");
            return comes_back(engines, server, archive, &made, None, &left).await;
        };
        println!("by {}: {}", instead.method, instead.reason);
        let named = |name: &String| instead.reason.contains(&format!("`{name}`"));
        let (gone, left): (Vec<_>, Vec<_>) = databases.into_iter().partition(named);
        ensure!(!gone.is_empty(), "nothing of {left:?} is named");
        databases = left;
        let mut root = server.root().await?;
        root.query_drop("SET SESSION foreign_key_checks = 0").await?;
        for name in gone {
            root.query_drop(format!("ALTER DATABASE `{name}` READ ONLY = 0")).await?;
            root.query_drop(format!("DROP DATABASE `{name}`")).await.with_context(|| name.clone())?;
        }
    }
}

async fn told_of(server: &Server, seen: &Reading, files: usize) -> Result<()> {
    let mut root = server.root().await?;
    let questions: Option<(String, String)> = root.query_first("SHOW GLOBAL STATUS LIKE 'Questions'").await?;
    let gtids: Option<String> = root.query_first("SELECT @@GLOBAL.gtid_executed").await?;
    println!(
        "{files} files, {} statements, {} in the log, {} tables, {} rows",
        questions.map(|(_, count)| count).unwrap_or_default(),
        gtids.unwrap_or_default().rsplit(['-', ':']).next().unwrap_or_default(),
        seen.keys().filter(|name| name.ends_with(" as made")).count(),
        seen.iter().filter(|(name, _)| name.starts_with('`')).map(|(_, rows)| rows.len()).sum::<usize>(),
    );
    Ok(())
}

async fn patiently(what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !done().await? {
        ensure!(began.elapsed() < Duration::from_secs(60), "{what}: not after a minute");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
