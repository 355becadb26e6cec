//! `holdfast agent`: an agent for a control plane, also the child process of `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_agent::{AgentConfig, DriverSettings, OnLogFull};
use holdfast_api::agent::Secret;
use tokio_util::sync::CancellationToken;

use crate::logging;

#[derive(Args)]
pub(crate) struct AgentArgs {
    /// Address of the control plane.
    #[arg(long, value_name = "URL")]
    control: String,
    /// File that holds the agents' token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The agent's own folder.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Folder of the instances' folders.
    #[arg(long, value_name = "DIR")]
    instances: PathBuf,
    /// Folder with the engines' programs.
    #[arg(long, value_name = "DIR")]
    engines: Option<PathBuf>,
    /// Folder in which system users and ports for engines are claimed.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/holdfast/users")]
    users: PathBuf,
    /// The object store, as for `serve`.
    #[arg(long, value_name = "URL")]
    store_url: String,
    /// Address that engines listen on and that clients are told.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    service_address: IpAddr,
    /// Give log up that waits for the object store when it is about to fill a disk, instead of refusing writes.
    #[arg(long)]
    break_log_when_full: bool,
    /// Milliseconds after which log that is followed is shipped.
    #[arg(long, value_name = "MS", default_value = "500")]
    log_interval_ms: u64,
    /// A setting of an engine's, as `holdfast config` lists it.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    #[arg(long, default_value = "info")]
    log: String,
    #[arg(long)]
    log_json: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must read KEY=VALUE")?;
    DriverSettings::default().set(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(args: AgentArgs) -> anyhow::Result<()> {
    logging::start(&args.log, args.log_json)?;
    crate::limits::raise_open_files();
    let token = std::fs::read_to_string(&args.token_file)
        .with_context(|| format!("cannot read the token in {}", args.token_file.display()))?;
    let mut engines = DriverSettings::default();
    for (key, value) in &args.settings {
        engines.set(key, value).map_err(anyhow::Error::msg)?;
    }
    let config = AgentConfig {
        control_url: args.control,
        token: Secret(token.trim().to_owned()),
        state_dir: args.state,
        instances_dir: args.instances,
        engines_dir: args.engines.unwrap_or_else(crate::config::default_engines),
        claims_dir: args.users,
        store_url: args.store_url,
        service_address: args.service_address,
        faults: crate::config::faults(),
        on_log_full: if args.break_log_when_full { OnLogFull::Break } else { OnLogFull::Stop },
        log_interval: std::time::Duration::from_millis(args.log_interval_ms),
        engines,
    };
    let stop = CancellationToken::new();
    crate::serve::stop_at_signals(stop.clone())?;
    holdfast_agent::run(config, stop).await.context("the agent ended")
}
