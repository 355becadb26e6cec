//! Every step of every kind of job, failed once, repeated once, and killed before, in and after it. Then nothing is stuck,
//! nothing is there twice, nothing is left over, and what was acknowledged can be restored.

mod invariants;
mod kills;
mod races;
mod scenario;
mod world;

use anyhow::{Context, Result, bail, ensure};
use holdfast_catalog::{StepOutcome, StepRecord};
use holdfast_core::job::{JobKind, JobState, Step};
use holdfast_testkit::{holdfast, seed};
use rand::Rng;

use scenario::Stage;
use world::{At, World};

/// Two clients at once, in `make test`.
const STORM_SECONDS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_every_job_may_fail_once_and_be_carried_out_twice() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let running = world::start("crash").await?;
    let world = &running.world;
    let done = futures::future::join_all(lanes().into_iter().map(|kinds| lane(world, kinds))).await;
    let failed: Vec<String> =
        done.into_iter().filter_map(|lane| Some(format!("{:#}", lane.err()?))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    invariants::hold(world).await?;
    ensure!(running.holdfast.agent_pid().is_some(), "the agent is gone");
    running.writer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_in_and_after_any_step_leaves_every_job_whole() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("a_kill_before_in_and_after_any_step_leaves_every_job_whole");
    let strikes = kills::chosen(&mut random);
    println!("{} kills", strikes.len());
    // Two worlds beside each other: a job spends much of its time waiting for its engine.
    let (one, two) = strikes.split_at(strikes.len() / 2);
    let seeds: (u64, u64) = (random.random(), random.random());
    tokio::try_join!(kills::all(one, "kills-a", seeds.0), kills::all(two, "kills-b", seeds.1)).map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_at_once_ends_whole() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("what_happens_at_once_ends_whole");
    let running = world::start("races").await?;
    let world = &running.world;
    races::backups_beside_each_other(world).await.context("a manual backup during an automated one")?;
    races::expiry_beside_a_backup(world).await.context("expiry during a backup")?;
    races::deletion_beside_a_restore(world).await.context("deletion during a restore")?;
    races::a_late_worker(&running).await.context("a late worker")?;
    races::a_file_that_comes_late(world).await.context("a late file")?;
    invariants::hold(world).await.context("after the races")?;
    races::storm(world, [random.random(), random.random()], STORM_SECONDS).await.context("a storm")?;
    invariants::hold(world).await.context("after the storm")?;
    running.writer.stop().await.map(drop)
}

/// One kind after the other: jobs of one service are not at work at once anyway.
async fn lane(world: &World, kinds: Vec<JobKind>) -> Result<()> {
    for kind in kinds {
        for at in [At::Before, At::After] {
            let what = || format!("{kind:?}, each step failed once {at:?} it was carried out");
            until_met(async || each_step_once(world, kind, at).await).await.with_context(what)?;
        }
        // Users wait for these; the others are tried until they succeed, or leave the service as it was.
        if matches!(kind, JobKind::Provision | JobKind::Restore | JobKind::Backup) {
            // The last step's end is the job's.
            for step in &kind.steps()[..kind.steps().len() - 1] {
                let what = || format!("{kind:?}, failed for good after {step:?}");
                until_met(async || doomed(world, kind, *step).await).await.with_context(what)?;
            }
        }
    }
    Ok(())
}

/// All kinds, grouped by the service that they act on.
fn lanes() -> Vec<Vec<JobKind>> {
    let mut lanes: Vec<Vec<JobKind>> = vec![Vec::new(); 5];
    for kind in JobKind::ALL {
        let lane = match kind {
            JobKind::Restore => 0,
            JobKind::Provision => 1,
            JobKind::DeleteService => 2,
            // A password on its way holds a rotation up.
            JobKind::Configure
            | JobKind::Stop
            | JobKind::Start
            | JobKind::ResetPassword
            | JobKind::RotateKeys => 3,
            JobKind::Backup | JobKind::Expire => 4,
        };
        lanes[lane].push(kind);
    }
    lanes
}

/// No log is shipped for a restore whose point the archive has reached by the time that the step's turn comes: on a busy
/// machine that happens. Then the whole scenario is played again.
async fn until_met(scenario: impl AsyncFn() -> Result<Met>) -> Result<()> {
    for _ in 0..10 {
        if scenario().await? == Met::Yes {
            return Ok(());
        }
    }
    bail!("the archive was there before the restore ten times")
}

/// Whether a job came to its fault points.
#[derive(PartialEq)]
enum Met {
    Yes,
    LogWasThere,
}

/// One job in which each step's first try fails: before it began, or after it was carried out.
async fn each_step_once(world: &World, kind: JobKind, at: At) -> Result<Met> {
    let began = std::time::Instant::now();
    let mut stage = Stage::set(world, kind).await?;
    let mut points = Vec::new();
    for step in kind.steps() {
        let service = if *step == Step::ShipLog { &world.source } else { &stage.points };
        points.push(world.set(service, kind, *step, at, "fail")?);
    }
    let asked = stage.ask(world).await?;
    let tries = world.completed(&asked.job).await?;
    for (step, point) in kind.steps().iter().zip(points) {
        if *step == Step::ShipLog && point.exists() {
            std::fs::remove_file(point)?;
            return Ok(Met::LogWasThere);
        }
        ensure!(!point.exists(), "{step:?} did not come to its fault point");
        let outcomes: Vec<StepOutcome> =
            tries.iter().filter(|one| one.step == *step).map(|one| one.outcome).collect();
        ensure!(outcomes == [StepOutcome::Failed, StepOutcome::Done], "{step:?}: {outcomes:?}: {tries:?}");
    }
    ensure!(tries.iter().all(is_ours), "another error: {tries:?}");
    stage.look(world, &asked).await?;
    println!("{kind:?}, each step failed {at:?} it was carried out: {} ms", began.elapsed().as_millis());
    Ok(Met::Yes)
}

/// A job that fails for good although its step was carried out.
async fn doomed(world: &World, kind: JobKind, step: Step) -> Result<Met> {
    let began = std::time::Instant::now();
    let mut stage = Stage::set(world, kind).await?;
    let service = if step == Step::ShipLog { &world.source } else { &stage.points };
    let point = world.set(service, kind, step, At::After, "fail-for-good")?;
    let asked = stage.ask(world).await?;
    let ended = world.ended(&asked.job).await?;
    if step == Step::ShipLog && point.exists() {
        std::fs::remove_file(point)?;
        return Ok(Met::LogWasThere);
    }
    ensure!(ended.state == JobState::Failed && !point.exists(), "{ended:?}");
    stage.look_failed(world, &asked).await?;
    println!("{kind:?}, failed for good after {step:?}: {} ms", began.elapsed().as_millis());
    Ok(Met::Yes)
}

fn is_ours(step: &StepRecord) -> bool {
    step.error.as_ref().is_none_or(|error| error.cause == "fault_point")
}
