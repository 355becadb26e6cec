//! What the platform offers and who the caller is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    pub id: Uuid,
    pub name: String,
    pub slug: String,
    pub is_personal: bool,
    /// The caller's role in it.
    pub role: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrganizationList {
    pub organizations: Vec<Organization>,
}

/// The caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub username: String,
    pub role: String,
    pub organizations: Vec<Organization>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    pub name: String,
    pub cpus: u32,
    pub memory_mib: u64,
    pub max_connections: u32,
}

/// Smallest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanList {
    pub plans: Vec<Plan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ZoneList {
    pub zones: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseVersion {
    pub database_type: String,
    pub version: String,
    pub default: bool,
}

/// What can be created now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseVersionList {
    pub versions: Vec<DatabaseVersion>,
}

/// A named set of values for new services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preset {
    pub id: String,
    pub name: String,
    pub display_name: String,
    pub description: String,
    pub database_type: String,
    pub default_version: String,
    pub default_plan: String,
    pub default_storage_gb: u32,
    pub default_storage_tier: String,
    pub config_template_id: Option<String>,
    pub is_ephemeral: bool,
    pub default_ttl_hours: Option<u32>,
    pub node_count: u32,
    pub replication_mode: String,
    pub extensions: Vec<String>,
    pub recommended_features: Vec<String>,
    pub tags: Vec<String>,
    pub agent_framework: Option<String>,
    pub agent_purpose: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PresetList {
    pub presets: Vec<Preset>,
}
