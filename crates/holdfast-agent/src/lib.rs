//! The agent: acts beside the databases. It asks the control plane for steps to do, runs them with an engine's driver,
//! keeps instances running, and knows for certain what of their log is in the object store.
//!
//! Engine processes are detached: they outlive the agent and are adopted again by its next life.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod adoption;
mod archive;
mod claims;
mod client;
mod commands;
mod coverage;
mod defect;
mod disk;
mod error;
#[cfg(test)]
mod fake;
mod host;
mod instances;
mod keys;
mod lineage;
mod log;
pub mod open;
mod ports;
mod shared;
mod source;
mod steps;
mod stream_source;
mod supervisor;
mod sweep;
mod tail;
mod users;
mod window;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_api::agent::Secret;
use holdfast_core::engine::EngineKind;
use holdfast_engines::{Base, Driver, Log, RepositoryDriver};
use holdfast_fault::FaultPoints;
use holdfast_gateway::Gateway;
use holdfast_store::{Limits, Store};

pub use disk::OnLogFull;
pub use error::AgentError;
pub use holdfast_engines::DriverSettings;

/// What an agent was told at its start.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where the control plane listens, `http://127.0.0.1:8080`.
    pub control_url: String,
    pub token: Secret,
    /// The agent's own folder, mode 0700.
    pub state_dir: PathBuf,
    /// Folder of the instances' folders; every service's user must be able to pass through it.
    pub instances_dir: PathBuf,
    pub engines_dir: PathBuf,
    /// Folder in which users of the pool and ports are claimed, shared by all agents of the host that run as root. Any
    /// other agent claims ports in its own folder.
    pub claims_dir: PathBuf,
    pub store_url: String,
    /// Address that engines listen on and that clients are told.
    pub service_address: IpAddr,
    /// Where tests make steps fail; nowhere.
    pub faults: FaultPoints,
    pub on_log_full: OnLogFull,
    /// Followed log is shipped at least so often while there is any.
    pub log_interval: Duration,
    pub engines: DriverSettings,
}

/// What all parts of the agent share.
pub(crate) struct Agent {
    pub config: AgentConfig,
    pub host: host::Host,
    pub store: Store,
    /// The same with [`Limits::prompt`].
    pub prompt_store: Store,
    pub gateway: Gateway,
    pub client: client::Client,
    pub instances: instances::Instances,
    pub ballast: disk::Ballast,
    drivers: BTreeMap<EngineKind, Box<dyn Driver>>,
}

impl Agent {
    pub(crate) fn driver(&self, engine: EngineKind) -> Result<&dyn Driver, AgentError> {
        self.drivers.get(&engine).map(AsRef::as_ref).ok_or(AgentError::NoDriver(engine))
    }

    /// What this host can run.
    pub(crate) fn versions(&self) -> Vec<(EngineKind, Vec<String>)> {
        self.drivers.iter().map(|(engine, driver)| (*engine, driver.versions())).collect()
    }

    /// The driver of an engine whose own tool keeps a repository.
    pub(crate) fn repository(&self, engine: EngineKind) -> Result<&dyn RepositoryDriver, AgentError> {
        match self.driver(engine)?.data_path().base {
            Base::Repository(driver) => Ok(driver),
            Base::Streams(_) => Err(AgentError::NoDriver(engine)),
        }
    }

    /// The driver of an engine whose own tool archives the log.
    pub(crate) fn archiver(&self, engine: EngineKind) -> Result<&dyn RepositoryDriver, AgentError> {
        match self.driver(engine)?.data_path().log {
            Log::Repository(driver) => Ok(driver),
            Log::Followed(_) | Log::None => Err(AgentError::NoDriver(engine)),
        }
    }
}

/// Runs until it is told to stop; steps in hand are given back to the queue by their leases.
///
/// # Errors
/// When it cannot start: its folders, its gateway, its object store.
pub async fn run(
    mut config: AgentConfig,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(), AgentError> {
    config.claims_dir = claims::folder(&config.claims_dir, &config.state_dir);
    let host = host::Host::open(&config.state_dir)?;
    let store = Store::open(&config.store_url).map_err(AgentError::store("open the object store"))?;
    let prompt = store.with_limits(Limits::prompt());
    let prompt_store = prompt.map_err(AgentError::store("open the object store"))?;
    let gateway = host.start_gateway(prompt_store.clone()).await?;
    let client = client::Client::new(&config.control_url, &config.token, host.id)?;
    let agent = Arc::new(Agent {
        drivers: holdfast_engines::drivers(&config.engines_dir, &config.engines),
        instances: instances::Instances::default(),
        ballast: disk::Ballast::new(&config.instances_dir),
        host,
        store,
        prompt_store,
        gateway,
        client,
        config,
    });
    adoption::adopt_all(&agent).await?;
    tracing::info!(agent = %agent.host.id, instances = agent.instances.len(), "the agent is up");
    let work = Box::pin(async {
        tokio::join!(
            commands::run(&agent),
            supervisor::run(&agent),
            supervisor::measure_sizes(&agent),
            disk::keep_ballast(&agent),
            coverage::run(&agent),
            window::run(&agent),
            sweep::run(&agent),
            log::run(&agent),
            log::compact(&agent),
            tail::run(&agent),
            tail::remove_spent(&agent)
        );
    });
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}
