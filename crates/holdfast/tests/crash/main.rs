//! Every step of every kind of job, failed once, repeated once, and killed before, in and after it. Then nothing is stuck,
//! nothing is there twice, nothing is left over, and what was acknowledged can be restored.

#![allow(clippy::print_stdout, reason = "the figures of a run belong to its output")]

mod invariants;
mod scenario;
mod world;

use anyhow::{Context, Result, ensure};
use holdfast_catalog::{StepOutcome, StepRecord};
use holdfast_core::job::{JobKind, Step};
use holdfast_testkit::holdfast;

use scenario::Stage;
use world::{At, World};

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

/// One kind after the other: jobs of one service are not at work at once anyway.
async fn lane(world: &World, kinds: Vec<JobKind>) -> Result<()> {
    for kind in kinds {
        for at in [At::Before, At::After] {
            let what = || format!("{kind:?}, each step failed once {at:?} it was carried out");
            each_step_once(world, kind, at).await.with_context(what)?;
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

/// One job in which each step's first try fails: before it began, or after it was carried out.
async fn each_step_once(world: &World, kind: JobKind, at: At) -> Result<()> {
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
        ensure!(!point.exists(), "{step:?} did not come to its fault point");
        let outcomes: Vec<StepOutcome> =
            tries.iter().filter(|one| one.step == *step).map(|one| one.outcome).collect();
        ensure!(outcomes == [StepOutcome::Failed, StepOutcome::Done], "{step:?}: {outcomes:?}");
    }
    ensure!(tries.iter().all(is_ours), "another error: {tries:?}");
    stage.look(world, &asked).await?;
    println!("{kind:?}, each step failed {at:?} it was carried out: {} ms", began.elapsed().as_millis());
    Ok(())
}

fn is_ours(step: &StepRecord) -> bool {
    step.error.as_ref().is_none_or(|error| error.cause == "fault_point")
}
