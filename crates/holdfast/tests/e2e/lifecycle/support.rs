//! What the tests of this suite share.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, holdfast, wait_for};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::BINARY;

/// A table of 160 MB that do not compress: a backup of it, or a restore, takes long enough to be met at its work.
pub(crate) const BULK: &str = "CREATE TABLE bulk AS SELECT (SELECT string_agg(sha512(random()::text::bytea)::text, '') \
     FROM generate_series(1, 50) WHERE g > 0) s FROM generate_series(1, 25000) g";

/// Looks at a folder until one has seen it at rest.
const LOOKS: usize = 50;

/// A Holdfast of the test's own; `None` after saying why the test is skipped.
pub(crate) async fn start(name: &str) -> Result<Option<Holdfast>> {
    match holdfast::engines() {
        Some(_) => Ok(Some(Holdfast::start(BINARY, name).await?)),
        None => Ok(None),
    }
}

/// Asks for something that must be refused; returns the text.
pub(crate) async fn refused(
    client: &Client,
    status: u16,
    method: &str,
    path: &str,
    body: Value,
) -> Result<String> {
    let answer = client.send(method, path, Some(body.clone())).await?;
    ensure!(answer.status == status, "{method} {path} {body}: {} {}", answer.status, answer.body);
    let said = text(&answer.body, "error")?;
    ensure!(!said.is_empty() && answer.body["message"] == said.as_str(), "{method} {path}: {}", answer.body);
    Ok(said)
}

pub(crate) async fn patch(client: &Client, id: &str, body: Value) -> Result<Value> {
    let answer = client.send("PATCH", &format!("/managed-services/{id}"), Some(body)).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(answer.body)
}

/// Runs statements as the tenant.
pub(crate) async fn execute(client: &Client, id: &str, sql: &str) -> Result<()> {
    Ok(connect(&client.connection_string(id).await?).await?.batch_execute(sql).await?)
}

/// The only column of the only row, as text.
pub(crate) async fn value_at(url: &str, sql: &str) -> Result<String> {
    Ok(connect(url).await?.query_one(sql, &[]).await.context(sql.to_owned())?.get(0))
}

pub(crate) async fn value(client: &Client, id: &str, sql: &str) -> Result<String> {
    value_at(&client.connection_string(id).await?, sql).await
}

/// The rows of table `notes`, in order.
pub(crate) async fn notes(client: &Client, id: &str) -> Result<String> {
    value(client, id, "SELECT coalesce(string_agg(note, ' ' ORDER BY number), '') FROM notes").await
}

pub(crate) async fn make_notes(client: &Client, id: &str, first: &str) -> Result<()> {
    execute(client, id, "CREATE TABLE notes (number serial, note text)").await?;
    note(client, id, first).await.map(drop)
}

/// Commits a note; returns an instant after its acknowledgement and before any later one.
pub(crate) async fn note(client: &Client, id: &str, note: &str) -> Result<Timestamp> {
    execute(client, id, &format!("INSERT INTO notes (note) VALUES ('{note}')")).await?;
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    while Timestamp::now() < point.checked_add(jiff::SignedDuration::from_millis(2))? {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    Ok(point)
}

/// Waits until the log archive is proven to reach this instant.
pub(crate) async fn wait_archived(client: &Client, id: &str, until: Timestamp) -> Result<()> {
    wait_for(&format!("the log is archived up to {until}"), 45, || async {
        let pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
        let latest = pitr["latest_restore_point"].as_str().map(str::parse::<Timestamp>).transpose()?;
        ensure!(pitr["gaps"] == json!([]), "a gap: {pitr}");
        Ok(latest.filter(|latest| *latest >= until).map(drop))
    })
    .await
}

pub(crate) async fn wait_status(client: &Client, id: &str, status: &str, seconds: u64) -> Result<Value> {
    wait_for(&format!("service {id} is {status}"), seconds, || async {
        let service = client.get(&format!("/managed-services/{id}")).await?;
        Ok((service["status"] == status).then_some(service))
    })
    .await
}

/// Waits until the service's newest job of this kind has been completed.
pub(crate) async fn wait_job(client: &Client, id: &str, kind: &str, seconds: u64) -> Result<Value> {
    wait_for(&format!("job {kind} of {id} is completed"), seconds, || async {
        let jobs = client.get(&format!("/jobs?service_id={id}")).await?;
        let newest = jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["kind"] == kind));
        match newest.and_then(|job| job["status"].as_str()) {
            Some("completed") => Ok(newest.cloned()),
            Some("failed" | "cancelled") => bail!("{newest:?}"),
            _ => Ok(None),
        }
    })
    .await
}

/// psql of the engine's own, with a connection string and one statement; what it printed, or its error.
pub(crate) fn psql(connection: &str, sql: &str) -> Result<Result<String, String>> {
    let engines = holdfast::engines().context("no engines")?;
    let ended = Command::new(engines.join("postgresql-17/bin/psql"))
        .args(["-XAtw", "-c", sql, connection])
        .env_remove("PGPASSWORD")
        .env("PGPASSFILE", "/dev/null")
        .env("PGCONNECT_TIMEOUT", "10")
        .stdin(Stdio::null())
        .output()?;
    let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(if ended.status.success() { Ok(said(ended.stdout)) } else { Err(said(ended.stderr)) })
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Files below a path that hold these bytes, from a look during which no file was moved: what waits in `.writing` is in its
/// place a moment later, perhaps behind the look's back.
pub(crate) fn holders(needle: &[u8], path: &Path) -> Result<String> {
    let pattern = std::env::temp_dir().join(format!("holdfast-needle-{:016x}", rand::random::<u64>()));
    std::fs::write(&pattern, needle)?;
    let found = (0..LOOKS).find_map(|_| look_for(&pattern, path).transpose());
    std::fs::remove_file(&pattern)?;
    found.with_context(|| format!("files went away in each of {LOOKS} looks at {}", path.display()))?
}

/// One look; `None` if a file went away meanwhile.
fn look_for(pattern: &Path, path: &Path) -> Result<Option<String>> {
    let ended = Command::new("grep")
        .args(["-r", "-l", "-a", "-F", "-f"])
        .args([pattern, path])
        .env("LC_ALL", "C")
        .output()?;
    if ended.status.code().is_some_and(|code| code < 2) {
        return Ok(Some(String::from_utf8_lossy(&ended.stdout).into_owned()));
    }
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(errors.lines().all(|line| line.ends_with(": No such file or directory")), "grep: {errors}");
    Ok(None)
}

/// A user's credentials as the API reveals them.
pub(crate) async fn reveal(client: &Client, id: &str, user: &str) -> Result<Value> {
    client.post(&format!("/managed-services/{id}/database-users/{user}/reveal-password"), json!({})).await
}
