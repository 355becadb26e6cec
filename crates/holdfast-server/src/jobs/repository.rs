//! The keys of a service's repository: made once, stored wrapped, granted to the steps that need them.

use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
use holdfast_core::backup::Backup;
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::service::Service;
use holdfast_core::{KeyId, Timestamp};
use holdfast_store::repository::cipher_passphrase;

use super::{StepError, wrappings};
use crate::ControlPlane;

/// The key of that id, made if it is not there, and stored wrapped in the bucket: a key that only the catalog knew would
/// be lost with it.
///
/// # Errors
/// When catalog or store do not take it, or it was destroyed.
pub async fn ensure_key(
    cp: &ControlPlane,
    service: &Service,
    id: KeyId,
    purpose: KeyPurpose,
) -> Result<KeyRecord, StepError> {
    let _lock = cp.vault.use_wrappings().await;
    if cp.catalog.key(id).await?.is_none() {
        let owner = (service.organization_id, service.id, service.lineage_id);
        let record = cp.vault.mint(id, owner, purpose, Timestamp::now());
        cp.catalog.insert_key(&record).await?;
    }
    let record = cp
        .catalog
        .key(id)
        .await?
        .ok_or_else(|| StepError::Incomplete { job: service.id.to_string(), what: format!("key {id}") })?;
    wrappings::store(cp, &record).await?;
    Ok(record)
}

/// The repository of the service's own lineage with the keys that archiving needs; made at the first call.
pub(super) async fn own_repository(
    cp: &ControlPlane,
    service: &Service,
) -> Result<RepositoryGrant, StepError> {
    let keys = lineage_keys(cp, service).await?;
    for purpose in [KeyPurpose::Repository, KeyPurpose::Coverage, KeyPurpose::Epoch] {
        // Also a known one: a try that was cut off may have left it out of the bucket.
        let id = keys.iter().find(|key| key.purpose == purpose).map_or_else(KeyId::random, |key| key.id);
        ensure_key(cp, service, id, purpose).await?;
    }
    repository(cp, service, |key| key.purpose != KeyPurpose::Backup).await
}

async fn lineage_keys(cp: &ControlPlane, service: &Service) -> Result<Vec<KeyRecord>, StepError> {
    let mut keys = cp.catalog.keys_of(service.id).await?;
    keys.retain(|key| key.lineage_id == service.lineage_id && key.destroyed_at.is_none());
    keys.sort_by_key(|key| key.created_at);
    Ok(keys)
}

/// A repository with those of its keys that `wanted` names.
pub(super) async fn repository(
    cp: &ControlPlane,
    service: &Service,
    wanted: impl Fn(&KeyRecord) -> bool,
) -> Result<RepositoryGrant, StepError> {
    let backups = cp.catalog.backups_of(service.id).await?;
    let keys = lineage_keys(cp, service).await?;
    let active_epoch = keys.iter().rev().find(|key| key.purpose == KeyPurpose::Epoch).map(|key| key.id);
    let repository_key = keys.iter().find(|key| key.purpose == KeyPurpose::Repository);
    let passphrase = match repository_key {
        Some(key) => cipher_passphrase(&cp.vault.unwrap(key)?),
        None => String::new(),
    };
    let keys = keys
        .iter()
        .filter(|key| wanted(key))
        .map(|key| grant(cp, key, &backups))
        .collect::<Result<_, StepError>>()?;
    Ok(RepositoryGrant {
        organization_id: service.organization_id,
        service_id: service.id,
        lineage_id: service.lineage_id,
        cipher_passphrase: Secret(passphrase),
        keys,
        active_epoch,
    })
}

pub(super) fn grant(cp: &ControlPlane, key: &KeyRecord, backups: &[Backup]) -> Result<KeyGrant, StepError> {
    let backup = backups.iter().find(|backup| backup.key_id == key.id);
    let owner = backup.map_or_else(|| key.id.to_string(), |backup| backup.id.to_string());
    let clear = cp.vault.unwrap(key)?;
    Ok(KeyGrant { id: key.id, purpose: key.purpose, owner, key_hex: Secret(hex::encode(clear.expose())) })
}
