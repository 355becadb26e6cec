//! Requests that were carried out and whose answer never came: repeated, and still one object each (T13).

use anyhow::{Result, ensure};
use holdfast_testkit::Fault;
use holdfast_testkit::exactness::fill;
use jiff::Timestamp;

use crate::s3::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_make_one_object_each() -> Result<()> {
    let Some(world) = World::start("s3-lost").await? else { return Ok(()) };
    let (source, writer) = world.written().await?;
    fill(&world.client.connection_string(&source.id).await?, "bulk").await?;
    let lost = |chosen: fn(&holdfast_testkit::fault::Seen) -> bool, times| {
        world.proxy.inject_where(Fault::LostAnswer, Some(times), chosen);
    };
    lost(|request| request.puts_object() && request.path.contains("/manifest/"), 1);
    lost(|request| request.completes_upload(), 2);
    lost(|request| request.begins_upload(), 1);
    lost(|request| request.puts_part(), 2);
    lost(|request| request.puts_object() && request.path.contains("/key/"), 1);
    lost(|request| request.puts_object() && request.path.contains("/info/"), 2);
    lost(|request| request.puts_object() && request.path.contains("/archive/"), 2);
    lost(|request| request.puts_object() && request.path.contains("/backup/"), 3);
    let backup = world.client.trigger(&source.id).await?;
    world.client.wait_backup(&source.id, &backup, 200).await?;
    println!("answers lost: {}", world.proxy.count(Fault::LostAnswer));
    ensure!(world.proxy.count(Fault::LostAnswer) >= 8, "{:?}", world.proxy.injected());
    ensure!(world.manifests(&backup).await?.len() == 1);
    let job = world.job(&source.id, "backup").await?;
    ensure!(
        job["error_cause"].is_null() && job["attempt"].as_u64().is_some_and(|n| n <= 1),
        "it took more than one try: {job}"
    );

    // Nothing of the lost answers is left to disturb a restore.
    world.proxy.heal();
    source
        .check("after lost answers", Timestamp::from_microsecond(Timestamp::now().as_microsecond())?)
        .await?;
    writer.stop().await?;
    Ok(())
}
