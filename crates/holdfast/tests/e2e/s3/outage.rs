//! The store is away for a while: the database goes on, the lag shows, and everything is caught up afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_testkit::exactness::{between, from_a_backup, later};
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
    wait_for("archiving is active again", 60, || async {
        let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
        Ok((pitr["archiving_active"] == true && pitr["last_error"].is_null()).then_some(()))
    })
    .await?;
    println!("active again {:.1} s after the store came back", back.elapsed().as_secs_f64());
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

/// Long enough for every request's first pauses, short enough for a test; `make soak` waits as long as the docs promise.
pub(crate) fn long_outage() -> Duration {
    let soaks = std::env::var("HOLDFAST_SOAK").as_deref() == Ok("1");
    Duration::from_secs(if soaks { 120 } else { 30 })
}

/// A backup, a restore and an expiry, all asked for while the store is away: none is failed by it.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_outlast_an_outage() -> Result<()> {
    // Without a recovery window, a deleted backup is needed by nothing.
    let settings = [("HOLDFAST_PITR_DAYS", "0")];
    let Some(world) = World::start_with("s3-jobs", &settings).await? else { return Ok(()) };
    let (source, writer) = world.written_without_window().await?;
    let (mut backups, mut times) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let from = Timestamp::now();
        let backup = world.client.trigger(&source.id).await?;
        world.client.wait_backup(&source.id, &backup, 120).await?;
        backups.push(backup);
        times.push((from, Timestamp::now()));
    }
    world.proxy.go_away().await;
    let from = Timestamp::now();
    let asked = world.client.trigger(&source.id).await?;
    world.client.delete(&format!("/managed-services/{}/backups/{}", source.id, backups[0])).await?;
    let outage = async {
        tokio::time::sleep(long_outage()).await;
        world.proxy.come_back().await
    };
    let work = async {
        from_a_backup(&source, &backups[1], times[1]).await?;
        world.client.wait_backup(&source.id, &asked, 240).await?;
        from_a_backup(&source, &asked, (from, Timestamp::now())).await?;
        wait_for("what was deleted is removed", 240, || async {
            let job = world.job(&source.id, "expire").await?;
            ensure!(job["status"] != "failed", "{job}");
            Ok(world.manifests(&backups[0]).await?.is_empty().then_some(()))
        })
        .await
    };
    let (outage, work) = tokio::join!(outage, work);
    outage.and(work)?;
    let jobs = world.client.get("/jobs").await?;
    let mut jobs = jobs["jobs"].as_array().into_iter().flatten();
    ensure!(jobs.all(|job| job["status"] != "failed"), "{jobs:?}");
    writer.stop().await.map(drop)
}
