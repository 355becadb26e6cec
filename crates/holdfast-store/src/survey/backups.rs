//! Backups as a catalog would hold them: from manifests, tombstones and the description, each as far as it is there.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_core::backup::{Backup, BackupFacts, BackupMode, BackupStatus, BackupType};
use holdfast_core::{BackupId, KeyId, Timestamp};
use holdfast_seal::{ChainEntry, HEADER_LEN, Header, Manifest, Tombstone, verify_chain};
use jiff::SignedDuration;

use super::listing::Files;
use super::{FoundService, SurveyProgress, passed_over};
use crate::description::DescribedBackup;
use crate::error::{Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{ObjectName, ObjectPrefix};
use crate::manifest::{MAX_DOCUMENT_BYTES, engine_of, facts_of, read_manifest, read_tombstone};
use crate::store::Store;

/// Manifests are read side by side, but each may have megabytes.
const AT_ONCE: usize = 4;

/// A manifest that opens.
struct Made {
    manifest: Manifest,
    facts: BackupFacts,
    key: KeyId,
}

/// What the bucket says of each backup.
#[derive(Default)]
pub(super) struct Found {
    made: BTreeMap<BackupId, Made>,
    tombstones: BTreeMap<BackupId, Tombstone>,
    /// Why a manifest does not open.
    unreadable: BTreeMap<BackupId, String>,
}

/// Fills in the service's backups and what is wrong with them.
pub(super) fn assemble(service: &mut FoundService, found: &Found, files: &Files) {
    let newest = found.made.values().max_by_key(|made| made.manifest.created_at);
    (service.engine, service.version) = newest.and_then(|made| engine_of(&made.manifest)).unzip();
    let order = check_chain(service, found);
    let mut backups = Vec::new();
    for (id, made) in &found.made {
        let described = described(service, id).cloned();
        let mut backup = completed(service, id, made, described.as_ref());
        // Its deletion was under way: it goes on.
        if let Some(tombstone) = found.tombstones.get(id) {
            backup.delisted_at = backup.delisted_at.or(Some(tombstone.deleted_at));
        }
        if let Some(damage) = missing_files(made, files) {
            service.problems.push(format!("backup {id}: {damage}"));
            (backup.status, backup.error) = (BackupStatus::Failed, Some(damage));
        }
        backups.push(backup);
    }
    backups.extend(without_manifest(service, found));
    backups.extend(destroyed(service, found, &order, &backups));
    backups.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    service.backups = backups;
}

fn described<'a>(service: &'a FoundService, id: &BackupId) -> Option<&'a DescribedBackup> {
    service.description.as_ref()?.backups.iter().find(|backup| backup.id == *id)
}

/// Reads every manifest and tombstone.
pub(super) async fn read_all(
    store: &Store,
    service: &FoundService,
    progress: &SurveyProgress,
) -> Result<Found> {
    let lineage = service.lineage_scope();
    let mut found = Found::default();
    let names: Vec<BackupId> = store
        .list(&ObjectPrefix::Manifests(lineage))
        .try_filter_map(|object| async move {
            Ok(match object.name {
                ObjectName::BackupManifest { backup, .. } => Some(backup),
                _ => None,
            })
        })
        .try_collect()
        .await?;
    let mut read = stream::iter(names)
        .map(|id| async move { (read_one(store, service, &id).await, id) })
        .buffered(AT_ONCE);
    while let Some((made, id)) = read.next().await {
        progress.seen(1);
        match made {
            Ok(made) => {
                found.made.insert(id, made);
            }
            Err(error) => {
                found.unreadable.insert(id, passed_over(error)?);
            }
        }
    }
    let key = service.keys.iter().find(|key| key.purpose == holdfast_core::key::KeyPurpose::Coverage);
    let Some(key) = key.and_then(|key| service.owned_key(key.id)) else { return Ok(found) };
    let mut listed = store.list(&ObjectPrefix::Tombstones(lineage));
    while let Some(object) = listed.try_next().await? {
        progress.seen(1);
        let ObjectName::Tombstone { backup, .. } = object.name else { continue };
        match read_tombstone(store, lineage, &backup, &key).await {
            Ok(tombstone) => {
                found.tombstones.insert(backup, tombstone);
            }
            Err(error) => {
                let why = passed_over(error)?;
                found.unreadable.entry(backup).or_insert(format!("its tombstone does not open: {why}"));
            }
        }
    }
    // The manifest of a deleted backup goes after its key.
    found.unreadable.retain(|id, _| !found.tombstones.contains_key(id));
    Ok(found)
}

/// Opens a manifest with the key that its header names.
async fn read_one(store: &Store, service: &FoundService, id: &BackupId) -> Result<Made> {
    let lineage = service.lineage_scope();
    let name = ObjectName::BackupManifest { lineage, backup: id.clone() };
    let head = store.get_range(&name, 0..HEADER_LEN as u64).await?.collect(MAX_DOCUMENT_BYTES).await?;
    let header =
        Header::parse(&head).map_err(|source| StoreError::Seal { object: name.to_string(), source })?;
    let key_id = KeyId(header.key_id);
    let key = service.keys.iter().find(|key| key.id == key_id).ok_or_else(|| StoreError::Document {
        object: name.to_string(),
        problem: format!("its key {key_id} is missing or does not open with this recovery key"),
    })?;
    let key = OwnedKey { key_id, owner: id.to_string(), key: key.key.clone() };
    let (manifest, sha256) = read_manifest(store, lineage, id, &key).await?;
    let facts = facts_of(&manifest, sha256)?;
    Ok(Made { manifest, facts, key: key_id })
}

/// Tells what the chain of manifests shows; gives the backups in its order, oldest first.
fn check_chain(service: &mut FoundService, found: &Found) -> Vec<BackupId> {
    let made = found.made.values().map(|made| ChainEntry {
        backup_id: made.manifest.backup_id.clone(),
        manifest_sha256: made.facts.manifest_sha256.clone(),
        previous_manifest_sha256: made.manifest.previous_manifest_sha256.clone(),
    });
    let entries: Vec<ChainEntry> = made.chain(found.tombstones.values().map(ChainEntry::from)).collect();
    if let Some(newest) = service.description.as_ref().and_then(|found| found.newest_manifest.as_ref())
        && !entries.iter().any(|entry| entry.manifest_sha256 == newest.sha256)
    {
        let text = format!(
            "backup {}, the newest when this was described, has no manifest: it was removed, or the bucket was put \
             back to an earlier state",
            newest.backup
        );
        service.problems.push(text);
    }
    let order = verify_chain(&service.lineage.to_string(), &entries, None).unwrap_or_else(|error| {
        service.problems.push(error.to_string());
        entries
    });
    order.iter().filter_map(|entry| entry.backup_id.parse().ok()).collect()
}

/// What the manifest says; who asked for it and under which label is the description's to say. Where it does not, the
/// backup is kept until it is deleted by hand.
fn completed(
    service: &FoundService,
    id: &BackupId,
    made: &Made,
    described: Option<&DescribedBackup>,
) -> Backup {
    let is_incremental = made.facts.parent.is_some();
    let written_at = made.manifest.created_at;
    Backup {
        id: id.clone(),
        service_id: service.scope.service,
        lineage_id: service.lineage,
        backup_type: described.map_or(BackupType::Manual, |backup| backup.backup_type),
        mode: if is_incremental { BackupMode::Incremental } else { BackupMode::Full },
        method: described.and_then(|backup| backup.method.clone()),
        status: BackupStatus::Completed,
        label: described.and_then(|backup| backup.label.clone()),
        retention_days: described.and_then(|backup| backup.retention_days),
        key_id: made.key,
        created_at: described.map_or(written_at, |backup| backup.created_at),
        started_at: described.and_then(|backup| backup.started_at),
        completed_at: described.and_then(|backup| backup.completed_at).or(Some(written_at)),
        error: None,
        facts: Some(made.facts.clone()),
        delisted_at: described.and_then(|backup| backup.delisted_at),
        shredded_at: None,
        removed_at: None,
    }
}

/// Whether the store holds every file that the manifest names, with its length.
fn missing_files(made: &Made, files: &Files) -> Option<String> {
    let objects = &made.manifest.objects;
    let missing = objects
        .iter()
        .filter(|object| files.backup_files.get(&object.name) != Some(&object.sealed_bytes))
        .count();
    (missing > 0).then(|| format!("{missing} of its {} objects are missing or cut", objects.len()))
}

/// Backups that the description or a name tells of, and no manifest.
fn without_manifest(service: &mut FoundService, found: &Found) -> Vec<Backup> {
    let mut backups = Vec::new();
    let described = service.description.as_ref().map(|found| found.backups.clone()).unwrap_or_default();
    for described in described {
        if found.made.contains_key(&described.id) || found.tombstones.contains_key(&described.id) {
            continue;
        }
        let unreadable = found.unreadable.get(&described.id).cloned();
        let error = match described.status {
            BackupStatus::Completed => {
                let why = unreadable.unwrap_or_else(|| "its manifest is missing".to_owned());
                service.problems.push(format!("backup {}: {why}", described.id));
                why
            }
            BackupStatus::Pending | BackupStatus::Running => {
                unreadable.unwrap_or_else(|| "it was not finished when the control plane was lost".to_owned())
            }
            BackupStatus::Failed => described.error.clone().unwrap_or_default(),
        };
        backups.push(Backup {
            id: described.id,
            service_id: service.scope.service,
            lineage_id: service.lineage,
            backup_type: described.backup_type,
            mode: described.mode,
            method: described.method,
            status: BackupStatus::Failed,
            label: described.label,
            retention_days: described.retention_days,
            key_id: described.key,
            created_at: described.created_at,
            started_at: described.started_at,
            completed_at: None,
            error: Some(error),
            facts: None,
            delisted_at: described.delisted_at,
            shredded_at: None,
            removed_at: None,
        });
    }
    for (id, why) in &found.unreadable {
        if !backups.iter().any(|backup| backup.id == *id) {
            service.problems.push(format!("backup {id}: {why}"));
        }
    }
    backups
}

/// Rows of destroyed backups: the chain goes through them. When they were completed is not known any more, only in which
/// order.
fn destroyed(service: &FoundService, found: &Found, order: &[BackupId], there: &[Backup]) -> Vec<Backup> {
    let completed: HashMap<&BackupId, Timestamp> =
        there.iter().filter_map(|backup| Some((&backup.id, backup.completed_at?))).collect();
    let earliest = completed.values().min().copied();
    let begin = service.description.as_ref().map(|found| found.service.created_at).or(earliest);
    let mut at = begin.unwrap_or_default();
    let mut backups = Vec::new();
    for id in order {
        if let Some(known) = completed.get(id) {
            at = *known;
            continue;
        }
        let Some(tombstone) = found.tombstones.get(id) else { continue };
        at = at.checked_add(SignedDuration::from_micros(1)).unwrap_or(at);
        backups.push(Backup {
            id: id.clone(),
            service_id: service.scope.service,
            lineage_id: service.lineage,
            backup_type: BackupType::Manual,
            mode: BackupMode::Full,
            method: None,
            status: BackupStatus::Completed,
            label: None,
            retention_days: None,
            key_id: KeyId::random(), // destroyed, and told by nothing any more
            created_at: at,
            started_at: None,
            completed_at: Some(at),
            error: None,
            facts: Some(BackupFacts {
                tool_label: String::new(),
                parent: None,
                log: None,
                consistent_at: at,
                stored_bytes: 0,
                database_bytes: 0,
                manifest_sha256: tombstone.manifest_sha256.clone(),
                engine: serde_json::Value::Null,
                instead: None,
            }),
            delisted_at: Some(tombstone.deleted_at),
            shredded_at: Some(tombstone.deleted_at),
            removed_at: Some(tombstone.deleted_at),
        });
    }
    backups
}
