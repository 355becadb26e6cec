//! MySQL: instances by its own server, base backups by `mysqldump` or CLONE, the binlog read as a replica would.
//!
//! What it can do: restore to any microsecond. Quirks that shape this code:
//! - a commit's instant is the `immediate_commit_timestamp` of its GTID event, in microseconds; the timestamps of other
//!   events are whole seconds, and a session may set them as it likes ([`replay`]);
//! - file names begin anew after `RESET BINARY LOGS AND GTIDS`: only sets of GTIDs tell what continues what ([`archive`]);
//! - the applier of a replica is many times faster than `mysqlbinlog | mysql`, and disables the events that it meets;
//! - account statements take effect at once in every snapshot, so accounts are copied under the backup lock.
//!
//! Sources: MySQL 9.7 reference manual, chapters 7.4.4, 8, 19; its source's `libs/mysql/binlog/event`.

mod accounts;
mod archive;
mod backslashes;
mod backup;
mod canonical;
mod clone;
mod columns;
mod config;
mod content;
mod disk;
mod events;
mod expressions;
mod facts;
pub mod gtid;
mod histograms;
mod holds;
mod keys;
mod language;
mod log;
mod members;
mod mended;
mod own;
mod probe;
mod process;
mod programs;
mod recode;
mod replay;
mod requote;
mod restore;
mod running;
mod scan;
mod schema;
mod single_statement;
mod sql;
mod triggers;
mod users;
mod verify;
mod views;

use std::convert::Infallible;
use std::path::PathBuf;

use async_trait::async_trait;

use holdfast_core::engine::EngineKind;

use crate::registry::Engine;
use crate::{
    BackupSink, Base, DataPath, Driver, EngineError, Instance, Log, LogCursor, LogDriver, LogFeed, Probe,
    Program, ProgressSink, RestoreSource, Result, StreamBackup, StreamBackupRequest, StreamDriver,
    StreamRestore, StreamRestored, UserSpec,
};

pub use config::my_cnf;

/// Drives MySQL with the programs below `engines_dir`: `mysql-<version>/{bin,template}`.
#[derive(Debug, Clone)]
pub struct Mysql {
    engines_dir: PathBuf,
}

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Mysql,
    driver: |engines_dir, _| Box::new(Mysql::new(engines_dir)),
    settings: &[],
};

impl Mysql {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into() }
    }

    fn folder(&self, instance: &Instance) -> PathBuf {
        self.engines_dir.join(format!("mysql-{}", instance.version))
    }

    fn program(&self, instance: &Instance, name: &str) -> Result<PathBuf> {
        let path = self.folder(instance).join("bin").join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(EngineError::Missing { engine: "MySQL", version: instance.version.clone() })
    }
}

#[async_trait]
impl Driver for Mysql {
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
        !process::pids(instance).is_empty()
    }

    async fn apply_settings(&self, instance: &Instance) -> Result<()> {
        self.apply(instance).await
    }

    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        accounts::set_password(&mut sql::connect(instance).await?, instance, user).await
    }

    async fn probe(&self, instance: &Instance) -> Result<Probe> {
        probe::probe(instance).await
    }

    async fn database_bytes(&self, instance: &Instance) -> Result<u64> {
        probe::database_bytes(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Streams(self), log: Log::Followed(self) }
    }

    fn versions(&self) -> Vec<String> {
        process::installed_versions(&self.engines_dir)
    }

    fn programs(&self) -> Vec<Program> {
        let program = |version: String| {
            let path = self.engines_dir.join(format!("mysql-{version}/bin/mysqld"));
            Program { name: "MySQL", path, argument: "--version" }
        };
        self.versions().into_iter().map(program).collect()
    }
}

#[async_trait]
impl StreamDriver for Mysql {
    async fn backup(
        &self,
        instance: &Instance,
        request: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        self.run_backup(instance, request.method, sink, progress).await
    }

    async fn restore(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        self.run_restore(instance, request, source, progress).await
    }
}

#[async_trait]
impl LogDriver for Mysql {
    async fn follow(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible> {
        archive::follow(instance, from, feed).await
    }

    async fn release_log(&self, instance: &Instance, archived: &LogCursor) -> Result<()> {
        archive::release(instance, archived).await
    }

    async fn quiesce(&self, instance: &Instance) -> Result<()> {
        // Ends all sessions but the agent's, and lets no other in, until the next start.
        sql::run(&mut sql::connect(instance).await?, "end all sessions", "SET GLOBAL offline_mode = ON").await
    }

    async fn unquiesce(&self, instance: &Instance) -> Result<()> {
        let doing = "let sessions in again";
        sql::run(&mut sql::connect(instance).await?, doing, "SET GLOBAL offline_mode = OFF").await
    }
}
