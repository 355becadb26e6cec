//! Blobs that several backups of a lineage share, each sealed with a key of its own that their manifests carry.
//!
//! They are found again by the newest manifest, and go once no manifest names them. Jobs of a service run one at a time, so nothing is
//! removed while a backup is being made that may name it.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use holdfast_core::causes::chain;
use holdfast_core::{BackupId, KeyId};
use holdfast_seal::{DataKey, Manifest, ManifestObject, SharedKey};
use holdfast_store::manifest::find_manifest;
use holdfast_store::{LineageScope, ObjectName, ObjectPrefix, OwnedKey, Store, StoreError};

use crate::error::AgentError;
use crate::lineage::Lineage;

/// A key for a new blob, and the blob's name in the store.
pub(crate) fn new_blob(lineage: LineageScope) -> (ObjectName, OwnedKey) {
    let key = KeyId::random();
    (ObjectName::Shared { lineage, key }, owned(key, DataKey::random()))
}

/// The key of a blob that a manifest names.
pub(crate) fn key_of(shared: &SharedKey) -> OwnedKey {
    owned(KeyId(shared.key_id), shared.key.clone())
}

fn owned(key_id: KeyId, key: DataKey) -> OwnedKey {
    OwnedKey { key_id, owner: key_id.to_string(), key }
}

/// What the newest of these backups (oldest first) shares and the store still has, by the driver's names. A manifest that does not open
/// shares nothing: the next backup is made in full.
pub(crate) async fn of_newest(
    store: &Store,
    lineage: &Lineage,
    backups: &[(String, BackupId)],
) -> Result<HashMap<String, ManifestObject>, AgentError> {
    let Some((_, newest)) = backups.last() else { return Ok(HashMap::new()) };
    let Some(manifest) = read(store, lineage, newest).await? else { return Ok(HashMap::new()) };
    let there = match manifest.objects.iter().any(|object| object.shared.is_some()) {
        true => listed(store, lineage.scope).await?,
        false => HashMap::new(),
    };
    let is_there = |object: &ManifestObject| there.get(&object.name) == Some(&object.sealed_bytes);
    let objects = manifest.objects.into_iter().filter(is_there);
    Ok(objects.filter_map(|object| Some((object.shared.as_ref()?.path.clone(), object))).collect())
}

/// `None` where it is missing or does not open, which is told in the log.
async fn read(store: &Store, lineage: &Lineage, backup: &BackupId) -> Result<Option<Manifest>, AgentError> {
    match find_manifest(store, lineage.scope, backup, &|id| lineage.keys.key(id)).await {
        Ok((manifest, _)) => Ok(Some(manifest)),
        Err(error) if is_lasting(&error) => {
            tracing::warn!(service = %lineage.scope.service, %backup, error = %chain(&error), "a manifest does not open");
            Ok(None)
        }
        Err(error) => Err(AgentError::store("read an earlier backup's manifest")(error)),
    }
}

/// It is the same when it is tried again.
fn is_lasting(error: &StoreError) -> bool {
    error.kind() == holdfast_store::ErrorKind::NotFound
        || matches!(
            error,
            StoreError::Seal { .. }
                | StoreError::Document { .. }
                | StoreError::NoKey { .. }
                | StoreError::OtherKey { .. }
        )
}

/// Length of each blob in the store, by its name in a manifest.
pub(crate) async fn listed(store: &Store, lineage: LineageScope) -> Result<HashMap<String, u64>, AgentError> {
    let blobs = store.list(&ObjectPrefix::Shared(lineage));
    let blobs = blobs.map_ok(|blob| (blob.name.relative(), blob.info.sealed_bytes));
    blobs.try_collect().await.map_err(AgentError::store("list shared blobs"))
}

/// Removes the blobs that no manifest names. As long as a manifest does not open nobody knows what it names, so all of them stay.
pub(crate) async fn sweep(store: &Store, lineage: &Lineage) -> Result<(), AgentError> {
    let mut unnamed: HashSet<String> = listed(store, lineage.scope).await?.into_keys().collect();
    if unnamed.is_empty() {
        return Ok(());
    }
    let mut manifests = store.list(&ObjectPrefix::Manifests(lineage.scope));
    while let Some(found) = manifests.try_next().await.map_err(AgentError::store("list manifests"))? {
        let ObjectName::BackupManifest { backup, .. } = found.name else { continue };
        let Some(manifest) = read(store, lineage, &backup).await? else { return Ok(()) };
        for object in manifest.objects {
            unnamed.remove(&object.name);
        }
    }
    remove(store, lineage.scope, unnamed).await
}

/// Removes blobs, by their names in a manifest.
pub(crate) async fn remove(
    store: &Store,
    lineage: LineageScope,
    names: impl IntoIterator<Item = String>,
) -> Result<(), AgentError> {
    for name in names {
        let name = format!("{lineage}/{name}").parse::<ObjectName>();
        let name = name.map_err(|error| AgentError::Unusable(error.to_string()))?;
        store.delete(&name).await.map_err(AgentError::store("remove a shared blob"))?;
    }
    Ok(())
}
