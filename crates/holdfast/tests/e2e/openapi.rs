//! The API does what its description says: schemathesis makes requests out of `/openapi.json`, valid and broken ones, alone
//! and one after the other, and compares every answer with it. The seed is in `tests/openapi/schemathesis.toml`.
//!
//! There is a real service with a backup to work on; the agent is paused and new services are limited, so that what is
//! accepted costs nothing.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Holdfast, holdfast};
use tokio::process::Command;

use crate::BINARY;

const CASES_PER_OPERATION: u32 = 30;

/// The program beside the tests' Python, or `None` after saying why the test is skipped.
fn schemathesis() -> Option<String> {
    let python = std::env::var("HOLDFAST_PYTHON").ok();
    let program = python.and_then(|python| Some(Path::new(&python).parent()?.join("st")));
    let program = program.filter(|program| program.is_file());
    if program.is_none() {
        let why = "HOLDFAST_PYTHON has no schemathesis beside it; run scripts/python.sh";
        assert!(std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"), "{why}");
        println!("SKIPPED: {why}");
    }
    program.map(|program| program.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_what_its_description_says() -> Result<()> {
    let (Some(_), Some(program)) = (holdfast::engines(), schemathesis()) else { return Ok(()) };
    let mut holdfast = Holdfast::start(BINARY, "openapi").await?;
    let client = holdfast.client();
    let id = client.create("described").await?;
    let backup = text(&client.wait_first_backup(&id).await?, "id")?;
    let users = client.get(&format!("/managed-services/{id}/database-users")).await?;
    let user = text(&users["users"][0], "username")?;
    holdfast.kill_serve()?;
    holdfast.set("HOLDFAST_AGENT", "none");
    holdfast.set("HOLDFAST_MAX_SERVICES", "20");
    holdfast.spawn().await?;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/openapi");
    let config = holdfast.folder.join("schemathesis.toml");
    let known = format!("\n[parameters]\nbackup_id = \"{backup}\"\nusername = \"{user}\"\n");
    std::fs::write(&config, std::fs::read_to_string(folder.join("schemathesis.toml"))? + &known)?;
    let mut command = Command::new(program);
    command.arg("--config-file").arg(&config).args(["run", "--checks", "all"]);
    command.args(["--max-examples", &CASES_PER_OPERATION.to_string(), "--wait-for-schema", "10"]);
    command.arg(format!("{}/openapi.json", holdfast.base()));
    for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
        .env("HOLDFAST_PASSWORD", holdfast::PASSWORD)
        .env("NO_COLOR", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(&holdfast.folder).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await.context("run schemathesis")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    println!("{said}{}", String::from_utf8_lossy(&ended.stderr));
    ensure!(ended.status.success(), "schemathesis ended with {}", ended.status);
    ensure!(said.contains(" passed"), "it checked nothing");
    Ok(())
}
