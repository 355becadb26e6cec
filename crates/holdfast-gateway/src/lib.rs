//! The sealing gateway: an S3 endpoint on loopback that pgBackRest takes for its repository. All that passes is sealed
//! on its way to the object store and opened on its way back; lengths are answered as the tool knows them.
//!
//! - A credential sees one repository, whatever bucket path it asks for; signatures (SigV4) cover the payload.
//! - An object is write-once. The same bytes sent again are a retry and succeed; other bytes are refused. Only the
//!   `*.info` files are rewritten, as generations behind one name (`info.rs`).
//! - A write is answered, and [`RepositoryEvents::stored`] told, after the store has confirmed it (R1).
//! - No byte is released that has not been authenticated. What does not open is read again some times, then it is damaged,
//!   and [`RepositoryEvents::damaged`] told. Where it fails after the answer began, the connection breaks.
//!
//! **Memory.** A single PUT holds one network buffer and the store writer's parts (16 MiB on S3, nothing on a local
//! folder). A multipart part is held whole until its checksum is known: at most [`MAX_PART_BYTES`], pgBackRest sends
//! 5 MiB. At most [`MAX_BUSY_WRITES`] writes are at work at once, further ones wait unread, and at most
//! [`MAX_OPEN_UPLOADS`] multipart uploads are open. So with pgBackRest's parts: (5 + 16) MiB a process of its own, and
//! for reads under 1 MiB a request.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod access;
mod error;
mod info;
mod listing;
mod reading;
mod refusal;
mod repository;
mod server;
mod service;
mod uploads;
mod watch;
mod writing;

pub use error::GatewayError;
pub use repository::{Access, Damage, Repository, RepositoryEvents, RepositoryKeys, StoredObject, Trouble};
pub use server::{Gateway, GatewayConfig};

/// The only bucket there is.
pub const BUCKET: &str = "holdfast";
/// Longest part of a multipart upload that is accepted.
pub const MAX_PART_BYTES: u64 = 64 << 20;
/// Writes at work at once, over all repositories.
pub const MAX_BUSY_WRITES: usize = 8;
/// Multipart uploads open at once, over all repositories.
pub const MAX_OPEN_UPLOADS: usize = 32;
