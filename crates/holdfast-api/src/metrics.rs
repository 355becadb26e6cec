//! Metrics of a service, in both layouts that clients read. What is not known, or older than half a minute, is null.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    pub service_id: Uuid,
    pub database_type: String,
    pub timestamp: Timestamp,
    pub cpu_usage_percent: Option<f64>,
    pub memory_usage_percent: Option<f64>,
    /// Of the volume that the service lies on, whoever fills it.
    pub disk_usage_percent: Option<f64>,
    pub connections_active: Option<i64>,
    pub connections_max: Option<i64>,
    pub replication_lag_ms: Option<f64>,
    pub queries_per_second: Option<f64>,
    /// Of `storage_total_bytes`, by this service's data and log.
    pub storage_usage_percent: Option<f64>,
    pub storage_used_bytes: Option<u64>,
    /// The service's `storage_size_gb`, or the volume where that is smaller.
    pub storage_total_bytes: Option<u64>,
    /// The same as `connections_active`.
    pub connections: Option<i64>,
    pub metrics: NestedMetrics,
    pub disk: Option<DiskMetrics>,
    pub pitr: PitrMetrics,
}

/// The disk that the service's data and log lie on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskMetrics {
    pub level: DiskLevel,
    /// What is filling up and what helps; null while all is fine.
    pub message: Option<String>,
    pub free_bytes: u64,
    /// All log on the disk.
    pub log_bytes: u64,
    /// What of it the object store does not have yet: it stays until then.
    pub waiting_log_bytes: u64,
    /// How much of the room that waiting log has is taken.
    pub log_usage_percent: f64,
    /// Until there is room again; reading and archiving go on.
    pub writes_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskLevel {
    Fine,
    /// 60 % of the volume, of the service's storage, or of the room for log.
    Filling,
    /// 80 %.
    NearlyFull,
    /// Only what is kept for cleaning up is left: writes are refused.
    Full,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NestedMetrics {
    pub cpu_usage_percent: Option<f64>,
    pub memory_usage_percent: Option<f64>,
    pub disk_usage_percent: Option<f64>,
    pub database_connections_active: Option<i64>,
    pub database_queries_per_second: Option<f64>,
    pub database_cache_hit_ratio: Option<f64>,
    pub database_replication_lag_seconds: Option<f64>,
}

/// Whether log archiving is active and what can be restored: the short form of `GET /managed-services/{id}/pitr`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PitrMetrics {
    pub enabled: bool,
    pub archiving_active: bool,
    pub earliest_restore_point: Option<Timestamp>,
    pub latest_restore_point: Option<Timestamp>,
    pub archive_lag_seconds: Option<f64>,
    pub last_error: Option<String>,
}
