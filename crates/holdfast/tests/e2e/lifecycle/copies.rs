//! While a copy is made, its data and its passwords are still the source's, and its settings may already be others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Holdfast, wait_for};
use jiff::Timestamp;
use serde_json::json;

use super::support::{execute, note, patch, start, value, value_at, wait_archived};

/// The source has twice the connections that the copy may have (CloudNativePG #4721, PGO #2829), and enough log behind its base
/// that somebody who knows the source's password could come in meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_lets_nobody_in_before_its_own_passwords_and_may_have_a_smaller_plan() -> Result<()> {
    let Some(holdfast) = start("copies").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("source").await?;
    client.wait_running(&id, 60).await?;
    client.wait_first_backup(&id).await?;
    patch(&client, &id, json!({"plan_name": "tier-2"})).await?;
    wait_for("the engine runs with tier-2", 30, || async {
        let connections = value(&client, &id, "SELECT current_setting('max_connections')").await;
        Ok(connections.ok().filter(|connections| connections == "200"))
    })
    .await?;
    execute(&client, &id, "CREATE TABLE notes (number serial, note text)").await?;
    for _ in 0..6 {
        // Not at one go: each is a part of the log that comes by itself.
        let fill = "CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler SELECT repeat('x', 500) FROM generate_series(1, 30000)";
        execute(&client, &id, fill).await?;
    }
    let at = note(&client, &id, "last").await?;
    wait_archived(&client, &id, at).await?;
    let source = client.connection_string(&id).await?;
    let body = json!({"restore_point": at.to_string(), "target_service_name": "copy", "plan_name": "tier-1"});
    let asked = client.post(&format!("/managed-services/{id}/backups/restore"), body).await?;
    let copy = text(&asked, "service_id")?;
    let knocking = tokio::spawn(knock(source, settings_of(&holdfast, &copy)));
    client.wait_running(&copy, 120).await?;
    let seen = knocking.await??;
    println!("{seen} times nobody was let in");
    ensure!(seen > 0, "nobody was there to knock at");
    ensure!(value(&client, &copy, "SELECT current_setting('max_connections')").await? == "100", "tier-1");
    let rows =
        value(&client, &copy, "SELECT count(*) || ' ' || (SELECT max(note) FROM notes) FROM filler").await?;
    ensure!(rows == "180000 last", "{rows}");
    Ok(())
}

fn settings_of(holdfast: &Holdfast, service: &str) -> std::path::PathBuf {
    holdfast.instances.join(service).join("conf/postgresql.conf")
}

/// Tries the source's password on the copy's port for as long as it is made and a second longer. Returns how often the engine
/// answered.
async fn knock(source: String, settings: std::path::PathBuf) -> Result<usize> {
    let port = wait_for("the copy has its settings", 60, || async {
        let text = std::fs::read_to_string(&settings).unwrap_or_default();
        Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("port = '")?.strip_suffix('\'')?.parse::<u16>().ok()))
    })
    .await?;
    let mut config: tokio_postgres::Config = source.replace("sslmode=require", "sslmode=disable").parse()?;
    let host = config.get_hosts().first().cloned().context("a host")?;
    let tokio_postgres::config::Host::Tcp(host) = host else { anyhow::bail!("{host:?}") };
    let mut elsewhere = tokio_postgres::Config::new();
    elsewhere.host(&host).port(port).dbname("defaultdb").connect_timeout(Duration::from_secs(1));
    elsewhere
        .user(config.get_user().context("a user")?)
        .password(config.get_password().context("a password")?);
    config = elsewhere;
    let (mut answered, mut wrong_password) = (0, 0);
    // Once the engine asks for a password and takes this one for wrong, the copy has its own.
    while wrong_password < 5 {
        match config.connect(tokio_postgres::NoTls).await {
            Ok(_) => anyhow::bail!("the source's password opens the copy"),
            Err(error) => match error.code().map(tokio_postgres::error::SqlState::code) {
                Some("28P01") => wrong_password += 1,
                Some(_) => answered += 1,
                None => {} // nobody listens yet
            },
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(answered)
}

/// The folder of a dropped database goes before the drop is committed, and no later commit stops a recovery in time (barman #723,
/// pgBackRest #1350): an instant before the drop has the database, idle or with others at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_dropped_later_is_there() -> Result<()> {
    let Some(holdfast) = start("dropped").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("source").await?;
    client.wait_running(&id, 60).await?;
    client.wait_first_backup(&id).await?;
    execute(&client, &id, "CREATE TABLE notes (number serial, note text)").await?;
    let mut points = Vec::new();
    for (database, busy) in [("crm", false), ("erp", true)] {
        execute(&client, &id, &format!("CREATE DATABASE {database}")).await?;
        let url = client.connection_string(&id).await?.replace("/defaultdb", &format!("/{database}"));
        connect(&url)
            .await?
            .batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
            .await?;
        let stop = tokio_util::sync::CancellationToken::new();
        let writer = tokio::spawn(write(client.connection_string(&id).await?, stop.clone()));
        if !busy {
            stop.cancel();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let at = Timestamp::now();
        tokio::time::sleep(Duration::from_millis(if busy { 0 } else { 1500 })).await;
        execute(&client, &id, &format!("DROP DATABASE {database}")).await?;
        stop.cancel();
        writer.await??;
        points.push((database, Timestamp::from_microsecond(at.as_microsecond())?));
    }
    let last = note(&client, &id, "behind both").await?;
    wait_archived(&client, &id, last).await?;
    for (database, at) in points {
        let copy = client.restore_to(&id, &at.to_string(), &format!("with-{database}")).await?;
        client.wait_running(&copy, 60).await?;
        let url = client.connection_string(&copy).await?.replace("/defaultdb", &format!("/{database}"));
        let kept = value_at(&url, "SELECT count(*)::text FROM kept")
            .await
            .with_context(|| format!("{database} at {at}"))?;
        ensure!(kept == "1000", "{database}: {kept} rows");
    }
    Ok(())
}

async fn write(url: String, stop: tokio_util::sync::CancellationToken) -> Result<()> {
    let database = connect(&url).await?;
    while !stop.is_cancelled() {
        database.batch_execute("INSERT INTO notes (note) VALUES ('busy')").await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
