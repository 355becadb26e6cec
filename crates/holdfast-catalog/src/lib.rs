//! The catalog: what Holdfast knows about services, backups, keys, log coverage and jobs, and the durable job queue.
//!
//! SQLite in one file (WAL mode, every commit synced to disk before it returns). All SQL is kept to what PostgreSQL
//! understands as well. Every method is one transaction: after a crash it has happened wholly or not at all.
//! The catalog holds no clock: `now` is an argument. Instants are kept in microseconds, finer parts are cut off.
//!
//! Nothing secret stands here in the clear: keys, passwords and other secrets arrive wrapped.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod backups;
mod coverage;
mod credentials;
mod descriptions;
mod due;
mod error;
mod import;
mod jobs;
mod keks;
mod keys;
mod lease;
mod migrations;
mod open;
mod organizations;
#[cfg(test)]
mod plans;
mod queue;
mod rows;
mod services;
mod settings;

pub use backups::OnDemandRule;
pub use credentials::{Credential, Rewrapped};
pub use descriptions::Undescribed;
pub use error::{CatalogError, ErrorKind, Result};
pub use jobs::{JobFilter, NewJob, StepOutcome, StepRecord};
pub use keks::{KekRecord, KekUse};
pub use lease::HeartbeatAnswer;
pub use open::Catalog;
pub use organizations::Organization;
pub use settings::AgentRecord;

/// The database behind the catalog; all queries are written for it and for PostgreSQL.
pub(crate) type Db = sqlx::Sqlite;
pub(crate) type Row = sqlx::sqlite::SqliteRow;
pub(crate) type Transaction = sqlx::Transaction<'static, Db>;
