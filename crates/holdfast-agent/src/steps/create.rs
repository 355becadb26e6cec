//! Makes a new instance.

use std::sync::Arc;

use holdfast_api::agent::{CreateInstance, InstanceFacts};
use holdfast_core::causes::chain;
use holdfast_engines::{Instance, ProgressSink};
use holdfast_gateway::Access;

use super::user_specs;
use crate::error::AgentError;
use crate::instances::{self, Record};
use crate::keys::LineageKeys;
use crate::lineage::Lineage;
use crate::{Agent, adoption, disk};

/// An empty cluster of PostgreSQL 17 takes 40 MiB, its first WAL 32 MiB.
const NEW_INSTANCE_BYTES: u64 = 96 << 20;

pub(super) async fn create(
    agent: &Arc<Agent>,
    input: &CreateInstance,
    progress: &ProgressSink,
) -> Result<InstanceFacts, AgentError> {
    let spec = &input.instance;
    if let Some(local) = agent.instances.get(spec.service_id) {
        return Ok(local.record().facts); // an earlier try came this far
    }
    adoption::discard_half_made(agent, spec).await?;
    disk::require_room(&agent.config.instances_dir, "a new instance", NEW_INSTANCE_BYTES)?;
    adoption::clear_lineage(agent, instances::scope_of(spec)).await?;
    let instance = instances::plan(agent, spec, &input.repository).await?;
    let made = make(agent, input, &instance, progress).await;
    if made.is_err() {
        discard_after_failure(agent, input, &instance).await;
    }
    made
}

async fn make(
    agent: &Arc<Agent>,
    input: &CreateInstance,
    instance: &Instance,
    progress: &ProgressSink,
) -> Result<InstanceFacts, AgentError> {
    let spec = &input.instance;
    let keys = LineageKeys::from_grant(&input.repository)
        .map_err(|error| AgentError::Unusable(error.to_string()))?;
    let lineage = Arc::new(Lineage::new(instances::scope_of(spec), keys));
    let driver = agent.driver(spec.engine)?;
    if let Some(access) = &instance.repository {
        instances::register(&agent.gateway, access, &lineage, Access::ReadWrite);
    }
    let engine_version = driver
        .create(instance, &user_specs(&input.users), progress)
        .await
        .map_err(AgentError::engine("make the instance"))?;
    let facts = InstanceFacts { host: instance.listen.to_string(), port: instance.port, engine_version };
    let record = Record {
        spec: spec.clone(),
        instance: instance.clone(),
        facts: facts.clone(),
        restored: None,
        log_dropped: None,
        running: true,
    };
    instances::commit(agent, record, lineage)?;
    Ok(facts)
}

async fn discard_after_failure(agent: &Agent, input: &CreateInstance, instance: &Instance) {
    if let Err(error) = adoption::discard(agent, &input.instance, instance).await {
        // The next try, or the next start, removes what is left.
        tracing::error!(error = %chain(&error), "a half-made instance could not be removed");
    }
}
