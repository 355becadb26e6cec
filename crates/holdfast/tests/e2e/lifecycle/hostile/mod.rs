//! A tenant puts all that it can make in the way of what the agent runs: names of the system's with functions, views and
//! operators behind them, search paths, triggers, names that would be more than names, locks, all connections. Then everything
//! that Holdfast does is done. Whatever of it ran with the agent's rights would have left a trace.

mod objects;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, wait_for};
use serde_json::json;
use tokio_postgres::Client as Database;

use super::support::{note, patch, psql, start, value_at, wait_archived, wait_status};
use objects::{LEFT_IN_TEMPLATE, NAMES, PATHS, REFUSED, REFUSED_IN_TEMPLATE, WAS_HERE, trap};

/// How many of [`NAMES`] are a database's too.
const DATABASES: usize = 3;
/// A database whose names may be any bytes.
const ASCII: &str =
    "CREATE DATABASE ascii ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0";
const NO_TEXT: &str = "DO $$ BEGIN \
     EXECUTE 'ALTER DATABASE renamed RENAME TO \"' || convert_from('\\xff41fe', 'SQL_ASCII') || '\"'; \
     EXECUTE 'ALTER ROLE renamed RENAME TO \"' || convert_from('\\xff42fe', 'SQL_ASCII') || '\"'; END $$";
/// Roles with all that they may do, as bytes.
const ROLES: &str = "SELECT pg_catalog.string_agg(one, E'\\n' ORDER BY one) FROM ( \
     SELECT pg_catalog.concat_ws(' ', pg_catalog.encode(pg_catalog.textsend(rolname::text), 'hex'), rolsuper, rolinherit, rolcreaterole, \
         rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil) AS one FROM pg_catalog.pg_roles \
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'in', roleid, member, admin_option, inherit_option, set_option) FROM pg_catalog.pg_auth_members \
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'of', pg_catalog.encode(pg_catalog.textsend(datname::text), 'hex'), \
         pg_catalog.md5(pg_catalog.textsend(datacl::text))) FROM pg_catalog.pg_database) all_";
const SUPERUSERS: &str = "SELECT pg_catalog.string_agg(rolname, ' ') FROM pg_catalog.pg_roles \
     WHERE rolsuper OR rolreplication OR rolbypassrls";
const TRACES: &str = "SELECT pg_catalog.concat_ws(' ', pg_catalog.count(*) FILTER (WHERE current_user_ = 'app_user'), \
     pg_catalog.string_agg(DISTINCT what || ' as ' || session_user_ || '/' || current_user_, ', ') \
         FILTER (WHERE 'postgres' IN (session_user_, current_user_))) FROM evil.traces";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_tenants_runs_with_the_agents_rights() -> Result<()> {
    let Some(holdfast) = start("hostile").await? else { return Ok(()) };
    let _ = std::fs::remove_file(WAS_HERE); // of a run that found something
    let client = holdfast.client();
    let id = client.create("hostile").await?;
    client.wait_first_backup(&id).await?;
    let url = client.connection_string(&id).await?;
    lay_traps(&url).await?;
    let roles = value_at(&url, ROLES).await?;

    a_password_is_set_whoever_is_in_the_way(&client, &id).await.context("the password")?;
    let backup = one_is_made_without_a_connection_left(&client, &id).await.context("connections")?;
    patch(&client, &id, json!({"allowed_cidrs": ["127.0.0.0/8"]})).await?;
    patch(&client, &id, json!({"plan_name": "tier-2"})).await?;
    let path = format!("/managed-services/{id}");
    client.post(&format!("{path}/stop"), json!({})).await?;
    wait_status(&client, &id, "stopped", 30).await?;
    client.post(&format!("{path}/start"), json!({})).await?;
    wait_status(&client, &id, "running", 30).await?;
    let at = in_notes(&client, &id).await?;
    wait_archived(&client, &id, at).await?;

    let asked = client
        .post(&format!("{path}/backups/{backup}/restore"), json!({"target_service_name": "copy"}))
        .await?;
    let copies = [text(&asked, "service_id")?, client.restore_to(&id, &at.to_string(), "at-instant").await?];
    for copy in &copies {
        client.wait_running(copy, 120).await?;
        nobody_gained(&client, copy, &roles).await.with_context(|| format!("the copy {copy}"))?;
    }
    nobody_gained(&client, &id, &roles).await.context("the source")?;
    nothing_can_be_led_to(&client, &holdfast, &copies[0]).await?;
    for service in copies.iter().chain([&id]) {
        client.delete(&format!("/managed-services/{service}")).await?;
        super::support::wait_job(&client, service, "delete_service", 60).await?;
    }
    ensure!(!std::path::Path::new(WAS_HERE).exists(), "a program ran");
    ensure!(!holdfast.log().contains("panicked"), "the agent met a defect");
    Ok(())
}

async fn lay_traps(url: &str) -> Result<()> {
    let run = async |database: &Database, statement: &str| {
        database
            .batch_execute(statement)
            .await
            .with_context(|| statement.chars().take(100).collect::<String>())
    };
    let database = connect(url).await?;
    for statement in ["CREATE DATABASE x", "CREATE DATABASE renamed", "CREATE ROLE renamed", ASCII] {
        run(&database, statement).await?;
    }
    for (number, name) in NAMES.iter().enumerate() {
        let name = name.replace('"', "\"\"");
        if number < DATABASES {
            run(&database, &format!("CREATE DATABASE \"{name}\"")).await?;
        }
        run(
            &database,
            &format!(
                "CREATE ROLE \"{name}\" LOGIN CREATEDB CREATEROLE PASSWORD '{}'",
                name.replace('\'', "''")
            ),
        )
        .await?;
    }
    run(&database, "CREATE ROLE \"two\nlines\"").await?;
    for name in ["defaultdb", "x", "ascii"] {
        run(&connect(&at(url, name)).await?, &trap()).await.context(name)?;
    }
    run(&connect(&at(url, "ascii")).await?, NO_TEXT).await?;
    for statement in PATHS {
        run(&database, statement).await?;
    }
    refused(&connect(url).await?, REFUSED).await?;
    let template = connect(&at(url, "template1")).await?;
    refused(&template, REFUSED_IN_TEMPLATE).await?;
    for statement in LEFT_IN_TEMPLATE {
        run(&template, statement).await?;
    }
    // They do snap: whoever asks for the system's names here gets the tenant's.
    let caught = connect(url).await?;
    caught.batch_execute("SELECT current_setting('port'), clock_timestamp() FROM pg_database").await?;
    let traces = value_at(url, TRACES).await?;
    ensure!(traces.parse::<u32>().is_ok_and(|count| count > 10), "{traces}");
    Ok(())
}

fn at(url: &str, database: &str) -> String {
    url.replace("/defaultdb?", &format!("/{database}?"))
}

async fn refused(database: &Database, statements: &[&str]) -> Result<()> {
    for statement in statements {
        let refused = database.batch_execute(statement).await.err();
        let code = refused.as_ref().and_then(tokio_postgres::Error::code).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("42501"), "{statement}: {refused:?}");
    }
    Ok(())
}

/// Another session has changed the role, and keeps that to itself.
async fn a_password_is_set_whoever_is_in_the_way(client: &Client, id: &str) -> Result<()> {
    let old = client.connection_string(id).await?;
    let in_the_way = connect(&old).await?;
    in_the_way.batch_execute("BEGIN; ALTER ROLE app_user PASSWORD 'mine'").await?;
    let reset = client
        .post(&format!("/managed-services/{id}/database-users/app_user/reset-password"), json!({}))
        .await?;
    let new = text(&reset, "connection_string")?;
    ensure!(in_the_way.batch_execute("COMMIT").await.is_err(), "it was in the way and is still there");
    ensure!(
        psql(&new, "SELECT 1")?.is_ok() && psql(&old, "SELECT 1")?.is_err(),
        "the new one alone opens it"
    );
    Ok(())
}

/// A backup while the tenant has all connections that it gets; the agent has its own.
async fn one_is_made_without_a_connection_left(client: &Client, id: &str) -> Result<String> {
    let url = client.connection_string(id).await?;
    let mut taken = Vec::new();
    while let Ok(one) = connect(&url).await {
        taken.push(one);
        ensure!(taken.len() < 200, "they never end");
    }
    let backup = client.trigger(id).await?;
    client.wait_backup(id, &backup, 90).await?;
    ensure!(taken.len() > 80, "{} connections", taken.len());
    Ok(backup)
}

/// Something committed behind the last backup.
async fn in_notes(client: &Client, id: &str) -> Result<jiff::Timestamp> {
    let url = client.connection_string(id).await?;
    connect(&url).await?.batch_execute("CREATE TABLE public.notes (number serial, note text)").await?;
    note(client, id, "behind the backup").await
}

async fn nobody_gained(client: &Client, id: &str, roles: &str) -> Result<()> {
    let url = client.connection_string(id).await?;
    let superusers = value_at(&url, SUPERUSERS).await?;
    ensure!(superusers == "postgres", "{superusers}");
    let found = value_at(&url, ROLES).await?;
    ensure!(found == roles, "roles: {found}\nthere were: {roles}");
    for database in ["defaultdb", "ascii"] {
        let traces = value_at(&at(&url, database), TRACES).await?;
        ensure!(traces.parse::<u32>().is_ok(), "what ran in {database}: {traces}");
    }
    let closed = psql(&at(&url, "postgres"), "SELECT 1")?;
    ensure!(closed.as_ref().is_err_and(|error| error.contains("permission denied")), "{closed:?}");
    // What a tenant left in template1 comes into its own new databases, and nowhere else.
    let database = connect(&url).await?;
    database.batch_execute("CREATE DATABASE new").await?;
    let left = value_at(&at(&url, "new"), "SELECT count(*)::text FROM pg_largeobject_metadata").await?;
    database.batch_execute("DROP DATABASE new").await?;
    ensure!(left == "1", "{left} large objects");
    Ok(())
}

/// No database of this service is one that a client could be led to: one has a name that is no text, the others are templates.
async fn nothing_can_be_led_to(client: &Client, holdfast: &Holdfast, id: &str) -> Result<()> {
    let url = client.connection_string(id).await?;
    let ascii = connect(&at(&url, "ascii")).await?;
    let drop = "SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_catalog.pg_database \
                WHERE NOT datistemplate AND datname::text !~ '^(postgres|ascii|\\xff.*)$'";
    for row in ascii.simple_query(drop).await? {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = row {
            ascii.batch_execute(row.get(0).context("a statement")?).await?;
        }
    }
    ascii.batch_execute("ALTER DATABASE ascii IS_TEMPLATE true").await?;
    let agent = holdfast.agent_pid();
    let path = format!("/managed-services/{id}/metrics");
    let before = client.get(&path).await?;
    wait_for("the agent has looked at it again", 20, || async {
        let now = client.get(&path).await?;
        Ok((now != before).then_some(()))
    })
    .await?;
    ensure!(holdfast.agent_pid() == agent && agent.is_some(), "the agent ended");
    Ok(())
}
