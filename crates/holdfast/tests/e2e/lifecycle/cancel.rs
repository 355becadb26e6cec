//! Jobs that their owner ends: at once, and without anything left.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::holdfast::PASSWORD;
use holdfast_testkit::{Client, wait_for};
use serde_json::json;

use super::support::{BULK, execute, refused, start, value};
use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_or_restore_ends_and_leaves_nothing() -> Result<()> {
    let Some(holdfast) = start("cancel").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("source").await?;
    client.wait_first_backup(&id).await?;
    execute(&client, &id, BULK).await?;

    let backup = client.trigger(&id).await?;
    let job =
        job_at_work(&client, &id, "backup", &format!("/managed-services/{id}/backups/{backup}")).await?;
    let began = Instant::now();
    let accepted = client.send("POST", &format!("/jobs/{job}/cancel"), Some(json!({}))).await?;
    ensure!(accepted.status == 202 && accepted.body["cancel_requested"] == true, "{accepted:?}");
    let ended = wait_for("the backup has ended", 30, || async {
        let found = client.get(&format!("/managed-services/{id}/backups/{backup}")).await?;
        Ok((found["status"] != "running").then_some(found))
    })
    .await?;
    ensure!(ended["status"] == "failed" && ended["error_message"] == "cancelled", "{ended}");
    println!("the backup ended {:.1} s later", began.elapsed().as_secs_f64());
    let again = refused(&client, 409, "POST", &format!("/jobs/{job}/cancel"), json!({})).await?;
    ensure!(again.contains("has ended"), "{again}");
    let whole = client.trigger(&id).await?;
    client.wait_backup(&id, &whole, 180).await.context("the next backup")?;

    let path = format!("/managed-services/{id}/backups/{whole}/restore");
    let copy = text(&client.post(&path, json!({"target_service_name": "copy"})).await?, "service_id")?;
    let job = job_at_work(&client, &copy, "restore", &format!("/managed-services/{copy}")).await?;
    let folder = holdfast.instances.join(&copy);
    let told = tokio::process::Command::new(BINARY)
        .args(["jobs", "cancel", &job])
        .env("HOLDFAST_URL", holdfast.base())
        .env("HOLDFAST_PASSWORD", PASSWORD)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&told.stdout);
    ensure!(told.status.success() && said.contains("to be cancelled"), "{told:?}");
    wait_for("the copy is given up", 30, || async {
        let found = client.get(&format!("/managed-services/{copy}")).await?;
        ensure!(found["status"] != "running", "{found}");
        Ok((found["status"] == "failed" && !folder.exists()).then_some(()))
    })
    .await?;
    let rows = value(&client, &id, "SELECT count(*)::text FROM bulk").await?;
    ensure!(rows == "25000", "the source: {rows} rows");

    client.post(&format!("/managed-services/{id}/stop"), json!({})).await?;
    let jobs = client.get(&format!("/jobs?service_id={id}")).await?;
    let stop = jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["kind"] == "stop"));
    let stop = text(stop.context("a job to stop")?, "id")?;
    let why = refused(&client, 409, "POST", &format!("/jobs/{stop}/cancel"), json!({})).await?;
    ensure!(why.contains("only backups, restores"), "{why}");
    Ok(())
}

/// What a backup or a restore of files is at, from the first one on.
const AT_WORK: [&str; 5] = [
    "copying files",
    "writing to disk",
    "creating the backup repository",
    "finding the restore point",
    "replaying log",
];

/// The id of the newest job of a kind, once what it makes shows that files are being copied.
async fn job_at_work(client: &Client, service: &str, kind: &str, path: &str) -> Result<String> {
    wait_for("files are being copied", 60, || async {
        let found = client.get(path).await?;
        ensure!(found["status"] != "completed", "too quick for this test: {found}");
        let phase = found["progress"]["phase"].as_str().unwrap_or_default();
        Ok(AT_WORK.contains(&phase).then_some(()))
    })
    .await?;
    let jobs = client.get(&format!("/jobs?service_id={service}")).await?;
    let newest = jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["kind"] == kind));
    text(newest.context("the job")?, "id")
}
