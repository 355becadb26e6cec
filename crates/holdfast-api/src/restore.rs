//! Restores, always into a new service, and the window in which they are possible.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::service::Service;

/// Restores the state of an instant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RestoreToPoint {
    /// RFC 3339 with any offset and fraction; must lie in the recovery window, see `GET /managed-services/{id}/pitr`.
    #[schema(required = true, nullable = false, format = DateTime)]
    pub restore_point: Option<String>,
    /// The new service's name.
    #[schema(required = true, nullable = false, pattern = "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    pub target_service_name: Option<String>,
    /// Default: the source's.
    #[schema(pattern = "^tier-([1-9]|1[0-6])$")]
    pub plan_name: Option<String>,
    /// Default: the source's.
    #[schema(pattern = "^[a-z]{2}-[a-z]{3}[0-9]$")]
    pub zone: Option<String>,
}

/// Restores a backup as it was when it was taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RestoreFromBackup {
    /// The new service's name.
    #[schema(required = true, nullable = false, pattern = "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    pub target_service_name: Option<String>,
    /// Default: the source's.
    #[schema(pattern = "^tier-([1-9]|1[0-6])$")]
    pub plan_name: Option<String>,
    /// Default: the source's.
    #[schema(pattern = "^[a-z]{2}-[a-z]{3}[0-9]$")]
    pub zone: Option<String>,
}

/// The new service, on its way up. The source stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StartedRestore {
    #[serde(flatten)]
    pub service: Service,
    /// The same as `id`.
    pub service_id: Uuid,
    /// The same as `id`.
    pub restored_service_id: Uuid,
    pub source_service_id: Uuid,
    pub backup_id: Option<String>,
    pub restore_point: Option<Timestamp>,
    /// The job, see `GET /jobs/{id}`.
    pub task_id: Uuid,
    pub message: String,
}

/// A stretch of reachable restore points, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PitrWindow {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// A hole in the log archive: commits between the two instants cannot be restored one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PitrGap {
    pub from: Timestamp,
    pub to: Timestamp,
    pub cause: String,
    pub acknowledged: bool,
}

/// The state of point-in-time recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pitr {
    /// The engine can do it at all.
    pub enabled: bool,
    /// The archive was heard of within the last half minute, reports no error and keeps up.
    pub archiving_active: bool,
    pub earliest_restore_point: Option<Timestamp>,
    /// The latest instant proven to be in the object store. While the service runs, any instant up to now may be asked for:
    /// the log is shipped first.
    pub latest_restore_point: Option<Timestamp>,
    /// Age of the oldest commit that the store does not have yet.
    pub archive_lag_seconds: Option<f64>,
    pub archive_lag_bytes: Option<u64>,
    /// Why the archive is behind: what the object store, or else the engine's archiver, failed at; null when all is well.
    pub last_error: Option<String>,
    pub windows: Vec<PitrWindow>,
    pub gaps: Vec<PitrGap>,
}
