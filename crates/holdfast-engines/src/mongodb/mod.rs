//! MongoDB: replica sets of one, dumps in `mongodump`'s format, the oplog followed continuously and replayed as ordinary writes.
//!
//! Quirks that shape this code:
//! - nothing tells "consistent" but the oplog: a dump is fuzzy, and replaying what happened meanwhile mends it ([`replay`]);
//! - an entry's timestamp orders, its `wall` (milliseconds) says when: a restore ends before the first entry, in order, whose
//!   `wall` is later than the instant asked for;
//! - the oplog is a ring: what was not read in time is gone, which is a gap and never papered over.
//!
//! Sources: MongoDB manual, "Replica Set Oplog", "Localhost Exception", "Built-In Roles"; mongo-tools (formats).

mod access;
mod apply;
mod archive;
mod backup;
mod capped;
mod client;
mod config;
mod disk;
mod listing;
mod oplog;
mod probe;
mod process;
mod renames;
pub mod replay;
mod restore;
mod verify;

use std::convert::Infallible;
use std::path::PathBuf;

use async_trait::async_trait;
use holdfast_core::Timestamp;

use holdfast_core::engine::EngineKind;

use crate::registry::{Engine, Setting};
use crate::{
    BackupSink, Base, DataPath, Driver, EngineError, Instance, Log, LogCursor, LogDriver, LogFeed, Probe,
    Program, ProgressSink, RestoreSource, Result, StreamBackup, StreamBackupRequest, StreamDriver,
    StreamRestore, StreamRestored, UserSpec,
};

/// Drives MongoDB with the programs below `engines_dir`: `mongodb-<version>/bin/mongod`.
#[derive(Debug)]
pub struct Mongodb {
    engines_dir: PathBuf,
    oplog_mib: u32,
    clients: client::Clients,
}

const OPLOG_MIB: Setting = Setting {
    key: "mongodb_oplog_mib",
    meaning: "MiB of oplog that a MongoDB service keeps: how far the agent or the object store may be behind before there \
              is a gap; services that are there grow to it at their next start, and shrink no lower than 990",
    default: "2048", // mongod's own is 5 % of the disk, for each service
    check: |text| oplog_mib(text).map(drop),
};

fn oplog_mib(text: &str) -> std::result::Result<u32, String> {
    let mib = text.parse().ok().filter(|mib| *mib > 0);
    mib.ok_or_else(|| format!("must be a number of MiB, at least 1, not {text:?}"))
}

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Mongodb,
    driver: |engines_dir, settings| {
        let mib = oplog_mib(settings.get(&OPLOG_MIB)).expect("settings are checked when they are set");
        Box::new(Mongodb::new(engines_dir).with_oplog(mib))
    },
    settings: &[OPLOG_MIB],
};

impl Mongodb {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>) -> Self {
        Self {
            engines_dir: engines_dir.into(),
            oplog_mib: oplog_mib(OPLOG_MIB.default).expect("a number"),
            clients: client::Clients::default(),
        }
    }

    /// How much oplog instances keep: a following that falls behind by more finds a gap.
    #[must_use]
    pub fn with_oplog(mut self, mib: u32) -> Self {
        self.oplog_mib = mib;
        self
    }
}

fn instant(ms: i64) -> Result<Timestamp> {
    Timestamp::from_millisecond(ms).map_err(|error| EngineError::Unexpected {
        doing: "read when an entry was committed".to_owned(),
        what: error.to_string(),
    })
}

#[async_trait]
impl Driver for Mongodb {
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
        self.is_alive(instance)
    }

    async fn apply_settings(&self, instance: &Instance) -> Result<()> {
        self.apply(instance).await
    }

    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        self.give_password(instance, user).await
    }

    async fn probe(&self, instance: &Instance) -> Result<Probe> {
        self.take_probe(instance).await
    }

    async fn database_bytes(&self, instance: &Instance) -> Result<u64> {
        self.size(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Streams(self), log: Log::Followed(self) }
    }

    fn versions(&self) -> Vec<String> {
        config::installed_versions(&self.engines_dir)
    }

    fn programs(&self) -> Vec<Program> {
        let program = |version: String| {
            let path = self.engines_dir.join(format!("mongodb-{version}/bin/mongod"));
            Program { name: "MongoDB", path, argument: "--version" }
        };
        self.versions().into_iter().map(program).collect()
    }
}

#[async_trait]
impl StreamDriver for Mongodb {
    async fn backup(
        &self,
        instance: &Instance,
        _: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        self.dump(instance, sink, progress).await
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

#[async_trait]
impl LogDriver for Mongodb {
    async fn follow(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible> {
        self.follow_oplog(instance, from, feed).await
    }

    /// The server overwrites the oplog's oldest part by itself, whatever was archived.
    async fn release_log(&self, _: &Instance, _: &LogCursor) -> Result<()> {
        Ok(())
    }

    async fn quiesce(&self, instance: &Instance) -> Result<()> {
        access::hold(self, instance, false).await
    }

    async fn unquiesce(&self, instance: &Instance) -> Result<()> {
        access::after_start(self, instance).await
    }
}
