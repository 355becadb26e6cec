//! Backups that share blobs, that indices come and go under, and that fail: each that is completed holds what the node held then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_engines::Driver as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::opensearch::rig::{Base, Server, VERSION};
use crate::streams::same;

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_stored_once() -> Result<()> {
    let Some(source) = Server::start(VERSION).await? else { return Ok(()) };
    source.tenant("grow").await?;
    let first = source.backup().await?;
    let held = source.tenant("digest").await?;
    let second = source.backup_after(&first).await?;
    let (whole, again) = (first.stored(), second.stored());
    ensure!(again * 20 < whole, "{again} bytes of {whole} were stored again");
    // One of which nothing is known any more, as after backups that failed: all is stored again.
    let lost = source.backup_after(&Base::default()).await?;
    ensure!(lost.stored() > whole * 9 / 10, "{} bytes", lost.stored());
    // The node ends in the middle of a snapshot.
    let snapshot = source.backup_after(&lost);
    let blow = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        source.kill();
    };
    let (cut_off, ()) = tokio::join!(snapshot, blow);
    let cut_off = cut_off.err().map_or("completed".to_owned(), |error| format!("{error:#}"));
    println!("the snapshot under a kill: {cut_off}");
    source.driver.start(&source.instance).await?;
    // Many indices that hold next to nothing.
    source.tenant("small").await?;
    let third = source.backup_after(&lost).await?;
    let with_small = source.tenant("digest").await?;
    println!("stored: {whole}, {again} and, with small indices, {} bytes", third.stored());
    ensure!(third.stored() < whole / 2, "they cost too much");
    drop(source);
    println!("the restore under a kill: {:#}", cut_off_restore(&third).await?);
    for (made, held) in [(&second, &held), (&third, &with_small)] {
        let (copy, _) = Server::restore(made, VERSION).await?;
        same(&copy.tenant("digest").await?, held)?;
    }
    Ok(())
}

/// Kills a node as soon as it restores indices; what the restore says then.
async fn cut_off_restore(base: &Base) -> Result<anyhow::Error> {
    let server = Server::plan(VERSION)?.context("engines are there")?;
    let indices = server.instance.folder.join("data/nodes/0/indices");
    let blow = async {
        // The server's own is the first.
        while std::fs::read_dir(&indices).map_or(0, Iterator::count) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server.kill();
    };
    let (restored, ()) = tokio::join!(server.restore_here(base), blow);
    restored.err().context("a restore whose node was killed says that all is there")
}

#[expect(clippy::cast_precision_loss, reason = "seconds")]
fn seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn indices_that_go_during_a_snapshot_do_not_fail_it() -> Result<()> {
    let Some(source) = Server::start(VERSION).await? else { return Ok(()) };
    let source = Arc::new(source);
    let writing = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.tenant("busy").await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let from = seconds(Timestamp::now());
    let base = source.backup().await?;
    let to = seconds(Timestamp::now());
    let told = writing.await??;
    let (copy, _) = Server::restore(&base, VERSION).await?;
    let read = copy.tenant("read").await?;
    let documents = read["indices"]["ledger"]["documents"].as_array().context("the ledger")?;
    let there: BTreeSet<&str> = documents.iter().filter_map(|document| document[0].as_str()).collect();
    for entry in told.as_array().context("what was acknowledged")? {
        let id = entry[0].as_str().unwrap_or_default();
        let (begun, ended) = (number(&entry[1]), number(&entry[2]));
        ensure!(there.contains(id) || ended > from, "{id} is lost");
        ensure!(!there.contains(id) || begun < to, "{id} is extra");
    }
    ensure!(there.len() > 50, "{} show nothing", there.len());
    Ok(())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
