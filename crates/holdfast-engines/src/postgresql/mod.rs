//! PostgreSQL: instances by its own programs, base backups and WAL archive by pgBackRest through the sealing gateway.
//!
//! What it can do: full and incremental base backups, restore to any microsecond. Quirks that shape this code:
//! - recovery to a time stops only at a commit or abort record later than it; an idle log has none ([`restore`]);
//! - `recovery_target` unset promotes silently at a hole in the WAL, so the position reached is always checked;
//! - a restored cluster has its source's system identifier: only the gateway keeps it from pushing into its source.
//!
//! Sources: PostgreSQL 17 documentation, chapters 25 and 26; pgBackRest 2.55 configuration reference.

mod archive;
mod backup;
mod config;
mod position;
mod probe;
mod process;
mod restore;
mod sql;

use std::path::PathBuf;

use async_trait::async_trait;

use crate::files;
use crate::{
    BackupRequest, DataPath, Driver, EngineError, Instance, LogOnDisk, Mark, Probe, ProgressSink,
    RepositoryDriver, RestoreRequest, Restored, Result, ToolBackup, UserSpec,
};

pub use config::{hba_conf, postgresql_conf};
pub use position::{SEGMENT_BYTES, parse_lsn, segment_start, wal_name_start};

/// Drives PostgreSQL with the programs below `engines_dir`: `postgresql-<major>/bin` and `pgbackrest/usr/bin`.
#[derive(Debug, Clone)]
pub struct Postgresql {
    engines_dir: PathBuf,
}

impl Postgresql {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into() }
    }

    fn program(&self, instance: &Instance, name: &str) -> Result<PathBuf> {
        let path = self.engines_dir.join(format!("postgresql-{}/bin/{name}", instance.version));
        if path.is_file() {
            return Ok(path);
        }
        Err(EngineError::Missing { engine: "PostgreSQL", version: instance.version.clone() })
    }

    fn pgbackrest(&self) -> Result<PathBuf> {
        let path = self.engines_dir.join("pgbackrest/usr/bin/pgbackrest");
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

    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk> {
        archive::log_on_disk(instance)
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        archive::is_read_only(instance)
    }

    fn is_guarded(&self, instance: &Instance) -> bool {
        archive::is_guarded(instance)
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        archive::set_read_only(instance, read_only).await
    }

    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64> {
        archive::drop_waiting_log(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath::Repository(self)
    }

    fn versions(&self) -> Vec<String> {
        crate::postgresql::process::installed_versions(&self.engines_dir)
    }
}

#[async_trait]
impl RepositoryDriver for Postgresql {
    async fn write_repository_settings(&self, instance: &Instance) -> Result<()> {
        config::write_pgbackrest_conf(instance, &instance.repository, "pgbackrest.conf")
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
        config::write_pgbackrest_conf(instance, &instance.repository, "pgbackrest.conf")
    }

    async fn expire(&self, instance: &Instance, labels: &[String]) -> Result<()> {
        self.expire_labels(instance, labels).await
    }

    async fn stopped_mark(&self, instance: &Instance) -> Result<Option<Mark>> {
        self.read_stopped_mark(instance).await
    }
}
