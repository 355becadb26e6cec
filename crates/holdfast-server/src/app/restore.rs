//! Restores: always into a new service; the source is only read.

use holdfast_api::restore::{RestoreFromBackup, RestoreToPoint};
use holdfast_catalog::NewJob;
use holdfast_core::job::JobKind;
use holdfast_core::name::{check_plan, check_service_name, check_zone};
use holdfast_core::service::{Attributes, RestoredFrom, Service, ServiceStatus};
use holdfast_core::window::{
    RecoveryWindow, RestoreRefusal, plan_backup_restore, plan_restore_point, recovery_window,
};
use holdfast_core::{BackupId, JobId, LineageId, ServiceId, Timestamp};

use super::pitr::{Known, live_until};
use super::services::ServiceView;
use super::{AppError, backups, check, jobs, now, present, room, services};
use crate::ControlPlane;
use crate::jobs::input;

/// The new service on its way up, and the job that brings it there.
#[derive(Debug, Clone)]
pub struct Started {
    pub view: ServiceView,
    pub source: ServiceId,
    pub backup_id: Option<BackupId>,
    pub restore_point: Option<Timestamp>,
    pub job: JobId,
}

/// What is asked of the new service; absent: as the source.
struct Target<'a> {
    name: &'a str,
    plan_name: Option<String>,
    zone: Option<String>,
}

/// Restores the state of an instant: what was acknowledged at or before it, and nothing sent after it.
///
/// # Errors
/// `Invalid` for anything outside the recovery window, with the window and the nearest points in the text; `NotFound`;
/// `Conflict` when the name is taken.
pub async fn to_point(
    cp: &ControlPlane,
    source: ServiceId,
    asked: RestoreToPoint,
) -> Result<Started, AppError> {
    let source = services::with_backups(cp, source).await?;
    let engine = source.engine;
    if !engine.capability().point_in_time {
        let text =
            format!("{engine} has no point-in-time recovery; restore one of the service's backups instead");
        return Err(AppError::Invalid(text));
    }
    let target = target(asked.target_service_name.as_ref(), asked.plan_name, asked.zone)?;
    let now = now();
    let known = Known::of(cp, &source).await?;
    let history = known.history(live_until(&source, now));
    let (policy, present) = (&cp.settings.policy, present(cp).await?);
    let window = || window_text(&recovery_window(&history, policy, present));
    let text = check::required("restore_point", asked.restore_point.as_ref())
        .map_err(|error| AppError::Invalid(format!("{error}; {}", window())))?;
    let point = check::rfc3339(text).ok_or_else(|| {
        let example = "like 2026-03-15T14:30:00Z";
        AppError::Invalid(format!(
            "restore_point {text:?} is no RFC 3339 time with an offset, {example}; {}",
            window()
        ))
    })?;
    plan_restore_point(&history, policy, point, present).map_err(|refusal| {
        use RestoreRefusal::{BeforeWindow, BeyondArchive, Future, InGap};
        let names_window = matches!(
            refusal,
            BeforeWindow { .. } | InGap { .. } | BeyondArchive { .. } | Future { window: Some(_), .. }
        );
        if names_window {
            AppError::Invalid(refusal.to_string())
        } else {
            AppError::Invalid(format!("{refusal}; {}", window()))
        }
    })?;
    start(cp, &source, target, None, Some(point), now).await
}

/// Restores a backup at its own consistent point.
///
/// # Errors
/// `Invalid`; `NotFound`; `Conflict` when the backup is not completed, or the name is taken.
pub async fn from_backup(
    cp: &ControlPlane,
    source: ServiceId,
    backup: &BackupId,
    asked: RestoreFromBackup,
) -> Result<Started, AppError> {
    let source = services::with_backups(cp, source).await?;
    backups::listed(cp, &source, backup).await?;
    let target = target(asked.target_service_name.as_ref(), asked.plan_name, asked.zone)?;
    let now = now();
    let known = Known::of(cp, &source).await?;
    plan_backup_restore(&known.history(None), backup).map_err(|refusal| match refusal {
        RestoreRefusal::UnknownBackup { .. } => AppError::NotFound("backup"),
        other => AppError::Conflict(other.to_string()),
    })?;
    start(cp, &source, target, Some(backup.clone()), None, now).await
}

fn target(
    name: Option<&String>,
    plan_name: Option<String>,
    zone: Option<String>,
) -> Result<Target<'_>, AppError> {
    let name = check::required("target_service_name", name)?;
    check_service_name("target_service_name", name)?;
    let given = |value: Option<String>| value.filter(|text| !text.is_empty());
    let target = Target { name, plan_name: given(plan_name), zone: given(zone) };
    target.plan_name.as_deref().map_or(Ok(()), check_plan)?;
    target.zone.as_deref().map_or(Ok(()), check_zone)?;
    Ok(target)
}

/// The row of the new service and the restore's job, both or none.
async fn start(
    cp: &ControlPlane,
    source: &Service,
    target: Target<'_>,
    backup_id: Option<BackupId>,
    point: Option<Timestamp>,
    now: Timestamp,
) -> Result<Started, AppError> {
    room::require(cp)?;
    let restored_from =
        RestoredFrom { service_id: source.id, backup_id: backup_id.clone(), restore_point: point };
    let service = Service {
        id: ServiceId::random(),
        organization_id: source.organization_id,
        lineage_id: LineageId::random(),
        name: target.name.to_owned(),
        engine: source.engine,
        version: source.version.clone(),
        engine_version: None,
        status: ServiceStatus::Pending,
        status_message: None,
        plan_name: target.plan_name.unwrap_or_else(|| source.plan_name.clone()),
        zone: target.zone.unwrap_or_else(|| source.zone.clone()),
        allowed_cidrs: source.allowed_cidrs.clone(),
        attributes: inherited(&source.attributes),
        restored_from: Some(restored_from),
        host: None,
        port: None,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    let input = input::Restore { source: source.id, point, backup_id: backup_id.clone() };
    let job = NewJob::new(JobKind::Restore, service.id, jobs::written(&input), now);
    cp.catalog.create_service(&service, &job, None).await?;
    let view = services::shown(cp, service).await?;
    Ok(Started { view, source: source.id, backup_id, restore_point: point, job: job.id })
}

/// What describes the data stays; what describes the source as a thing of its own (labels, lifetime, window) does not.
fn inherited(source: &Attributes) -> Attributes {
    Attributes {
        storage_size_gb: source.storage_size_gb,
        storage_tier: source.storage_tier.clone(),
        node_count: 1,
        auto_failover_enabled: false,
        replication_mode: source.replication_mode.clone(),
        encryption_enabled: source.encryption_enabled,
        ..Attributes::default()
    }
}

fn window_text(window: &RecoveryWindow) -> String {
    match window.span() {
        Some(span) => format!("the recovery window is {span}"),
        None => "the recovery window is empty: no backup has been completed and joined by log yet".to_owned(),
    }
}
