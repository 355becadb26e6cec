//! Jobs: what the control plane is doing, step by step.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How far a running piece of work is. What is not known is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// A few words: `copying files`, `replaying log`.
    pub phase: String,
    #[schema(minimum = 0, maximum = 100)]
    pub percent: Option<f64>,
    pub bytes_done: Option<u64>,
    pub bytes_total: Option<u64>,
    pub eta_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Provision,
    Backup,
    Restore,
    Configure,
    Stop,
    Start,
    ResetPassword,
    DeleteService,
    Expire,
    RotateKeys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// Not reached yet.
    Pending,
    Running,
    Completed,
    Failed,
    /// The job was cancelled before the step ended.
    Cancelled,
}

/// One step of a job, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStep {
    /// `snake_case`, the same for every job of a kind.
    pub name: String,
    pub status: StepStatus,
    /// Where the time of a completed step beside the database went, in order; empty for the control plane's own steps.
    #[serde(default)]
    pub phases: Vec<JobPhase>,
}

/// A part of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPhase {
    /// The words that `progress.phase` had meanwhile.
    pub name: String,
    #[schema(minimum = 0)]
    pub seconds: f64,
}

/// A durable unit of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: Uuid,
    pub kind: JobKind,
    /// The service that the job is about; a restore's is the new one; null for a rotation of keys, which is about none.
    pub service_id: Option<Uuid>,
    /// The backup that a backup job makes or a restore reads.
    pub backup_id: Option<String>,
    /// Restores: where the data comes from.
    pub source_service_id: Option<Uuid>,
    /// Restores to a point: the instant asked for.
    pub restore_point: Option<Timestamp>,
    pub status: JobStatus,
    pub steps: Vec<JobStep>,
    /// Tries of the current step so far.
    pub attempt: u32,
    pub progress: Option<Progress>,
    /// Why it failed, or why the last try of the current step did.
    pub error_message: Option<String>,
    /// The same for machines, `snake_case`.
    pub error_cause: Option<String>,
    pub cancel_requested: bool,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    pub jobs: Vec<Job>,
}
