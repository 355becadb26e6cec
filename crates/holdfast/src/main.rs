//! The one binary: `serve`, `agent`, and the commands of a client. It parses, wires and prints; the crates do the work.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml
#![allow(rustdoc::broken_intra_doc_links, reason = "the help of commands names defaults in [brackets]")]

mod agent;
mod check;
mod client;
mod config;
mod doctor;
mod limits;
mod logging;
mod recovery;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_core::engine::EngineKind;

#[derive(Parser)]
#[command(name = "holdfast", version, about = about(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    client: client::ClientFlags,
}

fn about() -> String {
    let offered = EngineKind::ALL.map(EngineKind::capability).into_iter().filter(|engine| engine.available);
    let mut titles: Vec<_> = offered.map(|engine| engine.title).collect();
    let last = titles.pop().unwrap_or_default();
    format!(
        "Backups and restores to any second, for {} and {last}, on machines of your own.",
        titles.join(", ")
    )
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane, with an agent of its own on this host. Stays in the foreground.
    Serve(Box<config::Flags>),
    /// Run only an agent, for a control plane elsewhere.
    Agent(agent::AgentArgs),
    /// Find out whether something outside does what Holdfast needs of it.
    #[command(subcommand)]
    Check(check::Command),
    /// Find out what is missing on this host, and what mends it.
    Doctor(doctor::DoctorArgs),
    /// Print the reference of all settings: file, environment, flags, defaults.
    Config,
    /// Print the completion script of a shell, to be sourced by it.
    Completion { shell: clap_complete::Shell },
    /// Make a lost catalog anew from the object store and the recovery kit, in an empty data folder.
    Rebuild(recovery::RebuildArgs),
    /// Restore from the object store and the recovery kit alone, without a control plane, into a database of your own.
    Open(recovery::OpenArgs),
    /// Stop or start what `open` has restored.
    #[command(subcommand)]
    Opened(recovery::OpenedCommand),
    #[command(flatten)]
    Client(client::Command),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return client::refuse(&error, std::env::args_os()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Client(command) => Ok(client::run(command, cli.client).await),
            Command::Check(check::Command::Engine(args)) => Ok(client::check_engine(args, cli.client).await),
            Command::Check(check::Command::Store(args)) if cli.client.only_say_how() => {
                Ok(check::run(args, cli.client.ui()).await)
            }
            Command::Doctor(args) if cli.client.only_say_how() => {
                Ok(doctor::run(args, cli.client.ui()).await)
            }
            Command::Rebuild(args) if cli.client.only_say_how() => {
                Ok(recovery::rebuild(args, cli.client.ui()).await)
            }
            Command::Open(args) if cli.client.only_say_how() => {
                Ok(recovery::open(args, cli.client.ui()).await)
            }
            Command::Opened(command) if cli.client.only_say_how() => {
                Ok(recovery::opened(command, cli.client.ui()).await)
            }
            _ if cli.client != client::ClientFlags::default() => refuse_client_flags(),
            Command::Serve(flags) => serve::run(*flags).await.map(|()| ExitCode::SUCCESS),
            Command::Agent(args) => agent::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Check(_)
            | Command::Doctor(_)
            | Command::Rebuild(_)
            | Command::Open(_)
            | Command::Opened(_) => unreachable!("with other flags they were refused above"),
            Command::Config => config::print_reference().map(|()| ExitCode::SUCCESS),
            Command::Completion { shell } => {
                let mut command = <Cli as clap::CommandFactory>::command();
                clap_complete::generate(shell, &mut command, "holdfast", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    // A blocking task in hand must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match done {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Flags of clients stand before any command, so that `holdfast --output json services list` works.
fn refuse_client_flags() -> anyhow::Result<ExitCode> {
    let text = "--url, --user, --password-file, --org, --output and --quiet are for client commands only";
    <Cli as clap::CommandFactory>::command().error(clap::error::ErrorKind::ArgumentConflict, text).exit()
}

#[expect(clippy::print_stderr, reason = "the command line talks to people")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("holdfast: {error:#}");
    ExitCode::FAILURE
}
