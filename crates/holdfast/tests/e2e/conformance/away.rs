//! Control plane and agent away while the engine's log goes: what was never archived is found to be missing, shown as a gap,
//! answered with a new base backup; points in the gap are refused, and points on both sides of it stay exact.
//! (PostgreSQL keeps what its archive does not have; what happens when it is lost nevertheless is in suite `gap`.)

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_conformance::service;
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, Trial, wait_for};
use jiff::Timestamp;
use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};

use crate::conformance::support::holdfast_for;

pub(crate) async fn what_was_lost_while_the_agent_was_away_is_told(kind: EngineKind) -> Result<()> {
    let Some(mut holdfast) = holdfast_for(kind, "away").await? else { return Ok(()) };
    let mut trial = Trial::start(&holdfast, kind, 2, Duration::from_millis(20)).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = Timestamp::now();
    trial.covered(before, 60).await?;
    holdfast.kill_serve()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    lose_log(kind, &holdfast, &trial).await.context("lose the engine's log")?;
    let inside = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let acknowledged = trial.ledger.acknowledged();
    holdfast.spawn().await?;

    let gap = wait_for("the gap is shown", 60, || async {
        let pitr = service::pitr(&trial.client, trial.source).await?;
        Ok(pitr.gaps.into_iter().next())
    })
    .await?;
    println!("{kind}: gap {} to {}: {}", gap.from, gap.to, gap.cause);
    ensure!(!gap.cause.is_empty() && gap.from <= inside, "{gap:?}");
    wait_for("a new base backup", 120, || async {
        let backups = service::backups(&trial.client, trial.source).await?;
        let completed = backups.iter().filter(|backup| backup.completed_at.is_some_and(|at| at > inside));
        Ok((completed.count() > 0).then_some(()))
    })
    .await?;
    let body = json!({"restore_point": trial.unit().floor(inside).to_string(), "target_service_name": "into-the-gap"});
    let path = service::path(trial.source, "/backups/restore");
    let refused = trial.client.send("POST", &path, Some(body)).await?;
    let text = refused.body["error"].as_str().unwrap_or_default();
    ensure!(refused.status == 400 && text.contains("nearest"), "{} {text}", refused.status);

    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = Timestamp::now();
    trial.covered(after, 60).await?;
    trial.stop_writing().await?;
    ensure!(trial.ledger.acknowledged() > acknowledged, "nothing was written after the gap");
    trial.exact("before the gap", before).await?;
    trial.exact("behind the gap", after).await
}

/// Takes away log that nobody has archived, as the engine's owner could.
async fn lose_log(kind: EngineKind, holdfast: &Holdfast, trial: &Trial) -> Result<()> {
    let folder = holdfast.instances.join(trial.source.to_string());
    match kind {
        EngineKind::Mysql => reset_binlogs(folder).await,
        EngineKind::Valkey => rewrite_twice(folder, trial).await,
        EngineKind::Mongodb => roll_over(holdfast, trial).await,
        other => bail!("{other} is tried elsewhere"),
    }
}

async fn reset_binlogs(folder: PathBuf) -> Result<()> {
    let password = std::fs::read_to_string(folder.join("conf/admin-password"))?;
    // A long path's socket lies elsewhere.
    let settings = std::fs::read_to_string(folder.join("conf/my.cnf"))?;
    let socket = settings.lines().find_map(|line| line.strip_prefix("socket = ")).context("its socket")?;
    let options = mysql_async::OptsBuilder::default()
        .socket(Some(socket.trim_matches('"')))
        .user(Some("root"))
        .pass(Some(password.trim()));
    let mut root = mysql_async::Conn::new(options).await?;
    Ok(root.query_drop("RESET BINARY LOGS AND GTIDS").await?)
}

/// The incremental file that grew meanwhile is gone after the second rewrite: nobody had linked it.
async fn rewrite_twice(folder: PathBuf, trial: &Trial) -> Result<()> {
    let own: Value = serde_json::from_slice(&std::fs::read(folder.join("conf/agent.json"))?)?;
    let password = own["password"].as_str().context("the agent's password")?;
    let address = redis::ConnectionAddr::Tcp(trial.database.login.host.clone(), trial.database.login.port);
    let user = redis::RedisConnectionInfo::default().set_username("default").set_password(password);
    let info = redis::IntoConnectionInfo::into_connection_info(address)?.set_redis_settings(user);
    let mut connection = redis::Client::open(info)?.get_multiplexed_async_connection().await?;
    for _ in 0..2 {
        redis::cmd("BGREWRITEAOF").exec_async(&mut connection).await?;
        wait_for("the rewrite", 30, || {
            let mut connection = connection.clone();
            async move {
                let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await?;
                let done =
                    info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
                Ok(done.then_some(()))
            }
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Runs the server for a while with an oplog of hardly anything.
async fn roll_over(holdfast: &Holdfast, trial: &Trial) -> Result<()> {
    let with = "--oplog-max-entries=";
    let server = holdfast.engine_processes().into_iter().find_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        words.iter().any(|word| word.starts_with(with)).then_some((pid, words))
    });
    let (pid, mut words) = server.context("the server, with the length of its oplog")?;
    words.retain(|word| !word.is_empty());
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}"))?);
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(format!("/proc/{pid}"))?);
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd"))?;
    holdfast.kill_engines();
    for word in &mut words {
        if word.starts_with(with) {
            *word = format!("{with}5");
        } else if word.starts_with("--oplog-retention-seconds=") {
            "--oplog-retention-seconds=1".clone_into(word);
        }
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().current_dir(folder).uid(owner).gid(group);
    for pair in String::from_utf8_lossy(&environment).split('\0') {
        if let Some((name, value)) = pair.split_once('=') {
            command.env(name, value);
        }
    }
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let written = fill_oplog(trial).await;
    server.kill()?;
    server.wait()?;
    written
}

/// The stand-in looks for what it may overwrite now and then only.
async fn fill_oplog(trial: &Trial) -> Result<()> {
    let login = &trial.database.login;
    let tls = if login.tls { "?tls=true&tlsAllowInvalidCertificates=true" } else { "" };
    let address = format!("mongodb://{}:{}/{tls}", login.host, login.port);
    let mut options = mongodb::options::ClientOptions::parse(address).await?;
    options.direct_connection = Some(true);
    options.credential = Some(
        mongodb::options::Credential::builder()
            .username(login.username.clone())
            .password(login.password.clone())
            .source("admin".to_owned())
            .build(),
    );
    let client = mongodb::Client::with_options(options)?;
    let filler = client.database(&login.database).collection::<mongodb::bson::Document>("filler");
    for round in 0..6 {
        let many: Vec<_> = (0..1000).map(|n| mongodb::bson::doc! { "round": round, "n": n }).collect();
        wait_for("writes go into the short oplog", 60, || async {
            Ok(filler.insert_many(&many).await.ok().map(drop))
        })
        .await?;
    }
    Ok(())
}
