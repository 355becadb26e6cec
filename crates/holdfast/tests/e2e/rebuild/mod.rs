//! The day on which everything is lost but the bucket and the recovery kit (T31, T32): the catalog is made anew with the
//! same windows and backups, a PostgreSQL is restored by the command line alone, a stranger's script opens every kind of
//! object, and damage is told.

mod bucket;
mod damage;
mod stranger;
mod streams;
mod stutter;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bucket::{Run, run};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use serde_json::{Value, json};

use crate::BINARY;

/// What was, as the API told it.
struct Before {
    /// Lost while it ran.
    running: String,
    running_latest: Timestamp,
    /// Stopped in time: its log is closed.
    stopped: String,
    deleted: String,
    pitr: HashMap<String, Value>,
    backups: HashMap<String, Value>,
    ledger: Ledger,
    writing: (Timestamp, Timestamp),
}

/// What is left: a copy of the bucket, with other dates on its files, and the kit.
pub(crate) struct Left {
    pub(crate) folder: PathBuf,
    pub(crate) store: String,
    pub(crate) kit: PathBuf,
    pub(crate) running: String,
    pub(crate) labelled: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_and_recovery_kit_are_enough() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("bucket_and_recovery_kit_are_enough");
    let mut lost = Holdfast::start(BINARY, "rebuild").await?;
    let before = live(&lost.client()).await?;
    wait_described(&lost, &before).await?;
    lost.kill_serve()?;
    let left = take_what_is_left(&lost, &before)?;

    stranger::opens_every_kind_of_object(&left).await?;
    stutter::is_waited_for(&left).await?;
    let data = rebuilt(&left).await?;
    let environment = [
        ("HOLDFAST_DATA", data.to_str().context("a path of text")?),
        ("HOLDFAST_STORE_URL", left.store.as_str()),
    ];
    let anew = Holdfast::start_with(BINARY, "rebuilt", &environment).await?;
    same_as_before(&anew.client(), &before).await?;
    let point = between(&mut random, before.writing);
    restores(&anew.client(), &before, point).await?;
    drop(anew);

    let point = between(&mut random, before.writing);
    opens_by_the_command_line(&left, &before, point).await?;
    damage::is_told(&left)
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_and_recovery_kit_are_enough_for_engines_with_streams() -> Result<()> {
    for engine in [
        EngineKind::Mysql,
        EngineKind::Mongodb,
        EngineKind::Valkey,
        EngineKind::Kafka,
        EngineKind::Opensearch,
    ] {
        if engine.capability().available {
            streams::bucket_and_kit_are_enough(engine).await?;
        }
    }
    Ok(())
}

pub(crate) fn between(random: &mut impl Rng, (from, to): (Timestamp, Timestamp)) -> Timestamp {
    let micros = random.random_range(from.as_microsecond()..to.as_microsecond());
    Timestamp::from_microsecond(micros).expect("between two timestamps")
}

/// Three services: one that runs to the end, one that is stopped, one that is deleted; two backups and a window each.
async fn live(client: &Client) -> Result<Before> {
    let (running, stopped, deleted) =
        tokio::try_join!(client.create("ledger"), client.create("resting"), client.create("doomed"))?;
    for id in [&running, &stopped, &deleted] {
        client.wait_first_backup(id).await?;
    }
    let writer = Writer::start(&client.connection_string(&running).await?, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    let from = Timestamp::now();
    let labelled = json!({"backup_type": "manual", "label": "before the fire", "retention_days": 30});
    let labelled =
        text(&client.post(&format!("/managed-services/{running}/backups"), labelled).await?, "backup_id")?;
    for id in [&stopped, &deleted] {
        let database = connect(&client.connection_string(id).await?).await?;
        database.batch_execute("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('kept')").await?;
    }
    let of_deleted = client.trigger(&deleted).await?;
    client.wait_backup(&running, &labelled, 120).await?;
    client.wait_backup(&deleted, &of_deleted, 120).await?;
    client.delete(&format!("/managed-services/{deleted}")).await?;
    client.post(&format!("/managed-services/{stopped}/stop"), json!({})).await?;
    let patch = json!({"allowed_cidrs": ["10.0.0.0/8", "127.0.0.0/8"]});
    let patched = client.send("PATCH", &format!("/managed-services/{running}"), Some(patch)).await?;
    ensure!(patched.status == 200, "{patched:?}");
    wait_for("one is stopped, one is deleted", 60, || async {
        let is = client.get(&format!("/managed-services/{stopped}")).await?;
        let jobs = client.get(&format!("/jobs?service_id={deleted}")).await?;
        let newest =
            jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["kind"] == "delete_service"));
        let gone = newest.is_some_and(|job| job["status"] == "completed");
        Ok((is["status"] == "stopped" && gone).then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let to = Timestamp::now();
    writer.stop().await?;

    // Every commit is in the window.
    let running_latest = wait_for("the log is archived", 60, || async {
        let pitr = client.get(&format!("/managed-services/{running}/pitr")).await?;
        let latest = pitr["latest_restore_point"].as_str().map(str::parse::<Timestamp>).transpose()?;
        Ok(latest.filter(|latest| *latest > to))
    })
    .await?;
    let (mut pitr, mut backups) = (HashMap::new(), HashMap::new());
    for id in [&running, &stopped, &deleted] {
        pitr.insert(id.clone(), client.get(&format!("/managed-services/{id}/pitr")).await?);
        backups.insert(id.clone(), client.get(&format!("/managed-services/{id}/backups")).await?);
    }
    Ok(Before { running, running_latest, stopped, deleted, pitr, backups, ledger, writing: (from, to) })
}

/// The bucket tells of itself what the API told: each service is described, and the running one's coverage is no older
/// than the window that was seen.
async fn wait_described(holdfast: &Holdfast, before: &Before) -> Result<()> {
    let kit = holdfast.data().join("recovery-kit.txt");
    let store = format!("file://{}", holdfast.objects().display());
    wait_for("the bucket has it all", 60, || async {
        let list = run(&["open", "--list", "-o", "json"], &store, &kit)?.json()?;
        let find = |id: &str| list["services"].as_array()?.iter().find(|service| service["id"] == id);
        let was = |id: &str| find(id).and_then(|service| service["status"].as_str());
        let latest = find(&before.running).and_then(|service| {
            service["window"].as_array()?.last()?["latest"].as_str()?.parse::<Timestamp>().ok()
        });
        let told = was(&before.running) == Some("running")
            && was(&before.stopped) == Some("stopped")
            && was(&before.deleted) == Some("deleted");
        Ok((told && latest >= Some(before.running_latest)).then_some(()))
    })
    .await
}

fn take_what_is_left(lost: &Holdfast, before: &Before) -> Result<Left> {
    let folder = lost.folder.join("left");
    std::fs::create_dir(&folder)?;
    bucket::copy(&lost.objects(), &folder.join("bucket"))?;
    let kit = folder.join("kit.txt");
    std::fs::copy(lost.data().join("recovery-kit.txt"), &kit)?;
    let list = before.backups[&before.running]["backups"].as_array().context("a list of backups")?;
    let labelled =
        list.iter().find(|backup| backup["label"] == "before the fire").context("the labelled one")?;
    Ok(Left {
        store: format!("file://{}", folder.join("bucket").display()),
        labelled: text(labelled, "id")?,
        folder,
        kit,
        running: before.running.clone(),
    })
}

/// Checks, is killed half-way, begins anew, and refuses to do it twice. The bucket is only read.
async fn rebuilt(left: &Left) -> Result<PathBuf> {
    let objects = bucket::digest(&left.folder.join("bucket"))?;
    let check = run(&["rebuild", "--check"], &left.store, &left.kit)?;
    ensure!(check.code == 0 && check.stderr.contains("nothing is damaged"), "{check:?}");
    ensure!(check.stdout.contains("before the fire") && check.stdout.contains("doomed"), "{check:?}");

    let data = left.folder.join("data");
    let folder = data.to_str().context("a path of text")?;
    bucket::kill_while_it_rebuilds(left, &data).await?;
    let refused =
        Run::of(std::process::Command::new(BINARY).args(["serve", "--agent", "none", "--data", folder]))?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("holdfast rebuild"),
        "serve took half a catalog: {refused:?}"
    );
    let done = run(&["rebuild", "--data", folder], &left.store, &left.kit)?;
    ensure!(done.code == 0 && done.stderr.contains("holdfast serve --data"), "{done:?}");
    ensure!(!data.join("rebuilding").exists() && !data.join("recovery-kit.txt").exists());
    let again = run(&["rebuild", "--data", folder], &left.store, &left.kit)?;
    ensure!(again.code == 1 && again.stderr.contains("not empty"), "it went over a catalog: {again:?}");
    ensure!(bucket::digest(&left.folder.join("bucket"))? == objects, "the bucket was written");
    Ok(data)
}

async fn same_as_before(client: &Client, before: &Before) -> Result<()> {
    for id in [&before.running, &before.stopped, &before.deleted] {
        let backups = client.get(&format!("/managed-services/{id}/backups")).await?;
        ensure!(backups == before.backups[id], "backups of {id}: {backups}\nbefore: {}", before.backups[id]);
        let pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
        let field = |name: &str| (pitr[name].clone(), before.pitr[id][name].clone());
        for name in ["earliest_restore_point", "gaps"] {
            let (now, then) = field(name);
            ensure!(now == then, "{name} of {id}: {now}, before: {then}");
        }
        let (now, then) = field("latest_restore_point");
        if *id == before.running {
            // The bucket heard of later instants after we had looked, and never of earlier ones.
            let now: Timestamp = now.as_str().context("a latest point")?.parse()?;
            ensure!(now >= before.running_latest, "{now}, before: {}", before.running_latest);
        } else {
            ensure!(now == then, "the latest point of {id}: {now}, before: {then}");
        }
    }
    let service = client.get(&format!("/managed-services/{}", before.running)).await?;
    ensure!(service["status"] == "stopped" && service["name"] == "ledger", "{service}");
    ensure!(service["allowed_cidrs"] == json!(["10.0.0.0/8", "127.0.0.0/8"]), "{service}");
    ensure!(text(&service, "status_message")?.contains("restore it into a new service"), "{service}");
    let start =
        client.send("POST", &format!("/managed-services/{}/start", before.running), Some(json!({}))).await?;
    ensure!(start.status == 409, "there is nothing to start: {start:?}");
    let gone = client.send("GET", &format!("/managed-services/{}", before.deleted), None).await?;
    ensure!(gone.status == 404, "{gone:?}");
    Ok(())
}

async fn restores(client: &Client, before: &Before, point: Timestamp) -> Result<()> {
    let copy = client.restore_to(&before.running, &point.to_string(), "ledger-again").await?;
    let latest = text(
        &client.get(&format!("/managed-services/{}/pitr", before.deleted)).await?,
        "latest_restore_point",
    )?;
    let from_deleted = client.restore_to(&before.deleted, &latest, "doomed-again").await?;
    client.wait_running(&copy, 180).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    before.ledger.judge(&found, point).ensure_exact(&format!("restored from the new catalog, {point}"))?;
    client.wait_running(&from_deleted, 180).await?;
    let database = connect(&client.connection_string(&from_deleted).await?).await?;
    let note: String = database.query_one("SELECT note FROM notes", &[]).await?.get(0);
    ensure!(note == "kept");
    // What is gone goes for good.
    client.delete(&format!("/managed-services/{}", before.stopped)).await
}

async fn opens_by_the_command_line(left: &Left, before: &Before, point: Timestamp) -> Result<()> {
    let target = left.folder.join("opened");
    let folder = target.to_str().context("a path of text")?;
    let engines = holdfast::engines().context("no engines")?;
    let at = point.to_string();
    let asked = ["open", "-o", "json", "--service", "ledger", "--at", &at, "--target", folder, "--engines"];
    let asked = [&asked[..], &[engines.to_str().context("a path of text")?]].concat();
    let opened = run(&asked, &left.store, &left.kit)?;
    ensure!(opened.code == 0, "{opened:?}");
    let opened = opened.json()?;
    let _engine = bucket::Engine::of(&opened)?;
    ensure!(opened["restore_point"] == at.as_str(), "{opened}");
    let found = rows(&text(&opened, "connection_string")?).await?;
    before.ledger.judge(&found, point).ensure_exact(&format!("opened by the command line, {point}"))?;
    let database = connect(&text(&opened, "connection_string")?).await?;
    let archives: String = database.query_one("SHOW archive_mode", &[]).await?.get(0);
    ensure!(archives == "off", "nobody is there to take its log");
    bucket::runs_unprivileged(&target)?;
    bucket::holds_no_secret(&target)?;
    let again = run(&asked, &left.store, &left.kit)?;
    ensure!(again.code == 1 && again.stderr.contains("not empty"), "{again:?}");
    let beyond = point.checked_add(SignedDuration::from_hours(1))?.to_string();
    let other = left.folder.join("other");
    let asked = ["open", "--service", "ledger", "--at", &beyond, "--target", other.to_str().context("text")?];
    let refused = run(&asked, &left.store, &left.kit)?;
    ensure!(refused.code == 1 && refused.stderr.contains("--list"), "{refused:?}");
    ensure!(!Path::new(&other).exists(), "a refusal leaves nothing");
    let port = opened["port"].to_string();
    let asked = ["open", "--service", "ledger", "--at", &at, "--target", other.to_str().context("text")?];
    let asked =
        [&asked[..], &["--port", &port, "--engines", engines.to_str().context("a path of text")?]].concat();
    let refused = run(&asked, &left.store, &left.kit)?;
    ensure!(refused.code == 1 && refused.stderr.contains("choose another"), "{refused:?}");
    ensure!(!Path::new(&other).exists(), "a refusal leaves nothing");
    Ok(())
}
