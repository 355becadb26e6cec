//! What the public clients do, done by them: the Python SDK as it is published, and the commands of the page "Backups &
//! Restore" as they stand.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, holdfast};
use jiff::{SignedDuration, Timestamp, Unit};
use tokio::process::Command;

use crate::BINARY;

/// The interpreter that has the SDK, or `None` after saying why the test is skipped.
fn python() -> Option<String> {
    let python = std::env::var("HOLDFAST_PYTHON").ok().filter(|path| Path::new(path).is_file());
    if python.is_none() {
        assert!(
            std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"),
            "HOLDFAST_PYTHON names no interpreter; run scripts/python.sh"
        );
        println!("SKIPPED: HOLDFAST_PYTHON names no interpreter; run scripts/python.sh");
    }
    python
}

fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

/// Runs a client to its end and returns what it printed; in an environment without a proxy.
async fn output(mut command: Command, what: &str) -> Result<String> {
    for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    let ended =
        command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| what.to_owned())?;
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    println!("--- {what}\n{out}{err}");
    ensure!(ended.status.success(), "{what} ended with {}", ended.status);
    Ok(out.into_owned())
}

/// The newest version of the engine that this host can run; `None`, after saying so, where it has none.
fn version(engines: &Path, engine: EngineKind) -> Result<Option<String>> {
    let mut drivers = holdfast_engines::drivers(engines, &holdfast_engines::DriverSettings::default());
    let installed = drivers.remove(&engine).map(|driver| driver.versions());
    let version = installed.and_then(|all| all.last().cloned());
    if version.is_none() {
        let required = std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() == Ok("1");
        ensure!(!required, "this host has no {engine}; run `make engines`");
        println!("SKIPPED: this host has no {engine}");
    }
    Ok(version)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_runs_its_whole_flow_unmodified() -> Result<()> {
    let (Some(engines), Some(python)) = (holdfast::engines(), python()) else { return Ok(()) };
    let holdfast = Holdfast::start(BINARY, "sdk").await?;
    let flow = |engine: EngineKind, mode: &'static str| {
        let (python, engines, holdfast) = (&python, &engines, &holdfast);
        async move {
            let Some(version) = version(engines, engine)? else { return Ok(()) };
            let mut command = Command::new(python);
            command.arg(tests_folder().join("python/sdk_flow.py")).args([mode, engine.as_str(), &version]);
            command.env("HOLDFAST_URL", format!("http://127.0.0.1:{}", holdfast.port));
            command.env("HOLDFAST_PASSWORD", holdfast::PASSWORD);
            command.env("PSQL", engines.join("postgresql-17/bin/psql")).env("PYTHONDONTWRITEBYTECODE", "1");
            let said = output(command, &format!("the SDK's {mode} client with {engine}")).await?;
            ensure!(said.ends_with(&format!("ok {mode}\n")), "it ended early");
            anyhow::Ok(())
        }
    };
    let available = EngineKind::ALL.into_iter().filter(|engine| engine.capability().available);
    let flows = available.map(|engine| flow(engine, "sync"));
    futures::future::try_join(flow(EngineKind::Postgresql, "async"), futures::future::try_join_all(flows))
        .await?;
    let left = holdfast.client().get("/managed-services").await?;
    ensure!(left["total"] == 0, "the SDK deleted its services: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_work_as_they_stand() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let holdfast = Holdfast::start(BINARY, "page").await?;
    let client = holdfast.client();
    let id = client.create("my-db").await?;
    let automated = text(&client.wait_first_backup(&id).await?, "id")?;
    let point = two_rows_around_a_second(&client, &id).await?;

    let mut page = Command::new("bash");
    page.arg(tests_folder().join("mission_page.sh")).arg(format!("http://127.0.0.1:{}", holdfast.port));
    page.args(["admin", holdfast::PASSWORD, &id, &automated, &point.to_string()]);
    let said = output(page, "the page's commands").await?;
    let left: HashMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();

    ensure!(notes(&client, &id).await? == ["before", "after"], "the source is as it was");
    ensure!(
        notes(&client, left["restored-to-a-point"]).await? == ["before"],
        "the second that was asked for"
    );
    ensure!(
        notes(&client, left["restored-from-a-backup"]).await? == ["before", "after"],
        "the backup's state"
    );
    Ok(())
}

/// One row committed before a whole second and one after it; returns that second.
async fn two_rows_around_a_second(client: &Client, id: &str) -> Result<Timestamp> {
    let database = connect(&client.connection_string(id).await?).await?;
    database
        .batch_execute(
            "CREATE TABLE notes (number serial, note text); INSERT INTO notes (note) VALUES ('before')",
        )
        .await?;
    let point = Timestamp::now().round(Unit::Second)?.checked_add(SignedDuration::from_secs(1))?;
    while Timestamp::now() <= point {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    database.batch_execute("INSERT INTO notes (note) VALUES ('after')").await?;
    Ok(point)
}

async fn notes(client: &Client, id: &str) -> Result<Vec<String>> {
    let database = connect(&client.connection_string(id).await?).await?;
    let rows = database.query("SELECT note FROM notes ORDER BY number", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
