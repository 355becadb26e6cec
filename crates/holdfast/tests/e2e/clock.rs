//! Wrong clocks: control plane and agent run hours, days and weeks off the true time, forwards and back, against a
//! database that keeps it. Nothing expires early, nothing runs twice, nothing hangs once the time is right again.
//!
//! The clocks are skewed by libfaketime (Debian: libfaketime), which lies about the wall clock only.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::{Ledger, Writer, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::BINARY;

/// Seconds that the clock is ahead.
const SKEWS: [i64; 5] = [90 * 60, -195 * 60, 2 * 86_400, -7 * 3600, 42 * 86_400];

/// The library that skews, or `None` after saying why the test is skipped.
fn libfaketime() -> Option<String> {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let library = format!("{folder}/libfaketimeMT.so.1");
    if Path::new(&library).is_file() {
        return Some(library);
    }
    let why = format!("no {library}; run scripts/packages.sh");
    assert!(std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"), "{why}");
    println!("SKIPPED: {why}");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_expires_nothing_and_doubles_nothing() -> Result<()> {
    let (Some(_), Some(library)) = (holdfast::engines(), libfaketime()) else { return Ok(()) };
    let mut skews = SKEWS;
    skews.shuffle(&mut seed::generator("a_wrong_clock_expires_nothing_and_doubles_nothing"));
    // A day is enough: a clock that jumps must not make keys old either.
    let environment = [("HOLDFAST_KEK_ROTATION_DAYS", "1")];
    let mut holdfast = Holdfast::start_with(BINARY, "clock", &environment).await?;
    let client = holdfast.client();
    let id = client.create("clocked").await?;
    client.wait_first_backup(&id).await?;
    let writer = Writer::start(&client.connection_string(&id).await?, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    client.trigger(&id).await?;
    let mut known = settled(&client, &id).await?;

    for skew in skews {
        holdfast.kill_serve()?;
        holdfast.set("LD_PRELOAD", &library);
        holdfast.set("FAKETIME", &format!("{skew:+}"));
        holdfast.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        holdfast.spawn().await?;
        let offset = skewed_by(&client, &id).await?;
        println!("skewed by {skew} s: the server says {offset} s");
        ensure!((offset - skew).abs() < 60, "the clock is not skewed: {offset} s instead of {skew} s");
        known = unharmed(&client, &id, &known, skew).await.with_context(|| format!("skewed by {skew} s"))?;
    }

    holdfast.kill_serve()?;
    for name in ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"] {
        holdfast.set(name, "");
    }
    holdfast.spawn().await?;
    unharmed(&client, &id, &known, 0).await.context("the time is right again")?;
    client.trigger(&id).await.context("a backup can be asked for")?;
    settled(&client, &id).await?;
    writer.stop().await?;
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let copy = client.restore_to(&id, &point.to_string(), "right-again").await?;
    client.wait_running(&copy, 120).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact("a restore to now, after all skews")
}

/// How far the server's clock is ahead, by what it stamps on a new job.
async fn skewed_by(client: &Client, id: &str) -> Result<i64> {
    // The scheduler looks at once when it starts, and asks for an expiry when the last one seems an hour old.
    let backup = client.trigger(id).await?;
    let made = client.get(&format!("/managed-services/{id}/backups/{backup}")).await?;
    let at: Timestamp = text(&made, "created_at")?.parse()?;
    Ok(at.duration_since(Timestamp::now()).as_secs())
}

/// Waits until no job is open, and gives the listed backups.
async fn settled(client: &Client, id: &str) -> Result<Vec<Value>> {
    wait_for("all jobs have ended", 120, || async {
        let jobs = client.get("/jobs").await?;
        let open = jobs["jobs"].as_array().into_iter().flatten();
        let open = open.filter(|job| matches!(job["status"].as_str(), Some("queued" | "running"))).count();
        Ok((open == 0).then_some(()))
    })
    .await?;
    let list = client.get(&format!("/managed-services/{id}/backups")).await?;
    Ok(list["backups"].as_array().cloned().unwrap_or_default())
}

/// Nothing that was known has gone, at most one automated backup has come, and every job ends.
async fn unharmed(client: &Client, id: &str, known: &[Value], skew: i64) -> Result<Vec<Value>> {
    let service = client.get(&format!("/managed-services/{id}")).await?;
    ensure!(service["status"] == "running", "{service}");
    let now = settled(client, id).await?;
    for backup in known {
        let still = now.iter().find(|other| other["id"] == backup["id"]);
        let still = still.with_context(|| format!("a backup is gone: {backup}"))?;
        ensure!(still["status"] == backup["status"], "it was {backup} and is {still}");
    }
    let automated = |list: &[Value]| list.iter().filter(|b| b["backup_type"] == "automated").count();
    let came = automated(&now) - automated(known);
    let due = usize::from(skew >= 86_400);
    ensure!(came <= 1.max(due), "{came} automated backups came: {now:?}");
    let keys = client.get("/keys").await?;
    ensure!(keys["rotation"].is_null(), "the keys were rotated: {keys}");
    let unwell: Vec<&Value> = now.iter().filter(|backup| backup["status"] != json!("completed")).collect();
    ensure!(unwell.is_empty(), "{unwell:?}");
    Ok(now)
}
