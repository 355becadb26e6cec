//! OpenSearch: base backups are snapshots, made by the server and stored blob by blob. There is no log to archive.
//!
//! What it can do: base backups that share what has not changed, restores to each of them. Quirks that shape this code:
//! - the server writes snapshots to its own disk: what is stored is emptied there ([`repository`]);
//! - whoever may register repositories reads and writes folders of the host, so no tenant may ([`users`]);
//! - users and roles lie in an index of the server's own, which is in no backup: a copy has new ones ([`config`]).
//!
//! Users: `docs/engines/opensearch.md`. Sources: OpenSearch 2.19, and what was seen by running it.

mod backup;
mod client;
mod config;
mod disk;
mod facts;
mod probe;
mod process;
mod repository;
mod restore;
mod users;

use std::path::PathBuf;

use async_trait::async_trait;
use holdfast_core::engine::EngineKind;

use crate::registry::{Engine, Setting};
use crate::{
    BackupSink, Base, DataPath, Driver, Instance, Log, Probe, Program, ProgressSink, RestoreSource, Result,
    StreamBackup, StreamBackupRequest, StreamDriver, StreamRestore, StreamRestored, UserSpec,
};

const JAVA: Setting = Setting {
    key: "opensearch_java",
    meaning: "the Java virtual machine that OpenSearch runs on, 17 (2.x) or 21 (3.x) or later",
    default: "/usr/bin/java",
    check: |text| match text.starts_with('/') {
        true => Ok(()),
        false => Err("must be the path of a program, from the root on".to_owned()),
    },
};

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Opensearch,
    driver: |engines_dir, settings| Box::new(OpenSearch::new(engines_dir, settings.get(&JAVA))),
    settings: &[JAVA],
};

/// Drives OpenSearch with the programs below `engines_dir`: `opensearch-<release>/`, as its archive has them, with the security plugin.
#[derive(Debug, Clone)]
pub struct OpenSearch {
    engines_dir: PathBuf,
    java: PathBuf,
}

impl OpenSearch {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>, java: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into(), java: java.into() }
    }
}

#[async_trait]
impl Driver for OpenSearch {
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
        process::runs(instance)
    }

    async fn apply_settings(&self, instance: &Instance) -> Result<()> {
        self.apply(instance).await
    }

    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        let client = client::Client::new(instance)?;
        disk::past_block(instance, &client, users::put(&client, std::slice::from_ref(user))).await
    }

    async fn probe(&self, instance: &Instance) -> Result<Probe> {
        probe::probe(instance).await
    }

    async fn database_bytes(&self, instance: &Instance) -> Result<u64> {
        probe::database_bytes(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Streams(self), log: Log::None }
    }

    fn versions(&self) -> Vec<String> {
        process::installed_versions(&self.engines_dir)
    }

    fn programs(&self) -> Vec<Program> {
        if self.versions().is_empty() {
            return Vec::new();
        }
        vec![Program { name: "Java", path: self.java.clone(), argument: "-version" }]
    }
}

#[async_trait]
impl StreamDriver for OpenSearch {
    async fn backup(
        &self,
        instance: &Instance,
        _request: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        self.snapshot(instance, sink, progress).await
    }

    async fn restore(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        self.restore_instance(instance, request, source, progress).await
    }
}
