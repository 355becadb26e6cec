//! Each engine's ledger on the bare engine, without Holdfast: what writers were told is what is there, through a restart of the
//! engine in the middle too. Shows that the suite's own side is right, so that what it finds is the restore's.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its figures")]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_conformance::ledger::Act;
use holdfast_conformance::{Database, Ledger, Load, Login, Mix};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use mongodb::bson::doc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Neither MySQL nor PostgreSQL runs as root; the others may do without it as well.
const NOBODY: u32 = 65_534;

/// An engine with a folder of its own; both are gone when it is dropped.
struct Bare {
    kind: EngineKind,
    binary: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Bare {
    /// `None` when the engine is not installed and need not be.
    fn start(
        kind: EngineKind,
        binary: &str,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Option<Self>> {
        let engines =
            std::env::var("HOLDFAST_ENGINES").unwrap_or_else(|_| "/var/cache/holdfast/engines".to_owned());
        let binary = Path::new(&engines).join(binary);
        if !binary.exists() {
            ensure!(
                std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"),
                "no {}",
                binary.display()
            );
            println!("SKIPPED: no {}", binary.display());
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        prepare(folder.path())?;
        if nix::unistd::geteuid().is_root() {
            let owner = format!("{NOBODY}:{NOBODY}");
            ensure!(
                Command::new("chown").arg("-R").arg(owner).arg(folder.path()).status()?.success(),
                "chown"
            );
        }
        let port = holdfast_testkit::ports::reserve()?;
        let process = run(kind, &binary, folder.path(), port)?;
        Ok(Some(Self { kind, binary, folder, port, process }))
    }

    fn database(&self) -> Database {
        let (username, database) = match self.kind {
            EngineKind::Mysql => ("root", "mysql"), // what is there before anybody made anything
            EngineKind::Valkey => ("", "0"),
            _ => ("", "defaultdb"),
        };
        let login = Login {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            username: username.to_owned(),
            password: String::new(),
            database: database.to_owned(),
            tls: false,
        };
        Database { kind: self.kind, login, space: "ledger" }
    }

    async fn wait(&mut self) -> Result<()> {
        for _ in 0..600 {
            if self.process.try_wait()?.is_some() {
                break;
            }
            let ready = self.kind != EngineKind::Mongodb || self.is_primary().await;
            if ready && self.database().open().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        anyhow::bail!("{} does not answer: {log}", self.kind)
    }

    /// Makes a set of one, unless it is one already, and looks whether it takes writes.
    async fn is_primary(&self) -> bool {
        let host = format!("127.0.0.1:{}", self.port);
        let address = format!("mongodb://{host}/?directConnection=true&serverSelectionTimeoutMS=1000");
        let Ok(client) = mongodb::Client::with_uri_str(address).await else { return false };
        let admin = client.database("admin");
        let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
        let _ = admin.run_command(doc! { "replSetInitiate": set }).await;
        let hello = admin.run_command(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = run(self.kind, &self.binary, self.folder.path(), self.port)?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGTERM)?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(kind: EngineKind, binary: &Path, folder: &Path, port: u16) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let (data, port) = (folder.join("data"), port.to_string());
    let mut command = Command::new(binary);
    match kind {
        EngineKind::Mysql => command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.join("s").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--mysqlx=OFF", "--secure-file-priv=NULL"])
            .args(["--performance-schema=OFF", "--innodb-redo-log-capacity=16M"]),
        EngineKind::Valkey => command
            .args(["--port", &port, "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--dir"])
            .arg(&data),
        _ => command
            .arg(format!("--dbpath={}", data.display()))
            .args([
                "--bind_ip=127.0.0.1",
                "--port",
                &port,
                "--replSet=rs0",
                "--wiredTigerCacheSizeGB=0.25",
                "--quiet",
            ])
            .arg(format!("--unixSocketPrefix={}", folder.display())),
    };
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("start {}", binary.display()))
}

fn data_folder(folder: &Path) -> Result<()> {
    Ok(std::fs::create_dir(folder.join("data"))?)
}

/// Writes through a restart, a bulk load and a change of the schema, and judges what is there.
async fn what_was_told_is_there(mut bare: Bare) -> Result<()> {
    bare.wait().await?;
    let database = bare.database();
    ensure!(database.read().await?.is_empty(), "{}: not empty before the first write", bare.kind);
    let clock = database.open().await?.clock().await?;
    let off = Timestamp::now().duration_since(clock).as_secs_f64();
    ensure!((-0.1..10.0).contains(&off), "{}: its clock is {off} s behind", bare.kind);

    let mix = Mix { writers: 4, first: 1, pause: Duration::from_millis(5), inserts_only: false, seed: 7 };
    let load = Load::start(&database, Ledger::default(), mix).await?;
    let mut session = database.open().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 1..=2 {
        session.fill(2_000_000).await?;
        session.change_schema(round).await?;
    }
    drop(session);
    bare.restart()?;
    bare.wait().await?;
    let before = load.ledger.acknowledged();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ledger = load.ledger.clone();
    load.stop().await?;

    let acknowledged = ledger.acknowledged();
    ensure!(acknowledged > before, "{}: no writer came back after the restart", bare.kind);
    let done = |kind: fn(&Act) -> bool| {
        ledger.entries().iter().filter(|entry| entry.acknowledged_at.is_some() && kind(&entry.act)).count()
    };
    ensure!(
        done(|act| matches!(act, Act::Transfer { .. })) > 10,
        "{}: hardly a transfer went through",
        bare.kind
    );
    ensure!(done(|act| matches!(act, Act::Delete { .. })) > 3, "{}: hardly a delete went through", bare.kind);
    let now = Timestamp::now();
    let verdict = ledger.judge(&database.read().await?, now, now);
    println!("{}: {acknowledged} acknowledged; {verdict}", bare.kind);
    verdict.ensure_exact(bare.kind.as_str())?;
    // And the judge notices when it is not so.
    let entries = ledger.entries();
    let hour_ago = now.checked_sub(jiff::SignedDuration::from_hours(1))?;
    let extra = ledger.judge(&database.read().await?, hour_ago, hour_ago);
    ensure!(extra.extra.len() > entries.len() / 4, "{}: {extra}", bare.kind);
    bare.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_holds_what_its_writers_were_told() -> Result<()> {
    let template = |folder: &Path| {
        let engines =
            std::env::var("HOLDFAST_ENGINES").unwrap_or_else(|_| "/var/cache/holdfast/engines".to_owned());
        let template = Path::new(&engines).join("mysql-9.7/template");
        let copy = Command::new("cp").arg("-r").arg(template).arg(folder.join("data")).status()?;
        ensure!(copy.success(), "copy the template");
        Ok(())
    };
    match Bare::start(EngineKind::Mysql, "mysql-9.7/bin/mysqld", template)? {
        Some(bare) => what_was_told_is_there(bare).await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_holds_what_its_writers_were_told() -> Result<()> {
    match Bare::start(EngineKind::Mongodb, "mongodb-6.0/bin/mongod", data_folder)? {
        Some(bare) => what_was_told_is_there(bare).await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_holds_what_its_writers_were_told() -> Result<()> {
    match Bare::start(EngineKind::Valkey, "valkey-9.1/bin/valkey-server", data_folder)? {
        Some(bare) => what_was_told_is_there(bare).await,
        None => Ok(()),
    }
}
