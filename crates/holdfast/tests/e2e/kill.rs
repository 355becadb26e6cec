//! SIGKILL of the control plane and of the agent, in the middle of a backup, a restore and archiving: the database never
//! stops accepting writes, everything ends completed or failed, and a restore afterwards is exact.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use crate::BINARY;

/// A writer that waits longer than this for an acknowledgement was held up by a kill.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Victim {
    Serve,
    Agent,
}

#[derive(Debug, Clone, Copy)]
enum During {
    Backup,
    Restore,
    Archiving,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_anything_at_any_time_loses_nothing() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("a_kill_of_anything_at_any_time_loses_nothing");
    let mut holdfast = Holdfast::start(BINARY, "kill").await?;
    let client = holdfast.client();
    let source = client.create("survivor").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    fill(&url).await?;
    let postmasters = holdfast.postmasters();
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();

    for during in [During::Backup, During::Restore, During::Archiving] {
        for victim in [Victim::Serve, Victim::Agent] {
            let what = format!("{victim:?} killed during {during:?}");
            strike(&mut holdfast, &client, &source, during, victim, &mut random)
                .await
                .with_context(|| what.clone())?;
            exact_afterwards(&client, &ledger, &source, &what).await?;
        }
    }
    let still = holdfast.postmasters();
    ensure!(
        postmasters.iter().all(|pid| still.contains(pid)),
        "the engine was restarted by a kill of something else"
    );
    let paused = writer.stop().await?;
    println!("longest wait of the writer: {} ms", paused.as_millis());
    ensure!(paused < LONGEST_PAUSE, "writes stood still for {paused:?}");
    ensure!(ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()), "a write was refused");
    no_orphans(&holdfast, &client).await
}

/// Enough data for a backup and a restore to be met in the middle.
async fn fill(url: &str) -> Result<()> {
    let database = connect(url).await?;
    let fill = "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) || md5((g * 7)::text) AS text \
                FROM generate_series(1, 600000) g";
    Ok(database.batch_execute(fill).await?)
}

async fn strike(
    holdfast: &mut Holdfast,
    client: &Client,
    source: &str,
    during: During,
    victim: Victim,
    random: &mut StdRng,
) -> Result<()> {
    let delay = Duration::from_millis(random.random_range(0..1500));
    match during {
        During::Backup => {
            let backup = client.trigger(source).await?;
            wait_for("the backup has begun", 30, || async {
                let found = client.get(&format!("/managed-services/{source}/backups/{backup}")).await?;
                Ok((found["status"] == "running").then_some(()))
            })
            .await?;
            tokio::time::sleep(delay).await;
            kill(holdfast, victim).await?;
            ends(client, &format!("/managed-services/{source}/backups/{backup}"), &["completed", "failed"])
                .await
        }
        During::Restore => {
            let name = format!("r-{:06x}", random.random_range(0..0xff_ffff));
            let now = Timestamp::now().to_string();
            let copy = client.restore_to(source, &now, &name).await?;
            let path = format!("/managed-services/{copy}");
            ends(client, &path, &["provisioning", "running", "failed"]).await?;
            tokio::time::sleep(delay).await;
            kill(holdfast, victim).await?;
            ends(client, &path, &["running", "failed"]).await?;
            client.delete(&path).await
        }
        During::Archiving => {
            let switching = connect_admin(client, source).await?;
            switching
                .batch_execute(
                    "INSERT INTO bulk SELECT g, repeat('y', 200) FROM generate_series(1, 150000) g",
                )
                .await?;
            tokio::time::sleep(delay / 4).await;
            kill(holdfast, victim).await
        }
    }
}

async fn connect_admin(client: &Client, service: &str) -> Result<tokio_postgres::Client> {
    connect(&client.connection_string(service).await?).await
}

async fn kill(holdfast: &mut Holdfast, victim: Victim) -> Result<()> {
    match victim {
        Victim::Serve => {
            holdfast.kill_serve()?;
            holdfast.spawn().await
        }
        Victim::Agent => {
            let before = holdfast.agent_pid();
            holdfast.kill_agent()?;
            let waiting: &Holdfast = holdfast;
            wait_for("a new agent", 20, || async {
                Ok(waiting.agent_pid().filter(|pid| Some(*pid) != before))
            })
            .await
            .map(drop)
        }
    }
}

/// Waits until the object's status is one of these.
async fn ends(client: &Client, path: &str, statuses: &[&str]) -> Result<()> {
    wait_for(&format!("{path} is one of {statuses:?}"), 180, || async {
        let found = client.get(path).await?;
        let status = found["status"].as_str().unwrap_or_default().to_owned();
        Ok(statuses.contains(&status.as_str()).then(|| println!("{path}: {status}")))
    })
    .await
}

async fn exact_afterwards(client: &Client, ledger: &Ledger, source: &str, what: &str) -> Result<()> {
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let copy = client
        .restore_to(source, &point.to_string(), &format!("a-{:06x}", rand::random::<u32>() & 0xff_ffff))
        .await?;
    client.wait_running(&copy, 180).await.with_context(|| format!("restore after: {what}"))?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact(what)?;
    client.delete(&format!("/managed-services/{copy}")).await
}

/// In the end only the source is there: no half-made instance, no folder of a deleted service, no job that hangs.
async fn no_orphans(holdfast: &Holdfast, client: &Client) -> Result<()> {
    wait_for("all jobs have ended", 120, || async {
        let jobs = client.get("/jobs").await?;
        let open = jobs["jobs"].as_array().map_or(0, |jobs| {
            jobs.iter()
                .filter(|job| job["status"] == json!("queued") || job["status"] == json!("running"))
                .count()
        });
        Ok((open == 0).then_some(()))
    })
    .await?;
    let folders = holdfast.instance_folders();
    ensure!(folders.len() == 1, "folders of instances that are gone: {folders:?}");
    Ok(())
}
