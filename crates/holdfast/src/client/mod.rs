//! The commands of a client. They speak the same HTTP API as every other client and know nothing that it does not say.

mod backups;
mod conformance;
pub(crate) mod error;
mod http;
mod jobs;
mod keys;
mod progress;
mod restore;
mod service_view;
mod services;
pub(crate) mod table;
pub(crate) mod time;
mod users;
mod window;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::config;
use http::{Access, Api};
use table::Output;

pub(crate) use conformance::EngineArgs;
pub(crate) use error::ClientError;
pub(crate) use table::{Ui, table};

const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const DEFAULT_USER: &str = "admin";

/// Flags of all client commands. The password is no flag: arguments can be read by everybody on the host.
#[derive(Args, Default, PartialEq)]
#[command(
    next_help_heading = "Options of client commands (password: HOLDFAST_PASSWORD, --password-file or a prompt)"
)]
pub(crate) struct ClientFlags {
    /// Address of the control plane [HOLDFAST_URL, http://127.0.0.1:8080].
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// User name [HOLDFAST_USER, admin].
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// A file that holds the user's password and nothing else.
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Organization, by id or slug.
    #[arg(long, global = true, value_name = "ORG")]
    org: Option<String>,
    /// table, for people, or json, the API's answer for programs [table].
    #[arg(long, short, global = true, value_enum, value_name = "HOW", hide_possible_values = true)]
    output: Option<Output>,
    /// Only data and errors: no notes, no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
}

impl ClientFlags {
    pub(crate) fn ui(&self) -> Ui {
        Ui { json: self.output == Some(Output::Json), quiet: self.quiet }
    }

    /// Whether they say nothing about a control plane.
    pub(crate) fn only_say_how(&self) -> bool {
        *self == Self { output: self.output, quiet: self.quiet, ..Self::default() }
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Database services: list, create, change, stop, start, delete.
    #[command(subcommand, alias = "service")]
    Services(services::Command),
    /// Backups of a service: list, take, delete.
    #[command(subcommand, alias = "backup")]
    Backups(backups::Command),
    /// Restore an instant, or a backup, into a new service. The source stays as it is.
    Restore(restore::RestoreArgs),
    /// Which instants of a service can be restored.
    Window(window::WindowArgs),
    /// What is being done, and how far it is.
    #[command(subcommand, alias = "job")]
    Jobs(jobs::Command),
    /// Key-encryption keys: what they wrap, and their rotation.
    #[command(subcommand, alias = "key")]
    Keys(keys::Command),
    /// Database users and their passwords.
    #[command(subcommand, alias = "user")]
    Users(users::Command),
}

/// What every command has in hand.
struct Context {
    api: Api,
    ui: Ui,
}

/// Runs a command; all that is to be said has been said when it returns.
pub(crate) async fn run(command: Command, flags: ClientFlags) -> ExitCode {
    let ui = flags.ui();
    match Box::pin(carry_out(command, flags, ui)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says what is wrong with a command line, or the help that was asked for. A program that asked for JSON gets JSON.
pub(crate) fn refuse(error: &clap::Error, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    if error.use_stderr() && asks_for_json(arguments) {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        Ui { json: true, quiet: false }.error(&ClientError::Usage(text));
    } else {
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut before = OsString::new();
    for argument in arguments {
        let is_value = argument == "json" && (before == "--output" || before == "-o");
        if is_value || argument == "--output=json" || argument == "-ojson" {
            return true;
        }
        before = argument;
    }
    false
}

/// `holdfast check engine`: a client like the others, beside the other checks on the command line.
pub(crate) async fn check_engine(args: EngineArgs, flags: ClientFlags) -> ExitCode {
    let ui = flags.ui();
    let done = match context(flags, ui) {
        Ok(ctx) => Box::pin(conformance::run(&ctx, args)).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn context(flags: ClientFlags, ui: Ui) -> Result<Context, ClientError> {
    let ctx = Context { api: Api::new(access(flags)?)?, ui };
    if ctx.api.is_exposed() {
        ui.note("warning: the address begins with http://, the password can be read on the way");
    }
    Ok(ctx)
}

async fn carry_out(command: Command, flags: ClientFlags, ui: Ui) -> Result<(), ClientError> {
    let ctx = context(flags, ui)?;
    match command {
        Command::Services(command) => services::run(&ctx, command).await,
        Command::Backups(command) => backups::run(&ctx, command).await,
        Command::Restore(args) => restore::run(&ctx, args).await,
        Command::Window(args) => window::run(&ctx, args).await,
        Command::Jobs(command) => jobs::run(&ctx, command).await,
        Command::Keys(command) => keys::run(&ctx, command).await,
        Command::Users(command) => users::run(&ctx, command).await,
    }
}

fn access(flags: ClientFlags) -> Result<Access, ClientError> {
    let or_variable = |flag: Option<String>, name, default: &str| {
        flag.or_else(|| config::variable(name)).unwrap_or_else(|| default.to_owned())
    };
    let url = or_variable(flags.url, "HOLDFAST_URL", DEFAULT_URL);
    let user = or_variable(flags.user, "HOLDFAST_USER", DEFAULT_USER);
    let password = match flags.password_file {
        Some(file) => password_of(&file)?,
        None => match config::variable("HOLDFAST_PASSWORD") {
            Some(password) => password,
            None => ask_password(&user, &url)?,
        },
    };
    Ok(Access { url, user, password, organization: flags.org })
}

fn password_of(file: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ClientError::Io { doing: format!("read {}", file.display()), source })?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(ClientError::Usage(format!("{} holds no password", file.display()))),
        _ if password.contains('\n') => {
            Err(ClientError::Usage(format!("{} holds more than one line", file.display())))
        }
        _ => Ok(password.to_owned()),
    }
}

fn ask_password(user: &str, url: &str) -> Result<String, ClientError> {
    if !std::io::stdin().is_terminal() {
        let text = format!("no password for user {user}");
        return Err(ClientError::Unauthorised { text });
    }
    rpassword::prompt_password(format!("Password of {user} at {url}: "))
        .map_err(|source| ClientError::Io { doing: "read the password".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_no_command_clash() {
        <crate::Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_broken_command_line_still_says_how_to_complain() {
        for (line, json) in [
            ("-o json services", true),
            ("services --output=json", true),
            ("services get --output json", true),
            ("services get json", false),
            ("services --output table", false),
        ] {
            assert_eq!(asks_for_json(line.split(' ').map(OsString::from)), json, "{line}");
        }
    }

    #[test]
    fn a_password_file_holds_one_line() {
        let file = std::env::temp_dir().join(format!("holdfast-password-{}", std::process::id()));
        for (text, expected) in [
            ("pw", Some("pw")),
            ("pw\n", Some("pw")),
            ("pw\r\n", Some("pw")),
            (" p w \n", Some(" p w ")),
            ("", None),
            ("\n", None),
            ("pw\nother\n", None),
        ] {
            std::fs::write(&file, text).expect("writable");
            assert_eq!(password_of(&file).ok().as_deref(), expected, "{text:?}");
        }
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!(password_of(&file).expect_err("it is gone").exit_code(), 1);
    }
}
