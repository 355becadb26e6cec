//! Who may do what: TLS and passwords at the door, the plan's limits, allowed networks, and what a tenant cannot do.

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, wait_for};
use serde_json::json;

use super::support::{execute, patch, psql, refused, reveal, start, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_owns_its_databases_and_nothing_else() -> Result<()> {
    let Some(holdfast) = start("access").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("shop").await?;
    tls_and_password(&client, &id).await?;
    for user in ["app_user", "admin"] {
        limits_of(&client, &id, user).await.with_context(|| user.to_owned())?;
    }
    plan_and_its_change(&client, &id).await?;
    networks(&client, &id).await?;
    names(&client, &id).await
}

async fn tls_and_password(client: &Client, id: &str) -> Result<()> {
    let secret = reveal(client, id, "app_user").await?;
    let url = text(&secret, "connection_string")?;
    ensure!(url.ends_with("?sslmode=require"), "the string asks for TLS");
    let tls = psql(&url, "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
    ensure!(matches!(tls.as_deref(), Ok("t|TLSv1.3" | "t|TLSv1.2")), "{tls:?}");

    let demanded = psql(&format!("{url}&require_auth=scram-sha-256"), "SELECT 1")?;
    ensure!(demanded.as_deref() == Ok("1"), "{demanded:?}");
    let password = text(&secret, "password")?;
    let without = psql(&url.replace(&format!(":{password}"), ""), "SELECT 1")?;
    ensure!(without.as_ref().is_err_and(|e| e.contains("no password supplied")), "{without:?}");
    let wrong = psql(&url.replace(&password, "wrong"), "SELECT 1")?;
    ensure!(wrong.as_ref().is_err_and(|e| e.contains("password authentication failed")), "{wrong:?}");
    for (setting, expected) in
        [("password_encryption", "scram-sha-256"), ("data_checksums", "on"), ("ssl", "on")]
    {
        let found = value(client, id, &format!("SHOW {setting}")).await?;
        ensure!(found == expected, "{setting} is {found}");
    }

    // The superuser comes by no network, replication neither, and the maintenance database is closed.
    let at = format!("host={} port={} sslmode=require", text(&secret, "host")?, secret["port"]);
    let superuser = psql(&format!("{at} user=postgres dbname=defaultdb password=x"), "SELECT 1")?;
    ensure!(superuser.as_ref().is_err_and(|e| e.contains("rejects connection")), "{superuser:?}");
    let tenant = format!("{at} user=app_user password={password}");
    let replication = psql(&format!("{tenant} dbname=defaultdb replication=true"), "IDENTIFY_SYSTEM")?;
    ensure!(replication.as_ref().is_err_and(|e| e.contains("rejects replication")), "{replication:?}");
    let closed = psql(&format!("{tenant} dbname=postgres"), "SELECT 1")?;
    ensure!(closed.as_ref().is_err_and(|e| e.contains("permission denied for database")), "{closed:?}");
    Ok(())
}

async fn limits_of(client: &Client, id: &str, user: &str) -> Result<()> {
    let url = text(&reveal(client, id, user).await?, "connection_string")?;
    let database = connect(&url).await?;
    let rights =
        "SELECT rolsuper OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
    ensure!(!database.query_one(rights, &[]).await?.get::<_, bool>(0), "too many rights");
    // What it may do.
    let may = format!(
        "CREATE TABLE of_{user} (t text); INSERT INTO of_{user} VALUES ('x'); CREATE SCHEMA s_{user}; \
         CREATE ROLE r_{user} LOGIN; DROP ROLE r_{user}"
    );
    database.batch_execute(&may).await.context("its own work")?;
    database.batch_execute(&format!("CREATE DATABASE d_{user}")).await.context("a database of its own")?;
    // What it may not: each ends with insufficient_privilege (SQLSTATE 42501).
    for statement in [
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        &format!("COPY of_{user} FROM PROGRAM 'id'"),
        &format!("COPY of_{user} TO PROGRAM 'cat > /dev/null'"),
        &format!("COPY of_{user} FROM '/etc/passwd'"),
        &format!("COPY of_{user} TO '/tmp/holdfast-must-not-be-there'"),
        "ALTER SYSTEM SET archive_command = 'false'",
        "ALTER SYSTEM SET archive_timeout = 0",
        "SET track_commit_timestamp = off",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE postgres PASSWORD 'x'",
        "CREATE ROLE boss SUPERUSER",
        &format!("ALTER ROLE {user} SUPERUSER"),
        &format!("ALTER ROLE {user} REPLICATION"),
        &format!("GRANT pg_execute_server_program TO {user}"),
        &format!("GRANT pg_read_server_files TO {user}"),
        "SELECT pg_reload_conf()",
        "SELECT pg_switch_wal()",
        "SELECT pg_drop_replication_slot('x')",
        "DROP DATABASE postgres",
        "CREATE FUNCTION evil() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'getpid'",
    ] {
        let error =
            database.batch_execute(statement).await.err().with_context(|| format!("{statement}: allowed"))?;
        let code = error.code().map(tokio_postgres::error::SqlState::code).unwrap_or_default().to_owned();
        // 55P02: a setting that only a restart changes; 58P01 would mean that it was tried.
        ensure!(["42501", "55P02"].contains(&code.as_str()), "{statement}: {code} {error:?}");
    }
    Ok(())
}

async fn plan_and_its_change(client: &Client, id: &str) -> Result<()> {
    let limits = || async {
        let sql = "SELECT current_setting('shared_buffers') || ' ' || current_setting('max_connections')";
        value(client, id, sql).await
    };
    let found = limits().await?;
    ensure!(found == "512MB 100", "tier-1 runs with {found}");
    execute(client, id, "CREATE TABLE kept AS SELECT 1 AS n").await?;
    let changed = patch(client, id, json!({"plan_name": "tier-2"})).await?;
    ensure!(changed["plan_name"] == "tier-2", "{changed}");
    wait_for("the engine runs with tier-2", 30, || async {
        // While it restarts it answers nobody.
        Ok(limits().await.ok().filter(|found| found == "1GB 200"))
    })
    .await?;
    ensure!(
        value(client, id, "SELECT count(*)::text FROM kept").await? == "1",
        "data is there after the change"
    );
    Ok(())
}

async fn networks(client: &Client, id: &str) -> Result<()> {
    let url = client.connection_string(id).await?;
    for (cidrs, admits) in [
        (json!(["10.0.0.0/8", "2001:db8::/32"]), false),
        (json!(["10.0.0.0/8", "127.0.0.1/32"]), true),
        (json!(["127.0.0.2/32"]), false),
        (json!([]), true),
    ] {
        let changed = patch(client, id, json!({"allowed_cidrs": cidrs})).await?;
        ensure!(changed["allowed_cidrs"] == cidrs, "{changed}");
        wait_for(&format!("{cidrs} decides that 127.0.0.1 is let in: {admits}"), 20, || async {
            match psql(&url, "SELECT 1")? {
                Ok(_) => Ok(admits.then_some(())),
                Err(error) if error.contains("no pg_hba.conf entry") => Ok((!admits).then_some(())),
                Err(error) => anyhow::bail!("{error}"),
            }
        })
        .await?;
    }
    Ok(())
}

/// A name is changed at once, is one service's alone, and is free again after the change.
async fn names(client: &Client, id: &str) -> Result<()> {
    let other = json!({"name": "other", "database_type": "postgresql", "plan_name": "tier-1"});
    let other = text(&client.post("/managed-services", other).await?, "id")?;
    let path = format!("/managed-services/{id}");
    refused(client, 409, "PATCH", &path, json!({"name": "other"})).await?;
    ensure!(patch(client, id, json!({"name": "store"})).await?["name"] == "store");
    ensure!(client.get(&path).await?["name"] == "store");
    let listed = client.get("/managed-services").await?;
    let names: Vec<_> =
        listed["services"].as_array().into_iter().flatten().map(|s| s["name"].clone()).collect();
    ensure!(names == [json!("store"), json!("other")], "{names:?}");
    ensure!(patch(client, &other, json!({"name": "shop"})).await?["name"] == "shop", "the old name is free");
    // It is deleted while it is being made: nothing of it stays.
    client.delete(&format!("/managed-services/{other}")).await?;
    let gone = client.send("GET", &format!("/managed-services/{other}"), None).await?;
    ensure!(gone.status == 404, "{}", gone.status);
    super::support::wait_job(client, &other, "delete_service", 60).await.map(drop)
}
