//! Tells the bucket what each service is, so that the catalog can be made anew from bucket and recovery kit.
//!
//! The catalog counts what changes; a description that is behind is written again, now or after a crash. One that says
//! what the bucket has already is not written.

use std::time::Duration;

use holdfast_catalog::Undescribed;
use holdfast_core::backup::{Backup, BackupStatus};
use holdfast_core::causes::chain;
use holdfast_core::job::JobState;
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::service::Service;
use holdfast_core::{JobId, Timestamp};
use holdfast_store::description::{
    DescribedBackup, DescribedKey, DescribedOrganization, DescribedService, NewestManifest,
    ServiceDescription, write_description,
};
use holdfast_store::documents::DOCUMENT_FORMAT;
use holdfast_store::{OwnedKey, ServiceScope};
use tokio_util::sync::CancellationToken;

use super::StepError;
use super::repository::ensure_key;
use crate::ControlPlane;

/// The scan is the truth; signals only make it faster.
const SCAN: Duration = Duration::from_secs(20);
/// Changes that come together are described together.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs until told to stop.
pub async fn run(cp: ControlPlane, stop: CancellationToken) {
    let mut changed = cp.catalog.changed();
    // The first look is at every service: settings that descriptions repeat may have changed.
    let mut all = true;
    loop {
        changed.mark_unchanged();
        match describe_changed(&cp, all, &stop).await {
            Ok(()) => all = false,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a service's description is not stored yet");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changed.changed() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}

async fn describe_changed(cp: &ControlPlane, all: bool, stop: &CancellationToken) -> Result<(), StepError> {
    let mut failed = None;
    for changed in cp.catalog.undescribed_services(all).await? {
        if stop.is_cancelled() {
            break;
        }
        // One bucket that refuses (a service's own) keeps nobody else from being described.
        if let Err(error) = describe(cp, &changed).await {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn describe(cp: &ControlPlane, changed: &Undescribed) -> Result<(), StepError> {
    let service = &changed.service;
    let mut keys = cp.catalog.keys_of(service.id).await?;
    keys.retain(|key| key.lineage_id == service.lineage_id && key.destroyed_at.is_none());
    let coverage_key = keys.iter().find(|key| key.purpose == KeyPurpose::Coverage);
    // Nothing of it is in the bucket yet, or nothing is left there.
    let Some(coverage_key) = coverage_key else {
        return Ok(cp.catalog.mark_described(service.id, changed.changes, None).await?);
    };
    let Some(description) = description(cp, service, &keys).await? else { return Ok(()) };
    let sha256 = description.content_sha256();
    if changed.described_sha256.as_deref() != Some(sha256.as_str()) {
        let record = ensure_key(cp, service, coverage_key.id, KeyPurpose::Coverage).await?;
        let key = cp.vault.unwrap(&record)?;
        let key = OwnedKey { key_id: record.id, owner: record.id.to_string(), key };
        let scope = ServiceScope { organization: service.organization_id, service: service.id };
        write_description(&cp.store, scope, &key, &description).await?;
    }
    Ok(cp.catalog.mark_described(service.id, changed.changes, Some(&sha256)).await?)
}

async fn description(
    cp: &ControlPlane,
    service: &Service,
    keys: &[KeyRecord],
) -> Result<Option<ServiceDescription>, StepError> {
    let organization = cp.catalog.organization(&service.organization_id.to_string()).await?;
    let Some(organization) = organization else { return Ok(None) };
    let mut backups = cp.catalog.backups_of(service.id).await?;
    backups.retain(|backup| backup.lineage_id == service.lineage_id);
    Ok(Some(ServiceDescription {
        format: DOCUMENT_FORMAT,
        written_at: Timestamp::now(),
        organization: DescribedOrganization {
            id: organization.id,
            name: organization.name,
            slug: organization.slug,
            is_personal: organization.is_personal,
            created_at: organization.created_at,
        },
        service: DescribedService::from(service),
        policy: cp.settings.policy,
        newest_manifest: newest_manifest(&backups),
        keys: used(cp, keys, &backups)
            .await?
            .iter()
            .map(|key| DescribedKey { id: key.id, purpose: key.purpose, created_at: key.created_at })
            .collect(),
        backups: backups
            .iter()
            .filter(|backup| backup.shredded_at.is_none())
            .map(DescribedBackup::from)
            .collect(),
    }))
}

/// Without the keys of backups that were given up before they sealed anything, perhaps before the store had their keys: who
/// reads the description later would miss them and call something lost.
async fn used<'a>(
    cp: &ControlPlane,
    keys: &'a [KeyRecord],
    backups: &[Backup],
) -> Result<Vec<&'a KeyRecord>, StepError> {
    let mut used = Vec::new();
    for key in keys {
        let is_given_up = match key.purpose {
            KeyPurpose::Backup => {
                let of_backup = backups.iter().find(|backup| backup.key_id == key.id);
                of_backup.is_some_and(|backup| backup.status == BackupStatus::Failed)
            }
            // The epoch that would have begun with a backup has its job's id.
            KeyPurpose::Epoch => {
                let job = cp.catalog.job(JobId(key.id.0)).await?;
                job.is_some_and(|job| matches!(job.state, JobState::Failed | JobState::Cancelled))
            }
            KeyPurpose::Repository | KeyPurpose::Coverage => false,
        };
        if !is_given_up {
            used.push(key);
        }
    }
    Ok(used)
}

/// The end of the chain, whether its backup is still there or left a tombstone.
fn newest_manifest(backups: &[Backup]) -> Option<NewestManifest> {
    let newest =
        backups.iter().filter(|backup| backup.facts.is_some()).max_by_key(|backup| backup.completed_at)?;
    let sha256 = newest.facts.as_ref()?.manifest_sha256.clone();
    Some(NewestManifest { backup: newest.id.clone(), sha256 })
}
