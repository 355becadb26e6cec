//! Backups of a service.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::job::Progress;

/// Asks for a backup on demand; `{}` asks for a full one that is kept until it is deleted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TriggerBackup {
    /// Absent, empty, `manual` or `full`: a full backup. `incremental`: where the engine's tool can. `pitr`: a full backup
    /// that also ships the current log, on engines with point-in-time recovery.
    #[schema(pattern = "^(|manual|full|incremental|pitr)$")]
    pub backup_type: Option<String>,
    #[schema(max_length = 200)]
    pub label: Option<String>,
    /// Absent: kept until deleted.
    #[serde(deserialize_with = "crate::number::whole")]
    #[schema(minimum = 1, maximum = 365)]
    pub retention_days: Option<u32>,
    /// Absent: the engine's usual method, which is the only one of each engine so far.
    pub backup_method: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    Automated,
    Manual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupStatus {
    Pending,
    Running,
    Completed,
    Failed,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    pub id: String,
    pub service_id: Uuid,
    pub backup_type: BackupType,
    pub status: BackupStatus,
    /// Bytes that this backup takes in the object store, sealed; null until completed.
    pub size_bytes: Option<u64>,
    /// The same as `size_bytes`.
    pub backup_size_bytes: Option<u64>,
    /// The same for people: `1.2 GiB`.
    pub size_label: Option<String>,
    pub label: Option<String>,
    /// Always true.
    pub encryption_enabled: bool,
    /// `AES-256-GCM`.
    pub encryption_algorithm: String,
    /// Names the key, never holds it.
    pub encryption_key_id: String,
    /// The engine's tool: `pgbackrest`, `mysqldump`, `clone`, `mongodump`, `rdb`, `kafka_full`, `snapshot`.
    pub backup_method: String,
    /// What the method that was asked for cannot hold, where it was made by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_method_reason: Option<String>,
    /// Whether it builds on an earlier backup.
    pub incremental: bool,
    /// Null: kept until deleted.
    pub retention_days: Option<u32>,
    pub expires_at: Option<Timestamp>,
    /// `<engine>/<service id>`.
    pub s3_path_prefix: String,
    pub error_message: Option<String>,
    /// While pending or running; null otherwise.
    pub progress: Option<Progress>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// Newest first, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackupList {
    pub backups: Vec<Backup>,
}

/// The backup that was asked for; it is pending, a job makes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TriggeredBackup {
    #[serde(flatten)]
    pub backup: Backup,
    /// The same as `id`.
    pub backup_id: String,
    /// The job, see `GET /jobs/{id}`.
    pub task_id: Uuid,
    pub message: String,
}
