//! Kafka: base backups are what its topics hold, byte for byte as clients are handed it. There is no log to archive.
//!
//! What it can do: full base backups, restores to each of them with the same offsets. Quirks that shape this code:
//! - clients see what is committed: of what was given up, and of marks in between, only the gap in the offsets is kept ([`batches`]);
//! - producers and leaders are numbered anew in each cluster, so their numbers in batches are taken out ([`restore`]);
//! - passwords are told by nobody: users that are not the service's own are named, and get none ([`access`]);
//! - whoever may alter the cluster is above everybody, so no tenant may ([`users`]).
//!
//! Users: `docs/engines/kafka.md`. Sources: Kafka 3.9 and 4.1, and what was seen by running them.

mod access;
mod backup;
mod batches;
mod client;
mod config;
mod disk;
mod groups;
mod pieces;
mod probe;
mod process;
mod reader;
mod restore;
mod segments;
mod settings;
mod snapshot;
mod topics;
mod transactions;
mod undecided;
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
    key: "kafka_java",
    meaning: "the Java virtual machine that Kafka runs on, 17 or later",
    default: "/usr/bin/java",
    check: |text| match text.starts_with('/') {
        true => Ok(()),
        false => Err("must be the path of a program, from the root on".to_owned()),
    },
};

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Kafka,
    driver: |engines_dir, settings| Box::new(Kafka::new(engines_dir, settings.get(&JAVA))),
    settings: &[JAVA],
};

/// Drives Kafka with the programs below `engines_dir`: `kafka-<release>/libs/*.jar`.
#[derive(Debug, Clone)]
pub struct Kafka {
    engines_dir: PathBuf,
    java: PathBuf,
}

impl Kafka {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>, java: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into(), java: java.into() }
    }
}

#[async_trait]
impl Driver for Kafka {
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
        users::put(&mut client::connect(instance).await?, std::slice::from_ref(user)).await
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
impl StreamDriver for Kafka {
    async fn backup(
        &self,
        instance: &Instance,
        _request: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        self.copy(instance, sink, progress).await
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
