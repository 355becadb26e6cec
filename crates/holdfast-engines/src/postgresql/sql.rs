//! Statements that the agent runs in an instance, over its socket, as the superuser.

use std::time::Duration;

use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Config, NoTls};

use crate::{EngineError, Instance, Paths, Result, UserSpec};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENT_TIMEOUT_MS: u32 = 20_000;
/// A password takes a moment; whoever holds it up for longer is in its way.
const HELD_UP: Duration = Duration::from_secs(1);

/// What a tenant named, which may be no text: in a database without an encoding (`SQL_ASCII`) any bytes are a name, and names of
/// databases and roles are seen from all (PostgreSQL 17, 23.3.1). Bytes that are no UTF-8 are replaced.
pub(super) struct Name(pub(super) String);

impl<'a> FromSql<'a> for Name {
    fn from_sql(
        _: &Type,
        bytes: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn accepts(r#type: &Type) -> bool {
        matches!(*r#type, Type::NAME | Type::TEXT)
    }
}

/// A connection to `database`, closed when the client is dropped.
pub(super) async fn connect(instance: &Instance, database: &str) -> Result<Client> {
    let doing = || format!("connect to instance {}", instance.stanza);
    let mut config = Config::new();
    config
        .host_path(Paths(&instance.folder).run())
        .port(instance.port)
        .user("postgres")
        .dbname(database)
        .application_name("holdfast")
        .connect_timeout(CONNECT_TIMEOUT)
        // The agent may write while tenants may not, and never waits for what it does itself: a commit's way to the store.
        .options(format!(
            "-c statement_timeout={STATEMENT_TIMEOUT_MS} -c default_transaction_read_only=off \
             -c synchronous_commit=local"
        ));
    let (client, connection) = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls))
        .await
        .map_err(|_| EngineError::NotReady { seconds: CONNECT_TIMEOUT.as_secs(), last: doing() })?
        .map_err(EngineError::client(doing()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an instance closed our connection");
        }
    });
    Ok(client)
}

/// The tenant's database and users. Idempotent, so that a repeated step finds its own work.
pub(super) async fn make_tenant(instance: &Instance, users: &[UserSpec]) -> Result<()> {
    make_users(instance, users).await?;
    let client = connect(instance, "postgres").await?;
    let owner = users.first().map_or("postgres", |user| user.username.as_str());
    let exists = client
        .query_opt("SELECT 1 FROM pg_database WHERE datname = 'defaultdb'", &[])
        .await
        .map_err(EngineError::client("look for the default database"))?;
    if exists.is_none() {
        let create = format!("CREATE DATABASE defaultdb OWNER {}", identifier(owner));
        client.batch_execute(&create).await.map_err(EngineError::client("create the default database"))?;
    }
    Ok(())
}

/// The tenant's users alone: a copy has the databases that its source had, whatever they are called.
pub(super) async fn make_users(instance: &Instance, users: &[UserSpec]) -> Result<()> {
    let client = connect(instance, "postgres").await?;
    for user in users {
        ensure_role(&client, user).await?;
    }
    // Tenants work in their own databases; `postgres` is the agent's.
    client
        .batch_execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
        .await
        .map_err(EngineError::client("close the maintenance database"))?;
    if let [first, others @ ..] = users {
        for other in others {
            let grant = format!("GRANT {} TO {}", identifier(&first.username), identifier(&other.username));
            client.batch_execute(&grant).await.map_err(EngineError::client("grant the tenant's roles"))?;
        }
    }
    Ok(())
}

async fn ensure_role(client: &Client, user: &UserSpec) -> Result<()> {
    let known = client
        .query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&user.username])
        .await
        .map_err(EngineError::client("look for a role"))?
        .is_some();
    let verb = if known { "ALTER" } else { "CREATE" };
    let rights = match user.role.as_str() {
        "admin" => "NOSUPERUSER CREATEDB CREATEROLE NOREPLICATION",
        _ => "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION",
    };
    let statement = format!(
        "{verb} ROLE {} LOGIN {rights} PASSWORD '{}'",
        identifier(&user.username),
        verifier(&user.password)
    );
    client
        .batch_execute(&statement)
        .await
        .map_err(EngineError::client(format!("make user {}", user.username)))?;
    if user.role == "admin" {
        let grant = format!("GRANT pg_monitor, pg_signal_backend TO {}", identifier(&user.username));
        client.batch_execute(&grant).await.map_err(EngineError::client("grant monitoring"))?;
    }
    Ok(())
}

/// Sets it whoever is in the way: a transaction that changed the role and stays open would hold this one up for as long.
pub(super) async fn set_password(instance: &Instance, user: &UserSpec) -> Result<()> {
    let doing = || format!("set the password of {}", user.username);
    let client = connect(instance, "postgres").await?;
    let own = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(EngineError::client(doing()))?;
    let statement =
        format!("ALTER ROLE {} PASSWORD '{}'", identifier(&user.username), verifier(&user.password));
    let setting = client.batch_execute(&statement);
    tokio::pin!(setting);
    loop {
        match tokio::time::timeout(HELD_UP, &mut setting).await {
            Ok(done) => return done.map_err(EngineError::client(doing())),
            Err(_) => end_those_before(instance, own.get(0)).await?,
        }
    }
}

/// Ends the tenants' sessions that a session of ours waits for.
async fn end_those_before(instance: &Instance, waiting: i32) -> Result<()> {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE pid = ANY (pg_blocking_pids($1)) AND usename <> 'postgres'";
    let client = connect(instance, "postgres").await?;
    let ended = client.query(end, &[&waiting]).await;
    ended.map(drop).map_err(EngineError::client("end the sessions that hold up a new password"))
}

/// The SCRAM verifier, made here: the password itself reaches neither the server's log nor its process title.
fn verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes the engine read its settings again.
pub(super) async fn reload(instance: &Instance) -> Result<()> {
    let client = connect(instance, "postgres").await?;
    client
        .query_one("SELECT pg_reload_conf()", &[])
        .await
        .map(drop)
        .map_err(EngineError::client("reload the settings"))
}
