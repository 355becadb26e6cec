//! Restores into a new instance.

use std::sync::Arc;

use holdfast_api::agent::{InstanceFacts, RestoreInstance, RestoredInstance};
use holdfast_core::Timestamp;
use holdfast_core::causes::chain;
use holdfast_core::position::Position;
use holdfast_engines::{Base, Instance, ProgressSink, RestoreTo, StreamDriver};
use holdfast_gateway::Access;

use super::user_specs;
use crate::error::AgentError;
use crate::instances::{self, Record};
use crate::keys::LineageKeys;
use crate::lineage::Lineage;
use crate::source::{self, Source};
use crate::stream_source::{self, StreamSource};
use crate::{Agent, adoption, disk};

pub(super) async fn restore(
    agent: &Arc<Agent>,
    input: &RestoreInstance,
    progress: &ProgressSink,
) -> Result<RestoredInstance, AgentError> {
    let spec = &input.instance;
    if let Some(restored) = agent.instances.get(spec.service_id).and_then(|local| local.record().restored) {
        return Ok(restored); // an earlier try came this far
    }
    progress.phase("preparing");
    adoption::discard_half_made(agent, spec).await?;
    // Replayed log is recycled from 1 GiB on (PostgreSQL's default max_wal_size).
    let needed = input.database_bytes + input.log_bytes.min(1 << 30);
    disk::require_room(&agent.config.instances_dir, "the restored data", needed)?;
    adoption::clear_lineage(agent, instances::scope_of(spec)).await?;
    let instance = instances::plan(agent, spec, &input.repository).await?;
    let made = make(agent, input, &instance, progress).await;
    if made.is_err()
        && let Err(error) = adoption::discard(agent, spec, &instance).await
    {
        tracing::error!(error = %chain(&error), "a half-restored instance could not be removed");
    }
    made
}

async fn make(
    agent: &Arc<Agent>,
    input: &RestoreInstance,
    instance: &Instance,
    progress: &ProgressSink,
) -> Result<RestoredInstance, AgentError> {
    let spec = &input.instance;
    let bad = |error: crate::keys::BadGrant| AgentError::Unusable(error.to_string());
    let lineage = Arc::new(Lineage::new(
        instances::scope_of(spec),
        LineageKeys::from_grant(&input.repository).map_err(bad)?,
    ));
    let driver = match agent.driver(spec.engine)?.data_path().base {
        Base::Repository(driver) => driver,
        Base::Streams(driver) => {
            return make_of_streams(agent, input, instance, driver, lineage, progress).await;
        }
    };
    let from = Source {
        repository: &input.source,
        base_label: &input.base_label,
        base_stop: source::stop_of(input.base_stop)?,
        database_bytes: input.database_bytes,
        target: input.target.as_ref().map(|to| RestoreTo { point: to.point, covered_to: to.covered_to }),
        archives: true,
    };
    if let Some(access) = &instance.repository {
        instances::register(&agent.gateway, access, &lineage, Access::ReadWrite);
    }
    let restored = source::restore(
        &agent.gateway,
        &agent.store,
        driver,
        instance,
        &from,
        &user_specs(&input.users),
        progress,
    )
    .await?;
    let reached = input.target.as_ref().map(|to| to.point);
    let outcome = Outcome {
        engine_version: restored.engine_version,
        reached,
        replayed_to: Some(restored.replayed_to),
        left_out: Vec::new(),
    };
    commit(agent, input, instance, lineage, outcome)
}

async fn make_of_streams(
    agent: &Arc<Agent>,
    input: &RestoreInstance,
    instance: &Instance,
    driver: &dyn StreamDriver,
    lineage: Arc<Lineage>,
    progress: &ProgressSink,
) -> Result<RestoredInstance, AgentError> {
    let from = StreamSource {
        grant: &input.source,
        base: &input.base_label,
        target: input.target.as_ref().map(|to| (to.point, to.covered_to)),
        archives: true,
    };
    let users = user_specs(&input.users);
    let (restored, base) =
        stream_source::restore(&agent.store, driver, instance, &from, &users, progress).await?;
    tracing::info!(service = %input.instance.service_id, position = %restored.position, "restored");
    let replayed_to = match &input.target {
        Some(to) => Some(to.covered_to),
        None => base.log.map(|log| log.stop),
    };
    let outcome = Outcome {
        engine_version: restored.engine_version,
        reached: Some(restored.reached),
        replayed_to,
        left_out: restored.left_out,
    };
    commit(agent, input, instance, lineage, outcome)
}

/// What a restore came to; [`RestoredInstance`] says what is what.
struct Outcome {
    engine_version: String,
    reached: Option<Timestamp>,
    replayed_to: Option<Position>,
    left_out: Vec<String>,
}

fn commit(
    agent: &Agent,
    input: &RestoreInstance,
    instance: &Instance,
    lineage: Arc<Lineage>,
    outcome: Outcome,
) -> Result<RestoredInstance, AgentError> {
    let Outcome { engine_version, reached, replayed_to, left_out } = outcome;
    let facts = InstanceFacts { host: instance.listen.to_string(), port: instance.port, engine_version };
    let answer = RestoredInstance { instance: facts.clone(), reached, replayed_to, left_out };
    let record = Record {
        spec: input.instance.clone(),
        instance: instance.clone(),
        facts,
        restored: Some(answer.clone()),
        log_dropped: None,
        running: true,
    };
    instances::commit(agent, record, lineage)?;
    Ok(answer)
}
