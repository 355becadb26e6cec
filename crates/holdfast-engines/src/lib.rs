//! What Holdfast knows of engines: the [`Driver`] trait and one folder an engine, with the same file names in each.
//!
//! A driver works on one [`Instance`] at a time. It knows the engine's own tools and positions; it knows no HTTP, no
//! catalog and no bucket: repository tools write to the sealing gateway that [`Instance::repository`] names.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod bulk_sync;
mod certificate;
mod disk;
mod driver;
mod error;
pub mod exec;
mod files;
mod instance;
mod java;
pub mod kafka;
pub mod mongodb;
pub mod mysql;
pub mod opensearch;
pub mod postgresql;
mod process;
pub mod progress;
mod registry;
mod repository;
mod stream;
mod unsynced;
pub mod valkey;

/// The engines of this release: those that have a driver.
const ENGINES: &[registry::Engine] =
    &[postgresql::ENGINE, mysql::ENGINE, mongodb::ENGINE, valkey::ENGINE, kafka::ENGINE, opensearch::ENGINE];

pub use disk::{DiskGuard, LogOnDisk};
pub use driver::{Base, DataPath, Driver, Log, Mark, Probe, Program, Statistics, UserSpec};
pub use error::{EngineError, Result};
pub use exec::RunAs;
pub use instance::{Instance, Paths, RepositoryAccess};
pub use progress::ProgressSink;
pub use registry::{DriverSettings, Setting, drivers, settings};
pub use repository::{
    BackupRequest, LogTail, RepositoryDriver, RestoreRequest, RestoreTo, Restored, ToolBackup,
};
pub use stream::*;
