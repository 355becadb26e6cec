//! The first start: what it makes, with which rights, and what it tells only once.

use anyhow::{Context, Result, ensure};
use holdfast_testkit::holdfast::{PASSWORD, assert_mode};
use holdfast_testkit::{Client, Holdfast, holdfast};

use super::support::{files, holders};
use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_tells_the_password_and_the_kit_once_and_keeps_keys_private() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut holdfast = Holdfast::start_with(BINARY, "first", &[("HOLDFAST_ADMIN_PASSWORD", "")]).await?;
    let printed = holdfast.printed();
    let after = |words: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(words));
        line.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned)
    };
    let password = after("admin password:").with_context(|| format!("no password in {printed:?}"))?;
    ensure!(password.len() >= 20, "a short password");
    let kit = after("recovery kit:").with_context(|| format!("no kit in {printed:?}"))?;
    let kit_text = std::fs::read_to_string(&kit)?;
    let key = kit_text.lines().find_map(|line| line.strip_prefix("recovery key:")).map(str::trim);
    let key = key.filter(|key| key.len() > 40).context("the kit holds no recovery key")?;

    log_in(&holdfast, &password, 200).await?;
    log_in(&holdfast, PASSWORD, 401).await?;
    log_in(&holdfast, "", 401).await?;
    modes(&holdfast)?;

    // The second start has nothing to tell, and the same password.
    holdfast.kill_serve()?;
    holdfast.spawn().await?;
    only_what_the_host_can_run(&holdfast, &password).await?;
    log_in(&holdfast, &password, 200).await?;
    let printed = holdfast.printed();
    ensure!(printed.matches("admin password:").count() == 1, "told twice: {printed}");
    ensure!(printed.matches("recovery kit:").count() == 1, "told twice: {printed}");
    ensure!(std::fs::read_to_string(&kit)? == kit_text, "the kit changed");

    let log = holdfast.log();
    ensure!(log.contains("the agent is up"), "the log is read where it is written: {log}");
    for (what, secret) in [("admin password", password.as_str()), ("recovery key", key)] {
        ensure!(!log.contains(secret), "the {what} is in the log");
        let found = holders(secret.as_bytes(), &holdfast.data())?;
        let away: Vec<&str> = found.lines().filter(|file| *file != kit).collect();
        ensure!(away.is_empty(), "the {what} is in {away:?}");
    }
    Ok(())
}

/// Whoever asks in the first second hears what the host can run, and not what the release knows.
async fn only_what_the_host_can_run(holdfast: &Holdfast, password: &str) -> Result<()> {
    let offered = Client::new(&holdfast.base(), password).get("/database-versions?type=postgresql").await?;
    let versions: Vec<_> = offered["versions"].as_array().into_iter().flatten().collect();
    ensure!(versions.len() == 1 && versions[0]["version"] == "17", "{offered}");
    Ok(())
}

async fn log_in(holdfast: &Holdfast, password: &str, expected: u16) -> Result<()> {
    let answer = Client::new(&holdfast.base(), password).send("GET", "/managed-services", None).await?;
    ensure!(answer.status == expected, "{} {}", answer.status, answer.body);
    Ok(())
}

/// The data folder is closed, and every file that holds a key is closed by itself too.
fn modes(holdfast: &Holdfast) -> Result<()> {
    let data = holdfast.data();
    assert_mode(&data, 0o700)?;
    assert_mode(&data.join("keys"), 0o700)?;
    assert_mode(&data.join("agent"), 0o700)?;
    for file in ["keys/kek-1", "recovery-kit.txt", "agent.token", "agent/host.key", "agent/gateway.key"] {
        assert_mode(&data.join(file), 0o600).with_context(|| file.to_owned())?;
    }
    for file in files(&data.join("keys")) {
        assert_mode(&file, 0o600)?;
    }
    Ok(())
}
