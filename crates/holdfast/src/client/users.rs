//! `holdfast users`: database users and their passwords. A password is only ever printed because it was asked for.

use clap::Subcommand;
use holdfast_api::user::{Credentials, DatabaseUserList};
use jiff::Timestamp;

use super::error::ClientError;
use super::http::{Answer, Named};
use super::{Context, table};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// A service's database users.
    #[command(alias = "ls")]
    List {
        /// Name or id of the service.
        service: String,
    },
    /// Print a user's password and everything else needed to connect.
    Reveal {
        /// Name or id of the service.
        service: String,
        /// Database user [the service's first].
        username: Option<String>,
    },
    /// Give a user a new random password and print it. The old one is dead at once.
    Reset {
        /// Name or id of the service.
        service: String,
        /// Database user.
        username: String,
    },
}

pub(super) async fn run(ctx: &Context, command: Command) -> Result<(), ClientError> {
    match command {
        Command::List { service } => list(ctx, &service).await,
        Command::Reveal { service, username } => {
            let named = ctx.api.resolve(&service).await?;
            let answer = secret(ctx, &named, username, "reveal-password").await?;
            show(ctx, &answer)
        }
        Command::Reset { service, username } => {
            let named = ctx.api.resolve(&service).await?;
            let answer = secret(ctx, &named, Some(username), "reset-password").await?;
            show(ctx, &answer)
        }
    }
}

async fn list(ctx: &Context, service: &str) -> Result<(), ClientError> {
    let named = ctx.api.resolve(service).await?;
    let answer = ctx.api.get(&["managed-services", &named.id.to_string(), "database-users"]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let users = answer.read::<DatabaseUserList>()?.users;
    if users.is_empty() {
        ctx.ui.note(&format!("{} has no users yet; they are made while it is provisioned", named.name));
        return Ok(());
    }
    let now = Timestamp::now();
    let rows =
        users.into_iter().map(|user| vec![user.username, user.privileges, table::ago(user.created_at, now)]);
    ctx.ui.data(&table::table(&["USER", "RIGHTS", "CREATED"], rows.collect()))
}

/// Asks for the credentials; without a user name, those of the service's first user.
async fn secret(
    ctx: &Context,
    service: &Named,
    username: Option<String>,
    verb: &str,
) -> Result<Answer, ClientError> {
    let id = service.id.to_string();
    let username = match username {
        Some(username) => username,
        None => {
            let users = ctx.api.get(&["managed-services", &id, "database-users"]).await?;
            let first = users.read::<DatabaseUserList>()?.users.into_iter().next();
            first.map(|user| user.username).ok_or_else(|| ClientError::NotFound {
                text: format!("{} has no users yet; they are made while it is provisioned", service.name),
                hint: Some(format!("holdfast services get {}", service.name)),
            })?
        }
    };
    let path = ["managed-services", &id, "database-users", &username, verb];
    ctx.api.post(&path, &serde_json::json!({})).await
}

fn show(ctx: &Context, answer: &Answer) -> Result<(), ClientError> {
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let credentials: Credentials = answer.read()?;
    ctx.ui.data(&table::facts(&[
        ("user", Some(credentials.username)),
        ("password", Some(credentials.password)),
        ("host", Some(credentials.host)),
        ("port", Some(credentials.port.to_string())),
        ("database", Some(credentials.database)),
        ("connection", Some(credentials.connection_string)),
    ]))
}

/// Only the connection string, to stand in another command.
pub(super) async fn connection_string(
    ctx: &Context,
    service: &Named,
    username: Option<String>,
) -> Result<(), ClientError> {
    let answer = secret(ctx, service, username, "reveal-password").await?;
    match ctx.ui.json {
        true => ctx.ui.data(&answer.text),
        false => ctx.ui.data(&answer.read::<Credentials>()?.connection_string),
    }
}
