//! For tests: an engine that writes down what it is asked for, and an instance of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use holdfast_api::agent::{InstanceFacts, InstanceSpec};
use holdfast_core::engine::EngineKind;
use holdfast_engines::{
    BackupSink, Base, DataPath, DiskGuard, Driver, EngineError, Instance, Log, LogCursor, LogDriver, LogFeed,
    LogOnDisk, Probe, ProgressSink, RestoreSource, Result, StreamBackup, StreamBackupRequest, StreamDriver,
    StreamRestore, StreamRestored, UserSpec,
};

use crate::instances::{Instances, Local, Record};
use crate::lineage::tests::Bucket;

pub(crate) struct Fake {
    pub stops: bool,
    /// Bytes of log that can be given up.
    pub droppable: u64,
    pub calls: Mutex<Vec<String>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { stops: true, droppable: 0, calls: Mutex::default() }
    }
}

impl Fake {
    pub(crate) fn called(&self) -> Vec<String> {
        self.calls.lock().expect("unpoisoned").clone()
    }

    fn note(&self, call: &str) {
        self.calls.lock().expect("unpoisoned").push(call.to_owned());
    }
}

fn not_faked<T>() -> Result<T> {
    Err(EngineError::Unexpected { doing: "act as an engine".to_owned(), what: "not faked".to_owned() })
}

#[async_trait]
impl DiskGuard for Fake {
    fn log_on_disk(&self, _: &Instance) -> Result<LogOnDisk> {
        not_faked()
    }

    fn is_read_only(&self, _: &Instance) -> bool {
        false
    }

    async fn set_read_only(&self, _: &Instance, read_only: bool) -> Result<()> {
        self.note(&format!("set_read_only {read_only}"));
        Ok(())
    }

    async fn drop_waiting_log(&self, _: &Instance) -> Result<u64> {
        self.note("drop_waiting_log");
        Ok(self.droppable)
    }
}

#[async_trait]
impl Driver for Fake {
    async fn create(&self, _: &Instance, _: &[UserSpec], _: &ProgressSink) -> Result<String> {
        not_faked()
    }

    async fn start(&self, _: &Instance) -> Result<()> {
        not_faked()
    }

    async fn stop(&self, _: &Instance, _: u64) -> Result<()> {
        self.note("stop");
        if self.stops { Ok(()) } else { not_faked() }
    }

    async fn is_running(&self, _: &Instance) -> bool {
        true
    }

    async fn apply_settings(&self, _: &Instance) -> Result<()> {
        not_faked()
    }

    async fn set_password(&self, _: &Instance, _: &UserSpec) -> Result<()> {
        not_faked()
    }

    async fn probe(&self, _: &Instance) -> Result<Probe> {
        not_faked()
    }

    async fn database_bytes(&self, _: &Instance) -> Result<u64> {
        not_faked()
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Streams(self), log: Log::Followed(self) }
    }

    fn versions(&self) -> Vec<String> {
        Vec::new()
    }

    fn programs(&self) -> Vec<holdfast_engines::Program> {
        Vec::new()
    }
}

#[async_trait]
impl StreamDriver for Fake {
    async fn backup(
        &self,
        _: &Instance,
        _: &StreamBackupRequest<'_>,
        _: &dyn BackupSink,
        _: &ProgressSink,
    ) -> Result<StreamBackup> {
        not_faked()
    }

    async fn restore(
        &self,
        _: &Instance,
        _: &StreamRestore<'_>,
        _: &dyn RestoreSource,
        _: &ProgressSink,
    ) -> Result<StreamRestored> {
        not_faked()
    }
}

#[async_trait]
impl LogDriver for Fake {
    async fn follow(&self, _: &Instance, _: Option<&LogCursor>, _: &LogFeed) -> Result<Infallible> {
        not_faked()
    }

    async fn release_log(&self, _: &Instance, _: &LogCursor) -> Result<()> {
        not_faked()
    }

    async fn quiesce(&self, _: &Instance) -> Result<()> {
        self.note("quiesce");
        Ok(())
    }

    async fn unquiesce(&self, _: &Instance) -> Result<()> {
        self.note("unquiesce");
        Ok(())
    }
}

/// An instance of the fake engine that runs.
pub(crate) struct Bench {
    pub driver: Fake,
    pub local: Arc<Local>,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(driver: Fake) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let lineage = Arc::new(Bucket::new().lineage());
        let scope = lineage.scope;
        let spec = InstanceSpec {
            service_id: scope.service,
            organization_id: scope.organization,
            lineage_id: scope.lineage,
            name: "fake".to_owned(),
            engine: EngineKind::Valkey,
            version: String::new(),
            memory_mib: 0,
            max_connections: 0,
            allowed_cidrs: Vec::new(),
            storage_bytes: 0,
        };
        let instance = Instance {
            folder: folder.path().to_owned(),
            stanza: "hf-fake".to_owned(),
            version: String::new(),
            listen: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 0,
            run_as: None,
            memory_mib: 0,
            max_connections: 0,
            allowed_cidrs: Vec::new(),
            repository: None,
        };
        let facts = InstanceFacts { host: String::new(), port: 0, engine_version: String::new() };
        let record = Record { spec, instance, facts, restored: None, log_dropped: None, running: true };
        let local = Instances::default().insert(record, lineage);
        Self { driver, local, _folder: folder }
    }
}
