//! What a user sees of the work, and what nobody may see: no plaintext in the object store, no secret in logs, process
//! arguments or process environments (T11).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use rand::RngCore;
use serde_json::Value;

use super::support::{holders, note, reveal, wait_archived};
use crate::BINARY;

/// 100 MB that cannot be compressed, so that a stored copy that is only compressed shows them as they are.
const ROWS: usize = 50;
const ROW_BYTES: usize = 2 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_and_secrets_are_not() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let password = format!("admin-{:032x}", rand::random::<u128>());
    let environment = [("HOLDFAST_ADMIN_PASSWORD", password.as_str())];
    let holdfast = Holdfast::start_with(BINARY, "secrets", &environment).await?;
    let client = holdfast.client();
    let id = client.create("vault").await?;
    client.wait_first_backup(&id).await?;
    let canaries = fill(&client, &id).await?;
    let secrets = secrets(&holdfast, &client, &id, &password).await?;
    let known = [("the control", holdfast.data().to_string_lossy().into_owned().into_bytes())];
    ensure!(!look_at_processes(&known).is_empty(), "what is in a process's arguments is found");
    let watch = Watch::start(secrets.clone());

    let backup = client.trigger(&id).await?;
    let path = format!("/managed-services/{id}/backups/{backup}");
    let seen = progress_until(&client, &path, "completed").await.context("the backup")?;
    complete_progress(&seen).context("the backup")?;
    let point = note(&client, &id, "after the backup").await?;
    wait_archived(&client, &id, point).await?;
    let copy = client.restore_to(&id, &point.to_string(), "copy").await?;
    let seen = progress_until(&client, &format!("/managed-services/{copy}"), "running")
        .await
        .context("the restore")?;
    complete_progress(&seen).context("the restore")?;
    let count = super::support::value(&client, &copy, "SELECT count(*)::text FROM bulk").await?;
    ensure!(count == ROWS.to_string(), "{count} rows were restored");

    let in_processes = watch.stop();
    ensure!(in_processes.is_empty(), "secrets in processes: {in_processes:?}");
    nowhere(&holdfast, &canaries, &secrets)?;
    history(&client, &id, &copy).await
}

/// Fills the service; returns what must be found nowhere else: a text and a piece of random bytes.
async fn fill(client: &Client, id: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut random = seed::generator("progress_is_shown_and_secrets_are_not");
    let text = format!("canary-{:016x}-in-a-coal-mine", random.next_u64());
    let database = connect(&client.connection_string(id).await?).await?;
    // Ten files of 10 MB: the tool tells how far it is whenever a file is done.
    let create = "CREATE TABLE notes (number serial, note text); \
                  CREATE TABLE bulk (part int, bytes bytea) PARTITION BY LIST (part); \
                  DO $$ BEGIN FOR n IN 0..9 LOOP \
                    EXECUTE format('CREATE TABLE bulk_%s PARTITION OF bulk FOR VALUES IN (%s)', n, n); \
                  END LOOP; END $$";
    database.batch_execute(create).await?;
    database.execute("INSERT INTO notes (note) VALUES ($1)", &[&text]).await?;
    let mut needle = Vec::new();
    for number in 0..ROWS {
        let mut row = vec![0_u8; ROW_BYTES];
        random.fill_bytes(&mut row);
        // The searching tool takes a line break and a zero byte for the end of what it looks for.
        let safe = row.windows(48).find(|window| !window.iter().any(|b| matches!(b, 0 | b'\n')));
        needle = safe.context("48 such bytes in 2 MiB")?.to_owned();
        let part = i32::try_from(number % 10)?;
        database.execute("INSERT INTO bulk VALUES ($1, $2)", &[&part, &row]).await?;
    }
    Ok(vec![("the text", text.into_bytes()), ("the random bytes", needle)])
}

type Needle = (&'static str, Vec<u8>);

/// Everything that is secret, in the spelling in which it would leak.
async fn secrets(holdfast: &Holdfast, client: &Client, id: &str, password: &str) -> Result<Vec<Needle>> {
    let mut secrets = vec![("the admin password", password.as_bytes().to_owned())];
    for user in ["app_user", "admin"] {
        secrets
            .push(("a tenant's password", text(&reveal(client, id, user).await?, "password")?.into_bytes()));
    }
    let record: Value =
        serde_json::from_slice(&std::fs::read(holdfast.instances.join(id).join("instance.json"))?)?;
    let repository = &record["instance"]["repository"];
    secrets.push(("the cipher passphrase", text(repository, "cipher_passphrase")?.into_bytes()));
    secrets.push(("the gateway's secret", text(repository, "secret_key")?.into_bytes()));
    for (what, file) in
        [("the KEK", "keys/kek-1"), ("the agents' token", "agent.token"), ("the host key", "agent/host.key")]
    {
        let content = std::fs::read_to_string(holdfast.data().join(file))?;
        secrets.push((what, content.trim().as_bytes().to_owned()));
    }
    ensure!(secrets.iter().all(|(_, secret)| secret.len() >= 20), "a secret is too short to look for");
    Ok(secrets)
}

/// Polls until the object has this status; all progress that was seen.
async fn progress_until(client: &Client, path: &str, status: &str) -> Result<Vec<Value>> {
    let seen = Mutex::new(Vec::new());
    wait_for(&format!("{path} is {status}"), 120, || async {
        let found = client.get(path).await?;
        ensure!(found["status"] != "failed", "{found}");
        if found["progress"].is_object() {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(found["progress"].clone());
        }
        ensure!(
            found["status"] != status || found["progress"].is_null(),
            "progress of something done: {found}"
        );
        Ok((found["status"] == status).then_some(()))
    })
    .await?;
    Ok(seen.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// At least one look showed everything: phase, percent, bytes, ETA; and within a phase it never went back.
fn complete_progress(seen: &[Value]) -> Result<()> {
    let is_whole = |p: &&Value| {
        p["phase"].as_str().is_some_and(|phase| !phase.is_empty())
            && p["percent"].as_f64().is_some_and(|percent| (0.0..=100.0).contains(&percent))
            && p["bytes_total"].as_u64().is_some_and(|total| total > (ROWS * ROW_BYTES) as u64)
            && p["bytes_done"].as_u64() <= p["bytes_total"].as_u64()
            && p["eta_seconds"].is_u64()
    };
    let whole = seen.iter().filter(is_whole).count();
    let phases: BTreeSet<&str> = seen.iter().filter_map(|p| p["phase"].as_str()).collect();
    println!("{} looks, {whole} of them whole, phases {phases:?}", seen.len());
    ensure!(whole > 0, "no look showed everything: {seen:?}");
    for pair in seen.windows(2).filter(|pair| pair[0]["phase"] == pair[1]["phase"]) {
        ensure!(pair[0]["percent"].as_f64() <= pair[1]["percent"].as_f64(), "it went back: {pair:?}");
    }
    Ok(())
}

/// Looks at every process's arguments, and at the environment of every process but the one that was given the password.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<BTreeSet<String>>>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watch {
    fn start(secrets: Vec<Needle>) -> Self {
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let thread = std::thread::spawn({
            let (stop, found) = (Arc::clone(&stop), Arc::clone(&found));
            move || {
                let mut looks = 0;
                while !stop.load(Ordering::SeqCst) {
                    looks += 1;
                    let hits = look_at_processes(&secrets);
                    found.lock().unwrap_or_else(PoisonError::into_inner).extend(hits);
                    std::thread::sleep(Duration::from_millis(20));
                }
                looks
            }
        });
        Self { stop, found, thread }
    }

    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        let looks = self.thread.join().unwrap_or(0);
        println!("{looks} looks at all processes");
        assert!(looks > 10, "the watch did not look");
        std::mem::take(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn look_at_processes(secrets: &[Needle]) -> Vec<String> {
    let mut hits = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let read = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
        let arguments = read("cmdline");
        let is_serve = arguments.split(|b| *b == 0).nth(1) == Some(b"serve");
        let environment = if is_serve { Vec::new() } else { read("environ") };
        for (what, secret) in secrets {
            let holds = |text: &[u8]| text.windows(secret.len()).any(|window| window == secret);
            if holds(&arguments) || holds(&environment) {
                hits.push(format!("{what} in {}", String::from_utf8_lossy(&arguments).replace('\0', " ")));
            }
        }
    }
    hits
}

fn nowhere(holdfast: &Holdfast, canaries: &[Needle], secrets: &[Needle]) -> Result<()> {
    let (data, log, printed) =
        (holdfast.data(), holdfast.folder.join("log"), holdfast.folder.join("printed"));
    for (what, needle) in canaries {
        ensure!(
            !holders(needle, &holdfast.instances)?.is_empty(),
            "{what} is in the database: the search works"
        );
        for place in [&data, &log, &printed] {
            let found = holders(needle, place)?;
            ensure!(found.is_empty(), "{what} of a tenant is in {found}");
        }
    }
    // Where each one has its home.
    let homes = ["keys/kek-1", "agent.token", "agent/host.key"].map(|file| data.join(file));
    for (what, needle) in secrets {
        for place in [&data, &log, &printed] {
            let found = holders(needle, place)?;
            let away: Vec<&str> =
                found.lines().filter(|file| !homes.iter().any(|home| home == Path::new(file))).collect();
            ensure!(away.is_empty(), "{what} is in {away:?}");
        }
    }
    Ok(())
}

/// Jobs tell what was done, step by step.
async fn history(client: &Client, id: &str, copy: &str) -> Result<()> {
    let all = client.get("/jobs").await?;
    let all = all["jobs"].as_array().context("a list of jobs")?;
    let created: Vec<Timestamp> =
        all.iter().map(|job| Ok(text(job, "created_at")?.parse()?)).collect::<Result<_>>()?;
    ensure!(created.is_sorted_by(|a, b| a >= b), "newest first");
    for (kind, service, steps) in [
        ("provision", id, &["create_instance", "activate"][..]),
        ("backup", id, &["prepare_keys", "run_backup", "record_backup"]),
        ("restore", copy, &["ship_log", "plan_restore", "restore_instance", "activate"]),
    ] {
        let found = all.iter().find(|job| job["kind"] == kind && job["service_id"] == service);
        let listed = found.with_context(|| format!("no {kind} of {service}"))?;
        let job = client.get(&format!("/jobs/{}", text(listed, "id")?)).await?;
        ensure!(job == *listed, "the same in the list and alone: {job}");
        ensure!(job["status"] == "completed" && job["error_message"].is_null(), "{job}");
        let (started, finished) = (text(&job, "started_at")?, text(&job, "finished_at")?);
        ensure!(started.parse::<Timestamp>()? <= finished.parse::<Timestamp>()?, "{job}");
        let done: Vec<&str> = job["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|step| step["status"] == "completed")
            .filter_map(|step| step["name"].as_str())
            .collect();
        ensure!(done == steps, "{job}");
        if kind == "restore" {
            ensure!(job["source_service_id"] == id && job["restore_point"].is_string(), "{job}");
            let restores = client.get(&format!("/managed-services/{id}/restore-jobs")).await?;
            ensure!(restores["jobs"][0]["id"] == job["id"], "{restores}");
        }
    }
    let of_service = client.get(&format!("/managed-services/{id}/jobs")).await?;
    let of_service = of_service["jobs"].as_array().context("jobs of the service")?;
    ensure!(of_service.len() >= 3 && of_service.iter().all(|job| job["service_id"] == id), "{of_service:?}");
    Ok(())
}
