//! Backups on demand, and the list of all.

use holdfast_api::backup::TriggerBackup;
use holdfast_catalog::{NewJob, OnDemandRule};
use holdfast_core::backup::{Backup, BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::{Job, JobKind, JobState, Progress};
use holdfast_core::retention::{Now, can_delete_by_hand, expires_at};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{BackupId, JobId, KeyId, ServiceId, Timestamp};

use super::{AppError, check, jobs, now, present, room, services};
use crate::ControlPlane;
use crate::jobs::input;

const RETENTION_DAYS: (u32, u32) = (1, 365);

/// A backup and what answers say beside it.
#[derive(Debug, Clone)]
pub struct BackupView {
    pub backup: Backup,
    pub engine: EngineKind,
    pub expires_at: Option<Timestamp>,
    /// While it is pending or running.
    pub progress: Option<Progress>,
}

/// A backup that was asked for and the job that makes it.
#[derive(Debug, Clone)]
pub struct Triggered {
    pub view: BackupView,
    pub job: JobId,
}

/// Asks for a backup now: its row, `pending`, and its job. Listed as manual and kept until deleted, unless days are given.
///
/// # Errors
/// `Invalid`; `NotFound`; `Conflict` unless the service runs, or while another backup on demand of it is under way. An
/// automated one under way refuses nothing: the job queues behind it.
pub async fn trigger(
    cp: &ControlPlane,
    service: ServiceId,
    asked: TriggerBackup,
) -> Result<Triggered, AppError> {
    room::require(cp)?;
    let service = services::living(cp, service).await?;
    let mode = mode(service.engine, asked.backup_type.as_deref().unwrap_or_default())?;
    let method = method(service.engine, asked.backup_method.as_deref().unwrap_or_default())?;
    if mode == BackupMode::Incremental && method.is_some() {
        return Err(AppError::invalid(
            "backup_method: an incremental backup is made as the full one before it was",
        ));
    }
    let label = check::optional_text("label", asked.label)?;
    let days = |days| check::within("retention_days", days, RETENTION_DAYS.0, RETENTION_DAYS.1);
    let retention_days = asked.retention_days.map(days).transpose()?;
    if service.status != ServiceStatus::Running {
        let is = services::word(service.status);
        return Err(AppError::Conflict(format!("the service is {is}; only a running one can be backed up")));
    }
    let now = now();
    let backup = Backup {
        id: BackupId::random(),
        service_id: service.id,
        lineage_id: service.lineage_id,
        backup_type: BackupType::Manual,
        mode,
        method,
        status: BackupStatus::Pending,
        label,
        retention_days,
        key_id: KeyId::random(),
        created_at: now,
        started_at: None,
        completed_at: None,
        error: None,
        facts: None,
        delisted_at: None,
        shredded_at: None,
        removed_at: None,
    };
    let asked = jobs::written(&input::Backup { backup_id: backup.id.clone() });
    let job = NewJob::new(JobKind::Backup, service.id, asked, now);
    cp.catalog.create_backup(&backup, &job, OnDemandRule::OneAtATime).await.map_err(|error| match error {
        holdfast_catalog::CatalogError::Conflict { id, .. } => AppError::Conflict(format!(
            "backup {id}, asked for before, is still under way; wait for it to end"
        )),
        other => other.into(),
    })?;
    let open = cp.catalog.open_jobs_of(service.id).await?;
    Ok(Triggered { view: view(cp, &service, &open, backup), job: job.id })
}

/// What is listed, newest first.
///
/// # Errors
/// `NotFound`; a deleted service answers while it has a listed backup.
pub async fn list(cp: &ControlPlane, service: ServiceId) -> Result<Vec<BackupView>, AppError> {
    let service = services::with_backups(cp, service).await?;
    let open = cp.catalog.open_jobs_of(service.id).await?;
    let backups = cp.catalog.backups_of(service.id).await?;
    let now = present(cp).await?;
    let listed = backups.into_iter().filter(|backup| is_shown(cp, backup, now));
    Ok(listed.map(|backup| view(cp, &service, &open, backup)).collect())
}

/// # Errors
/// `NotFound`, also for another service's backup, and once it has been deleted or has expired.
pub async fn get(cp: &ControlPlane, service: ServiceId, id: &BackupId) -> Result<BackupView, AppError> {
    let service = services::with_backups(cp, service).await?;
    let backup = listed(cp, &service, id).await?;
    let open = cp.catalog.open_jobs_of(service.id).await?;
    Ok(view(cp, &service, &open, backup))
}

/// Takes a manual backup off the list. Its key and objects go by a job, once no restore point needs them.
///
/// # Errors
/// `NotFound`; `Conflict` when it is automated, not finished, or a restore is reading it.
pub async fn delete(cp: &ControlPlane, service: ServiceId, id: &BackupId) -> Result<(), AppError> {
    let service = services::with_backups(cp, service).await?;
    let backup = listed(cp, &service, id).await?;
    can_delete_by_hand(&backup).map_err(|refusal| AppError::Conflict(refusal.to_string()))?;
    if let Some(target) = jobs::reading(cp, id).await? {
        let text =
            format!("backup {id} is being restored into service {target}; delete it when that has ended");
        return Err(AppError::Conflict(text));
    }
    let now = now();
    cp.catalog
        .update_backup(id, |backup| {
            backup.delisted_at.get_or_insert(now);
        })
        .await?;
    // Should we die here, the periodic expiry finds the delisted backup as well: this job only makes it prompt.
    // One that waits between its steps has chosen already what goes.
    let waiting =
        |job: &Job| job.kind == JobKind::Expire && job.state == JobState::Queued && job.step_index == 0;
    if !cp.catalog.open_jobs_of(service.id).await?.iter().any(waiting) {
        let job = NewJob::new(JobKind::Expire, service.id, jobs::written(&input::Nothing {}), now);
        cp.catalog.enqueue(&job).await?;
    }
    Ok(())
}

/// Whether a service has a backup on its list.
pub(super) async fn any_listed(cp: &ControlPlane, service: ServiceId) -> Result<bool, AppError> {
    let now = present(cp).await?;
    Ok(cp.catalog.backups_of(service).await?.iter().any(|backup| is_shown(cp, backup, now)))
}

/// The service's listed backup of that id.
pub(super) async fn listed(cp: &ControlPlane, service: &Service, id: &BackupId) -> Result<Backup, AppError> {
    let now = present(cp).await?;
    let found = cp.catalog.backup(id).await?;
    found
        .filter(|backup| backup.service_id == service.id && is_shown(cp, backup, now))
        .ok_or(AppError::NotFound("backup"))
}

/// Listed and not expired: the expiry job may not have come to it yet.
fn is_shown(cp: &ControlPlane, backup: &Backup, now: Now) -> bool {
    backup.is_listed() && expires_at(backup, &cp.settings.policy).is_none_or(|end| now.aged < end)
}

fn view(cp: &ControlPlane, service: &Service, open: &[Job], backup: Backup) -> BackupView {
    let is_open = matches!(backup.status, BackupStatus::Pending | BackupStatus::Running);
    BackupView {
        engine: service.engine,
        expires_at: expires_at(&backup, &cp.settings.policy),
        progress: jobs::of_backup(open, &backup.id).filter(|_| is_open),
        backup,
    }
}

/// The words of contract section 4.
fn mode(engine: EngineKind, word: &str) -> Result<BackupMode, AppError> {
    let capability = engine.capability();
    match word {
        "" | "manual" | "full" => Ok(BackupMode::Full),
        "incremental" if capability.incremental => Ok(BackupMode::Incremental),
        "incremental" => {
            Err(AppError::Invalid(format!("backup_type incremental: {engine} has no incremental backups")))
        }
        // A full backup closes and ships the log that it needs.
        "pitr" if capability.point_in_time => Ok(BackupMode::Full),
        "pitr" => Err(AppError::Invalid(format!("backup_type pitr: {engine} has no point-in-time recovery"))),
        "automated" => {
            Err(AppError::invalid("backup_type automated: only the scheduler makes automated backups"))
        }
        other => {
            let known = "manual, full, incremental, pitr";
            Err(AppError::Invalid(format!("unknown backup_type {other:?}; known: {known}")))
        }
    }
}

/// `None` is the engine's usual method, by its own word or none.
fn method(engine: EngineKind, word: &str) -> Result<Option<String>, AppError> {
    let methods = engine.capability().backup_methods;
    if word.is_empty() || methods.first() == Some(&word) {
        Ok(None)
    } else if methods.contains(&word) {
        Ok(Some(word.to_owned()))
    } else {
        let known = methods.join(" or ");
        Err(AppError::Invalid(format!("backup_method {word:?}: backups of {engine} are made with {known}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_request_mean_what_the_contract_says() {
        use BackupMode::{Full, Incremental};
        use EngineKind::{Kafka, Mysql, Postgresql};
        for (engine, word, expected) in [
            (Postgresql, "", Some(Full)),
            (Postgresql, "manual", Some(Full)),
            (Postgresql, "full", Some(Full)),
            (Postgresql, "incremental", Some(Incremental)),
            (Postgresql, "pitr", Some(Full)),
            (Postgresql, "automated", None),
            (Postgresql, "MANUAL", None),
            (Mysql, "incremental", None),
            (Mysql, "pitr", Some(Full)),
            (Kafka, "pitr", None),
        ] {
            assert_eq!(mode(engine, word).ok(), expected, "{engine} {word:?}");
        }
    }

    #[test]
    fn only_methods_of_the_engine_are_taken_and_the_usual_one_needs_no_word() {
        use EngineKind::{Mysql, Postgresql};
        for (engine, word, expected) in [
            (Postgresql, "", Some(None)),
            (Postgresql, "pgbackrest", Some(None)),
            (Postgresql, "clone", None),
            (Mysql, "mysqldump", Some(None)),
            (Mysql, "clone", Some(Some("clone"))),
            (Mysql, "pgbackrest", None),
        ] {
            let answer = method(engine, word).ok();
            assert_eq!(answer.as_ref().map(Option::as_deref), expected, "{engine} {word:?}");
        }
    }
}
