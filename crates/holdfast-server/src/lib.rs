//! The control plane: HTTP API, application functions, the job runner's own steps, the scheduler and the vault.
//!
//! `http` turns requests into calls of `app` and answers into JSON; `app` decides and writes to the catalog; `jobs` carries
//! out what takes time. Nothing here touches an engine: drivers live beside the databases, in the agent.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod app;
pub mod boot;
pub mod http;
pub mod jobs;
pub mod live;
pub mod rebuild;
pub mod settings;
pub mod vault;

use std::sync::Arc;

use holdfast_catalog::Catalog;
use holdfast_store::Store;

/// Everything that the handlers and the runner share. Cheap to clone.
#[derive(Clone)]
pub struct ControlPlane {
    pub catalog: Catalog,
    pub vault: Arc<vault::Vault>,
    pub store: Store,
    pub live: Arc<live::Live>,
    pub settings: Arc<settings::Settings>,
}
