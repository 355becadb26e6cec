//! The domain of Holdfast, pure and synchronous: no I/O and no clock (the time is always an argument).
//!
//! What a service, a backup, a job or a restore point *is* and which moves are allowed is decided here;
//! the other crates carry it out.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod backup;
pub mod causes;
pub mod compaction;
pub mod disk;
pub mod engine;
pub mod id;
pub mod job;
pub mod key;
pub mod name;
pub mod position;
pub mod retention;
pub mod rotation;
pub mod schedule;
pub mod service;
pub mod size;
pub mod window;

pub use id::{AgentId, BackupId, JobId, KeyId, LineageId, OrganizationId, ServiceId};
pub use jiff::Timestamp;
