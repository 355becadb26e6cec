//! Restores into a new instance.

use std::sync::Arc;

use holdfast_api::agent::{InstanceFacts, RestoreInstance, RestoredInstance};
use holdfast_engines::{Instance, ProgressSink, RepositoryAccess, RestoreRequest, RestoreTo};
use holdfast_store::LineageScope;
use holdfast_store::gateway::Access;

use super::user_specs;
use crate::error::{AgentError, chain};
use crate::instances::{self, Record};
use crate::keys::LineageKeys;
use crate::lineage::Lineage;
use crate::{Agent, adoption};

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

/// A credential for the source's repository that ends with the step, also when the step is given up half-way.
struct Reading<'a> {
    agent: &'a Agent,
    access_key: String,
}

impl<'a> Reading<'a> {
    fn open(agent: &'a Agent, access: &RepositoryAccess, source: &Arc<Lineage>) -> Self {
        instances::register(agent, access, source, Access::ReadOnly);
        Self { agent, access_key: access.access_key.clone() }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.agent.gateway.unregister(&self.access_key);
    }
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
    instances::register(agent, &instance.repository, &lineage, Access::ReadWrite);

    // The source is opened for reading only, under a credential that lives as long as this step.
    let grant = &input.source;
    let source_scope = LineageScope {
        organization: grant.organization_id,
        service: grant.service_id,
        lineage: grant.lineage_id,
    };
    let source = Arc::new(Lineage::new(source_scope, LineageKeys::from_grant(grant).map_err(bad)?));
    let source_access = instances::access(agent, &instance.folder, &grant.cipher_passphrase.0);
    let _reading = Reading::open(agent, &source_access, &source);

    let request = RestoreRequest {
        users: &user_specs(&input.users),
        source: &source_access,
        source_stanza: &instances::stanza_of(grant.lineage_id),
        base_label: &input.base_label,
        base_stop: input.base_stop,
        database_bytes: input.database_bytes,
        target: input.target.as_ref().map(|to| RestoreTo { point: to.point, covered_to: to.covered_to }),
    };
    let doing = "restore the instance";
    let restored = tokio::select! {
        biased;
        restored = agent.driver(spec.engine)?.restore(instance, &request, progress) => restored,
        // The tools would try for a while, and then say that log is missing.
        what = source.damaged() => return Err(AgentError::Damaged { doing, what }),
    };
    let restored = restored.map_err(|error| match source.damage() {
        Some(what) => AgentError::Damaged { doing, what },
        None => AgentError::of_driver(doing, &source, error),
    })?;

    let facts = InstanceFacts {
        host: instance.listen.to_string(),
        port: instance.port,
        engine_version: restored.engine_version,
    };
    let answer = RestoredInstance {
        instance: facts.clone(),
        reached: input.target.as_ref().map(|to| to.point),
        replayed_to: restored.replayed_to,
    };
    let record = Record {
        spec: spec.clone(),
        instance: instance.clone(),
        facts,
        restored: Some(answer.clone()),
        running: true,
    };
    instances::commit(agent, record, lineage)?;
    Ok(answer)
}
