//! What an agent and the control plane say to each other.
//!
//! The agent only ever connects outwards. It asks for a step to do (`POST /agent/v1/lease`, a long poll), tells how far
//! it is (`/agent/v1/jobs/{id}/progress`), how it ended (`/agent/v1/jobs/{id}/result`), reports every second what its
//! instances do (`/agent/v1/report`), and tells at once how far the store's log reaches (`/agent/v1/coverage`). Every message
//! that changes a job carries the lease's generation; one with an older generation is answered 409 and changes nothing
//! (fencing).
//!
//! Messages carry data keys and passwords: they travel over loopback or TLS only, and are never logged.

use std::fmt;

use holdfast_core::backup::{BackupFacts, BackupMode};
use holdfast_core::disk::{Level, Usage};
use holdfast_core::engine::EngineKind;
use holdfast_core::id::{AgentId, BackupId, JobId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_core::job::{JobError, JobKind, Phase, Progress, Step};
use holdfast_core::key::KeyPurpose;
use holdfast_core::position::{Coverage, Gap, Position};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A secret on its way between control plane and agent; its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A data key in the clear, 64 hex digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyGrant {
    pub id: KeyId,
    pub purpose: KeyPurpose,
    /// What stands as `owner` in the context of the objects it seals: the backup's id, or the key's own.
    pub owner: String,
    pub key_hex: Secret,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseRequest {
    pub agent_id: AgentId,
    /// How long the control plane may hold the answer back when there is nothing to do.
    pub wait_ms: u64,
    /// The agent has just started: nobody works any more on what an earlier life of it held.
    #[serde(default)]
    pub fresh: bool,
}

/// A step to do, with everything it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeasedStep {
    pub job_id: JobId,
    pub kind: JobKind,
    pub generation: i64,
    pub step_index: u32,
    pub step: Step,
    /// The service that the step acts on (shipping the log: the source).
    pub service_id: ServiceId,
    pub input: StepInput,
}

/// What each agent step needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepInput {
    CreateInstance(Box<CreateInstance>),
    RunBackup(RunBackup),
    ShipLog(ShipLog),
    RestoreInstance(Box<RestoreInstance>),
    ApplySettings(ApplySettings),
    StopInstance,
    StartInstance,
    SetPassword(SetPassword),
    RemoveInstance,
    RemoveExpired(Box<RemoveExpired>),
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub service_id: ServiceId,
    pub organization_id: OrganizationId,
    pub lineage_id: LineageId,
    pub name: String,
    pub engine: EngineKind,
    pub version: String,
    pub memory_mib: u64,
    pub max_connections: u32,
    pub allowed_cidrs: Vec<String>,
    /// What the service may take of the disk, data and log; 0: not watched.
    #[serde(default)]
    pub storage_bytes: u64,
}

/// A database user to make, with its first password.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewUser {
    pub username: String,
    pub role: String,
    pub password: Secret,
}

/// The keys and secrets of one lineage's repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryGrant {
    pub organization_id: OrganizationId,
    pub service_id: ServiceId,
    pub lineage_id: LineageId,
    /// pgBackRest's own cipher passphrase.
    pub cipher_passphrase: Secret,
    /// All keys that the step may need: the repository's, epochs', backups'.
    pub keys: Vec<KeyGrant>,
    /// The key that seals log from now on; `None` where the repository is only read.
    pub active_epoch: Option<KeyId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateInstance {
    pub instance: InstanceSpec,
    pub users: Vec<NewUser>,
    pub repository: RepositoryGrant,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunBackup {
    pub backup_id: BackupId,
    pub mode: BackupMode,
    /// One of the engine's backup methods.
    #[serde(default)]
    pub method: String,
    /// The backup's own key, and the next epoch's: log is sealed with it once the backup is complete.
    pub backup_key: KeyGrant,
    pub next_epoch_key: KeyGrant,
    /// Hash of the newest manifest of the lineage, so that the chain shows a missing one.
    pub previous_manifest_sha256: Option<String>,
    /// What the newest backup of this mode and method took in the store; `None` when there is none.
    #[serde(default)]
    pub expected_bytes: Option<u64>,
    /// Completed backups by the tool's label, oldest first: to name an incremental's parent, and to share what has not changed since
    /// the newest.
    pub known_labels: Vec<(String, BackupId)>,
    /// Backups that failed for good: what one of them stored all the same goes, its manifest first.
    #[serde(default)]
    pub failed: Vec<BackupId>,
    /// Keys of the lineage's other backups: an incremental reads its parents' manifests.
    pub parent_keys: Vec<KeyGrant>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShipLog {
    /// Ship until every commit acknowledged at or before this instant lies in the store.
    pub until: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreInstance {
    pub instance: InstanceSpec,
    pub users: Vec<NewUser>,
    /// The new lineage's own repository.
    pub repository: RepositoryGrant,
    /// The source's, opened read-only.
    pub source: RepositoryGrant,
    /// The tool's label of the base backup.
    pub base_label: String,
    /// From where in the log the base is consistent; `None` where the engine has no log.
    pub base_stop: Option<Position>,
    pub database_bytes: u64,
    /// Log between the base backup and the target: the new instance holds it too for a while.
    #[serde(default)]
    pub log_bytes: u64,
    /// `None`: the base backup's own consistent point.
    pub target: Option<RestoreTarget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreTarget {
    pub point: Timestamp,
    /// Replay must have come at least this far unless it met a commit later than `point` before; reaching less is a
    /// failure, never a silent promotion (R16, engines' notes on holes).
    pub covered_to: Position,
    pub timeline: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplySettings {
    pub instance: InstanceSpec,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetPassword {
    pub username: String,
    pub password: Secret,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveExpired {
    pub engine: EngineKind,
    pub repository: RepositoryGrant,
    /// Backups to remove: id, the tool's label if it got one, key.
    pub backups: Vec<ExpiredBackup>,
    /// Log that lies wholly before one of these positions, on its timeline, goes.
    pub remove_log_before: Vec<Position>,
    /// Keys whose wrapped copies in the store are destroyed.
    pub destroy_keys: Vec<KeyId>,
    /// Nothing of the lineage is needed any more: all its objects go.
    pub whole_lineage: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpiredBackup {
    pub backup_id: BackupId,
    pub tool_label: Option<String>,
    pub manifest_sha256: Option<String>,
    pub previous_manifest_sha256: Option<String>,
    pub key_id: KeyId,
    /// For the tombstone: `expired`, `deleted by its owner`.
    pub reason: String,
}

/// What each agent step found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepOutput {
    CreateInstance(InstanceFacts),
    RunBackup(BackupFacts),
    ShipLog(ShippedLog),
    RestoreInstance(RestoredInstance),
    StopInstance(StoppedLog),
    RemoveInstance(ClosedLog),
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceFacts {
    pub host: String,
    pub port: u16,
    pub engine_version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShippedLog {
    /// The coverage after shipping; `complete_until` is at least what was asked for.
    pub coverage: Coverage,
}

/// What the log archive of a stopped instance holds. Its gaps come with an [`AgentReport`], which is answered with a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoppedLog {
    pub coverage: Vec<Coverage>,
}

/// What the log archive of a removed instance holds for good.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClosedLog {
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredInstance {
    pub instance: InstanceFacts,
    /// The instant reached: the one asked for, or the base's consistent point.
    pub reached: Option<Timestamp>,
    /// Where replay ended on the source's timeline.
    /// `None` where the engine has no log.
    pub replayed_to: Option<Position>,
    /// What of the source the instance does not have although the base does, a clause each.
    #[serde(default)]
    pub left_out: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressReport {
    pub agent_id: AgentId,
    pub generation: i64,
    pub progress: Option<Progress>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressAnswer {
    pub cancel_requested: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepResult {
    pub agent_id: AgentId,
    pub generation: i64,
    pub step_index: u32,
    pub outcome: Result<StepOutput, JobError>,
    /// Where the time went.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// Log that has arrived in the store since the agent said so last.
///
/// It only lengthens stretches that the control plane knows of; new ones, and gaps, come with the next [`AgentReport`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoverageReport {
    pub newest: Vec<(LineageId, Coverage)>,
}

/// What the agent says of itself every second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentReport {
    pub agent_id: AgentId,
    /// Versions of each engine that this host can run.
    pub versions: Vec<(EngineKind, Vec<String>)>,
    pub instances: Vec<InstanceReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceReport {
    pub service_id: ServiceId,
    pub lineage_id: LineageId,
    /// The engine answers.
    pub healthy: bool,
    pub message: Option<String>,
    pub archive: Option<ArchiveReport>,
    pub metrics: Option<InstanceMetrics>,
    pub disk: Option<DiskReport>,
}

/// How full the disk of an instance is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    pub usage: Usage,
    pub level: Level,
    /// For people, while the level is not fine.
    pub message: Option<String>,
    /// The engine refuses writes until there is room again.
    pub writes_refused: bool,
}

/// The log archive against what the object store is proven to hold (R1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveReport {
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
    /// Age of the oldest commit that the store does not have yet; 0 when it has all.
    pub lag_seconds: f64,
    /// The database's own write position less the proven one.
    pub lag_bytes: u64,
    /// What the object store, or else the engine's archiver, fails at.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InstanceMetrics {
    /// The database to connect to, where it may be another than the engine's default.
    #[serde(default)]
    pub database: Option<String>,
    pub connections_active: i64,
    pub connections_max: i64,
    pub transactions_total: i64,
    pub cache_hit_ratio: Option<f64>,
}
