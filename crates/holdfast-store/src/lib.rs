//! The object store: where everything lies ([`layout`]), how it gets there for good ([`store`]), and the sealing S3
//! gateway ([`gateway`]) that lets pgBackRest write into it without ever storing a readable byte.
//!
//! Reading order: [`layout`], [`store`], [`gateway`]. Nothing here knows the catalog or a database.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod description;
pub mod documents;
pub mod error;
pub mod gateway;
pub mod layout;
pub mod log;
pub mod manifest;
mod repository_path;
pub mod sealed;
mod space;
pub mod store;
pub mod survey;

pub use error::{ErrorKind, Result, StoreError};
pub use layout::{LineageScope, ObjectName, ObjectPrefix, RepositoryPath, ServiceScope};
pub use space::space_of;
pub use store::{
    Answer, Limits, ListedObject, ObjectInfo, Reading, Refusal, Store, StoreSettings, StoreWriter, Stored,
};
