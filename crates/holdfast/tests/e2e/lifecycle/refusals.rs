//! Restores that are refused, and restores that fail: both say why and leave nothing behind.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, wait_for};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::support::{files, make_notes, notes, refused, start, wait_archived, wait_job, wait_status};

#[tokio::test(flavor = "multi_thread")]
async fn restores_that_cannot_be_are_refused_or_fail_without_a_trace() -> Result<()> {
    let Some(holdfast) = start("refusals").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("source").await?;
    let backup = text(&client.wait_first_backup(&id).await?, "id")?;
    make_notes(&client, &id, "whole").await?;
    wait_archived(&client, &id, Timestamp::now()).await?; // until then the window is empty
    let before = state(&client).await?;
    points(&client, &id).await.context("points")?;
    words(&client, &id, &backup).await.context("words")?;
    let after = state(&client).await?;
    ensure!(after == before, "a refusal changed something: {after:?}\nbefore: {before:?}");
    ensure!(holdfast.instance_folders() == [id.clone()], "{:?}", holdfast.instance_folders());
    unfinished_backup(&client, &id).await.context("a backup that is being made")?;
    damaged(&holdfast, &client, &id, &backup).await.context("a damaged backup")?;
    ensure!(notes(&client, &id).await? == "whole", "the source was never touched");
    Ok(())
}

/// The services and the number of restores. Not the message: it tells how full the machine's disk is, which others fill.
async fn state(client: &Client) -> Result<(Value, usize)> {
    let mut listed = client.get("/managed-services").await?;
    for service in listed["services"].as_array_mut().context("services")? {
        service["status_message"] = Value::Null;
    }
    Ok((listed, restores(client).await?))
}

async fn restores(client: &Client) -> Result<usize> {
    let jobs = client.get("/jobs").await?;
    Ok(jobs["jobs"].as_array().into_iter().flatten().filter(|job| job["kind"] == "restore").count())
}

/// Outside the window on both sides, by little and by much; the texts name the nearest points.
async fn points(client: &Client, id: &str) -> Result<()> {
    let path = format!("/managed-services/{id}/backups/restore");
    let pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
    let earliest = text(&pitr, "earliest_restore_point")?;
    let first: Timestamp = earliest.parse()?;
    let just_before = first.checked_sub(SignedDuration::from_micros(1))?.to_string();
    let ask = |point: Value| json!({"restore_point": point, "target_service_name": "never"});
    for point in [just_before.as_str(), "2001-01-01T00:00:00Z", "2001-01-01T01:00:00+01:00"] {
        let said = refused(client, 400, "POST", &path, ask(json!(point))).await?;
        ensure!(said.contains(&format!("nearest reachable point is {earliest}")), "{point}: {said}");
    }
    for ahead in [SignedDuration::from_secs(5), SignedDuration::from_hours(24 * 365)] {
        let point = Timestamp::now().checked_add(ahead)?.to_string();
        let said = refused(client, 400, "POST", &path, ask(json!(point))).await?;
        ensure!(said.contains("lies in the future") && said.contains("nearest reachable point is"), "{said}");
        ensure!(said.contains(&earliest), "the window is named: {said}");
    }
    for none in
        [json!(null), json!(""), json!("yesterday"), json!("2026-03-15"), json!("2026-03-15 14:30:00")]
    {
        let said = refused(client, 400, "POST", &path, ask(none.clone())).await?;
        ensure!(said.contains("recovery window") && said.contains(&earliest), "{none}: {said}");
    }
    Ok(())
}

async fn words(client: &Client, id: &str, backup: &str) -> Result<()> {
    let now = Timestamp::now().to_string();
    let base = format!("/managed-services/{id}/backups");
    let (point, copy) = (format!("{base}/restore"), format!("{base}/{backup}/restore"));
    let unknown = format!("{base}/bkp_aaaaaaaaaaaaaaaa/restore");
    let nobody = format!("/managed-services/{}/backups/restore", "00000000-0000-4000-8000-000000000000");
    let rows: &[(&str, u16, Value)] = &[
        (&unknown, 404, json!({"target_service_name": "never"})),
        (&nobody, 404, json!({"restore_point": now, "target_service_name": "never"})),
        (&point, 409, json!({"restore_point": now, "target_service_name": "source"})),
        (&copy, 409, json!({"target_service_name": "source"})),
        (&point, 400, json!({"restore_point": now})),
        (&copy, 400, json!({})),
        (&copy, 400, json!({"target_service_name": "No Such Name"})),
        (&point, 400, json!({"restore_point": now, "target_service_name": "never", "plan_name": "tier-99"})),
        (&copy, 400, json!({"target_service_name": "never", "plan_name": "tier-99"})),
        (&point, 400, json!({"restore_point": now, "target_service_name": "never", "zone": "nowhere"})),
        (&copy, 400, json!({"target_service_name": "never", "zone": "nowhere"})),
    ];
    for (path, status, body) in rows {
        refused(client, *status, "POST", path, body.clone()).await?;
    }
    Ok(())
}

async fn unfinished_backup(client: &Client, id: &str) -> Result<()> {
    let running = client.trigger(id).await?;
    let path = format!("/managed-services/{id}/backups/{running}");
    let said =
        refused(client, 409, "POST", &format!("{path}/restore"), json!({"target_service_name": "never"}))
            .await?;
    ensure!(said.contains(&running), "{said}");
    refused(client, 409, "DELETE", &path, json!({})).await?;
    client.wait_backup(id, &running, 60).await.map(drop)
}

/// The largest stored file of the oldest base backup.
fn largest_file_of_a_base(holdfast: &Holdfast) -> Result<PathBuf> {
    let mut bundles = files(&holdfast.objects());
    bundles.retain(|path| path.to_string_lossy().contains("/bundle/"));
    bundles.sort_by_key(|path| path.parent().map(Path::to_owned));
    let first = bundles.first().and_then(|path| path.parent()).context("a backup has bundles")?.to_owned();
    let of_first = bundles.into_iter().filter(|path| path.starts_with(&first));
    of_first.max_by_key(|path| path.metadata().map_or(0, |meta| meta.len())).context("a bundle")
}

async fn damaged(holdfast: &Holdfast, client: &Client, id: &str, backup: &str) -> Result<()> {
    let object = largest_file_of_a_base(holdfast)?;
    let whole = std::fs::read(&object)?;
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&object, &flipped)?;

    let restore = |name: &'static str| async move {
        let path = format!("/managed-services/{id}/backups/{backup}/restore");
        text(&client.post(&path, json!({"target_service_name": name})).await?, "service_id")
    };
    let broken = restore("broken").await?;
    let failed = wait_for("the restore ends", 60, || async {
        let service = client.get(&format!("/managed-services/{broken}")).await?;
        ensure!(service["status"] != "running", "a damaged backup was restored");
        Ok((service["status"] == "failed").then_some(service))
    })
    .await?;
    let why = text(&failed, "status_message")?;
    println!("a damaged backup: {why}");
    ensure!(why.contains("restore the instance"), "what was being done: {why}");
    ensure!(why.contains("damaged") && why.contains("/bundle/"), "what cannot be opened: {why}");
    ensure!(!why.contains('\n') && why.len() < 1000, "a sentence, not the tool's log: {why}");
    ensure!(holdfast.instance_folders() == [id.to_owned()], "left behind: {:?}", holdfast.instance_folders());
    ensure!(holdfast.postmasters().len() == 1, "left running: {:?}", holdfast.postmasters());

    client.delete(&format!("/managed-services/{broken}")).await?;
    refused(client, 404, "GET", &format!("/managed-services/{broken}"), json!({})).await?;
    wait_job(client, &broken, "delete_service", 30).await?;
    // It was that byte and nothing else.
    std::fs::write(&object, &whole)?;
    let healed = restore("broken").await?;
    wait_status(client, &healed, "running", 60).await.map(drop)
}
