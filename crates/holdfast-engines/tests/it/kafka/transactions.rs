//! Backups amid transactions over several partitions: each is there whole or not at all, and none that was acknowledged is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::kafka::rig::{Base, Server, versions};

const BACKUPS: usize = 2;

/// What stands in each partition of a topic, in order.
fn partitions(read: &Value, topic: &str) -> Result<Vec<Vec<String>>> {
    let partitions = read["topics"][topic]["partitions"].as_object().context("the topic")?;
    let values = |partition: &Value| -> Result<Vec<String>> {
        let records = partition["records"].as_array().context("its records")?;
        let text = |record: &Value| {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(record[4].as_str().context("a value")?)?;
            Ok(String::from_utf8(bytes)?)
        };
        records.iter().map(text).collect()
    };
    partitions.values().map(values).collect()
}

#[expect(clippy::cast_precision_loss, reason = "seconds")]
fn seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_is_torn_and_what_was_acknowledged_is_there() -> Result<()> {
    for &version in versions() {
        let Some(source) = Server::start(version).await? else { return Ok(()) };
        let source = Arc::new(source);
        let [writing, piping] = ["transact", "pipeline"].map(|command| {
            let source = Arc::clone(&source);
            tokio::spawn(async move { source.tenant(command).await })
        });
        source.tenant("under_way").await?;
        let mut bases: Vec<(Base, f64, f64)> = Vec::new();
        for _ in 0..BACKUPS {
            let from = seconds(Timestamp::now());
            let base = source.backup().await?;
            bases.push((base, from, seconds(Timestamp::now())));
        }
        let told = writing.await??;
        let told = told.as_array().context("what was acknowledged")?;
        let piped = piping.await??;
        let (mut found, mut moved) = (0, 0);
        for (base, from, to) in bases {
            let facts = &base.made.as_ref().context("it is made")?.facts;
            ensure!(facts["between_transactions"] == true, "{version}: {facts}");
            let (copy, _) = Server::restore(&base, version).await?;
            let read = copy.tenant("read").await?;
            moved = once_each(&read).with_context(|| version.to_owned())?;
            let partitions = partitions(&read, "moves")?;
            let partitions: Vec<BTreeSet<String>> =
                partitions.into_iter().map(|one| one.into_iter().collect()).collect();
            ensure!(
                partitions.len() == 4 && partitions.iter().all(|one| *one == partitions[0]),
                "{version}: one is torn"
            );
            for entry in told {
                let (id, begun, ended) =
                    (&entry[0], entry[1].as_f64().unwrap_or(0.0), entry[2].as_f64().unwrap_or(0.0));
                let is_there = partitions[0].contains(id.as_str().unwrap_or_default());
                ensure!(is_there || ended > from, "{version}: {id} is lost");
                ensure!(!is_there || begun < to, "{version}: {id} is extra");
            }
            found = partitions[0].len();
        }
        println!(
            "{version}: {} transactions, {found} in the last copy; {piped} moved, {moved} in it",
            told.len()
        );
        ensure!(found > 20 && moved > 20, "{version}: {found} and {moved} show nothing");
        nothing_waits_for_an_open_one(&source, version).await.with_context(|| version.to_owned())?;
    }
    Ok(())
}

/// Whoever reads one topic, writes another, and commits both at once, goes on in a copy where it stood: nothing twice, nothing left out.
fn once_each(read: &Value) -> Result<usize> {
    let written = partitions(read, "written-to")?.concat();
    let group = &read["groups"]["pipeline"][0];
    // There is none before its first commit.
    let stands = if group.is_null() { Some(0) } else { group[2].as_u64() };
    let stands = stands.with_context(|| format!("how far it has read: {group}"))?;
    let expected: Vec<String> = (0..stands).map(|number| number.to_string()).collect();
    ensure!(written == expected, "{} written, {stands} read", written.len());
    Ok(written.len())
}

/// What others wrote behind a transaction that does not end was acknowledged, and groups may have read it.
async fn nothing_waits_for_an_open_one(source: &Server, version: &str) -> Result<()> {
    source.tenant("leave_open").await?;
    let was = source.tenant("read").await?;
    let base = source.backup().await?;
    let (copy, _) = Server::restore(&base, version).await?;
    let is = copy.tenant("read").await?;
    let acknowledged = [
        &["before it", "behind it", "committed", "of no transaction"][..],
        &["before it", "committed", "of no transaction"],
    ];
    let found = partitions(&is, "open")?;
    ensure!(found == acknowledged, "{found:?}");
    ensure!(
        is["groups"]["reads all"] == was["groups"]["reads all"] && is["groups"]["reads all"].is_array(),
        "{is}"
    );
    for index in ["0", "1"] {
        let high = |read: &Value| read["topics"]["open"]["partitions"][index]["high"].clone();
        ensure!(high(&is) == high(&was), "{} instead of {}", high(&is), high(&was));
    }
    Ok(())
}
