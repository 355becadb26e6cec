//! The steps that run beside the database. Each looks first whether its effect is there already.

mod backup;
mod create;
mod expire;
mod restore;
mod simple;
mod stream_backup;

use std::sync::Arc;

use holdfast_api::agent::{LeasedStep, NewUser, StepInput, StepOutput};
use holdfast_engines::{ProgressSink, UserSpec};

use crate::error::AgentError;
use crate::{Agent, adoption};

pub(crate) async fn run(
    agent: &Arc<Agent>,
    step: &LeasedStep,
    progress: &ProgressSink,
) -> Result<StepOutput, AgentError> {
    let service = step.service_id;
    match &step.input {
        StepInput::CreateInstance(input) => {
            create::create(agent, input, progress).await.map(StepOutput::CreateInstance)
        }
        StepInput::RunBackup(input) => {
            backup::run(agent, service, input, progress).await.map(StepOutput::RunBackup)
        }
        StepInput::ShipLog(input) => {
            simple::ship_log(agent, service, input, progress).await.map(StepOutput::ShipLog)
        }
        StepInput::RestoreInstance(input) => {
            restore::restore(agent, input, progress).await.map(StepOutput::RestoreInstance)
        }
        StepInput::ApplySettings(input) => {
            simple::apply_settings(agent, input).await.map(|()| StepOutput::Done)
        }
        StepInput::StopInstance => simple::stop(agent, service).await.map(StepOutput::StopInstance),
        StepInput::StartInstance => simple::start(agent, service).await.map(|()| StepOutput::Done),
        StepInput::SetPassword(input) => {
            simple::set_password(agent, service, input).await.map(|()| StepOutput::Done)
        }
        StepInput::RemoveInstance => {
            simple::remove(agent, service, progress).await.map(StepOutput::RemoveInstance)
        }
        StepInput::RemoveExpired(input) => {
            expire::remove(agent, input, progress).await.map(|()| StepOutput::Done)
        }
    }
}

/// Steps whose work nobody needs once their job is cancelled. The others are short, or end something that must end.
pub(crate) fn may_be_given_up(step: &LeasedStep) -> bool {
    matches!(
        step.input,
        StepInput::CreateInstance(_) | StepInput::RestoreInstance(_) | StepInput::RunBackup(_)
    )
}

/// Removes what a step that was dropped half-way had made.
pub(crate) async fn give_up(agent: &Agent, step: &LeasedStep) -> Result<(), AgentError> {
    match &step.input {
        StepInput::CreateInstance(input) => adoption::discard_half_made(agent, &input.instance).await,
        StepInput::RestoreInstance(input) => adoption::discard_half_made(agent, &input.instance).await,
        StepInput::RunBackup(_) => {
            if let Some(local) = agent.instances.get(step.service_id) {
                local.lineage.keys.end_backup();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn user_specs(users: &[NewUser]) -> Vec<UserSpec> {
    users
        .iter()
        .map(|user| UserSpec {
            username: user.username.clone(),
            role: user.role.clone(),
            password: user.password.0.clone(),
        })
        .collect()
}
