//! A piece of log that never reached the store: the gap is found and shown, a new base backup is taken at once, points
//! behind the gap are refused with the nearest ones that can be reached, and points on both sides stay exact.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, wait_for};
use jiff::Timestamp;
use serde_json::json;

use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_found_shown_and_healed() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    // Otherwise the tail has the log that the archive misses (the suite `tail`).
    let holdfast = Holdfast::start_with(BINARY, "gap", &[("HOLDFAST_WAL_TAIL", "off")]).await?;
    let client = holdfast.client();
    let source = client.create("holed").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = microseconds(Timestamp::now())?;
    covered(&client, &source, before).await?;

    let inside = lose_a_segment(&holdfast, &source, &url).await?;
    let pitr = wait_for("the gap is shown", 60, || async {
        let pitr = client.get(&format!("/managed-services/{source}/pitr")).await?;
        Ok((pitr["gaps"].as_array().map_or(0, Vec::len) == 1).then_some(pitr))
    })
    .await?;
    ensure!(pitr["gaps"][0]["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{pitr}");

    let healed = wait_for("a new base backup", 60, || async {
        let list = client.get(&format!("/managed-services/{source}/backups")).await?;
        let backups = list["backups"].as_array().cloned().unwrap_or_default();
        Ok((backups.len() == 2 && backups[0]["status"] == "completed").then(|| backups[0].clone()))
    })
    .await?;
    ensure!(healed["backup_type"] == "automated" && healed["incremental"] == json!(false), "{healed}");

    let body = json!({"restore_point": inside.to_string(), "target_service_name": "into-the-gap"});
    let refused =
        client.send("POST", &format!("/managed-services/{source}/backups/restore"), Some(body)).await?;
    let text = refused.body["error"].as_str().unwrap_or_default();
    ensure!(refused.status == 400 && text.contains("nearest"), "{} {text}", refused.status);

    exact(&client, &ledger, &source, "before the gap", before).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    exact(&client, &ledger, &source, "behind the gap", microseconds(Timestamp::now())?).await?;
    writer.stop().await?;
    Ok(())
}

fn microseconds(at: Timestamp) -> Result<Timestamp> {
    Ok(Timestamp::from_microsecond(at.as_microsecond())?)
}

/// Waits until the store has everything up to `point`.
async fn covered(client: &Client, service: &str, point: Timestamp) -> Result<()> {
    let coverage = format!("/managed-services/{service}/metrics");
    wait_for("the log is archived", 60, || async {
        let lag = client.get(&coverage).await?["pitr"]["archive_lag_seconds"].as_f64().unwrap_or(f64::MAX);
        let reached = Timestamp::now().as_second() - point.as_second();
        #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
        Ok((lag < reached as f64).then_some(()))
    })
    .await
}

/// Keeps the archiver out for a while and makes it forget one finished segment. Returns an instant behind it.
async fn lose_a_segment(holdfast: &Holdfast, service: &str, url: &str) -> Result<Timestamp> {
    let folder = holdfast.instances.join(service);
    let (conf, away) = (folder.join("conf/pgbackrest.conf"), folder.join("conf/pgbackrest.away"));
    std::fs::rename(&conf, &away)?;
    let database = connect(url).await?;
    // Three segments and more.
    let bulk =
        "CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 8) AS text FROM generate_series(1, 200000) g";
    database.batch_execute(bulk).await?;
    let inside = microseconds(Timestamp::now())?;
    let status = folder.join("data/pg_wal/archive_status");
    // Not the first: the archiver is trying that one again and again and does not look whether it still should.
    let second = wait_for("finished segments wait", 30, || async {
        let mut ready: Vec<PathBuf> = std::fs::read_dir(&status)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ready"))
            .collect();
        ready.sort();
        Ok((ready.len() >= 3).then(|| ready[1].clone()))
    })
    .await
    .context("the archiver was not kept out")?;
    std::fs::rename(&second, second.with_extension("done"))?;
    std::fs::rename(&away, &conf)?;
    Ok(inside)
}

async fn exact(client: &Client, ledger: &Ledger, source: &str, what: &str, point: Timestamp) -> Result<()> {
    let name = format!("r-{}", what.replace(' ', "-"));
    let copy = client.restore_to(source, &point.to_string(), &name).await.context(what.to_owned())?;
    client.wait_running(&copy, 180).await.context(what.to_owned())?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
    client.delete(&format!("/managed-services/{copy}")).await
}
