//! What Holdfast knows of engines: the [`Driver`] trait and one folder an engine, with the same file names in each.
//!
//! A driver works on one [`Instance`] at a time. It knows the engine's own tools and positions; it knows no HTTP, no
//! catalog and no bucket: repository tools write to the sealing gateway that [`Instance::repository`] names.

mod bulk_sync;
pub mod exec;
pub mod postgresql;
pub mod progress;
mod unsynced;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use holdfast_core::backup::BackupMode;
use holdfast_core::position::Position;
use holdfast_core::{BackupId, Timestamp};
use holdfast_store::gateway::{DAMAGED, FULL};
use serde::{Deserialize, Serialize};

pub use exec::RunAs;
pub use progress::ProgressSink;

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{doing}: {source}")]
    Exec {
        doing: String,
        #[source]
        source: exec::ExecError,
    },
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{doing}")]
    Sql {
        doing: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{doing}: {what}")]
    Unexpected { doing: String, what: String },
    #[error("the engine did not get ready within {seconds} s: {last}")]
    NotReady { seconds: u64, last: String },
    #[error("this host has no {engine} {version}; run `make engines` or set engines_dir")]
    Missing { engine: &'static str, version: String },
    /// The log in the object store does not reach as far as the restore plan says.
    #[error("replay ended at {reached} although the log should reach {expected}: the archive has a hole")]
    Hole { reached: String, expected: String },
    #[error("{doing}: the object store holds damaged data: {what}")]
    Damaged { doing: String, what: String },
    #[error(
        "{doing}: {what}; make room in the object store, or remove backups that are not needed, and try again"
    )]
    StoreFull { doing: String, what: String },
    #[error("{doing}: the disk of the instance is full; make room there and try again: {what}")]
    DiskFull { doing: String, what: String },
}

impl EngineError {
    /// Whether another try can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // A hole may be a store that was away for a moment: the tool tells both alike, and tries are bounded.
        !matches!(
            self,
            Self::Missing { .. } | Self::Damaged { .. } | Self::StoreFull { .. } | Self::DiskFull { .. }
        )
    }

    /// A machine-readable cause.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "tool_failed",
            Self::Io { .. } => "io_error",
            Self::Sql { .. } => "engine_error",
            Self::Unexpected { .. } => "unexpected_answer",
            Self::NotReady { .. } => "not_ready",
            Self::Missing { .. } => "engine_missing",
            Self::Hole { .. } => "log_hole",
            Self::Damaged { .. } => "damaged_object",
            Self::StoreFull { .. } => "store_full",
            Self::DiskFull { .. } => "disk_full",
        }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn sql(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Sql { doing, source }
    }

    /// A tool that failed; what its last words tell of a full disk or damage counts for more than its exit code.
    pub(crate) fn exec(doing: impl Into<String>) -> impl FnOnce(exec::ExecError) -> Self {
        let doing = doing.into();
        move |source| {
            let text = source.to_string();
            if let Some(what) = gateway_said(&text, DAMAGED) {
                Self::Damaged { doing, what }
            } else if let Some(what) = gateway_said(&text, FULL) {
                Self::StoreFull { doing, what }
            } else if text.contains("No space left on device") {
                Self::DiskFull { doing, what: text }
            } else {
                Self::Exec { doing, source }
            }
        }
    }
}

/// What the sealing gateway said with this error code, as the tool shows an answer's content.
fn gateway_said(text: &str, code: &str) -> Option<String> {
    let (_, answer) = text.split_once(&format!("<Code>{code}</Code>"))?;
    let (message, _) = answer.split_once("<Message>")?.1.split_once("</Message>")?;
    Some(message.replace("&apos;", "'").replace("&quot;", "\"").replace("&amp;", "&"))
}

pub type Result<T> = std::result::Result<T, EngineError>;

/// Where an instance lives and what it is to be. Everything that a driver needs, nothing that it may decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The instance's own folder; its parts below are named by [`Paths`].
    pub folder: PathBuf,
    /// The tool's name for the service; also shown in the engine's process titles.
    pub stanza: String,
    pub version: String,
    pub listen: IpAddr,
    pub port: u16,
    /// Whom the engine runs as; `None` when the agent itself is unprivileged.
    pub run_as: Option<RunAs>,
    pub memory_mib: u64,
    pub max_connections: u32,
    pub allowed_cidrs: Vec<String>,
    pub repository: RepositoryAccess,
}

/// How the engine's own backup tool reaches the sealing gateway.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RepositoryAccess {
    pub gateway_port: u16,
    pub gateway_ca_file: PathBuf,
    pub access_key: String,
    pub secret_key: String,
    pub cipher_passphrase: String,
}

impl std::fmt::Debug for RepositoryAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryAccess").field("gateway_port", &self.gateway_port).finish_non_exhaustive()
    }
}

/// The parts of an instance's folder.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'a>(pub &'a Path);

impl Paths<'_> {
    #[must_use]
    pub fn data(self) -> PathBuf {
        self.0.join("data")
    }
    /// Configuration that the engine's user may read and not write.
    #[must_use]
    pub fn conf(self) -> PathBuf {
        self.0.join("conf")
    }
    #[must_use]
    pub fn log(self) -> PathBuf {
        self.0.join("log")
    }
    #[must_use]
    pub fn lock(self) -> PathBuf {
        self.0.join("lock")
    }
    #[must_use]
    pub fn spool(self) -> PathBuf {
        self.0.join("spool")
    }
    /// Folder of the unix socket. Its path must stay below the kernel's 108 bytes (unix(7)), so a deep instance folder
    /// gets a short one in the system's folder for temporary files.
    #[must_use]
    pub fn run(self) -> PathBuf {
        const LONGEST: usize = 85;
        let natural = self.0.join("run");
        if natural.as_os_str().len() <= LONGEST {
            return natural;
        }
        let name = self.0.file_name().and_then(|n| n.to_str()).unwrap_or("instance");
        std::env::temp_dir().join(format!("holdfast-{name}"))
    }
}

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

/// The engine's log on the instance's own disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOnDisk {
    pub total_bytes: u64,
    /// Finished pieces that the archive does not have yet.
    pub waiting_bytes: u64,
}

/// What a look at a running engine shows.
#[derive(Debug, Clone)]
pub struct Probe {
    pub mark: Mark,
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
}

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

/// One kind of engine. Small on purpose; retries, metrics and faults are wrappers.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Makes a new, running instance with its users and an empty repository; the folder exists and is empty.
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
    /// The last mark of an engine that was stopped cleanly: nothing was committed behind it. `None` when it was not.
    async fn stopped_mark(&self, instance: &Instance) -> Result<Option<Mark>>;
    /// Whether the engine's process is there (not: whether it answers). `true` when that cannot be told.
    async fn is_running(&self, instance: &Instance) -> bool;
    /// Writes the tool's and the engine's settings anew and makes the engine take them, with a restart if it must.
    async fn apply_settings(&self, instance: &Instance) -> Result<()>;
    /// Writes only how the backup tool reaches the gateway (its port may change with every agent).
    async fn write_repository_settings(&self, instance: &Instance) -> Result<()>;
    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()>;
    async fn probe(&self, instance: &Instance) -> Result<Probe>;
    /// Bytes of all databases. May take long where there are many files: not for every second.
    async fn database_bytes(&self, instance: &Instance) -> Result<u64>;
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
    /// What the log takes of the disk; also of an engine that is down.
    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk>;
    /// Whether [`Driver::set_read_only`] refuses writes; lasts over restarts of engine and agent.
    fn is_read_only(&self, instance: &Instance) -> bool;
    /// Whether anything is done against a full disk, until [`Driver::set_read_only`] ends it.
    fn is_guarded(&self, instance: &Instance) -> bool;
    /// Refuses writes of everybody but the agent, or ends all that is done against a full disk. While writes are refused, to
    /// be repeated: it ends sessions that write nevertheless, and removes log that the archive has.
    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()>;
    /// Gives up finished log that waits for the archive, for good, and frees its disk. Returns how many bytes.
    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64>;
    /// Restores into the empty folder of `instance` and leaves it running, with its own archive and credentials.
    async fn restore(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<Restored>;
    /// Makes the folder of an instance that never runs an engine, for [`Driver::expire`] on a repository alone.
    async fn prepare_repository(&self, instance: &Instance) -> Result<()>;
    /// Removes backups from the tool's own index and store; `instance` needs no running engine.
    async fn expire(&self, instance: &Instance, labels: &[String]) -> Result<()>;
    /// Versions that this host can run.
    fn versions(&self) -> Vec<String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateway_said_is_found_in_the_tools_error() {
        let tool = "ERROR: [039]: HTTP request failed with 422; *** Response Content ***:; <?xml version=\"1.0\"?>\
            <Error><Code>DamagedObject</Code><Message>bundle/1: chunk 7 does not authenticate</Message></Error>; INFO: end";
        assert_eq!(gateway_said(tool, DAMAGED).as_deref(), Some("bundle/1: chunk 7 does not authenticate"));
        assert_eq!(gateway_said(&tool.replace("DamagedObject", "InternalError"), DAMAGED), None);
    }
}
