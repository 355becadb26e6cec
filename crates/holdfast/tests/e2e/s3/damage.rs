//! Objects that are damaged in the store: a restore that needs one ends at once and names it, whether it is a base's or a
//! piece of log, and leaves nothing behind.

use anyhow::{Context, Result, ensure};
use holdfast_testkit::{Fault, wait_for};
use jiff::Timestamp;

use crate::s3::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_named_and_ends_the_restore() -> Result<()> {
    let Some(world) = World::start("s3-damage").await? else { return Ok(()) };
    let (source, writer) = world.written().await?;
    world.caught_up(&source.id, 15.0, 60).await?;
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    for part in ["/archive/", "/bundle/"] {
        world.proxy.inject_where(Fault::FlippedBit, None, move |request| {
            // The archive's index has a copy.
            request.path.contains(part) && !request.path.contains("/info/")
        });
        let copy = world.client.restore_to(&source.id, &point.to_string(), "damaged").await?;
        let path = format!("/managed-services/{copy}");
        let failed = wait_for("the restore ends", 180, || async {
            let service = world.client.get(&path).await?;
            ensure!(service["status"] != "running", "damaged data was restored");
            Ok((service["status"] == "failed").then_some(service))
        })
        .await?;
        let why = failed["status_message"].as_str().context("it says why")?;
        println!("{part}: {why}");
        ensure!(why.contains("damaged") && why.contains(part), "{why}");
        let job = world.job(&copy, "restore").await?;
        ensure!(job["error_cause"] == "damaged_object" && job["attempt"] == 1, "{job}");
        world.client.delete(&path).await?;
        world.proxy.heal();
    }
    source.check("nothing was damaged", point).await?;
    writer.stop().await?;
    Ok(())
}
