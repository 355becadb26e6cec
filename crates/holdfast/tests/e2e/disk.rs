//! Disks that fill up: of the object store, of the instances, of the data folder, of a restore's target. It is said before
//! and while it is so, nothing that was acknowledged is lost, and all goes on by itself once there is room.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, volume, wait_for};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::BINARY;

fn possible() -> bool {
    holdfast::engines().is_some() && volume::can_mount()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_object_store_fails_backups_and_holds_log_up_until_there_is_room() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    // The tail's parts would make room when they go, which this test measures out.
    let mut holdfast = Holdfast::prepare(BINARY, "disk-store", &[("HOLDFAST_WAL_TAIL", "off")])?;
    let objects = holdfast.folder.join("store");
    holdfast.mount(&objects, 300)?;
    let mut holdfast =
        holdfast.with_environment("HOLDFAST_STORE_URL", &format!("file://{}", objects.display()));
    holdfast.spawn().await?;
    let client = holdfast.client();
    let source = client.create("piling").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    let store = holdfast.volume(&objects);

    // Room for what the last backup took, not for what this one needs: it is met half-way.
    let bulk = "CREATE TABLE bulk AS SELECT md5(g::text) || md5((g * 7)::text) AS text FROM generate_series(1, 500000) g";
    connect(&url).await?.batch_execute(bulk).await?;
    archived(&client, &source).await?;
    store.fill(64 + 14)?;
    backup_fails(&client, &source, "store_full").await.context("half-way")?;
    // Not even that.
    store.fill(20)?;
    backup_fails(&client, &source, "store_full").await.context("before the start")?;

    let behind = wait_for("the lag and its reason are shown", 60, || async {
        let pitr = client.get(&format!("/managed-services/{source}/metrics")).await?["pitr"].clone();
        let lag = pitr["archive_lag_seconds"].as_f64().unwrap_or(0.0);
        let says = pitr["last_error"].as_str().is_some_and(|text| text.contains("make room"));
        Ok((lag > 12.0 && says).then_some(pitr))
    })
    .await?;
    println!("behind: {behind}");

    store.empty()?;
    archived(&client, &source).await?;
    let backup = client.trigger(&source).await?;
    client.wait_backup(&source, &backup, 120).await?;
    exact(&client, &ledger, &source, "after the store was full").await?;
    ensure!(gaps(&client, &source).await?.is_empty(), "a full store made a gap");
    writer.stop().await?;
    ensure!(ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()), "a write was refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_instances_refuses_writes_and_loses_none() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let mut holdfast = Holdfast::prepare(BINARY, "disk-data", &[])?;
    let instances = holdfast.instances.clone();
    holdfast.mount(&instances, 600)?;
    holdfast.spawn().await?;
    let client = holdfast.client();
    let source = client.create("tight").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    let disk = holdfast.volume(&instances);

    for (leave_mib, level, says) in
        [(200, "filling", "% full"), (100, "nearly_full", "% full"), (40, "full", "refused")]
    {
        disk.fill(leave_mib)?;
        level_is(&client, &source, level, Some(says)).await?;
    }
    a_writer_that_insists_is_ended(&url).await?;
    ensure!(!rows(&url).await?.is_empty(), "reading goes on");
    let refused = wait_for("writes are refused", 30, || async {
        let last = ledger.entries().last().copied();
        Ok(last.filter(|entry| entry.acknowledged_at.is_none()))
    })
    .await?;

    // Not a byte is left, and the engine is gone: it starts in the room that was held for it.
    disk.fill(0)?;
    kill_engine(&holdfast).await?;
    wait_for("the engine runs on a full disk", 90, || async { Ok(rows(&url).await.ok()) }).await?;
    ensure!(
        holdfast.log().contains("the room that was held for this is free now"),
        "the ballast is still there"
    );

    disk.empty()?;
    level_is(&client, &source, "fine", None).await?;
    wait_for("writes go on", 60, || async {
        let last = ledger.entries().last().copied();
        Ok(last.filter(|entry| entry.number > refused.number && entry.acknowledged_at.is_some()))
    })
    .await?;
    writer.stop().await?;
    let found = rows(&url).await?;
    ledger.judge(&found, Timestamp::now()).ensure_exact("in place, after the disk was full")?;
    exact(&client, &ledger, &source, "after the disk was full").await?;
    too_small_targets_are_refused(&holdfast, &client, &source).await
}

/// A session that sets the default aside, and is at it when the disk is full.
async fn a_writer_that_insists_is_ended(url: &str) -> Result<()> {
    let stubborn = connect(url).await?;
    let insist = "BEGIN READ WRITE; CREATE TABLE stubborn (id int); SELECT pg_sleep(30); COMMIT";
    let ended = stubborn.batch_execute(insist).await;
    ensure!(ended.is_err(), "a writing session went on");
    Ok(())
}

async fn kill_engine(holdfast: &Holdfast) -> Result<()> {
    let postmasters = holdfast.postmasters();
    for pid in &postmasters {
        let pid = nix::unistd::Pid::from_raw(*pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    }
    wait_for("the engine is gone", 30, || async {
        let gone = postmasters.iter().all(|pid| !holdfast.postmasters().contains(pid));
        Ok(gone.then_some(()))
    })
    .await
}

async fn too_small_targets_are_refused(holdfast: &Holdfast, client: &Client, source: &str) -> Result<()> {
    let disk = holdfast.volume(&holdfast.instances);
    let only_one = || holdfast.instance_folders() == [source];
    wait_for("the earlier copy is gone", 60, || async { Ok(only_one().then_some(())) }).await?;
    disk.fill(64 + 20)?;
    let body = json!({"name": "no-room", "database_type": "postgresql", "plan_name": "tier-1"});
    let made = client.post("/managed-services", body).await?["id"].as_str().unwrap_or_default().to_owned();
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let copy = client.restore_to(source, &now.to_string(), "no-room-either").await?;
    for (id, needs) in [(made, "a new instance needs 96 MiB"), (copy, "the restored data needs")] {
        let failed = failed(client, &id).await?;
        let why = failed["status_message"].as_str().unwrap_or_default();
        ensure!(why.contains(needs) && why.contains("make room"), "{why}");
        let jobs = client.get(&format!("/managed-services/{id}/jobs")).await?;
        let causes = jobs["jobs"].as_array().into_iter().flatten().map(|job| job["error_cause"].clone());
        ensure!(causes.into_iter().any(|cause| cause == "disk_full"), "{jobs}");
    }
    ensure!(only_one(), "left behind: {:?}", holdfast.instance_folders());
    disk.empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_fills_the_disk_stops_writes_until_the_store_takes_it() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let (holdfast, client, source) = pile_up("stop").await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    write_until(&url, "writes are refused", || async {
        let service = client.get(&format!("/managed-services/{source}")).await?;
        let message = service["status_message"].as_str().unwrap_or_default().to_owned();
        Ok((message.contains("refused") && message.contains("waits for the object store"))
            .then(|| println!("{message}")))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await; // some writes are refused
    let refused = ledger.entries().iter().filter(|entry| entry.acknowledged_at.is_none()).count();
    ensure!(refused > 0, "no write was refused");

    // Nobody does anything but make room in the store.
    holdfast.volume(&holdfast.folder.join("store")).empty()?;
    let acknowledged = ledger.acknowledged();
    wait_for("writes go on", 120, || async { Ok((ledger.acknowledged() > acknowledged + 20).then_some(())) })
        .await?;
    archived(&client, &source).await?;
    holdfast.volume(&holdfast.instances).resize(1500)?; // for the copy
    exact(&client, &ledger, &source, "after log had filled the disk").await?;
    ensure!(gaps(&client, &source).await?.is_empty(), "log was lost");
    writer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_is_given_up_where_the_settings_say_so_and_a_gap_tells_of_it() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let (holdfast, client, source) = pile_up("break").await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    write_until(&url, "log is given up", || async {
        Ok(holdfast.log().contains("log was given up").then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await; // writes go on

    holdfast.volume(&holdfast.folder.join("store")).empty()?;
    let gap = wait_for("the gap is shown", 120, || async { Ok(gaps(&client, &source).await?.pop()) }).await?;
    ensure!(gap["cause"].as_str().is_some_and(|cause| cause.contains("given up")), "{gap}");
    wait_for("the window goes on behind the gap, from a new base backup", 120, || async {
        let pitr = client.get(&format!("/managed-services/{source}/pitr")).await?;
        Ok((pitr["windows"].as_array().is_some_and(|all| all.len() >= 2)).then_some(()))
    })
    .await?;
    exact(&client, &ledger, &source, "behind the gap").await?;
    writer.stop().await?;
    ensure!(ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()), "a write was refused");
    Ok(())
}

/// A service on a small disk, with a store that takes nothing more.
async fn pile_up(policy: &str) -> Result<(Holdfast, Client, String)> {
    let mut holdfast =
        Holdfast::prepare(BINARY, &format!("disk-{policy}"), &[("HOLDFAST_ON_LOG_FULL", policy)])?;
    let (instances, objects) = (holdfast.instances.clone(), holdfast.folder.join("store"));
    holdfast.mount(&instances, 600)?;
    holdfast.mount(&objects, 400)?;
    let mut holdfast =
        holdfast.with_environment("HOLDFAST_STORE_URL", &format!("file://{}", objects.display()));
    holdfast.spawn().await?;
    let client = holdfast.client();
    let source = client.create("piling-up").await?;
    client.wait_first_backup(&source).await?;
    archived(&client, &source).await?;
    holdfast.volume(&objects).fill(5)?;
    Ok((holdfast, client, source))
}

/// Makes log, some megabytes each time, until something has happened. A refused write ends nothing.
async fn write_until<F>(url: &str, what: &str, happened: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<Option<()>>>,
{
    let setup = connect(url).await?;
    setup.batch_execute("CREATE TABLE bulk (text text)").await?;
    wait_for(what, 120, || async {
        let insert =
            "INSERT INTO bulk SELECT repeat(md5(g::text), 8) FROM generate_series(1, 5000) g; TRUNCATE bulk";
        let _ = setup.batch_execute(insert).await; // refused in the end
        happened().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_data_folder_is_told_in_the_contracts_terms_and_recovers_by_itself() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let mut holdfast = Holdfast::prepare(BINARY, "disk-catalog", &[])?;
    let data = holdfast.data();
    holdfast.mount(&data, 250)?;
    holdfast.spawn().await?;
    let client = holdfast.client();
    let source = client.create("cramped").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    let disk = holdfast.volume(&data);

    disk.fill(40)?;
    let body = json!({"name": "too-much", "database_type": "postgresql", "plan_name": "tier-1"});
    for (path, body) in
        [("/managed-services".to_owned(), body), (format!("/managed-services/{source}/backups"), json!({}))]
    {
        let refused = client.send("POST", &path, Some(body)).await?;
        let text = refused.body["error"].as_str().unwrap_or_default();
        ensure!(refused.status == 507 && text.contains("make room"), "{path}: {} {text}", refused.status);
        ensure!(refused.body["error"] == refused.body["message"], "{}", refused.body);
    }
    disk.fill(0)?;
    let mut statuses = std::collections::BTreeMap::new();
    for n in 0..60 {
        let labels = json!({"allowed_cidrs": [format!("10.0.{n}.0/24"), "0.0.0.0/0"]});
        let answer = client.send("PATCH", &format!("/managed-services/{source}"), Some(labels)).await?;
        ensure!(answer.status < 300 || answer.body["error"].is_string(), "{answer:?}");
        *statuses.entry(answer.status).or_insert(0) += 1;
        client.get(&format!("/managed-services/{source}")).await.context("reading goes on")?;
    }
    println!("answers to changes on a full disk: {statuses:?}");
    ensure!(statuses.contains_key(&507), "{statuses:?}");
    ensure!(statuses.keys().all(|status| [200, 503, 507].contains(status)), "{statuses:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;

    disk.empty()?;
    archived(&client, &source).await?;
    let backup = client.trigger(&source).await?;
    client.wait_backup(&source, &backup, 120).await?;
    exact(&client, &ledger, &source, "after the data folder was full").await?;
    writer.stop().await?;
    ensure!(ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()), "a write was refused");
    Ok(())
}

async fn failed(client: &Client, id: &str) -> Result<Value> {
    wait_for(&format!("service {id} has failed"), 60, || async {
        let service = client.get(&format!("/managed-services/{id}")).await?;
        match service["status"].as_str() {
            Some("failed") => Ok(Some(service)),
            Some("running") => bail!("{service}"),
            _ => Ok(None),
        }
    })
    .await
}

async fn backup_fails(client: &Client, source: &str, cause: &str) -> Result<()> {
    let backup = client.trigger(source).await?;
    let failed = wait_for("the backup fails", 120, || async {
        let found = client.get(&format!("/managed-services/{source}/backups/{backup}")).await?;
        ensure!(found["status"] != "completed", "{found}");
        Ok((found["status"] == "failed").then_some(found))
    })
    .await?;
    let why = failed["error_message"].as_str().unwrap_or_default();
    println!("backup failed: {why}");
    ensure!(why.contains("make room") && why.contains("free"), "{why}");
    let jobs = client.get(&format!("/managed-services/{source}/jobs")).await?;
    let of_backup =
        jobs["jobs"].as_array().and_then(|all| all.iter().find(|job| job["backup_id"] == backup.as_str()));
    ensure!(of_backup.is_some_and(|job| job["error_cause"] == cause), "{jobs}");
    Ok(())
}

async fn level_is(client: &Client, source: &str, level: &str, says: Option<&str>) -> Result<()> {
    wait_for(&format!("the disk is {level}"), 60, || async {
        let disk = client.get(&format!("/managed-services/{source}/metrics")).await?["disk"].clone();
        let service = client.get(&format!("/managed-services/{source}")).await?;
        let text = service["status_message"].as_str();
        let said = match says {
            Some(says) => text.is_some_and(|text| text.contains(says)),
            None => text.is_none(),
        };
        let matches = disk["level"] == level && disk["writes_refused"] == (level == "full") && said;
        Ok(matches.then(|| println!("{level}: {}", text.unwrap_or("-"))))
    })
    .await
}

/// Waits until the store has everything up to now.
async fn archived(client: &Client, source: &str) -> Result<()> {
    let now = Timestamp::now();
    wait_for("the log is archived", 120, || async {
        let metrics = client.get(&format!("/managed-services/{source}/metrics")).await?;
        let lag = metrics["pitr"]["archive_lag_seconds"].as_f64().unwrap_or(f64::MAX);
        Ok((lag < Timestamp::now().duration_since(now).as_secs_f64()).then_some(()))
    })
    .await
}

async fn gaps(client: &Client, source: &str) -> Result<Vec<Value>> {
    let pitr = client.get(&format!("/managed-services/{source}/pitr")).await?;
    Ok(pitr["gaps"].as_array().cloned().unwrap_or_default())
}

/// Restores to this moment and judges.
async fn exact(client: &Client, ledger: &Ledger, source: &str, what: &str) -> Result<()> {
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let name = format!("r-{:06x}", rand::random::<u32>() & 0xff_ffff);
    let copy = client.restore_to(source, &point.to_string(), &name).await.context(what.to_owned())?;
    client.wait_running(&copy, 180).await.context(what.to_owned())?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact(what)?;
    client.delete(&format!("/managed-services/{copy}")).await
}
