//! What every engine's driver does: makes, starts, stops and watches an instance.

use std::path::PathBuf;

use async_trait::async_trait;
use holdfast_core::Timestamp;
use holdfast_core::position::Position;

use crate::disk::DiskGuard;
use crate::{Instance, LogDriver, ProgressSink, RepositoryDriver, Result, StreamDriver};

/// A database user to make or to give a new password.
#[derive(Clone)]
pub struct UserSpec {
    pub username: String,
    pub role: String,
    pub password: String,
}

/// A moment of a running engine, for the log archive: everything acknowledged at or before `at` lies before `position`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub at: Timestamp,
    pub position: Position,
    /// Changes with every commit; equal marks mean that nothing was committed in between.
    pub last_commit: String,
}

/// What a look at a running engine shows.
#[derive(Debug, Clone)]
pub struct Probe {
    /// `None` where the log's reader tells how far it is ([`crate::FeedItem::CaughtUp`]).
    pub mark: Option<Mark>,
    /// `None` when the engine was too busy to tell in time; the mark counts all the same.
    pub statistics: Option<Statistics>,
}

/// An engine's own figures.
#[derive(Debug, Clone)]
pub struct Statistics {
    pub archiver_error: Option<String>,
    pub connections_active: i64,
    pub connections_max: i64,
    pub transactions_total: i64,
    pub cache_hit_ratio: Option<f64>,
    /// The database that a client is to connect to, where tenants can rename the one that was made for them.
    pub database: Option<String>,
}

/// A program of an engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    /// Makes it say its version and end.
    pub argument: &'static str,
}

/// How an engine's data leaves its host (`docs/ARCHITECTURE.md`).
#[derive(Clone, Copy)]
pub struct DataPath<'a> {
    pub base: Base<'a>,
    pub log: Log<'a>,
}

/// How base backups leave the host.
#[derive(Clone, Copy)]
pub enum Base<'a> {
    /// A tool of the engine's keeps a repository behind the sealing gateway.
    Repository(&'a dyn RepositoryDriver),
    /// Holdfast stores what the driver hands over.
    Streams(&'a dyn StreamDriver),
}

/// How the log leaves the host.
#[derive(Clone, Copy)]
pub enum Log<'a> {
    /// By the tool that keeps the repository, too.
    Repository(&'a dyn RepositoryDriver),
    /// Holdfast reads it itself.
    Followed(&'a dyn LogDriver),
    /// There is none: nothing is followed or waited for, and a restore goes to a backup's own point.
    None,
}

/// One kind of engine. Small on purpose; retries, metrics and faults are wrappers.
#[async_trait]
pub trait Driver: DiskGuard {
    /// Makes a new, running instance with its users, and an empty repository where it has one; the folder exists and is empty.
    /// Returns the engine's true version.
    async fn create(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String>;
    async fn start(&self, instance: &Instance) -> Result<()>;
    /// Stops within `timeout_seconds`; open transactions are rolled back by the engine.
    async fn stop(&self, instance: &Instance, timeout_seconds: u64) -> Result<()>;
    /// Whether the engine's process is there (not: whether it answers). `true` when that cannot be told.
    async fn is_running(&self, instance: &Instance) -> bool;
    /// Writes the tool's and the engine's settings anew and makes the engine take them, with a restart if it must.
    async fn apply_settings(&self, instance: &Instance) -> Result<()>;
    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()>;
    async fn probe(&self, instance: &Instance) -> Result<Probe>;
    /// Bytes of all databases. May take long where there are many files: not for every second.
    async fn database_bytes(&self, instance: &Instance) -> Result<u64>;
    /// How its base backups and its log leave the host.
    fn data_path(&self) -> DataPath<'_>;
    /// Versions that this host can run.
    fn versions(&self) -> Vec<String>;
    /// The programs behind them, for `holdfast doctor`, which starts each; servers, and what they cannot do without.
    fn programs(&self) -> Vec<Program>;
}
