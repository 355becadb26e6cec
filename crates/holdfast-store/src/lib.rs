//! The object store: where everything lies ([`layout`]), how it gets there for good ([`store`]), how it is sealed and opened ([`sealed`],
//! [`opened`]), and what a bucket holds ([`survey`]).
//!
//! Reading order: [`layout`], [`store`], [`sealed`]. Nothing here knows the catalog or a database.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod description;
pub mod documents;
pub mod error;
mod keys;
pub mod layout;
pub mod log;
pub mod manifest;
pub mod opened;
pub mod repository;
mod repository_path;
pub mod sealed;
mod space;
pub mod store;
pub mod survey;

pub use error::{ErrorKind, Result, StoreError};
pub use keys::{KeyRefused, OwnedKey};
pub use layout::{LineageScope, ObjectName, ObjectPrefix, RepositoryPath, ServiceScope};
pub use space::{ensure_backup_room, ensure_log_room, space_of};
pub use store::{
    Answer, Limits, ListedObject, ObjectInfo, Reading, Refusal, Store, StoreSettings, StoreWriter, Stored,
};
