//! The store is away for a while: the database goes on, the lag shows, and everything is caught up afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_testkit::exactness::{between, later};
use holdfast_testkit::{seed, wait_for};
use jiff::Timestamp;

use crate::s3::support::World;

const OUTAGE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_loses_nothing_and_shows() -> Result<()> {
    let Some(world) = World::start("s3-outage").await? else { return Ok(()) };
    let mut random = seed::generator("an_outage_of_the_store_loses_nothing_and_shows");
    let (source, writer) = world.written().await?;
    world.caught_up(&source.id, 15.0, 60).await?;

    let from = Timestamp::now();
    world.proxy.go_away().await;
    tokio::time::sleep(OUTAGE).await;
    let lag = world.lag(&source.id).await?;
    let metrics = world.client.get(&format!("/managed-services/{}/metrics", source.id)).await?;
    let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
    println!("at the end of the outage: {pitr}");
    ensure!(lag > OUTAGE.as_secs_f64() - 5.0, "the lag does not show: {lag} s");
    ensure!(metrics["pitr"]["archive_lag_seconds"].as_f64().is_some_and(|lag| lag > 15.0), "{metrics}");
    ensure!(world.client.get("/health").await.is_ok(), "the control plane has gone with the store");
    let to = Timestamp::now();

    world.proxy.come_back().await?;
    let back = Instant::now();
    world.caught_up(&source.id, 15.0, 120).await?;
    println!("caught up {:.1} s after the store came back", back.elapsed().as_secs_f64());
    let reached = wait_for("the window reaches behind the outage", 60, || async {
        let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
        let until = pitr["latest_restore_point"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        Ok(until.filter(|until| *until > to))
    })
    .await?;
    source.check("during the outage", between(&mut random, from, to)).await?;
    source.check("behind the outage", later(reached, 0)).await?;
    let longest = writer.stop().await?;
    ensure!(longest < Duration::from_secs(5), "writes stood still for {longest:?}");
    ensure!(
        source.ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()),
        "a write was refused"
    );
    let backup = world.client.trigger(&source.id).await?;
    world.client.wait_backup(&source.id, &backup, 120).await?;
    Ok(())
}
