//! Engines whose own backup tool writes many files and keeps an index of them: it writes to the sealing gateway as if that
//! were its repository, [`Instance::repository`] says how.

use async_trait::async_trait;
use holdfast_core::backup::BackupMode;
use holdfast_core::position::Position;
use holdfast_core::{BackupId, Timestamp};

use crate::{Instance, Mark, ProgressSink, RepositoryAccess, Result, UserSpec};

pub struct BackupRequest<'a> {
    pub backup_id: &'a BackupId,
    pub mode: BackupMode,
}

/// What the engine's tool says of a finished backup.
#[derive(Debug, Clone)]
pub struct ToolBackup {
    pub label: String,
    pub parent_label: Option<String>,
    pub start: Position,
    pub stop: Position,
    pub consistent_at: Timestamp,
    pub database_bytes: u64,
}

pub struct RestoreRequest<'a> {
    pub users: &'a [UserSpec],
    /// The source's repository, read-only.
    pub source: &'a RepositoryAccess,
    pub source_stanza: &'a str,
    pub base_label: &'a str,
    pub base_stop: Position,
    pub database_bytes: u64,
    pub target: Option<RestoreTo>,
    /// `false` for a copy that stands alone: it has no repository and keeps no log for one.
    pub archives: bool,
}

/// The instant to reach.
#[derive(Debug, Clone)]
pub struct RestoreTo {
    pub point: Timestamp,
    /// Where the archived log ends at the least.
    pub covered_to: Position,
}

#[derive(Debug, Clone)]
pub struct Restored {
    pub engine_version: String,
    pub replayed_to: Position,
}

/// What a driver does whose tool has a repository.
#[async_trait]
pub trait RepositoryDriver: Send + Sync {
    /// Writes only how the backup tool reaches the gateway (its port may change with every agent).
    async fn write_repository_settings(&self, instance: &Instance) -> Result<()>;
    /// Labels that the tool's own index holds, oldest first, each with the backup's id that was given to the tool.
    async fn labels(&self, instance: &Instance) -> Result<Vec<(String, Option<String>)>>;
    async fn backup(
        &self,
        instance: &Instance,
        request: &BackupRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<ToolBackup>;
    /// Makes the engine close its current piece of log, after a commit of its own, and returns a mark taken before.
    async fn cut_log(&self, instance: &Instance) -> Result<Mark>;
    /// Restores into the empty folder of `instance` and leaves it running, with its own archive and credentials.
    async fn restore(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<Restored>;
    /// Makes the folder of an instance that never runs an engine, for [`RepositoryDriver::expire`] on a repository alone.
    async fn prepare_repository(&self, instance: &Instance) -> Result<()>;
    /// Removes backups from the tool's own index and store; `instance` needs no running engine.
    async fn expire(&self, instance: &Instance, labels: &[String]) -> Result<()>;
    /// The last mark of an engine that was stopped cleanly: nothing was committed behind it. `None` when it was not.
    async fn stopped_mark(&self, instance: &Instance) -> Result<Option<Mark>>;
}
