//! The same day for the engines whose backups and log Holdfast stores itself: the catalog is made anew with the same window and
//! backups, and the command line alone opens the database at an instant (of an engine without a log: at a backup), stops it and
//! starts it again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_api::user::Credentials;
use holdfast_conformance::load::Mix;
use holdfast_conformance::{Database, Ledger, Load, Login};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};

use crate::BINARY;
use crate::rebuild::between;
use crate::rebuild::bucket::{self, Run, run};

/// Enough to be spread over several segments.
const WRITES: usize = 300;

struct Before {
    id: String,
    pitr: Value,
    backups: Value,
    ledger: Ledger,
    writing: (Timestamp, Timestamp),
    /// Made meanwhile, in this time.
    backup: (String, (Timestamp, Timestamp)),
}

/// What is opened, and between which instants that lies.
struct Goal {
    option: &'static str,
    value: String,
    between: (Timestamp, Timestamp),
}

impl Goal {
    fn of(engine: EngineKind, before: &Before, random: &mut impl Rng) -> Self {
        let (backup, made_in) = &before.backup;
        if !engine.capability().point_in_time {
            return Self { option: "--backup", value: backup.clone(), between: *made_in };
        }
        let point = engine.capability().unit.floor(between(random, before.writing));
        Self { option: "--at", value: point.to_string(), between: (point, point) }
    }
}

pub(crate) async fn bucket_and_kit_are_enough(engine: EngineKind) -> Result<()> {
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let mut random = seed::generator(&format!("bucket_and_kit_are_enough of {engine}"));
    let mut lost = Holdfast::start(BINARY, &format!("lost-{engine}")).await?;
    lost.wait_for_agent().await?; // until it has said what it can run, a service gets the usual version
    let before = live(&lost.client(), engine, random.random()).await?;
    wait_described(&lost, &before).await?;
    lost.kill_serve()?;
    let left = lost.folder.join("left");
    std::fs::create_dir(&left)?;
    bucket::copy(&lost.objects(), &left.join("bucket"))?;
    let kit = left.join("kit.txt");
    std::fs::copy(lost.data().join("recovery-kit.txt"), &kit)?;
    let store = format!("file://{}", left.join("bucket").display());

    nameless(engine, &left, &kit)?;
    let check = run(&["rebuild", "--check"], &store, &kit)?;
    ensure!(check.code == 0 && check.stderr.contains("nothing is damaged"), "{check:?}");
    let data = left.join("data");
    let folder = data.to_str().context("a path of text")?;
    let done = run(&["rebuild", "--data", folder], &store, &kit)?;
    ensure!(done.code == 0, "{done:?}");
    let anew = Holdfast::start_with(
        BINARY,
        &format!("anew-{engine}"),
        &[("HOLDFAST_DATA", folder), ("HOLDFAST_STORE_URL", &store)],
    )
    .await?;
    same_as_before(&anew.client(), &before).await?;
    drop(anew);

    let goal = Goal::of(engine, &before, &mut random);
    let target = left.join("opened");
    let opened = opens(engine, &engines, &store, &kit, &target, &goal)?;
    let stop = Stop { target: target.clone(), engines: engines.clone() };
    let asked = &goal.value;
    let reached = if goal.option == "--at" { &opened["restore_point"] } else { &opened["backup"] };
    ensure!(reached == asked, "{opened}, {asked} was asked for");
    let database = Database { kind: engine, login: login(engine, &opened)?, space: "ledger" };
    let judge = async |what: &str| {
        let state = database.read().await?;
        let verdict = before.ledger.judge(&state, goal.between.0, goal.between.1);
        anyhow::Ok(verdict.ensure_exact(&format!("{engine} {what}, {asked}"))?)
    };
    judge("opened by the command line").await?;
    stop.switch("stop")?;
    ensure!(database.read().await.is_err(), "{engine}: it was stopped, and answers");
    stop.switch("start")?;
    judge("stopped and started").await
}

async fn live(client: &Client, engine: EngineKind, seed: u64) -> Result<Before> {
    let asked = json!({"name": "ledger", "database_type": engine.as_str(), "plan_name": "tier-1"});
    let id = text(&client.post("/managed-services", asked).await?, "id")?;
    client.wait_running(&id, 180).await?;
    client.wait_first_backup(&id).await?;
    let path = format!("/managed-services/{id}/database-users/app_user/reveal-password");
    let told: Credentials = serde_json::from_value(client.post(&path, json!({})).await?)?;
    let database = Database { kind: engine, login: Login::of(engine, told), space: "ledger" };
    let pause = std::time::Duration::from_millis(5);
    let mix = Mix { writers: 2, first: 1, pause, inserts_only: false, seed };
    let load = Load::start(&database, Ledger::default(), mix).await?;
    let ledger = load.ledger.clone();
    let acknowledged = async |count: usize| {
        wait_for("writes are acknowledged", 120, || async {
            Ok((ledger.acknowledged() >= count).then_some(()))
        })
        .await
    };
    acknowledged(WRITES).await?;
    let from = Timestamp::now();
    let backup = client.trigger(&id).await?;
    client.wait_backup(&id, &backup, 180).await?;
    let backup = (backup, (from, Timestamp::now()));
    acknowledged(ledger.acknowledged() + WRITES).await?;
    // The coarsest unit of time of an engine.
    let to = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1))?;
    wait_for("a second has passed", 30, || async { Ok((Timestamp::now() > to).then_some(())) }).await?;
    load.stop().await?;
    let end = Timestamp::now();
    let mut pitr = Value::Null;
    if engine.capability().point_in_time {
        wait_for("the log is archived", 60, || async {
            let pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
            let latest = pitr["latest_restore_point"].as_str().map(str::parse::<Timestamp>).transpose()?;
            Ok(latest.filter(|latest| *latest > end))
        })
        .await?;
        pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
    }
    let backups = client.get(&format!("/managed-services/{id}/backups")).await?;
    Ok(Before { id, pitr, backups, ledger, writing: (from, to), backup })
}

/// Nothing but the bucket tells of the end of what was written.
async fn wait_described(lost: &Holdfast, before: &Before) -> Result<()> {
    let kit = lost.data().join("recovery-kit.txt");
    let store = format!("file://{}", lost.objects().display());
    wait_for("the bucket has it all", 60, || async {
        let list = run(&["open", "--list", "-o", "json"], &store, &kit)?.json()?;
        let found =
            list["services"].as_array().and_then(|all| all.iter().find(|one| one["id"] == *before.id));
        let latest =
            found.and_then(|found| found["window"].as_array()?.last()?["latest"].as_str()?.parse().ok());
        let is_running = found.is_some_and(|found| found["status"] == "running");
        let is_there = before.pitr.is_null() || latest > Some(before.writing.1);
        Ok((is_running && is_there).then_some(()))
    })
    .await
}

/// Without its description a service has no name any more, but its backups still say which engine they are of.
fn nameless(engine: EngineKind, left: &Path, kit: &Path) -> Result<()> {
    let copy = left.join("nameless");
    bucket::copy(&left.join("bucket"), &copy)?;
    for path in bucket::named(&copy, "/description/")? {
        std::fs::remove_file(path)?;
    }
    let list = run(&["open", "--list", "-o", "json"], &format!("file://{}", copy.display()), kit)?.json()?;
    let found = &list["services"][0];
    ensure!(text(found, "name")?.starts_with("recovered-") && found["engine"] == engine.as_str(), "{list}");
    if engine.capability().point_in_time {
        ensure!(found["window"].as_array().is_some_and(|window| !window.is_empty()), "{list}");
    }
    Ok(std::fs::remove_dir_all(copy)?)
}

async fn same_as_before(client: &Client, before: &Before) -> Result<()> {
    let path = format!("/managed-services/{}", before.id);
    let backups = client.get(&format!("{path}/backups")).await?;
    ensure!(backups == before.backups, "{backups}\nbefore: {}", before.backups);
    if before.pitr.is_null() {
        return Ok(());
    }
    let pitr = client.get(&format!("{path}/pitr")).await?;
    for name in ["earliest_restore_point", "gaps"] {
        ensure!(pitr[name] == before.pitr[name], "{name}: {pitr}\nbefore: {}", before.pitr);
    }
    let latest: Timestamp = text(&pitr, "latest_restore_point")?.parse()?;
    ensure!(latest > before.writing.1, "{pitr}");
    Ok(())
}

fn opens(
    engine: EngineKind,
    engines: &Path,
    store: &str,
    kit: &Path,
    target: &Path,
    goal: &Goal,
) -> Result<Value> {
    let (target, engines) = (target.to_str().context("text")?, engines.to_str().context("text")?);
    let asked = ["open", "-o", "json", "--service", "ledger", goal.option, &goal.value, "--target", target];
    let opened = run(&[&asked[..], &["--engines", engines]].concat(), store, kit)?;
    ensure!(opened.code == 0, "{opened:?}");
    let opened = opened.json()?;
    ensure!(opened["engine"] == engine.as_str(), "{opened}");
    ensure!(!Path::new(target).join("gateway").exists(), "what read the bucket is left behind");
    Ok(opened)
}

/// What the printed connection string says.
fn login(engine: EngineKind, opened: &Value) -> Result<Login> {
    let text = text(opened, "connection_string")?;
    let (_, rest) = text.split_once("://").context("an address")?;
    let (username, rest) = rest.split_once(':').context("a user")?;
    let (password, rest) = rest.split_once('@').context("a password")?;
    let (host, rest) = rest.split_once(':').context("a host")?;
    // Not every engine has databases.
    let (port, rest) = rest.split_once('/').unwrap_or((rest.split('?').next().unwrap_or(rest), ""));
    Ok(Login {
        host: host.to_owned(),
        port: port.parse()?,
        username: username.to_owned(),
        password: password.to_owned(),
        database: rest.split('?').next().unwrap_or_default().to_owned(),
        tls: engine.capability().notation.asks_for_tls(&text),
    })
}

/// Stops the opened instance, at the end of the test too.
struct Stop {
    target: PathBuf,
    engines: PathBuf,
}

impl Stop {
    fn switch(&self, verb: &str) -> Result<()> {
        let mut command = std::process::Command::new(BINARY);
        command.args(["opened", verb]).arg(&self.target).arg("--engines").arg(&self.engines);
        let ended = Run::of(&mut command)?;
        ensure!(ended.code == 0, "{ended:?}");
        Ok(())
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Err(error) = self.switch("stop") {
            println!("the opened instance was not stopped: {error:#}");
        }
    }
}
