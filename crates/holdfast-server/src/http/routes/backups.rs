//! Backups and restores.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use holdfast_api::backup::{Backup, BackupList, TriggerBackup, TriggeredBackup};
use holdfast_api::restore::{RestoreFromBackup, RestoreToPoint, StartedRestore};
use holdfast_core::{BackupId, ServiceId};

use crate::ControlPlane;
use crate::app;
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::extract::{Body, PathId, PathIds};
use crate::http::openapi::{Conflicting, Guarded, Missing, WithBody};

/// The backups, newest first. A deleted service answers until its last one is gone.
#[utoipa::path(get, operation_id = "list_backups", path = "/managed-services/{id}/backups", tag = "backups", params(("id" = Uuid, Path)),
    responses((status = 200, body = BackupList), Guarded, Missing))]
pub(crate) async fn list(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<BackupList>, ApiError> {
    let backups = app::backups::list(&cp, id).await?.into_iter().map(convert::backup).collect();
    Ok(Json(BackupList { backups }))
}

/// Asks for a backup now.
#[utoipa::path(post, operation_id = "trigger_backup", path = "/managed-services/{id}/backups", tag = "backups", params(("id" = Uuid, Path)),
    request_body = Option<TriggerBackup>,
    responses((status = 202, body = TriggeredBackup), Guarded, WithBody, Missing, Conflicting))]
pub(crate) async fn trigger(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
    Body(asked): Body<TriggerBackup>,
) -> Result<(StatusCode, Json<TriggeredBackup>), ApiError> {
    let triggered = app::backups::trigger(&cp, id, asked).await?;
    Ok((StatusCode::ACCEPTED, Json(convert::triggered(triggered))))
}

/// One backup.
#[utoipa::path(get, operation_id = "get_backup", path = "/managed-services/{id}/backups/{backup_id}", tag = "backups",
    params(("id" = Uuid, Path), ("backup_id" = String, Path)),
    responses((status = 200, body = Backup), Guarded, Missing))]
pub(crate) async fn get(
    State(cp): State<ControlPlane>,
    PathIds(id, backup): PathIds<BackupId>,
) -> Result<Json<Backup>, ApiError> {
    Ok(Json(convert::backup(app::backups::get(&cp, id, &backup).await?)))
}

/// Deletes a manual backup.
#[utoipa::path(delete, operation_id = "delete_backup", path = "/managed-services/{id}/backups/{backup_id}", tag = "backups",
    params(("id" = Uuid, Path), ("backup_id" = String, Path)),
    responses((status = 204, description = "gone"), Guarded, Missing, Conflicting))]
pub(crate) async fn delete(
    State(cp): State<ControlPlane>,
    PathIds(id, backup): PathIds<BackupId>,
) -> Result<StatusCode, ApiError> {
    app::backups::delete(&cp, id, &backup).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Restores the state of an instant into a new service.
#[utoipa::path(post, operation_id = "restore_to_point", path = "/managed-services/{id}/backups/restore", tag = "backups", params(("id" = Uuid, Path)),
    request_body = RestoreToPoint,
    responses((status = 202, body = StartedRestore), Guarded, WithBody, Missing, Conflicting))]
pub(crate) async fn restore_to_point(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
    Body(asked): Body<RestoreToPoint>,
) -> Result<(StatusCode, Json<StartedRestore>), ApiError> {
    let started = app::restore::to_point(&cp, id, asked).await?;
    Ok((StatusCode::ACCEPTED, Json(convert::started(started))))
}

/// Restores a backup into a new service.
#[utoipa::path(post, operation_id = "restore_from_backup", path = "/managed-services/{id}/backups/{backup_id}/restore", tag = "backups",
    params(("id" = Uuid, Path), ("backup_id" = String, Path)), request_body = RestoreFromBackup,
    responses((status = 202, body = StartedRestore), Guarded, WithBody, Missing, Conflicting))]
pub(crate) async fn restore_from_backup(
    State(cp): State<ControlPlane>,
    PathIds(id, backup): PathIds<BackupId>,
    Body(asked): Body<RestoreFromBackup>,
) -> Result<(StatusCode, Json<StartedRestore>), ApiError> {
    let started = app::restore::from_backup(&cp, id, &backup, asked).await?;
    Ok((StatusCode::ACCEPTED, Json(convert::started(started))))
}
