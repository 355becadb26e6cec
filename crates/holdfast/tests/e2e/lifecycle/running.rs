//! Stopping, dying, coming back: the data is there and archiving goes on.

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::support::{make_notes, note, notes, psql, refused, start, value_at, wait_archived, wait_status};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_survives_stops_and_deaths() -> Result<()> {
    let Some(mut holdfast) = start("running").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("survivor").await?;
    client.wait_first_backup(&id).await?;
    make_notes(&client, &id, "first").await?;
    stop_and_start(&holdfast, &client, &id).await.context("stop and start")?;
    new_password(&client, &id).await.context("reset a password")?;
    engine_killed(&holdfast, &client, &id).await.context("the engine is killed")?;
    everything_else_killed(&mut holdfast, &client, &id)
        .await
        .context("control plane and agent are killed")?;
    let found = notes(&client, &id).await?;
    ensure!(found == "first started restarted alone adopted", "{found}");
    Ok(())
}

async fn stop_and_start(holdfast: &Holdfast, client: &Client, id: &str) -> Result<()> {
    let url = client.connection_string(id).await?;
    let path = format!("/managed-services/{id}");
    refused(client, 409, "POST", &format!("{path}/start"), json!({})).await?;
    client.post(&format!("{path}/stop"), json!({})).await?;
    let stopped = wait_status(client, id, "stopped", 30).await?;
    ensure!(stopped["status_message"].is_null(), "{stopped}");
    ensure!(holdfast.postmasters().is_empty(), "an engine of a stopped service runs");
    let door = psql(&url, "SELECT 1")?;
    ensure!(door.as_ref().is_err_and(|e| e.contains("Connection refused")), "{door:?}");
    refused(client, 409, "POST", &format!("{path}/stop"), json!({})).await?;
    refused(client, 409, "POST", &format!("{path}/backups"), json!({})).await?;
    // The supervisor looks every second: a stopped engine stays stopped.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    ensure!(holdfast.postmasters().is_empty(), "a stopped engine was started again");

    client.post(&format!("{path}/start"), json!({})).await?;
    wait_status(client, id, "running", 30).await?;
    ensure!(notes(client, id).await? == "first", "the data is there");
    let point = note(client, id, "started").await?;
    wait_archived(client, id, point).await
}

async fn new_password(client: &Client, id: &str) -> Result<()> {
    let old = client.connection_string(id).await?;
    let path = format!("/managed-services/{id}/database-users/app_user/reset-password");
    let reset = client.post(&path, json!({})).await?;
    let new = text(&reset, "connection_string")?;
    ensure!(new == client.connection_string(id).await?, "what the reset answers is what is revealed");
    let refusal = psql(&old, "SELECT 1")?;
    ensure!(refusal.as_ref().is_err_and(|e| e.contains("password authentication failed")), "{refusal:?}");
    ensure!(psql(&new, "SELECT 1")?.as_deref() == Ok("1"), "the new password works");
    refused(client, 404, "POST", &path.replace("app_user", "nobody"), json!({})).await.map(drop)
}

async fn engine_killed(holdfast: &Holdfast, client: &Client, id: &str) -> Result<()> {
    let [before] = holdfast.postmasters()[..] else { anyhow::bail!("one engine runs") };
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    let url = client.connection_string(id).await?;
    wait_for("the agent starts the engine again", 30, || async {
        let new = holdfast.postmasters().first().is_some_and(|pid| *pid != before);
        Ok((new && value_at(&url, "SELECT '1'").await.is_ok()).then_some(()))
    })
    .await?;
    ensure!(notes(client, id).await? == "first started", "what was committed is there");
    wait_status(client, id, "running", 30).await?;
    note(client, id, "restarted").await.map(drop)
}

/// The engine goes on alone; the next agent adopts it, and its log is archived without a gap.
async fn everything_else_killed(holdfast: &mut Holdfast, client: &Client, id: &str) -> Result<()> {
    let before = holdfast.postmasters();
    let url = client.connection_string(id).await?;
    let agent = holdfast.agent_pid().context("an agent lives")?;
    holdfast.kill_serve()?;
    wait_for("the agent has ended with its control plane", 10, || async {
        Ok((!std::path::Path::new(&format!("/proc/{agent}")).exists()).then_some(()))
    })
    .await?;
    value_at(&url, "INSERT INTO notes (note) VALUES ('alone') RETURNING note").await?;
    holdfast.spawn().await?;
    wait_status(client, id, "running", 30).await?;
    let point = note(client, id, "adopted").await?;
    wait_archived(client, id, point).await?;
    ensure!(holdfast.postmasters() == before, "the engine was restarted instead of adopted");
    let metrics = client.get(&format!("/managed-services/{id}/metrics")).await?;
    ensure!(metrics["pitr"]["archiving_active"] == true, "{metrics}");
    Ok(())
}
