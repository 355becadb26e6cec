//! A store that stays broken: a backup ends `failed` with a cause and a sentence, or goes on by itself when the store comes
//! back; nothing looks whole that is not, the log waits, and the database never notices.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use holdfast_testkit::exactness::fill;
use holdfast_testkit::{Fault, seed, wait_for};
use jiff::Timestamp;
use rand::Rng;
use serde_json::json;

use crate::s3::support::World;

/// Faults that stay until the operator does something, and the cause that a job names.
const STAYING: [(Fault, &[&str]); 5] = [
    (Fault::ServerError, &["store_busy"]),
    (Fault::SlowDown, &["store_busy"]),
    (Fault::Full, &["store_full"]),
    (Fault::Hang, &["store_unreachable"]),
    (Fault::Slow, &["store_unreachable"]),
];
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

fn now() -> Result<Timestamp> {
    Ok(Timestamp::from_microsecond(Timestamp::now().as_microsecond())?)
}

/// Long runs take every fault and wait until it has ended the backup; short ones take one and mend it.
fn is_soak() -> bool {
    std::env::var("HOLDFAST_SOAK").is_ok_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_credentials_fail_a_backup_and_the_next_one_works() -> Result<()> {
    let Some(world) = World::start("s3-revoked").await? else { return Ok(()) };
    let (source, writer) = world.written().await?;
    fill(&world.client.connection_string(&source.id).await?, "bulk").await?;
    let backup = world.begin_backup(&source.id).await?;
    world.server.revoke(&world.identity).await?;
    let ended = world.ended(&source.id, &backup, 400).await?;
    world.ensure_failed(&backup, &ended).await?;
    ensure!(world.job(&source.id, "backup").await?["error_cause"] == "store_credentials");
    // This one does not come to storing its keys.
    let keyless = world.client.trigger(&source.id).await?;
    let ended = world.ended(&source.id, &keyless, 400).await?;
    world.ensure_failed(&keyless, &ended).await?;
    let meanwhile = now()?;
    let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
    println!("while revoked: {pitr}");
    ensure!(pitr["archiving_active"] == json!(false) && pitr["last_error"].is_string(), "{pitr}");

    world.server.grant(&world.identity).await?;
    let next = world.client.trigger(&source.id).await?;
    world.client.wait_backup(&source.id, &next, 200).await?;
    source.check("while revoked", meanwhile).await?;
    source.check("after the grant", now()?).await?;
    let longest = writer.stop().await?;
    ensure!(longest < LONGEST_PAUSE, "writes stood still for {longest:?}");
    let whole = wait_for("the bucket misses nothing", 90, || async {
        Ok((world.rebuild_check().await?.0 == 0).then_some(()))
    });
    if whole.await.is_err() {
        bail!("the bucket misses something: {:?}", world.rebuild_check().await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_outlives_a_fault_that_is_mended_and_never_looks_whole_before() -> Result<()> {
    let mut random = seed::generator("a_backup_outlives_a_fault_that_is_mended");
    let Some(world) = World::start("s3-broken").await? else { return Ok(()) };
    let (source, writer) = world.written().await?;
    fill(&world.client.connection_string(&source.id).await?, "bulk").await?;
    world.proxy.slow_for(Duration::from_secs(3600));
    let one = STAYING[random.random_range(0..STAYING.len())];
    for (fault, causes) in if is_soak() { STAYING.to_vec() } else { vec![one] } {
        println!("{fault:?} on every write:");
        let backup = world.begin_backup(&source.id).await?;
        world.proxy.inject_where(fault, None, |request| request.writes());
        let job = world.tried(&source.id, "backup", 400).await?;
        ensure!(causes.iter().any(|cause| job["error_cause"] == *cause), "{job}");
        ensure!(world.proxy.count(fault) > 0);
        ensure!(world.manifests(&backup).await?.is_empty(), "a manifest before the backup is whole");
        let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
        ensure!(pitr["archive_lag_seconds"].as_f64().is_some_and(|lag| lag > 5.0), "{pitr}");
        let during = now()?;
        if is_soak() {
            let ended = world.ended(&source.id, &backup, 900).await?;
            world.ensure_failed(&backup, &ended).await?;
            world.proxy.heal();
            let next = world.client.trigger(&source.id).await?;
            world.client.wait_backup(&source.id, &next, 300).await?;
        } else {
            world.proxy.heal();
            world.client.wait_backup(&source.id, &backup, 200).await?;
            ensure!(world.manifests(&backup).await?.len() == 1);
        }
        world.caught_up(&source.id, 15.0, 120).await?;
        wait_for("the archive says that it is well", 60, || async {
            let pitr = world.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
            Ok((pitr["archiving_active"] == json!(true)).then_some(()))
        })
        .await?;
        source.check("during the fault", during).await?;
    }
    let longest = writer.stop().await?;
    ensure!(longest < LONGEST_PAUSE, "writes stood still for {longest:?}");
    Ok(())
}
