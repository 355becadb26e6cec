//! What a service is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::EngineKind;
use crate::id::{BackupId, LineageId, OrganizationId, ServiceId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    Pending,
    Provisioning,
    Running,
    /// Provisioning or a restore ended badly.
    Failed,
    Stopped,
    /// Was running, is unhealthy now.
    Error,
    Deleting,
    /// Gone for its users; its backups may still be restorable.
    Deleted,
}

/// A service as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    pub organization_id: OrganizationId,
    pub lineage_id: LineageId,
    pub name: String,
    pub engine: EngineKind,
    /// As asked for; echoed unchanged.
    pub version: String,
    /// What really runs; known once provisioned.
    pub engine_version: Option<String>,
    pub status: ServiceStatus,
    pub status_message: Option<String>,
    pub plan_name: String,
    pub zone: String,
    /// In the order that the user gave; empty means no restriction.
    pub allowed_cidrs: Vec<String>,
    /// The fields that Holdfast only stores and echoes.
    pub attributes: Attributes,
    pub restored_from: Option<RestoredFrom>,
    /// Where clients connect; known once the instance has been placed.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// Stored and echoed, acted on by later capabilities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    pub storage_size_gb: u32,
    pub storage_tier: String,
    pub node_count: u32,
    pub auto_failover_enabled: bool,
    pub replication_mode: String,
    pub encryption_enabled: bool,
    pub maintenance_window: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub preset: Option<String>,
    pub is_ephemeral: bool,
    pub ttl_hours: Option<u32>,
    pub agent_framework: Option<String>,
    pub agent_purpose: Option<String>,
    pub created_by_agent_id: Option<String>,
}

/// The lineage of a restored service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredFrom {
    pub service_id: ServiceId,
    pub backup_id: Option<BackupId>,
    /// The instant asked for, then the instant reached.
    pub restore_point: Option<Timestamp>,
}
