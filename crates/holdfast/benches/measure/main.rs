//! What `make bench` measures; run by scripts/bench.sh, which explains the environment. Each part is a module, prints while it
//! runs and gives a section of docs/benchmarks.md. Ratios come from one run, with the two sides taking turns.

#![allow(clippy::print_stdout, reason = "people watch it run")]

mod alone;
mod api;
mod bases;
mod by_hand;
mod copies;
mod java_tools;
mod lag;
mod lost;
mod machine;
mod own;
mod pgbench;
mod report;
mod restores;
mod s3;
mod sealing;
mod timed;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use holdfast_core::engine::EngineKind;

const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// How much of everything.
struct Size {
    name: &'static str,
    /// pgbench's scale factor of the large database; 100 is some 1.5 GB.
    scale: u32,
    /// The one between the large and the empty database.
    middle_scale: u32,
    pairs: usize,
    services: usize,
    backups_each: usize,
    requests: usize,
    lag_seconds: u64,
    /// What MySQL, MongoDB and Valkey are filled with.
    noise_mib: u64,
    /// Of the log that is replayed.
    transactions: u64,
    sealing_seconds: u64,
}

const SMALL: Size = Size {
    name: "small",
    scale: 8,
    middle_scale: 3,
    pairs: 2,
    services: 500,
    backups_each: 10,
    requests: 500,
    lag_seconds: 12,
    noise_mib: 48,
    transactions: 4_000,
    sealing_seconds: 1,
};

const FULL: Size = Size {
    name: "full",
    scale: 150,
    middle_scale: 12,
    pairs: 3,
    services: 10_000,
    backups_each: 10,
    requests: 3_000,
    lag_seconds: 60,
    noise_mib: 2048,
    transactions: 40_000,
    sealing_seconds: 3,
};

#[tokio::main]
async fn main() -> Result<()> {
    // Dropping what runs ends every process and removes every folder.
    tokio::select! {
        done = Box::pin(run()) => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; everything was removed"),
    }
}

async fn run() -> Result<()> {
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut size = if setting("BENCH_SIZE").as_deref() == Some("small") { SMALL } else { FULL };
    if let Some(mib) = setting("BENCH_MIB") {
        size.noise_mib = mib.parse().context("BENCH_MIB is a number of MiB")?;
    }
    if let Some(pairs) = setting("BENCH_PAIRS") {
        size.pairs =
            pairs.parse::<std::num::NonZeroUsize>().context("BENCH_PAIRS is a number above 0")?.get();
    }
    let only = setting("BENCH_ONLY");
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == part));
    let mut sections = Vec::new();
    if wanted("sealing") {
        sections.push(sealing::measure(&size)?);
    }
    if wanted("api") {
        sections.push(Box::pin(api::measure(&size)).await?);
    }
    if wanted("local") {
        sections.push(Box::pin(copies::measure(&size, copies::Where::Folder)).await?);
    }
    if wanted("s3") {
        sections.push(Box::pin(copies::measure(&size, copies::Where::S3)).await?);
    }
    if wanted("restores") {
        sections.push(Box::pin(restores::measure(&size)).await?);
    }
    if wanted("lag") {
        sections.push(Box::pin(lag::measure(&size)).await?);
    }
    for kind in EngineKind::ALL.into_iter().filter(|kind| *kind != EngineKind::Postgresql) {
        if wanted(kind.as_str()) && kind.capability().available {
            sections.push(Box::pin(own::measure(&size, kind)).await?);
        }
    }
    if wanted("bases") {
        sections.push(Box::pin(bases::measure(&size)).await?);
    }
    if wanted("lost") {
        sections.push(Box::pin(lost::measure(&size)).await?);
    }
    let text = report::page(&size, &machine::describe()?, &sections);
    let out = PathBuf::from(setting("BENCH_OUT").context("BENCH_OUT names the page to write")?);
    std::fs::write(&out, text).with_context(|| format!("write {}", out.display()))
}
