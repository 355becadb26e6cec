//! Database services.

use std::collections::BTreeMap;

use holdfast_core::engine::{self, EngineKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};
use uuid::Uuid;

use crate::job::Progress;

/// What stands in a log or on a terminal must not forge its surroundings: no control characters, none that turn the
/// reading direction.
const PLAIN_TEXT: &str = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$";

/// Asks for a new service. Required: `name`, `database_type`, `plan_name`. Fields that the server does not know are
/// ignored; null equals absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CreateService {
    /// Lower-case letters, digits and hyphens; unique among the living services of the organization.
    #[schema(required = true, nullable = false, pattern = "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    pub name: Option<String>,
    /// One of the kinds of `GET /database-versions`.
    #[schema(required = true, schema_with = engine_schema)]
    pub database_type: Option<String>,
    /// `tier-1` to `tier-16`, see `GET /plans`.
    #[schema(required = true, nullable = false, pattern = "^tier-([1-9]|1[0-6])$")]
    pub plan_name: Option<String>,
    /// See `GET /database-versions`; echoed exactly as given. Absent: the engine's default.
    #[schema(example = "17")]
    pub version: Option<String>,
    /// Default `se-sto1`.
    #[schema(pattern = "^[a-z]{2}-[a-z]{3}[0-9]$")]
    pub zone: Option<String>,
    /// Default 50.
    #[serde(deserialize_with = "crate::number::whole")]
    #[schema(minimum = 10, maximum = 16384)]
    pub storage_size_gb: Option<u32>,
    /// `maxiops` (default) or `standard`.
    #[schema(pattern = "^(maxiops|standard)$")]
    pub storage_tier: Option<String>,
    /// Default 1.
    #[serde(deserialize_with = "crate::number::whole")]
    #[schema(minimum = 1, maximum = 9)]
    pub node_count: Option<u32>,
    /// Default false.
    pub auto_failover_enabled: Option<bool>,
    /// `async` (default) or `sync`.
    #[schema(pattern = "^(async|sync)$")]
    pub replication_mode: Option<String>,
    /// Default true.
    pub encryption_enabled: Option<bool>,
    /// Networks that may connect, in CIDR notation; the order is kept. Empty: no restriction. A list that the engine cannot
    /// enforce is refused: MySQL knows networks of IPv4 only, MongoDB and Valkey everybody or (`127.0.0.0/8`) their own host alone.
    #[schema(schema_with = cidrs_schema)]
    pub allowed_cidrs: Option<Vec<String>>,
    /// `sun:03:00-sun:05:00`, UTC.
    #[schema(
        example = "sun:03:00-sun:05:00",
        pattern = "^(|(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9])$"
    )]
    pub maintenance_window: Option<String>,
    /// Stored and echoed; names are not empty, names and values hold no control characters.
    #[schema(schema_with = labels_schema)]
    pub labels: Option<BTreeMap<String, String>>,
    /// The id of a preset, see `GET /managed-services/presets`.
    pub preset: Option<String>,
    /// Default false.
    pub is_ephemeral: Option<bool>,
    /// The command line's spelling of `is_ephemeral`.
    pub ephemeral: Option<bool>,
    #[serde(deserialize_with = "crate::number::whole")]
    #[schema(minimum = 1, maximum = 720)]
    pub ttl_hours: Option<u32>,
    #[schema(max_length = 200)]
    pub agent_framework: Option<String>,
    #[schema(max_length = 200)]
    pub agent_purpose: Option<String>,
    #[schema(max_length = 200)]
    pub created_by_agent_id: Option<String>,
}

/// Changes a service. Absent and null leave a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PatchService {
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    pub name: Option<String>,
    #[schema(schema_with = cidrs_schema)]
    pub allowed_cidrs: Option<Vec<String>>,
    /// An empty text removes the window.
    #[schema(
        example = "sun:03:00-sun:05:00",
        pattern = "^(|(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9])$"
    )]
    pub maintenance_window: Option<String>,
    #[schema(pattern = "^tier-([1-9]|1[0-6])$")]
    pub plan_name: Option<String>,
    /// May only grow.
    #[serde(deserialize_with = "crate::number::whole")]
    #[schema(minimum = 10, maximum = 16384)]
    pub storage_size_gb: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    Pending,
    Provisioning,
    Running,
    /// Provisioning or a restore ended badly; `status_message` says why.
    Failed,
    Stopped,
    /// Was running, is unhealthy now.
    Error,
    Deleting,
}

/// Where the service is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsRecord {
    pub full_domain: String,
    pub record_type: String,
    pub value: String,
    pub port: u16,
}

/// Where a restored service comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredFrom {
    pub service_id: Uuid,
    pub backup_id: Option<String>,
    /// The instant asked for; once the restore is done, the instant reached.
    pub restore_point: Option<Timestamp>,
}

/// A database service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    pub id: Uuid,
    /// The same as `id`, for old clients.
    pub uuid: Uuid,
    pub organization_id: Uuid,
    pub name: String,
    pub database_type: String,
    /// As asked for.
    pub version: String,
    /// What really runs; null until provisioned.
    pub engine_version: Option<String>,
    pub status: ServiceStatus,
    /// Why the service is `failed` or in `error`; while it runs, what to look after: a disk that fills up, a change that
    /// did not work, a backup that could not be loaded, so that an older one was.
    pub status_message: Option<String>,
    pub plan_name: String,
    pub zone: String,
    pub storage_size_gb: u32,
    pub storage_tier: String,
    pub node_count: u32,
    pub auto_failover_enabled: bool,
    pub replication_mode: String,
    pub encryption_enabled: bool,
    pub allowed_cidrs: Vec<String>,
    pub maintenance_window: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub preset: Option<String>,
    pub is_ephemeral: bool,
    pub ttl_hours: Option<u32>,
    pub scheduled_deletion_at: Option<Timestamp>,
    pub agent_framework: Option<String>,
    pub agent_purpose: Option<String>,
    pub created_by_agent_id: Option<String>,
    /// Null until the service has been placed.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// Empty until the service has been placed.
    pub dns_records: Vec<DnsRecord>,
    pub restored_from: Option<RestoredFrom>,
    /// While work on the service is under way; null otherwise.
    pub progress: Option<Progress>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Complete unless paging was asked for; oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    pub services: Vec<Service>,
    pub total: u64,
    pub limit: u64,
    pub offset: u64,
}

/// The name of a kind of engine.
pub(crate) fn engine_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(format!("One of: {}. Case and `_` are ignored.", engine::names(", "))))
        .examples([EngineKind::ALL[0].as_str()])
        .build()
}

/// The name of a kind of engine, or nothing.
#[must_use]
pub fn engine_or_none_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(format!("^(|{})$", engine::names("|"))))
        .examples([EngineKind::ALL[0].as_str()])
        .build()
}

fn cidrs_schema() -> Array {
    let (octet, group) = ("(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])", "[0-9a-fA-F]{1,4}");
    let v4 = format!("{octet}([.]{octet}){{3}}/(3[0-2]|[12]?[0-9])");
    // Groups before a `::`, and the most that may come after it (RFC 4291, 2.2).
    let shortened = (1..=7).map(|before| {
        let after = 7 - before;
        format!("{group}(:{group}){{{}}}::({group}(:{group}){{0,{}}})?", before - 1, after.max(1) - 1)
    });
    let shortened = shortened.collect::<Vec<_>>().join("|");
    let whole = format!("{group}(:{group}){{7}}");
    let from_the_start = format!("::({group}(:{group}){{0,6}})?");
    let v6 = format!("({whole}|{shortened}|{from_the_start})/(12[0-8]|1[01][0-9]|[1-9]?[0-9])");
    let cidr = ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({v4}|{v6})$")));
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(cidr)
        .max_items(Some(256))
        .build()
}

fn labels_schema() -> Object {
    let text =
        || ObjectBuilder::new().schema_type(Type::String).max_length(Some(200)).pattern(Some(PLAIN_TEXT));
    let null_or_object = SchemaType::from_iter([Type::Object, Type::Null]);
    ObjectBuilder::new()
        .schema_type(null_or_object)
        .max_properties(Some(64))
        .property_names(Some(text().min_length(Some(1))))
        .additional_properties(Some(text()))
        .build()
}
