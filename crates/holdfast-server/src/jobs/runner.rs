//! The control plane's own worker: leases steps that run here and settles jobs that have ended. Most steps take
//! milliseconds and are done one at a time; those that wait for the store run beside them under a lease that is kept alive.

use std::time::Duration;

use holdfast_catalog::ErrorKind;
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobKind, Place, Step};
use holdfast_core::{AgentId, Timestamp};
use holdfast_fault::Moment;
use jiff::SignedDuration;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::rotation::Said;
use super::{StepError, settle, steps};
use crate::ControlPlane;

const LEASE: SignedDuration = SignedDuration::from_secs(60);
/// Of a step that runs beside, or is being equipped; after a crash it is taken up again that much later.
const LEASE_BESIDE: SignedDuration = SignedDuration::from_secs(10);
const BEAT: Duration = Duration::from_secs(2);
/// The scan is the truth; signals only make it faster.
const SCAN: Duration = Duration::from_secs(2);

/// Runs until told to stop.
pub async fn run(cp: ControlPlane, stop: CancellationToken) {
    let worker = AgentId::random();
    let mut changed = cp.catalog.changed();
    let mut beside = Beside::default();
    loop {
        changed.mark_unchanged();
        while !stop.is_cancelled() && one(&cp, worker, &mut beside, &stop).await {}
        settle::all(&cp).await;
        tokio::select! {
            () = stop.cancelled() => break,
            _ = changed.changed() => {}
            () = tokio::time::sleep(SCAN) => {}
        }
    }
    while beside.rotation.join_next().await.is_some() || beside.keys.join_next().await.is_some() {}
}

/// Steps that wait for the store, whose lease is kept meanwhile.
#[derive(Default)]
struct Beside {
    /// One at most.
    rotation: JoinSet<()>,
    /// New keys on their way into the bucket; one a service at most, as its jobs run one at a time.
    keys: JoinSet<()>,
}

/// The step itself, between the points where tests make it fail.
async fn perform(cp: &ControlPlane, job: &Job, said: &Said) -> Result<Value, StepError> {
    let faults = &cp.settings.faults;
    faults.reached(job.service_id, job.kind, job.step(), Moment::Before).await?;
    let output = steps::perform(cp, job, said).await?;
    faults.reached(job.service_id, job.kind, job.step(), Moment::After).await?;
    Ok(output)
}

/// Leases and performs one step, or begins to; says whether there was one.
async fn one(cp: &ControlPlane, worker: AgentId, beside: &mut Beside, stop: &CancellationToken) -> bool {
    let job = match cp.catalog.lease(Place::ControlPlane, worker, Timestamp::now(), LEASE).await {
        Ok(Some(job)) => job,
        Ok(None) => return false,
        Err(error) => {
            tracing::error!(error = %chain(&error), "no step could be leased");
            return false;
        }
    };
    while beside.keys.try_join_next().is_some() {}
    if job.kind == JobKind::RotateKeys {
        // An earlier one has ended, or has lost its lease without having noticed yet.
        beside.rotation.shutdown().await;
        beside.rotation.spawn(perform_beside(cp.clone(), job, stop.clone()));
    } else if job.step() == Some(Step::PrepareKeys) {
        beside.keys.spawn(perform_beside(cp.clone(), job, stop.clone()));
    } else {
        let outcome = perform(cp, &job, &watch::Sender::new(None)).await;
        record(cp, &job, outcome).await;
    }
    true
}

async fn record(cp: &ControlPlane, job: &Job, outcome: Result<Value, StepError>) {
    let now = Timestamp::now();
    let recorded = match outcome {
        Ok(output) => cp.catalog.complete_step(job.id, job.generation, job.step_index, output, now).await,
        Err(error) => {
            tracing::error!(job = %job.id, step = ?job.step(), error = %chain(&error), "a step failed");
            cp.catalog.fail_step(job.id, job.generation, job.step_index, error.to_job_error(), now).await
        }
    };
    if let Err(error) = recorded {
        tracing::warn!(job = %job.id, error = %chain(&error), "a step's outcome was not recorded; it will be repeated");
    }
}

/// Performs a step while it keeps its lease; gives the job back when told to stop.
async fn perform_beside(cp: ControlPlane, job: Job, stop: CancellationToken) {
    let said = watch::Sender::new(None);
    // All three go on at the same time: none may stand still while it holds the catalog's one writer.
    tokio::select! {
        outcome = perform(&cp, &job, &said) => record(&cp, &job, outcome).await,
        () = keep_lease(&cp, &job, &said) => {}
        () = stop.cancelled() => {
            if let Err(error) = cp.catalog.release(job.id, job.generation, Timestamp::now()).await {
                tracing::warn!(job = %job.id, error = %chain(&error), "a job was not given back");
            }
        }
    }
}

/// Extends the lease and tells the progress; returns when somebody else holds the job.
pub(super) async fn keep_lease(cp: &ControlPlane, job: &Job, said: &Said) {
    let mut beats = tokio::time::interval(BEAT);
    loop {
        beats.tick().await;
        let (now, progress) = (Timestamp::now(), said.borrow().clone());
        let beat = cp.catalog.heartbeat(job.id, job.generation, now, LEASE_BESIDE, progress.as_ref());
        match beat.await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Stale => return,
            Err(error) => {
                tracing::warn!(job = %job.id, error = %chain(&error), "a lease was not extended");
            }
        }
    }
}
