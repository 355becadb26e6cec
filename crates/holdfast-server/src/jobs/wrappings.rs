//! Wrapped keys in the bucket: written before anything is sealed with a key, replaced by rotations, destroyed for ever.
//! Whoever writes or destroys some holds the vault's lock on wrappings.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_core::key::KeyRecord;
use holdfast_core::{KeyId, Timestamp};
use holdfast_store::{ObjectName, ObjectPrefix, ServiceScope};

use super::StepError;
use super::rotation::AT_A_TIME;
use crate::ControlPlane;
use crate::vault::VaultError;

/// A wrapped key has some hundred bytes.
const LIMIT_BYTES: u64 = 4096;
/// How long a destroyer waits for writers; an agent waits behind it.
const PATIENCE: Duration = Duration::from_secs(5);

fn scope(record: &KeyRecord) -> ServiceScope {
    ServiceScope { organization: record.organization_id, service: record.service_id }
}

/// Stores both wrappings of a key in the bucket; there already is fine. The caller holds the lock on wrappings and has
/// read the record under it.
///
/// # Errors
/// A destroyed key, which has no wrappings any more; what the store says.
pub(super) async fn store(cp: &ControlPlane, record: &KeyRecord) -> Result<(), StepError> {
    if record.destroyed_at.is_some() {
        return Err(VaultError::Destroyed(record.id).into());
    }
    let service = scope(record);
    let wrapped = ObjectName::Key { service, key: record.id, kek_version: record.kek_version };
    cp.store.put_if_absent(&wrapped, record.wrapped.clone().into()).await?;
    let recovery = ObjectName::KeyRecovery { service, key: record.id };
    cp.store.put_if_absent(&recovery, record.recovery_wrapped.clone().into()).await?;
    Ok(())
}

pub(super) async fn read(cp: &ControlPlane, name: &ObjectName) -> Result<Vec<u8>, StepError> {
    Ok(cp.store.get(name).await?.collect(LIMIT_BYTES).await?.to_vec())
}

/// Destroys keys in the catalog: from here on it cannot give them to anybody, and nothing of them is written into the
/// bucket any more. What lies there is the caller's to remove.
///
/// # Errors
/// `KeysBusy` while somebody writes wrapped keys for longer; what the catalog says.
pub async fn destroy(cp: &ControlPlane, keys: &[KeyId]) -> Result<(), StepError> {
    let lock = tokio::time::timeout(PATIENCE, cp.vault.lock_wrappings()).await;
    let _lock = lock.map_err(|_| StepError::KeysBusy)?;
    for key in keys {
        if cp.catalog.key(*key).await?.is_some() {
            cp.catalog.destroy_key(*key, Timestamp::now()).await?;
        }
    }
    Ok(())
}

async fn scopes(cp: &ControlPlane) -> Result<Vec<ServiceScope>, StepError> {
    let all = cp.catalog.services_with_keys().await?;
    Ok(all.into_iter().map(|(organization, service)| ServiceScope { organization, service }).collect())
}

/// The highest version of a KEK that wraps anything in the bucket, 0 if there is none.
pub(super) async fn newest_version(cp: &ControlPlane) -> Result<u32, StepError> {
    let looks: Vec<_> = scopes(cp).await?.into_iter().map(|service| newest_of(cp, service)).collect();
    let found: Vec<u32> = stream::iter(looks).buffer_unordered(AT_A_TIME).try_collect().await?;
    Ok(found.into_iter().max().unwrap_or(0))
}

async fn newest_of(cp: &ControlPlane, service: ServiceScope) -> Result<u32, StepError> {
    let mut newest = 0;
    let mut objects = cp.store.list(&ObjectPrefix::Keys { service, key: None });
    while let Some(object) = objects.try_next().await? {
        if let ObjectName::Key { kek_version, .. } = object.name {
            newest = newest.max(kek_version);
        }
    }
    Ok(newest)
}

/// Keys of the bucket that the catalog does not know: how many a KEK wraps, and the name of one.
pub(super) type Unknown = BTreeMap<u32, (u64, String)>;

/// Brings the bucket to what the catalog says: each living key lies there wrapped by the KEK that wraps it in the catalog,
/// and not by an older one; nothing lies there of a destroyed one. What the catalog does not know is left alone.
pub(super) async fn sweep(cp: &ControlPlane) -> Result<Unknown, StepError> {
    let mut unknown = Unknown::new();
    let sweeps: Vec<_> = scopes(cp).await?.into_iter().map(|service| sweep_service(cp, service)).collect();
    let mut services = stream::iter(sweeps).buffer_unordered(AT_A_TIME);
    while let Some(of_service) = services.try_next().await? {
        for (version, (count, example)) in of_service {
            unknown.entry(version).or_insert((0, example)).0 += count;
        }
    }
    Ok(unknown)
}

async fn sweep_service(cp: &ControlPlane, service: ServiceScope) -> Result<Unknown, StepError> {
    let mut listed: BTreeMap<KeyId, Vec<(Option<u32>, ObjectName)>> = BTreeMap::new();
    let mut objects = cp.store.list(&ObjectPrefix::Keys { service, key: None });
    while let Some(object) = objects.try_next().await? {
        match object.name {
            ObjectName::Key { key, kek_version, .. } => {
                listed.entry(key).or_default().push((Some(kek_version), object.name));
            }
            ObjectName::KeyRecovery { key, .. } => listed.entry(key).or_default().push((None, object.name)),
            _ => {}
        }
    }
    // Read after the listing: a key is in the catalog before it is in the bucket.
    let records = cp.catalog.keys_of(service.service).await?;
    let mut unknown = Unknown::new();
    for record in &records {
        let found = listed.remove(&record.id).unwrap_or_default();
        if record.destroyed_at.is_none() {
            let has = |version| found.iter().any(|(one, _)| *one == version);
            if !has(Some(record.kek_version)) || !has(None) {
                store_again(cp, record.id).await?;
            }
        }
        for (version, name) in found {
            let is_older = version.is_some_and(|version| version < record.kek_version);
            if is_older || record.destroyed_at.is_some() {
                cp.store.delete(&name).await?;
            }
        }
    }
    for (version, name) in listed.into_values().flatten() {
        if let Some(version) = version {
            unknown.entry(version).or_insert_with(|| (0, name.to_string())).0 += 1;
        }
    }
    Ok(unknown)
}

async fn store_again(cp: &ControlPlane, key: KeyId) -> Result<(), StepError> {
    let _lock = cp.vault.use_wrappings().await;
    match cp.catalog.key(key).await? {
        Some(record) if record.destroyed_at.is_none() => store(cp, &record).await,
        _ => Ok(()),
    }
}
