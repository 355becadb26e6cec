//! What Holdfast knows of engines: the [`Driver`] trait and one folder an engine, with the same file names in each.
//!
//! A driver works on one [`Instance`] at a time. It knows the engine's own tools and positions; it knows no HTTP, no
//! catalog and no bucket: repository tools write to the sealing gateway that [`Instance::repository`] names.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod bulk_sync;
mod certificate;
mod driver;
mod error;
pub mod exec;
mod files;
mod instance;
pub mod mongodb;
pub mod mysql;
pub mod postgresql;
mod process;
pub mod progress;
mod repository;
mod stream;
mod unsynced;
pub mod valkey;

pub use driver::{DataPath, Driver, LogOnDisk, Mark, Probe, Statistics, UserSpec};
pub use error::{EngineError, Result};
use std::collections::BTreeMap;
use std::path::Path;

use holdfast_core::engine::EngineKind;

pub use exec::RunAs;
pub use instance::{Instance, Paths, RepositoryAccess};
pub use progress::ProgressSink;
pub use repository::{
    BackupRequest, LogTail, RepositoryDriver, RestoreRequest, RestoreTo, Restored, ToolBackup,
};
pub use stream::*;

/// What an agent's owner may say about its engines.
#[derive(Debug, Clone, Copy)]
pub struct DriverSettings {
    pub wal_tail: postgresql::WalTail,
    /// What a MongoDB service's oplog holds, at least 1.
    pub mongodb_oplog_mib: u32,
}

impl Default for DriverSettings {
    fn default() -> Self {
        Self { wal_tail: postgresql::WalTail::default(), mongodb_oplog_mib: mongodb::OPLOG_MIB }
    }
}

/// The driver of each engine that this release has one for; their programs lie below `engines_dir`.
#[must_use]
pub fn drivers(engines_dir: &Path, settings: DriverSettings) -> BTreeMap<EngineKind, Box<dyn Driver>> {
    let postgresql: Box<dyn Driver> =
        Box::new(postgresql::Postgresql::new(engines_dir).with_tail(settings.wal_tail));
    let mysql: Box<dyn Driver> = Box::new(mysql::Mysql::new(engines_dir));
    let mongodb: Box<dyn Driver> =
        Box::new(mongodb::Mongodb::new(engines_dir).with_oplog(settings.mongodb_oplog_mib));
    let valkey: Box<dyn Driver> = Box::new(valkey::Valkey::new(engines_dir));
    BTreeMap::from([
        (EngineKind::Postgresql, postgresql),
        (EngineKind::Mysql, mysql),
        (EngineKind::Mongodb, mongodb),
        (EngineKind::Valkey, valkey),
    ])
}
