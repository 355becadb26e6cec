//! The command loop: leases steps, runs several at once, keeps their leases alive and reports how they ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_api::agent::{LeasedStep, ProgressReport, StepOutput, StepResult};
use holdfast_core::causes::chain;
use holdfast_core::job::JobError;
use holdfast_engines::ProgressSink;
use holdfast_fault::Moment;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::client::CONFLICT;
use crate::defect::contained;
use crate::error::AgentError;
use crate::{Agent, steps};

/// Steps that run at once on one host.
const SLOTS: usize = 8;
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Refusals that end by themselves: who asks, and how often.
const PASSING: [u16; 3] = [401, 408, 429];
const RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn run(agent: &Arc<Agent>) {
    let slots = Arc::new(Semaphore::new(SLOTS));
    let mut running = HashMap::new();
    let mut fresh = true;
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        running.retain(|_, task: &mut JoinHandle<()>| !task.is_finished());
        let leased = agent.client.lease(fresh).await;
        fresh &= leased.is_err();
        match leased {
            Ok(Some(step)) => {
                // Our own lease had lapsed: the earlier try ends before the same step is begun again.
                if let Some(earlier) = running.remove(&step.job_id) {
                    earlier.abort();
                    let _ = earlier.await; // cancelled, or just ended
                }
                let agent = Arc::clone(agent);
                let job = step.job_id;
                let task = tokio::spawn(async move {
                    perform(&agent, step).await;
                    drop(slot);
                });
                running.insert(job, task);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %chain(&error), "no step could be leased");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn perform(agent: &Arc<Agent>, step: LeasedStep) {
    let progress = ProgressSink::default();
    let (job, generation, index) = (step.job_id, step.generation, step.step_index);
    tracing::info!(%job, step = ?step.step, service = %step.service_id, "begin");
    let outcome = tokio::select! {
        outcome = carry_out(agent, &step, &progress) => outcome,
        ended = keep_lease(agent, &step, &progress) => match ended {
            LeaseEnd::Lost => {
                tracing::warn!(%job, step = ?step.step, "the lease went to another worker; leaving the step to it");
                return;
            }
            LeaseEnd::Cancelled => steps::give_up(agent, &step).await.and(Err(AgentError::Cancelled)),
        },
    };
    match &outcome {
        Ok(_) => tracing::info!(%job, step = ?step.step, service = %step.service_id, "done"),
        Err(AgentError::Cancelled) => {
            tracing::info!(%job, step = ?step.step, service = %step.service_id, "cancelled")
        }
        Err(error) => {
            tracing::error!(%job, step = ?step.step, service = %step.service_id, error = %chain(error), "failed");
        }
    }
    let outcome = outcome.map_err(|error| error.to_job_error());
    let phases = progress.finish();
    let mut result = StepResult { agent_id: agent.host.id, generation, step_index: index, outcome, phases };
    // The control plane may be away for long: the outcome waits, and the lease's generation says whether it still counts.
    loop {
        match agent.client.result(job, &result).await {
            Ok(()) => return,
            Err(AgentError::Refused { status, .. }) if status == CONFLICT || status == 404 => return,
            // Nothing that waiting changes: the job ends and says so, rather than holding its slot for ever.
            Err(error @ AgentError::Refused { status, .. })
                if (400..500).contains(&status) && !PASSING.contains(&status) && result.outcome.is_ok() =>
            {
                tracing::error!(%job, error = %chain(&error), "the result is refused");
                result.outcome = Err(JobError { retryable: false, ..error.to_job_error() });
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn carry_out(
    agent: &Arc<Agent>,
    step: &LeasedStep,
    progress: &ProgressSink,
) -> Result<StepOutput, AgentError> {
    let faults = &agent.config.faults;
    faults.reached(step.service_id, step.kind, Some(step.step), Moment::Before).await?;
    let output = contained("the step", steps::run(agent, step, progress)).await?;
    faults.reached(step.service_id, step.kind, Some(step.step), Moment::After).await?;
    Ok(output)
}

/// Why a step ends before it is done.
enum LeaseEnd {
    Lost,
    Cancelled,
}

/// Returns only when the lease is lost for certain, or nobody wants the result; while the control plane is away the step
/// goes on.
async fn keep_lease(agent: &Agent, step: &LeasedStep, progress: &ProgressSink) -> LeaseEnd {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let report =
            ProgressReport { agent_id: agent.host.id, generation: step.generation, progress: progress.get() };
        match agent.client.progress(step.job_id, &report).await {
            Err(AgentError::Refused { status: CONFLICT, .. }) => return LeaseEnd::Lost,
            Ok(answer) if answer.cancel_requested && steps::may_be_given_up(step) => {
                return LeaseEnd::Cancelled;
            }
            Ok(_) | Err(_) => {}
        }
    }
}
