//! PostgreSQL: instances by its own programs, base backups and WAL archive by pgBackRest through the sealing gateway.
//!
//! What it can do: full and incremental base backups, restore to any microsecond. Quirks that shape this code:
//! - recovery to a time stops only at a commit or abort record later than it; an idle log has none ([`restore`]);
//! - `recovery_target` unset promotes silently at a hole in the WAL, so the position reached is always checked;
//! - a restored cluster has its source's system identifier: only the gateway keeps it from pushing into its source.
//!
//! Sources: PostgreSQL 17 documentation, chapters 25 and 26; pgBackRest 2.55 configuration reference.

mod backup;
mod config;
mod cut;
mod databases;
mod disk;
mod position;
mod probe;
mod process;
mod replaying;
mod replication;
mod restore;
mod sql;
mod tail;

use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use holdfast_core::position::Position;

use crate::files;
use holdfast_core::engine::EngineKind;

use crate::registry::{Engine, Setting};
use crate::{
    BackupRequest, Base, DataPath, Driver, EngineError, Instance, Log, LogTail, Mark, Probe, Program,
    ProgressSink, RepositoryDriver, RestoreRequest, Restored, Result, ToolBackup, UserSpec,
};

pub use config::{hba_conf, postgresql_conf};
pub use position::{parse_lsn, wal_name_start};

/// Whether the log that the engine is writing is shipped ahead of the archive of whole segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalTail {
    /// Segments alone: losing the host loses up to 10 s.
    Off,
    /// Losing the host loses about a second.
    #[default]
    On,
    /// A commit is acknowledged once the store has it: nothing that was acknowledged is lost, each commit waits for the
    /// store, and none is acknowledged while the store or the agent is away.
    Synchronous,
}

impl WalTail {
    pub const ALL: [Self; 3] = [Self::Off, Self::On, Self::Synchronous];

    /// As settings spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Synchronous => "synchronous",
        }
    }
}

const WAL_TAIL: Setting = Setting {
    key: "wal_tail",
    meaning: "PostgreSQL's newest log: on (shipped as it is written: losing the host loses about a second), synchronous \
              (a commit is acknowledged once the object store has it: nothing acknowledged is lost, commits wait for the \
              store, and stand still while it or the agent is away) or off (whole segments, at the latest every 10 s)",
    default: "on",
    check: |text| text.parse::<WalTail>().map(drop),
};

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Postgresql,
    driver: |engines_dir, settings| {
        let tail = settings.get(&WAL_TAIL).parse().expect("settings are checked when they are set");
        Box::new(Postgresql::new(engines_dir).with_tail(tail))
    },
    settings: &[WAL_TAIL],
};

impl FromStr for WalTail {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|tail| tail.as_str() == text);
        found.ok_or_else(|| format!("must be on, off or synchronous, not {text:?}"))
    }
}

/// Below the folder of the engines.
const PGBACKREST: &str = "pgbackrest/usr/bin/pgbackrest";

/// Drives PostgreSQL with the programs below `engines_dir`: `postgresql-<major>/bin` and `pgbackrest/usr/bin`.
#[derive(Debug, Clone)]
pub struct Postgresql {
    engines_dir: PathBuf,
    tail: WalTail,
}

impl Postgresql {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into(), tail: WalTail::default() }
    }

    #[must_use]
    pub fn with_tail(self, tail: WalTail) -> Self {
        Self { tail, ..self }
    }

    fn program(&self, instance: &Instance, name: &str) -> Result<PathBuf> {
        let path = self.engines_dir.join(format!("postgresql-{}/bin/{name}", instance.version));
        if path.is_file() {
            return Ok(path);
        }
        Err(EngineError::Missing { engine: "PostgreSQL", version: instance.version.clone() })
    }

    fn pgbackrest(&self) -> Result<PathBuf> {
        let path = self.engines_dir.join(PGBACKREST);
        if path.is_file() {
            return Ok(path);
        }
        Err(EngineError::Missing { engine: "pgBackRest", version: "2.55".to_owned() })
    }
}

#[async_trait]
impl Driver for Postgresql {
    async fn create(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        self.create_instance(instance, users, progress).await
    }

    async fn start(&self, instance: &Instance) -> Result<()> {
        self.start_instance(instance).await
    }

    async fn stop(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        self.stop_instance(instance, timeout_seconds).await
    }

    async fn is_running(&self, instance: &Instance) -> bool {
        self.is_postmaster_alive(instance).await
    }

    async fn apply_settings(&self, instance: &Instance) -> Result<()> {
        self.apply(instance).await
    }

    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        sql::set_password(instance, user).await
    }

    async fn probe(&self, instance: &Instance) -> Result<Probe> {
        probe::probe(instance).await
    }

    async fn database_bytes(&self, instance: &Instance) -> Result<u64> {
        probe::database_bytes(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Repository(self), log: Log::Repository(self) }
    }

    fn versions(&self) -> Vec<String> {
        crate::postgresql::process::installed_versions(&self.engines_dir)
    }

    fn programs(&self) -> Vec<Program> {
        let servers = self.versions().into_iter().map(|version| {
            let path = self.engines_dir.join(format!("postgresql-{version}/bin/postgres"));
            Program { name: "PostgreSQL", path, argument: "--version" }
        });
        let path = self.engines_dir.join(PGBACKREST);
        servers.chain([Program { name: "pgBackRest", path, argument: "version" }]).collect()
    }
}

#[async_trait]
impl RepositoryDriver for Postgresql {
    fn log_piece(&self) -> u64 {
        position::SEGMENT_BYTES
    }

    fn control_program(&self, instance: &Instance) -> PathBuf {
        self.engines_dir.join(format!("postgresql-{}/bin/pg_ctl", instance.version))
    }

    async fn write_repository_settings(&self, instance: &Instance) -> Result<()> {
        config::write_repository_conf(instance)
    }

    async fn labels(&self, instance: &Instance) -> Result<Vec<(String, Option<String>)>> {
        self.labels_in_repository(instance).await
    }

    async fn backup(
        &self,
        instance: &Instance,
        request: &BackupRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<ToolBackup> {
        self.run_backup(instance, request, progress).await
    }

    async fn tail(&self, instance: &Instance, from: Position) -> Result<Option<Box<dyn LogTail>>> {
        self.open_tail(instance, from).await
    }

    fn keep_log(&self, instance: &Instance, piece: Position, bytes: &[u8]) -> Result<()> {
        tail::keep_segment(instance, piece, bytes)
    }

    async fn cut_log(&self, instance: &Instance) -> Result<Mark> {
        probe::cut_log(instance).await
    }

    async fn restore(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<Restored> {
        self.restore_instance(instance, request, progress).await
    }

    async fn prepare_repository(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        config::write_repository_conf(instance)
    }

    async fn expire(&self, instance: &Instance, labels: &[String]) -> Result<()> {
        self.expire_labels(instance, labels).await
    }

    async fn stopped_mark(&self, instance: &Instance) -> Result<Option<Mark>> {
        self.read_stopped_mark(instance).await
    }
}
