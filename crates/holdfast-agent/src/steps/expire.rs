//! Removes from the store what no kept restore point needs. Keys go first (crypto-shredding): from then on nothing of it
//! can be read, whatever becomes of the objects.

use std::sync::Arc;

use futures::TryStreamExt;
use holdfast_api::agent::{ExpiredBackup, RemoveExpired};
use holdfast_core::Timestamp;
use holdfast_core::position::Position;
use holdfast_engines::{Base, Instance, ProgressSink, RepositoryDriver};
use holdfast_gateway::Access;
use holdfast_seal::{MANIFEST_FORMAT, Tombstone};
use holdfast_store::log::{ListedSegment, segment_name};
use holdfast_store::manifest::write_tombstone;
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{LineageScope, ObjectName, ObjectPrefix};

use super::stream_backup;
use crate::error::AgentError;
use crate::keys::LineageKeys;
use crate::lineage::Lineage;
use crate::{Agent, adoption, instances, shared, users};

pub(super) async fn remove(
    agent: &Arc<Agent>,
    input: &RemoveExpired,
    progress: &ProgressSink,
) -> Result<(), AgentError> {
    let grant = &input.repository;
    let scope = LineageScope {
        organization: grant.organization_id,
        service: grant.service_id,
        lineage: grant.lineage_id,
    };
    let keys = LineageKeys::from_grant(grant).map_err(|error| AgentError::Unusable(error.to_string()))?;
    keys.allow_removal(true);
    let lineage = Arc::new(Lineage::new(scope, keys));
    progress.phase("destroying keys");
    for backup in &input.backups {
        leave_tombstone(agent, &lineage, backup).await?;
    }
    for key in &input.destroy_keys {
        let prefix = ObjectPrefix::Keys { service: scope.service_scope(), key: Some(*key) };
        delete_all(agent, &prefix, |_| true).await?;
    }
    progress.phase("removing objects");
    if input.whole_lineage {
        delete_all(agent, &ObjectPrefix::Lineage(scope), |_| true).await?;
        delete_all(agent, &ObjectPrefix::Descriptions(scope.service_scope()), |_| true).await?;
        let keys = ObjectPrefix::Keys { service: scope.service_scope(), key: None };
        return delete_all(agent, &keys, |_| true).await;
    }
    if let Base::Repository(driver) = agent.driver(input.engine)?.data_path().base {
        expire_in_tool(agent, driver, &lineage, input).await?;
    }
    for backup in &input.backups {
        remove_files(agent, scope, backup).await?;
    }
    if !input.backups.is_empty() {
        shared::sweep(&agent.store, &lineage).await?;
    }
    for before in input.remove_log_before.iter().copied() {
        remove_log(agent, scope, before).await?;
        if let Some(local) = agent.instances.get(scope.service) {
            local.lineage.archive().trim(before);
        }
    }
    Ok(())
}

/// A legal deletion leaves its mark, so that it is told from a loss. Written before the manifest goes.
async fn leave_tombstone(agent: &Agent, lineage: &Lineage, backup: &ExpiredBackup) -> Result<(), AgentError> {
    let (Some(sha256), Some(key)) = (&backup.manifest_sha256, lineage.keys.coverage_key()) else {
        return Ok(());
    };
    let scope = lineage.scope;
    let name = ObjectName::Tombstone { lineage: scope, backup: backup.backup_id.clone() };
    match agent.store.head(&name).await {
        Ok(_) => return Ok(()), // written by an earlier try
        Err(error) if error.kind() == holdfast_store::ErrorKind::NotFound => {}
        Err(error) => return Err(AgentError::store("look for a tombstone")(error)),
    }
    let tombstone = Tombstone {
        format: MANIFEST_FORMAT,
        backup_id: backup.backup_id.to_string(),
        organization: scope.organization.to_string(),
        service: scope.service.to_string(),
        lineage: scope.lineage.to_string(),
        manifest_sha256: sha256.clone(),
        previous_manifest_sha256: backup.previous_manifest_sha256.clone(),
        deleted_at: Timestamp::now(),
        reason: backup.reason.clone(),
    };
    write_tombstone(&agent.store, scope, &backup.backup_id, &key, &tombstone)
        .await
        .map_err(AgentError::store("store a tombstone"))
}

/// The tool drops the backups from its own index and removes their files. It runs in a folder of its own, so that a
/// deleted service's repository can be tended too.
async fn expire_in_tool(
    agent: &Arc<Agent>,
    driver: &dyn RepositoryDriver,
    lineage: &Arc<Lineage>,
    input: &RemoveExpired,
) -> Result<(), AgentError> {
    let labels: Vec<String> = input.backups.iter().filter_map(|backup| backup.tool_label.clone()).collect();
    if labels.is_empty() {
        return Ok(());
    }
    let folder = agent.config.instances_dir.join(format!("{}{}", instances::SCRATCH, lineage.scope.lineage));
    std::fs::create_dir_all(&folder).map_err(AgentError::file(&folder))?;
    let run_as = users::claim(&agent.config.claims_dir, &folder).await?;
    let access = instances::access(&agent.gateway, &folder, &input.repository.cipher_passphrase.0);
    let instance = Instance {
        repository: Some(access.clone()),
        stanza: instances::stanza_of(lineage.scope.lineage),
        version: String::new(),
        listen: agent.config.service_address,
        port: 1,
        run_as,
        memory_mib: 0,
        max_connections: 0,
        allowed_cidrs: Vec::new(),
        folder,
    };
    instances::write_gateway_certificate(&agent.host, &instance)?;
    instances::register(&agent.gateway, &access, lineage, Access::ReadWrite);
    let expired = match driver.prepare_repository(&instance).await {
        Ok(()) => driver.expire(&instance, &labels).await,
        Err(error) => Err(error),
    };
    agent.gateway.unregister(&access.access_key);
    adoption::remove_folders(&instance.folder).await?;
    users::release(&agent.config.claims_dir, instance.run_as.as_ref(), &instance.folder);
    expired.map_err(AgentError::engine("expire backups in the repository"))
}

/// What the tool left, and what it never knew of (a backup that was cut off).
async fn remove_files(agent: &Agent, scope: LineageScope, backup: &ExpiredBackup) -> Result<(), AgentError> {
    stream_backup::remove_objects(agent, scope, &backup.backup_id).await?;
    if let Some(label) = &backup.tool_label {
        let of_label = ObjectClass::BackupFile { label: label.clone() };
        let prefix = ObjectPrefix::Repository { lineage: scope, folder: None };
        delete_all(
            agent,
            &prefix,
            |name| matches!(name, ObjectName::Repository { path, .. } if classify(path.as_str()) == of_label),
        )
        .await?;
    }
    let manifest = ObjectName::BackupManifest { lineage: scope, backup: backup.backup_id.clone() };
    agent.store.delete(&manifest).await.map_err(AgentError::store("remove a manifest"))
}

async fn remove_log(agent: &Agent, scope: LineageScope, before: Position) -> Result<(), AgentError> {
    // The last segment stays: reading goes on from it.
    let listed = holdfast_store::log::pieces(&agent.store, scope).await;
    let listed = listed.map_err(AgentError::store("list log to remove"))?;
    let end = listed.iter().map(|piece| (piece.timeline, piece.to)).max();
    let goes = |piece: &&ListedSegment| {
        piece.timeline == before.timeline
            && piece.to <= before.offset
            && Some((piece.timeline, piece.to)) != end
    };
    for piece in listed.iter().filter(goes) {
        let name = segment_name(scope, piece.timeline, piece.from, piece.to);
        agent.store.delete(&name).await.map_err(AgentError::store("remove a segment of log"))?;
    }
    let prefix = ObjectPrefix::Repository { lineage: scope, folder: None };
    delete_all(agent, &prefix, |name| {
        let ObjectName::Repository { path, .. } = name else { return false };
        match classify(path.as_str()) {
            ObjectClass::Log { to, .. } => to.timeline == before.timeline && to.offset <= before.offset,
            _ => false,
        }
    })
    .await
}

async fn delete_all(
    agent: &Agent,
    prefix: &ObjectPrefix,
    goes: impl Fn(&ObjectName) -> bool,
) -> Result<(), AgentError> {
    let mut objects = agent.store.list(prefix);
    while let Some(object) = objects.try_next().await.map_err(AgentError::store("list objects to remove"))? {
        if goes(&object.name) {
            agent.store.delete(&object.name).await.map_err(AgentError::store("remove an object"))?;
        }
    }
    Ok(())
}
