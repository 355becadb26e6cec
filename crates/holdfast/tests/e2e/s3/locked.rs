//! Deletes that the store refuses (object lock): said in the job, tried until they are let through, and in nobody's way.

use anyhow::{Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::exactness::from_a_backup;
use holdfast_testkit::{Fault, wait_for};
use jiff::Timestamp;

use crate::s3::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delete_is_said_and_stands_in_nobodys_way() -> Result<()> {
    // Without a recovery window, a deleted backup is needed by nothing.
    let Some(world) = World::start_with("s3-locked", &[("HOLDFAST_PITR_DAYS", "0")]).await? else {
        return Ok(());
    };
    let (source, writer) = world.written_without_window().await?;
    let mut backups = Vec::new();
    for _ in 0..2 {
        let backup = world.client.trigger(&source.id).await?;
        world.client.wait_backup(&source.id, &backup, 120).await?;
        backups.push(backup);
    }
    let deleted = &backups[0];
    let path = format!("/managed-services/{}/backups/{deleted}", source.id);

    world.proxy.inject(Fault::Locked);
    world.client.delete(&path).await?;
    ensure!(world.client.send("GET", &path, None).await?.status == 404, "a deleted backup is still listed");
    let job = world.tried(&source.id, "expire", 60).await?;
    ensure!(["store_permission", "store_locked"].iter().any(|cause| job["error_cause"] == *cause), "{job}");
    ensure!(job["status"] == "queued" || job["status"] == "running", "it gave up: {job}");
    let refused = text(&job, "id")?;
    ensure!(world.proxy.count(Fault::Locked) > 0);
    ensure!(world.manifests(deleted).await?.len() == 1, "nothing was locked");

    // Backups and the log go on.
    let from = Timestamp::now();
    let next = world.client.trigger(&source.id).await?;
    world.client.wait_backup(&source.id, &next, 120).await?;
    let to = Timestamp::now();
    world.caught_up(&source.id, 15.0, 60).await?;

    world.proxy.heal();
    from_a_backup(&source, &next, (from, to)).await?;
    wait_for("what was refused is deleted", 200, || async {
        // That very one: another may be asked for, and end before it.
        let job = world.client.get(&format!("/jobs/{refused}")).await?;
        ensure!(job["status"] != "failed", "{job}");
        Ok((job["status"] == "completed").then_some(()))
    })
    .await?;
    // The one that was refused may have been asked for before the deletion: the deletion's own follows it.
    wait_for("the deleted backup's manifest is gone", 60, || async {
        Ok(world.manifests(deleted).await?.is_empty().then_some(()))
    })
    .await?;
    writer.stop().await?;
    Ok(())
}
