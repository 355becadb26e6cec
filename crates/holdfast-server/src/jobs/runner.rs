//! The control plane's own worker: leases steps that run here, one at a time (each takes milliseconds), and settles jobs
//! that have ended.

use std::time::Duration;

use holdfast_core::job::{Job, Place};
use holdfast_core::{AgentId, Timestamp};
use holdfast_fault::Moment;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::{StepError, chain, settle, steps};
use crate::ControlPlane;

const LEASE: SignedDuration = SignedDuration::from_secs(60);
/// The scan is the truth; signals only make it faster.
const SCAN: Duration = Duration::from_secs(2);

/// Runs until told to stop.
pub async fn run(cp: ControlPlane, stop: CancellationToken) {
    let worker = AgentId::random();
    let mut changed = cp.catalog.changed();
    loop {
        changed.mark_unchanged();
        while !stop.is_cancelled() && one(&cp, worker).await {}
        settle::all(&cp).await;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}

async fn perform(cp: &ControlPlane, job: &Job) -> Result<serde_json::Value, StepError> {
    let faults = &cp.settings.faults;
    faults.reached(job.service_id, job.kind, job.step(), Moment::Before).await?;
    let output = steps::perform(cp, job).await?;
    faults.reached(job.service_id, job.kind, job.step(), Moment::After).await?;
    Ok(output)
}

/// Leases and performs one step; says whether there was one.
async fn one(cp: &ControlPlane, worker: AgentId) -> bool {
    let job = match cp.catalog.lease(Place::ControlPlane, worker, Timestamp::now(), LEASE).await {
        Ok(Some(job)) => job,
        Ok(None) => return false,
        Err(error) => {
            tracing::error!(error = %chain(&error), "no step could be leased");
            return false;
        }
    };
    let outcome = perform(cp, &job).await;
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
    true
}
