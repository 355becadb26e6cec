//! Deleting a service and deleting backups: what goes, what stays, and that what stays can be restored.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, wait_for};
use serde_json::{Value, json};

use super::support::{files, make_notes, note, notes, refused, start, wait_archived, wait_job};

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_service_is_gone_and_its_backups_still_restore_it() -> Result<()> {
    let Some(holdfast) = start("deletion").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("doomed").await?;
    let automated = text(&client.wait_first_backup(&id).await?, "id")?;
    make_notes(&client, &id, "kept").await?;
    let point = note(&client, &id, "too").await?;
    let manual = client.trigger(&id).await?;
    client.wait_backup(&id, &manual, 60).await?;
    note(&client, &id, "later").await?;
    let url = client.connection_string(&id).await?;

    let path = format!("/managed-services/{id}");
    client.delete(&path).await?;
    refused(&client, 404, "GET", &path, json!({})).await?;
    refused(&client, 404, "DELETE", &path, json!({})).await?;
    refused(&client, 404, "POST", &format!("{path}/backups"), json!({})).await?;
    ensure!(client.get("/managed-services").await?["total"] == 0, "it is listed");
    let again = json!({"name": "doomed", "database_type": "postgresql", "plan_name": "tier-1"});
    let again = text(&client.post("/managed-services", again).await?, "id")?;
    ensure!(again != id);
    wait_job(&client, &id, "delete_service", 60).await?;
    wait_for("its folder is gone", 20, || async {
        Ok((!holdfast.instances.join(&id).exists()).then_some(()))
    })
    .await?;
    ensure!(holdfast_testkit::ledger::connect(&url).await.is_err(), "its engine still answers");

    // Expiry has looked at it: nothing went.
    wait_job(&client, &id, "expire", 60).await?;
    ensure!(ids(&client, &id).await? == [manual.clone(), automated], "its backups are listed");
    let copy = client.restore_to(&id, &point.to_string(), "from-the-past").await?;
    client.wait_running(&copy, 120).await?;
    ensure!(notes(&client, &copy).await? == "kept too", "exactly what there was at {point}");
    // The last log was shipped before the engine went.
    let pitr = client.get(&format!("{path}/pitr")).await?;
    let latest = text(&pitr, "latest_restore_point")?;
    let last = client.restore_to(&id, &latest, "from-the-end").await?;
    client.wait_running(&last, 120).await?;
    ensure!(notes(&client, &last).await? == "kept too later", "all of it, at {latest}");
    refused(
        &client,
        400,
        "POST",
        &format!("{path}/backups/restore"),
        json!({"restore_point": jiff::Timestamp::now().to_string(), "target_service_name": "from-beyond"}),
    )
    .await?;
    client.wait_running(&again, 60).await?;
    Ok(())
}

async fn ids(client: &Client, service: &str) -> Result<Vec<String>> {
    let list = client.get(&format!("/managed-services/{service}/backups")).await?;
    list["backups"].as_array().into_iter().flatten().map(|backup| text(backup, "id")).collect()
}

/// Objects whose name holds this text.
fn objects_named(holdfast: &Holdfast, text: &str) -> Vec<PathBuf> {
    let mut found = files(&holdfast.objects());
    found.retain(|path| path.to_string_lossy().contains(text));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_backup_leaves_the_list_at_once_and_its_key_when_nothing_needs_it() -> Result<()> {
    let Some(holdfast) = start("shred").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("tidy").await?;
    let automated = client.wait_first_backup(&id).await?;
    make_notes(&client, &id, "one").await?;
    let between = note(&client, &id, "two").await?;
    let mut manual = Vec::new();
    for _ in 0..2 {
        let backup = client.trigger(&id).await?;
        manual.push(client.wait_backup(&id, &backup, 60).await?);
    }
    let [older, newest] = &manual[..] else { unreachable!("two were made") };
    let path =
        |backup: &Value| format!("/managed-services/{id}/backups/{}", backup["id"].as_str().unwrap_or("?"));
    let key = |backup: &Value| text(backup, "encryption_key_id");
    for backup in [&automated, older, newest] {
        ensure!(objects_named(&holdfast, &key(backup)?).len() == 2, "its key, wrapped twice: {backup}");
    }
    refused(&client, 409, "DELETE", &path(&automated), json!({})).await?;
    ensure!(ids(&client, &id).await?.len() == 3);
    let bytes_before: u64 =
        files(&holdfast.objects()).iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum();

    // Nothing needs the one in the middle: the first anchors the window, the last is the newest base.
    client.delete(&path(older)).await?;
    refused(&client, 404, "GET", &path(older), json!({})).await?;
    refused(&client, 404, "DELETE", &path(older), json!({})).await?;
    refused(
        &client,
        404,
        "POST",
        &format!("{}/restore", path(older)),
        json!({"target_service_name": "late"}),
    )
    .await?;
    ensure!(ids(&client, &id).await? == [text(newest, "id")?, text(&automated, "id")?]);
    let (gone, name) = (key(older)?, text(older, "id")?);
    wait_for("its keys are destroyed", 60, || async {
        Ok(objects_named(&holdfast, &gone).is_empty().then_some(()))
    })
    .await?;
    wait_job(&client, &id, "expire", 60).await?;
    let left: Vec<_> = objects_named(&holdfast, &name);
    ensure!(
        left.len() == 1 && left[0].to_string_lossy().contains("/tombstone/"),
        "a tombstone is left: {left:?}"
    );
    let bytes_after: u64 =
        files(&holdfast.objects()).iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum();
    ensure!(bytes_after < bytes_before, "its objects went: {bytes_before} bytes, {bytes_after} bytes");

    // The newest base leaves the list, but not the store: the window is built on it.
    client.delete(&path(newest)).await?;
    wait_job(&client, &id, "expire", 60).await?;
    ensure!(ids(&client, &id).await? == [text(&automated, "id")?]);
    ensure!(objects_named(&holdfast, &key(newest)?).len() == 2, "the newest base's key stays");

    // Every point is as reachable as before.
    let last = note(&client, &id, "three").await?;
    wait_archived(&client, &id, last).await?;
    for (point, expected, name) in [(between, "one two", "point-a"), (last, "one two three", "point-b")] {
        let copy = client.restore_to(&id, &point.to_string(), name).await?;
        client.wait_running(&copy, 120).await?;
        ensure!(notes(&client, &copy).await? == expected, "restore to {point}");
    }
    Ok(())
}
