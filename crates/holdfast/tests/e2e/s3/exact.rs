//! The exactness scenario on S3, on a bad day.

use anyhow::{Result, ensure};
use holdfast_testkit::exactness::{self, Scale};
use holdfast_testkit::fault::PASSING;
use holdfast_testkit::{Fault, seed};
use rand::Rng;

use crate::s3::support::World;

/// The chance of a request to meet a fault on a bad day.
const BAD_DAY: f64 = 0.03;
/// Writes are few, so those that only they can meet come more often.
const WRITES_BAD_DAY: f64 = 0.15;
const OF_WRITES: [Fault; 3] = [Fault::ResetRequest, Fault::ErrorInsideOk, Fault::LostAnswer];

#[tokio::test(flavor = "multi_thread")]
async fn restores_are_exact_while_everything_fails_at_random() -> Result<()> {
    let Some(world) = World::start("s3-faults").await? else { return Ok(()) };
    let mut random = seed::generator("restores_are_exact_while_everything_fails_at_random");
    let faults = random.random();
    let scale = Scale { bulk: true, ..Scale::SHORT };
    exactness::run(&world.client, &mut random, scale, || {
        world.proxy.inject_where(Fault::ErrorInsideOk, Some(1), |_| true);
        world.proxy.inject_at_random(faults, WRITES_BAD_DAY, &OF_WRITES);
        world.proxy.inject_at_random(faults, BAD_DAY, &PASSING);
    })
    .await?;
    let injected = world.proxy.injected();
    println!("{} requests, faults: {injected:?}", world.proxy.requests());
    let missing: Vec<_> = PASSING.iter().filter(|fault| !injected.contains_key(fault)).collect();
    ensure!(missing.is_empty(), "faults that never happened: {missing:?}");
    world.proxy.ensure_encrypted()?;
    Ok(())
}
