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
    /// Of the volume, by this service's data.
    pub storage_usage_percent: Option<f64>,
    pub storage_used_bytes: Option<u64>,
    pub storage_total_bytes: Option<u64>,
    /// The same as `connections_active`.
    pub connections: Option<i64>,
    pub metrics: NestedMetrics,
    pub pitr: PitrMetrics,
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
