//! Backups that take over what an earlier one has: each holds what the server held then, and stores little that another stored.

use std::fs::OpenOptions;

use anyhow::{Context as _, Result, ensure};
use holdfast_engines::Driver as _;
use serde_json::Value;

use crate::kafka::rig::{Base, Server};
use crate::streams::same;

const VERSION: &str = "4.1";

struct Made {
    base: Base,
    held: Value,
}

/// Backs up, and notes what the server holds.
async fn made(source: &Server, earlier: &Base) -> Result<Made> {
    let base = source.backup_after(earlier).await?;
    Ok(Made { base, held: source.tenant("digest").await? })
}

async fn comes_back(made: &Made, what: &str) -> Result<()> {
    let (copy, _) = Server::restore(&made.base, VERSION).await?;
    same(&copy.tenant("digest").await?, &made.held).with_context(|| what.to_owned())
}

/// A server that ends uncleanly has lost what it had not written to its disk.
async fn loses_its_end(source: &Server) -> Result<()> {
    source.kill();
    let folder = source.instance.folder.join("data/long-0");
    let logs = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
    let mut logs = logs.collect::<std::io::Result<Vec<_>>>()?;
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    let last = OpenOptions::new().write(true).open(logs.last().context("a log")?)?;
    last.set_len(last.metadata()?.len() / 2)?;
    source.driver.start(&source.instance).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_taken_over_and_nothing_else() -> Result<()> {
    let Some(source) = Server::start(VERSION).await? else { return Ok(()) };
    source.tenant("grow").await?;
    let first = made(&source, &Base::default()).await?;
    let second = made(&source, &first.base).await?;
    let (whole, again) = (first.base.stored(), second.base.stored());
    ensure!(again * 20 < whole, "{again} bytes of {whole} were stored again");

    // Begins later, goes on under a new leader, and beside it: a topic that is another, and one that was thinned meanwhile.
    source.kill();
    source.driver.start(&source.instance).await?;
    source.tenant("go_on").await?;
    source.tenant("make_other").await?;
    let third = made(&source, &second.base).await?;
    ensure!(third.held != second.held, "the change shows");
    let more = third.base.stored();
    ensure!(more * 2 < whole, "{more} bytes of {whole} were stored, most of which are there");

    loses_its_end(&source).await?;
    source.tenant("go_on").await?;
    let fourth = made(&source, &third.base).await?;
    let lost = "what was lost is not in it, and what came in its place is";
    comes_back(&fourth, lost).await?;
    comes_back(&third, "with pieces of the first").await?;
    comes_back(&second, "with all pieces of the first").await?;
    println!("stored: {whole}, {again}, {more}, {} bytes", fourth.base.stored());
    Ok(())
}
