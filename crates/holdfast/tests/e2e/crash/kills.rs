//! SIGKILL of the control plane and of the agent before, in and after a step.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_core::job::{JobKind, Place, Step};
use holdfast_testkit::{Holdfast, wait_for};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::crash::scenario::Stage;
use crate::crash::world::{self, At, Running, word};
use crate::crash::{Met, invariants};

/// Kills in `make test`; `HOLDFAST_KILLS=all` asks for every one.
const SAMPLE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Serve,
    Agent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    In,
    After,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Strike {
    kind: JobKind,
    step: Step,
    when: When,
    victim: Victim,
}

/// All of them, or a sample of as many kinds as possible.
pub(crate) fn chosen(random: &mut StdRng) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for kind in JobKind::ALL {
        for step in kind.steps() {
            for victim in [Victim::Agent, Victim::Serve] {
                for when in [When::Before, When::In, When::After] {
                    strikes.push(Strike { kind, step: *step, when, victim });
                }
            }
        }
    }
    let only = std::env::var("HOLDFAST_KILLS").unwrap_or_default();
    if only == "all" {
        return strikes;
    }
    if !only.is_empty() {
        strikes.retain(|strike| name(strike).contains(&only));
        return strikes;
    }
    strikes.shuffle(random);
    let mut sample: Vec<Strike> = Vec::new();
    for strike in strikes {
        if sample.len() < SAMPLE && !sample.iter().any(|other| other.kind == strike.kind) {
            sample.push(strike);
        }
    }
    sample
}

fn name(strike: &Strike) -> String {
    let Strike { kind, step, when, victim } = strike;
    format!("{} {} {when:?} {victim:?}", word(kind), word(step)).to_lowercase()
}

/// One after the other, in a world of their own.
pub(crate) async fn all(strikes: &[Strike], name_of_world: &str, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut running = world::start(name_of_world).await?;
    for strike in strikes {
        let began = Instant::now();
        let name = name(strike);
        let mut plays = 0;
        while one(&mut running, *strike, &mut random).await.with_context(|| format!("killed: {name}"))?
            == Met::LogWasThere
        {
            plays += 1;
            ensure!(plays < 10, "killed: {name}: the archive was there before the restore ten times");
        }
        println!("killed: {name}: whole after {} ms", began.elapsed().as_millis());
    }
    let pause = running.writer.stop().await?;
    println!("{name_of_world}: longest wait of the writer {} ms", pause.as_millis());
    Ok(())
}

async fn one(running: &mut Running, strike: Strike, random: &mut StdRng) -> Result<Met> {
    let Running { holdfast, world, .. } = running;
    let mut stage = Stage::set(world, strike.kind).await?;
    let points = if strike.step == Step::ShipLog { world.source.clone() } else { stage.points.clone() };
    let later = random.random_range(1..longest_ms(strike.step));
    let itself = match strike.step.place() {
        Place::Agent => strike.victim == Victim::Agent,
        Place::ControlPlane => strike.victim == Victim::Serve,
    };
    let kill = if itself { "kill" } else { "kill-parent" };
    // The control plane does not know its agent's process: the test kills that, while the step waits.
    let by_test = strike.step.place() == Place::ControlPlane && strike.victim == Victim::Agent;
    let (at, action) = match strike.when {
        When::Before if by_test => (At::Before, "wait 500".to_owned()),
        When::In if by_test => (At::Before, "wait 100".to_owned()),
        When::After if by_test => (At::After, "wait 500".to_owned()),
        When::Before => (At::Before, format!("{kill} 0")),
        When::In => (At::Before, format!("{kill} {later}")),
        When::After => (At::After, format!("{kill} 0")),
    };
    let agent = wait_for("an agent lives", 30, || async { Ok(holdfast.agent_pid()) }).await?;
    let point = world.set(&points, strike.kind, strike.step, at, &action)?;
    let asked = stage.ask(world).await?;
    let met = wait_for("the fault point is met", 120, || async {
        if !point.exists() {
            return Ok(Some(Met::Yes));
        }
        let job = world.catalog.job(asked.job.id).await?.context("the job is gone")?;
        Ok((strike.step == Step::ShipLog && job.state.is_terminal()).then_some(Met::LogWasThere))
    });
    if met.await? == Met::LogWasThere {
        std::fs::remove_file(point)?;
        return Ok(Met::LogWasThere);
    }
    match strike.victim {
        Victim::Serve => {
            holdfast.wait_dead(60).await?;
            holdfast.spawn().await?;
        }
        Victim::Agent => {
            if by_test {
                holdfast.kill_agent()?;
            }
            new_agent(holdfast, agent).await?;
        }
    }
    world.completed(&asked.job).await?;
    stage.look(world, &asked).await?;
    drop(stage);
    invariants::hold(world).await?;
    Ok(Met::Yes)
}

async fn new_agent(holdfast: &Holdfast, before: i32) -> Result<()> {
    wait_for("a new agent", 60, || async { Ok(holdfast.agent_pid().filter(|pid| *pid != before)) })
        .await
        .map(drop)
}

/// About what a step takes on a quiet machine, so that a random moment mostly lies in it.
fn longest_ms(step: Step) -> u64 {
    match step {
        Step::CreateInstance | Step::RunBackup | Step::RestoreInstance => 3000,
        Step::RemoveInstance | Step::RemoveExpired | Step::ShipLog => 1000,
        Step::ApplySettings | Step::StopInstance | Step::StartInstance | Step::SetPassword => 300,
        Step::Activate
        | Step::PrepareKeys
        | Step::RecordBackup
        | Step::PlanRestore
        | Step::Finish
        | Step::SelectExpired
        | Step::MakeKek
        | Step::RewrapKeys
        | Step::RetireKeks => 20,
    }
}
