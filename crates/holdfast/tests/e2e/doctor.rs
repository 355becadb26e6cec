//! `holdfast doctor`: a host that has everything, one that lacks something, and what it says to do about it.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::{Holdfast, holdfast};
use serde_json::Value;

use crate::BINARY;

fn doctor(holdfast: &Holdfast, changed: &[(&str, &str)]) -> Result<(i32, Value)> {
    let engines = holdfast::engines().context("no engines")?;
    let ended = Command::new(BINARY)
        .args(["doctor", "--output", "json"])
        .env("HOLDFAST_DATA", holdfast.data())
        .env("HOLDFAST_INSTANCES", &holdfast.instances)
        .env("HOLDFAST_LISTEN", format!("127.0.0.1:{}", holdfast.port))
        .env("HOLDFAST_ENGINES", engines)
        .envs(changed.iter().copied())
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let report = serde_json::from_str(&said).with_context(|| format!("{said}{ended:?}"))?;
    Ok((ended.status.code().unwrap_or(-1), report))
}

fn row<'a>(report: &'a Value, check: &str) -> Result<&'a Value> {
    let rows = report["checks"].as_array().context("rows")?;
    rows.iter().find(|row| row["check"] == check).with_context(|| format!("no {check}: {report:#}"))
}

fn says(report: &Value, check: &str, outcome: &str, next: &str) -> Result<()> {
    let row = row(report, check)?;
    ensure!(row["outcome"] == outcome, "{check} should be {outcome}: {report:#}");
    let told = row["next"].as_str().unwrap_or_default();
    ensure!(told.contains(next), "{check} should tell {next:?}: {row}");
    ensure!(outcome == "ok" || !told.is_empty(), "what to do about {check}: {row}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_what_mends_it() -> Result<()> {
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let holdfast = Holdfast::start(BINARY, "doctor").await?;
    let (code, report) = doctor(&holdfast, &[])?;
    ensure!(code == 0 && report["good"] == true, "{code}: {report:#}");
    ensure!(
        row(&report, "PostgreSQL")?["detail"].as_str().is_some_and(|text| text.contains("17.")),
        "{report:#}"
    );
    ensure!(
        row(&report, "pgBackRest")?["detail"].as_str().is_some_and(|text| text.contains("2.")),
        "{report:#}"
    );
    says(&report, "recovery kit", "warning", "then remove it here")?;
    says(&report, "address of the API", "warning", "choose another --listen")?;

    let (code, report) =
        doctor(&holdfast, &[("HOLDFAST_ENGINES", "/nowhere"), ("HOLDFAST_LISTEN", "127.0.0.1:0")])?;
    ensure!(code == 1 && report["good"] == false, "{code}: {report:#}");
    says(&report, "PostgreSQL", "failed", "make engines")?;
    says(&report, "MongoDB", "failed", "make engines")?;
    says(&report, "address of the API", "ok", "")?;

    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(engines.join("postgresql-17"), folder.path().join("postgresql-17"))?;
    let path = folder.path().to_str().context("a path")?;
    let (code, report) = doctor(&holdfast, &[("HOLDFAST_ENGINES", path)])?;
    ensure!(code == 1, "{report:#}");
    says(&report, "PostgreSQL", "ok", "")?;
    says(&report, "pgBackRest", "failed", "make engines")?;
    says(&report, "Valkey", "warning", "make engines")?;

    let kek = holdfast.data().join("keys/kek-1");
    std::fs::set_permissions(&kek, std::fs::Permissions::from_mode(0o644))?;
    std::fs::remove_file(holdfast.data().join("recovery-kit.txt"))?;
    let (code, report) = doctor(&holdfast, &[])?;
    ensure!(code == 1, "{report:#}");
    says(&report, "data folder", "failed", &format!("chmod go= {}", kek.display()))?;
    says(&report, "recovery kit", "ok", "")
}
