//! Control plane and agent away while the engine's log goes: what was never archived is found to be missing, shown as a gap,
//! answered with a new base backup; points in the gap are refused, and points on both sides of it stay exact.
//! (PostgreSQL keeps what its archive does not have; what happens when it is lost nevertheless is in suite `gap`.)

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_conformance::service;
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, Trial, wait_for};
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};

use crate::conformance::support::holdfast_with;

pub(crate) async fn what_was_lost_while_the_agent_was_away_is_told(kind: EngineKind) -> Result<()> {
    let Some(mut holdfast) = holdfast_with(kind, "away", &[("HOLDFAST_MONGODB_OPLOG_MIB", "1")]).await?
    else {
        return Ok(());
    };
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
    let mut connection = holdfast_testkit::valkey::connect(info).await?;
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

/// Runs the server for a while with nobody following it, until its oplog has overwritten all that was there.
async fn roll_over(holdfast: &Holdfast, trial: &Trial) -> Result<()> {
    let folder = holdfast.instances.join(trial.source.to_string());
    let server = holdfast.engine_processes().into_iter().find_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        words.iter().any(|word| word.starts_with("--oplogSize=")).then_some((pid, words))
    });
    let (pid, words) = server.context("the server, with the size of its oplog")?;
    let owner = std::fs::metadata(format!("/proc/{pid}"))?;
    holdfast.kill_engines();
    let mut command = Command::new(&words[0]);
    // What may be needed at a start is not overwritten: all behind the newest checkpoint, of which there is one a minute.
    command.args(&words[1..]).arg("--syncdelay=1").current_dir(&folder).uid(owner.uid()).gid(owner.gid());
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let written = fill_oplog(&folder, trial).await;
    server.kill()?;
    server.wait()?;
    written
}

async fn fill_oplog(folder: &Path, trial: &Trial) -> Result<()> {
    let own: Value = serde_json::from_slice(&std::fs::read(folder.join("conf/agent.json"))?)?;
    let password = own["passwords"][0].as_str().context("the agent's password")?;
    let login = &trial.database.login;
    let address =
        format!("mongodb://{}:{}/?tls=true&tlsAllowInvalidCertificates=true", login.host, login.port);
    let mut options = mongodb::options::ClientOptions::parse(address).await?;
    options.direct_connection = Some(true);
    options.credential = Some(
        mongodb::options::Credential::builder()
            .username("holdfast".to_owned())
            .password(password.to_owned())
            .source("admin".to_owned())
            .build(),
    );
    let client = mongodb::Client::with_options(options)?;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let newest = wait_for("the server is there again", 60, || async {
        Ok(oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.ok().flatten())
    });
    let newest = newest.await?.get_timestamp("ts")?;
    let filler = client.database(&login.database).collection::<Document>("filler");
    let text = "x".repeat(1_000);
    wait_for("the oplog has gone round", 60, || async {
        filler.insert_many((0..1_000).map(|n| doc! { "n": n, "text": &text })).await?;
        let left = oplog.find_one(doc! { "ts": { "$lte": newest } }).await?;
        Ok(left.is_none().then_some(()))
    })
    .await
}
