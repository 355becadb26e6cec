//! Restoring from another lineage's repository, which is opened for reading only and only for so long.

use std::sync::Arc;

use holdfast_api::agent::RepositoryGrant;
use holdfast_core::position::Position;
use holdfast_engines::{
    Instance, ProgressSink, RepositoryAccess, RepositoryDriver, RestoreRequest, RestoreTo, Restored, UserSpec,
};
use holdfast_gateway::{Access, Gateway};
use holdfast_store::{LineageScope, Store};

use crate::error::AgentError;
use crate::keys::LineageKeys;
use crate::lineage::Lineage;
use crate::{instances, tail};

/// What is restored, and up to where.
pub(crate) struct Source<'a> {
    pub repository: &'a RepositoryGrant,
    /// The tool's label of the base backup.
    pub base_label: &'a str,
    pub base_stop: Position,
    pub database_bytes: u64,
    /// `None`: the base backup's own consistent point.
    pub target: Option<RestoreTo>,
    /// Whether the new instance archives into a repository of its own.
    pub archives: bool,
}

/// A credential for the source's repository that ends with the restore, also when that is given up half-way.
struct Reading<'a> {
    gateway: &'a Gateway,
    access_key: String,
}

impl<'a> Reading<'a> {
    fn open(gateway: &'a Gateway, access: &RepositoryAccess, source: &Arc<Lineage>) -> Self {
        instances::register(gateway, access, source, Access::ReadOnly);
        Self { gateway, access_key: access.access_key.clone() }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.gateway.unregister(&self.access_key);
    }
}

/// Restores into the empty folder of `instance` and leaves it running.
pub(crate) async fn restore(
    gateway: &Gateway,
    store: &Store,
    driver: &dyn RepositoryDriver,
    instance: &Instance,
    from: &Source<'_>,
    users: &[UserSpec],
    progress: &ProgressSink,
) -> Result<Restored, AgentError> {
    let grant = from.repository;
    let scope = LineageScope {
        organization: grant.organization_id,
        service: grant.service_id,
        lineage: grant.lineage_id,
    };
    let keys = LineageKeys::from_grant(grant).map_err(|error| AgentError::Unusable(error.to_string()))?;
    let source = Arc::new(Lineage::new(scope, keys));
    let access = instances::access(gateway, &instance.folder, &grant.cipher_passphrase.0);
    let _reading = Reading::open(gateway, &access, &source);
    if let Some(to) = &from.target {
        tail::rebuild(store, &source, driver, instance, from.base_stop, to.covered_to).await?;
    }
    let request = RestoreRequest {
        users,
        source: &access,
        source_stanza: &instances::stanza_of(grant.lineage_id),
        base_label: from.base_label,
        base_stop: from.base_stop,
        database_bytes: from.database_bytes,
        target: from.target.clone(),
        archives: from.archives,
    };
    let doing = "restore the instance";
    let restored = tokio::select! {
        biased;
        restored = driver.restore(instance, &request, progress) => restored,
        // The tools would try for a while, and then say that log is missing.
        what = source.damaged() => return Err(AgentError::Damaged { doing, what }),
    };
    restored.map_err(|error| match source.damage() {
        Some(what) => AgentError::Damaged { doing, what },
        None => source.explained(doing, error),
    })
}

/// From where on a base of a tool's is consistent.
pub(crate) fn stop_of(told: Option<Position>) -> Result<Position, AgentError> {
    told.ok_or_else(|| AgentError::Unusable("the base does not say where it lies in the log".to_owned()))
}
