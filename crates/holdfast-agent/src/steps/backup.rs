//! A base backup and its manifest. The manifest is written last: it is what makes the backup exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use holdfast_api::agent::RunBackup;
use holdfast_core::backup::{BackupFacts, BackupMode, LogSpan};
use holdfast_core::causes::chain;
use holdfast_core::{ServiceId, Timestamp};
use holdfast_engines::{BackupRequest, Base, Log, ProgressSink, ToolBackup};
use holdfast_seal::{MANIFEST_FORMAT, Manifest, ManifestObject};
use holdfast_store::manifest::{facts_of, facts_to_keep, read_manifest, write_manifest};
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{ErrorKind, ObjectName, ObjectPrefix, OwnedKey};

use super::stream_backup;
use crate::error::AgentError;
use crate::instances::Local;
use crate::{Agent, coverage, disk};

pub(super) async fn run(
    agent: &Arc<Agent>,
    service: ServiceId,
    input: &RunBackup,
    progress: &ProgressSink,
) -> Result<BackupFacts, AgentError> {
    let local = agent.instances.require(service)?;
    let keys = &local.lineage.keys;
    let bad = |error: crate::keys::BadGrant| AgentError::Unusable(error.to_string());
    keys.add(&input.parent_keys).map_err(bad)?;
    keys.add(&[input.backup_key.clone(), input.next_epoch_key.clone()]).map_err(bad)?;
    let key = keys.key(input.backup_key.id).expect("it was added just now");

    let facts = match earlier_try(agent, &local, input, &key).await? {
        Some(facts) => facts,
        None => copy(agent, &local, input, &key, progress).await?,
    };
    // The log from here on belongs to the next epoch. Nothing is lost if this is cut off: the step is repeated, and log
    // sealed with the old epoch's key meanwhile opens as ever.
    local.begin_epoch(agent, input.next_epoch_key.id)?;
    keys.forget_backup_keys();
    if let Err(error) = coverage::write(agent, &local.lineage).await {
        tracing::warn!(%service, error = %chain(&error), "coverage not stored yet");
    }
    Ok(facts)
}

/// The facts of a backup whose manifest is there although nobody heard of it.
async fn earlier_try(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
    key: &OwnedKey,
) -> Result<Option<BackupFacts>, AgentError> {
    match read_manifest(&agent.store, local.lineage.scope, &input.backup_id, key).await {
        Ok((manifest, sha256)) => {
            facts_of(&manifest, sha256).map(Some).map_err(AgentError::store("read an earlier try's manifest"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AgentError::store("look for an earlier try's manifest")(error)),
    }
}

async fn copy(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
    key: &OwnedKey,
    progress: &ProgressSink,
) -> Result<BackupFacts, AgentError> {
    let record = local.record();
    let path = agent.driver(record.spec.engine)?.data_path();
    let driver = match path.base {
        Base::Repository(driver) => driver,
        Base::Streams(driver) => {
            let has_log = !matches!(path.log, Log::None);
            let (facts, objects) =
                stream_backup::copy(agent, local, driver, has_log, input, key, progress).await?;
            progress.phase("sealing the manifest");
            return write_with(agent, local, input, key, facts, objects).await;
        }
    };
    // A chain must not lead through a backup that the catalog does not know.
    let (unknown, finished) = remove_orphans(agent, local, input).await?;
    let mode = if unknown { BackupMode::Full } else { input.mode };
    let known = remove_cut_off(agent, local, finished).await?;
    disk::require_store_room(agent, input.expected_bytes.unwrap_or(0))?;
    local.lineage.forget_files();
    local.lineage.keys.begin_backup(key.key_id, known.clone());
    let request = BackupRequest { backup_id: &input.backup_id, mode };
    let copied = driver.backup(&record.instance, &request, progress).await;
    local.lineage.keys.end_backup();
    let failed = |error| local.lineage.explained("back up the instance", error);
    let copied = copied.map_err(failed)?;

    progress.phase("sealing the manifest");
    let objects = confirmed_objects(agent, local, &copied.label, &known).await?;
    write(agent, local, input, key, copied, objects).await
}

/// Removes what the tool finished and nobody recorded: a backup without a manifest does not exist (R14), nor does one that
/// failed in the end, and the tool would build the next incremental on it. Says whether one is left that the catalog does
/// not know, and which labels are finished.
async fn remove_orphans(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
) -> Result<(bool, BTreeSet<String>), AgentError> {
    let record = local.record();
    let driver = agent.repository(record.spec.engine)?;
    let failed = |error| local.lineage.explained("list the repository", error);
    let listed = driver.labels(&record.instance).await.map_err(failed)?;
    let (mut orphans, mut unknown) = (Vec::new(), false);
    let mut finished: BTreeSet<String> = listed.iter().map(|(label, _)| label.clone()).collect();
    finished.extend(input.known_labels.iter().map(|(label, _)| label.clone()));
    for (label, id) in listed {
        if input.known_labels.iter().any(|(known, _)| *known == label) {
            continue;
        }
        let Some(backup) = id.and_then(|id| id.parse().ok()) else { continue };
        let has_failed = input.failed.contains(&backup);
        let manifest = ObjectName::BackupManifest { lineage: local.lineage.scope, backup };
        match agent.store.head(&manifest).await {
            // A store that refuses deletes leaves one that the catalog does not know.
            Ok(_) if has_failed && agent.store.delete(&manifest).await.is_ok() => orphans.push(label),
            Ok(_) => unknown = true,
            Err(error) if error.kind() == ErrorKind::NotFound => orphans.push(label),
            Err(error) => return Err(AgentError::store("look for a manifest")(error)),
        }
    }
    if orphans.is_empty() {
        return Ok((unknown, finished));
    }
    tracing::warn!(service = %local.lineage.scope.service, ?orphans, "removing backups that never got a manifest");
    orphans.reverse(); // children before what they build on
    local.lineage.keys.allow_removal(true);
    let removed = driver.expire(&record.instance, &orphans).await;
    local.lineage.keys.allow_removal(false);
    if let Err(error) = removed {
        // A store that refuses deletes must not keep us from backing up: in full, so that nothing builds on them.
        tracing::warn!(service = %local.lineage.scope.service, error = %chain(&error), "backups without a manifest stay for now");
        return Ok((true, finished));
    }
    finished.retain(|label| !orphans.contains(label));
    Ok((unknown, finished))
}

/// Removes what a backup left that was cut off or failed: the tool has no record of it, would remove it itself, and may not.
/// Returns the labels that stay: whatever comes new is this backup's.
async fn remove_cut_off(
    agent: &Agent,
    local: &Local,
    finished: BTreeSet<String>,
) -> Result<Vec<String>, AgentError> {
    let prefix = ObjectPrefix::Repository { lineage: local.lineage.scope, folder: None };
    let mut objects = agent.store.list(&prefix);
    let mut removed = BTreeSet::new();
    while let Some(object) = objects.try_next().await.map_err(AgentError::store("list the repository"))? {
        if let ObjectName::Repository { path, .. } = &object.name
            && let ObjectClass::BackupFile { label } = classify(path.as_str())
            && !finished.contains(&label)
        {
            agent.store.delete(&object.name).await.map_err(AgentError::store("remove a cut-off backup"))?;
            removed.insert(label);
        }
    }
    if !removed.is_empty() {
        tracing::info!(service = %local.lineage.scope.service, ?removed, "removed what cut-off backups had left");
    }
    Ok(finished.into_iter().collect())
}

/// What the store lists under the label, each object as it was confirmed when it was written: nothing missing, nothing
/// that we did not write (R1, R14). A file of neither this backup nor one of the `known` came late, from the tool of a try
/// that was cut off (it outlives its agent for a moment, and was taken as long as this try had not written yet): it goes.
async fn confirmed_objects(
    agent: &Agent,
    local: &Local,
    label: &str,
    known: &[String],
) -> Result<Vec<ManifestObject>, AgentError> {
    let written = local.lineage.files_of(label);
    let mut by_name: std::collections::HashMap<&str, &ManifestObject> =
        written.iter().map(|object| (object.name.as_str(), object)).collect();
    let prefix = ObjectPrefix::Repository { lineage: local.lineage.scope, folder: None };
    let mut listed = agent.store.list(&prefix);
    while let Some(object) =
        listed.try_next().await.map_err(AgentError::store("list the backup's objects"))?
    {
        let ObjectName::Repository { path, .. } = &object.name else { continue };
        let ObjectClass::BackupFile { label: of } = classify(path.as_str()) else { continue };
        if of != label {
            if !known.contains(&of)
                && let Err(error) = agent.store.delete(&object.name).await
            {
                // The next backup tries again.
                tracing::warn!(object = %object.name, error = %chain(&error), "a cut-off backup's file stays for now");
            }
            continue;
        }
        let name = object.name.relative();
        match by_name.remove(name.as_str()) {
            Some(known) if known.sealed_bytes == object.info.sealed_bytes => {}
            _ => {
                return Err(AgentError::Unusable(format!(
                    "the store holds {name} otherwise than it was written"
                )));
            }
        }
    }
    if let Some(missing) = by_name.keys().next() {
        return Err(AgentError::Unusable(format!("the store has lost {missing}")));
    }
    Ok(written)
}

async fn write(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
    key: &OwnedKey,
    copied: ToolBackup,
    objects: Vec<ManifestObject>,
) -> Result<BackupFacts, AgentError> {
    let parent = copied.parent_label.as_ref().and_then(|label| {
        input.known_labels.iter().find(|(known, _)| known == label).map(|(_, id)| id.clone())
    });
    if copied.parent_label.is_some() && parent.is_none() {
        return Err(AgentError::Unusable(
            "the incremental backup builds on one that is not in the catalog".to_owned(),
        ));
    }
    let facts = BackupFacts {
        tool_label: copied.label.clone(),
        parent,
        log: Some(LogSpan { start: copied.start, stop: copied.stop }),
        consistent_at: copied.consistent_at,
        stored_bytes: objects.iter().map(|object| object.sealed_bytes).sum(),
        database_bytes: copied.database_bytes,
        manifest_sha256: String::new(),
        engine: serde_json::Value::Null,
        instead: None,
    };
    write_with(agent, local, input, key, facts, objects).await
}

/// Seals and stores the manifest.
async fn write_with(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
    key: &OwnedKey,
    mut facts: BackupFacts,
    objects: Vec<ManifestObject>,
) -> Result<BackupFacts, AgentError> {
    let (scope, spec) = (local.lineage.scope, local.record().spec);
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        backup_id: input.backup_id.to_string(),
        organization: scope.organization.to_string(),
        service: scope.service.to_string(),
        lineage: scope.lineage.to_string(),
        tool_label: facts.tool_label.clone(),
        created_at: Timestamp::now(),
        previous_manifest_sha256: input.previous_manifest_sha256.clone(),
        key_id: key.key_id.0,
        objects,
        facts: facts_to_keep(spec.engine, &spec.version, &facts),
    };
    facts.manifest_sha256 = write_manifest(&agent.store, scope, &input.backup_id, key, &manifest)
        .await
        .map_err(AgentError::store("store the backup's manifest"))?;
    Ok(facts)
}
