//! Engines whose own backup tool writes many files and keeps an index of them: it writes to the sealing gateway as if that
//! were its repository, [`Instance::repository`] says how.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
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

/// A running engine's log as the engine writes it, ahead of the tool's archive.
#[async_trait]
pub trait LogTail: Send {
    /// Whether the engine acknowledges a commit only once [`LogTail::confirm`] has told of it.
    fn is_awaited(&self) -> bool;
    /// The next bytes and where the first of them lies; without a hole, and nothing that a crash of the engine could take
    /// back. May be dropped and called again.
    async fn next(&mut self) -> Result<(u64, Bytes)>;
    /// The store has everything before `offset`. Also to be called every few seconds, as a sign of life.
    async fn confirm(&mut self, offset: u64) -> Result<()>;
    /// A mark of now.
    async fn mark(&mut self) -> Result<Mark>;
    /// Makes the engine send what it has written and not flushed yet: with nothing to wait for, it may keep that for long.
    async fn flush(&mut self) -> Result<()>;
}

/// What a driver does whose tool has a repository.
#[async_trait]
pub trait RepositoryDriver: Send + Sync {
    /// Bytes of a piece of the tool's log.
    fn log_piece(&self) -> u64;
    /// The program with which the owner of a copy that stands alone starts and stops it.
    fn control_program(&self, instance: &Instance) -> PathBuf;
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
    /// Follows the log of the running engine from there on. `None` where the log is to leave the host in the tool's own
    /// pieces alone.
    async fn tail(&self, instance: &Instance, from: Position) -> Result<Option<Box<dyn LogTail>>>;
    /// Keeps the beginning of a piece of the tool's log, from its first byte on, for a restore into the instance's empty
    /// folder: it is read where the tool's repository does not have that piece.
    fn keep_log(&self, instance: &Instance, piece: Position, bytes: &[u8]) -> Result<()>;
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
