//! The key-encryption keys (KEKs): what they wrap, and their rotation on command.

use std::collections::BTreeSet;

use holdfast_catalog::{ErrorKind, JobFilter, KekRecord, KekUse};
use holdfast_core::Timestamp;
use holdfast_core::job::JobKind;
use holdfast_core::rotation::next_at;

use super::jobs::{JobView, get, view};
use super::{AppError, now};
use crate::ControlPlane;
use crate::jobs::rotation;

#[derive(Debug, Clone)]
pub struct KekView {
    pub version: u32,
    /// What the catalog knows of it.
    pub record: Option<KekRecord>,
    /// Whether the vault has it.
    pub is_here: bool,
    pub used: KekUse,
}

#[derive(Debug, Clone)]
pub struct KeysView {
    pub current_version: u32,
    pub rotate_after_days: Option<u32>,
    pub next_rotation_at: Option<Timestamp>,
    /// The newest rotation.
    pub rotation: Option<JobView>,
    /// Newest first.
    pub versions: Vec<KekView>,
}

/// # Errors
/// The catalog failed.
pub async fn status(cp: &ControlPlane) -> Result<KeysView, AppError> {
    let (records, uses) = (cp.catalog.keks().await?, cp.catalog.kek_uses().await?);
    let (here, current_version) = (cp.vault.kek_versions(), cp.vault.current_kek_version());
    let all: BTreeSet<u32> = (records.iter().map(|record| record.version))
        .chain(uses.keys().copied())
        .chain(here.iter().copied())
        .collect();
    let versions: Vec<KekView> = (all.into_iter().rev())
        .map(|version| KekView {
            version,
            record: records.iter().find(|record| record.version == version).cloned(),
            is_here: here.contains(&version),
            used: uses.get(&version).copied().unwrap_or_default(),
        })
        .collect();
    let current = records.iter().find(|record| record.version == current_version);
    let days = cp.settings.kek_rotation_days;
    Ok(KeysView {
        current_version,
        rotate_after_days: (days > 0).then_some(days),
        next_rotation_at: current.and_then(|kek| next_at(kek.created_at, cp.settings.kek_rotation())),
        rotation: newest_rotation(cp).await?,
        versions,
    })
}

/// Asks for a new KEK and for everything to be wrapped by it.
///
/// # Errors
/// `Conflict` while a rotation is under way.
pub async fn rotate(cp: &ControlPlane) -> Result<JobView, AppError> {
    let job = rotation::new_job(cp, true, now());
    match cp.catalog.enqueue(&job).await {
        Ok(()) => get(cp, job.id).await,
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let under_way = newest_rotation(cp).await?.map(|view| view.job.id.to_string());
            let text = format!("a rotation is under way: job {}", under_way.unwrap_or_default());
            Err(AppError::Conflict(text))
        }
        Err(error) => Err(error.into()),
    }
}

async fn newest_rotation(cp: &ControlPlane) -> Result<Option<JobView>, AppError> {
    let filter = JobFilter { kind: Some(JobKind::RotateKeys), ..JobFilter::default() };
    cp.catalog.jobs(1, &filter).await?.pop().map(view).transpose()
}
