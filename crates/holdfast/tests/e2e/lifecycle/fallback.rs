//! A base that cannot be loaded does not end a restore to an instant that an older one leads to as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::{Ledger, Writer, rows};
use holdfast_testkit::{Holdfast, wait_for};
use jiff::Timestamp;
use serde_json::json;

use super::support::{files, start, wait_archived, wait_job};

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_reached_from_an_older_base_where_the_newest_is_damaged() -> Result<()> {
    let Some(holdfast) = start("fallback").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("source").await?;
    let first = text(&client.wait_first_backup(&id).await?, "id")?;
    let writer = Writer::start(&client.connection_string(&id).await?, Ledger::default(), 1).await?;
    let before = bundles(&holdfast);
    let newest = client.trigger(&id).await?;
    client.wait_backup(&id, &newest, 120).await?;
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    wait_archived(&client, &id, point).await?;
    for object in bundles(&holdfast).difference(&before) {
        flip(object)?;
    }

    let copy = client.restore_to(&id, &point.to_string(), "copy").await?;
    client.wait_running(&copy, 180).await.context("the older base leads there")?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    writer.ledger.judge(&found, point).ensure_exact("from the older base")?;
    let service = client.get(&format!("/managed-services/{copy}")).await?;
    let said = text(&service, "status_message")?;
    ensure!(said.contains("older backup") && said.contains(&newest) && !said.contains(&first), "{said}");
    let job = wait_job(&client, &copy, "restore", 30).await?;
    ensure!(job["error_message"].is_null(), "{job}");

    // Who asks for the damaged one gets no other.
    let path = format!("/managed-services/{id}/backups/{newest}/restore");
    let broken = text(&client.post(&path, json!({ "target_service_name": "broken" })).await?, "service_id")?;
    wait_for("the restore fails", 120, || async {
        let service = client.get(&format!("/managed-services/{broken}")).await?;
        ensure!(service["status"] != "running", "a damaged backup was restored");
        Ok((service["status"] == "failed").then_some(()))
    })
    .await?;
    writer.stop().await.map(drop)
}

/// Files of bases in the bucket.
fn bundles(holdfast: &Holdfast) -> BTreeSet<PathBuf> {
    let of_a_base = |path: &PathBuf| path.to_string_lossy().contains("/bundle/");
    files(&holdfast.objects()).into_iter().filter(of_a_base).collect()
}

fn flip(object: &Path) -> Result<()> {
    let mut bytes = std::fs::read(object)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(object, bytes)?)
}
