//! `holdfast serve`: the control plane in the foreground, and its agent as a child process that is started again whenever
//! it ends.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Flags};
use crate::logging;

/// It takes a second, on a host that has nothing else to do.
const AGENT_COMES_WITHIN: Duration = Duration::from_secs(10);
const RESTART_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(flags: Flags) -> anyhow::Result<()> {
    let config = config::load(&flags)?;
    logging::start(&config.log, config.log_json)?;
    crate::limits::raise_open_files();
    let listener = TcpListener::bind(config.server.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.server.listen))?;
    let address = listener.local_addr()?;
    let booted = holdfast_server::boot::boot(config.server.clone(), config.admin_password.clone()).await?;
    announce(&booted, address).await?;
    let stop = CancellationToken::new();
    stop_at_signals(stop.clone())?;
    if config.embedded_agent {
        booted.control_plane.live.await_versions(AGENT_COMES_WITHIN);
    }
    let agent =
        config.embedded_agent.then(|| tokio::spawn(keep_agent(command(&config, address), stop.clone())));
    let served = holdfast_server::boot::serve(booted, listener, stop.clone()).await;
    stop.cancel();
    if let Some(agent) = agent {
        agent.await.context("the agent's keeper failed")?;
    }
    served.context("the control plane ended")
}

#[expect(clippy::print_stdout, reason = "the person who starts it reads this")]
async fn announce(
    booted: &holdfast_server::boot::Booted,
    address: std::net::SocketAddr,
) -> anyhow::Result<()> {
    holdfast_server::boot::tell_first_start(booted, &mut std::io::stdout()).await?;
    println!("holdfast is listening on http://{address}");
    Ok(())
}

/// SIGINT and SIGTERM end it politely: steps in hand go back to the queue, engines keep running.
pub(crate) fn stop_at_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// The embedded agent is an ordinary agent: it comes over HTTP like any other. It ends with its parent (`setpriv`), so
/// that a killed control plane leaves no agent behind that the next one would meet.
#[expect(clippy::disallowed_methods, reason = "the one child that is no engine's")]
fn command(config: &Config, address: std::net::SocketAddr) -> Command {
    let data = &config.server.data_dir;
    let own = std::env::current_exe().unwrap_or_else(|_| "holdfast".into());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(own).arg("agent");
    command.arg("--control").arg(format!("http://{}", reachable(address)));
    command.arg("--token-file").arg(data.join("agent.token"));
    command.arg("--state").arg(data.join("agent"));
    command.arg("--instances").arg(&config.instances_dir);
    command.arg("--engines").arg(&config.engines_dir);
    command.arg("--users").arg(&config.users_dir);
    command.arg("--store-url").arg(&config.server.store_url);
    command.arg("--service-address").arg(config.service_address.to_string());
    if config.on_log_full == holdfast_agent::OnLogFull::Break {
        command.arg("--break-log-when-full");
    }
    command.arg("--log-interval-ms").arg(config.log_interval.as_millis().to_string());
    for (key, value) in config.engines.all() {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.arg("--log").arg(&config.log);
    if config.log_json {
        command.arg("--log-json");
    }
    command.env_remove("HOLDFAST_ADMIN_PASSWORD").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A wildcard address is no destination.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn keep_agent(mut command: Command, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match command.spawn() {
            Ok(child) => {
                let ended = watch(child, &stop).await;
                if !stop.is_cancelled() {
                    tracing::error!(ended, "the agent has ended; starting it again");
                }
            }
            Err(error) => tracing::error!(%error, "the agent cannot be started"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

async fn watch(mut child: Child, stop: &CancellationToken) -> String {
    tokio::select! {
        ended = child.wait() => ended.map_or_else(|error| error.to_string(), |status| status.to_string()),
        () = stop.cancelled() => {
            if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
            let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
            "stopped".to_owned()
        }
    }
}
