//! While a copy is made, its data and its passwords are still the source's, and its settings may already be others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Holdfast, wait_for};
use serde_json::json;

use super::support::{execute, note, patch, start, value, wait_archived};

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
