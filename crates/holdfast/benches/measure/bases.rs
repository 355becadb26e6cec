//! MySQL's two kinds of base against each other, and replay of the log by the server's own applier against `mysqlbinlog | mysql`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_conformance::service;
use holdfast_core::engine::EngineKind;
use holdfast_engines::Paths;
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, holdfast};
use jiff::Timestamp;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use serde_json::json;
use uuid::Uuid;

use crate::own::make;
use crate::report::table;
use crate::restores::{quiet, remove, took};
use crate::timed::{ratio, shown};
use crate::{BINARY, Size};

const WRITERS: u64 = 4;

pub(crate) async fn measure(size: &Size) -> Result<String> {
    println!("mysql: physical base against dump, and replay");
    let engines = holdfast::engines().context("no engines")?;
    let holdfast = Holdfast::start(BINARY, "bench").await?;
    holdfast.wait_for_agent().await?;
    let bases = bases(size, &holdfast).await?;
    let replay = replay(size, &holdfast, &engines).await?;
    Ok(format!("{bases}\n{replay}"))
}

async fn bases(size: &Size, holdfast: &Holdfast) -> Result<String> {
    let client = holdfast.client();
    let (source, database) = make(&client, EngineKind::Mysql, "bases").await?;
    database.open().await?.fill(size.noise_mib << 20).await?;
    let source = source.to_string();
    let (mut backups, mut restores) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for pair in 0..size.pairs {
        for way in [pair % 2, 1 - pair % 2] {
            let method = ["mysqldump", "clone"][way];
            let path = format!("/managed-services/{source}/backups");
            let asked = client.post(&path, json!({"backup_type": "full", "backup_method": method})).await?;
            let backup = text(&asked, "backup_id")?;
            client.wait_backup(&source, &backup, 3600).await?;
            backups[way].push(took(&client, &source, "backup").await?.total);
            let body = json!({"target_service_name": format!("copy-{method}-{pair}")});
            let answer =
                client.post(&format!("/managed-services/{source}/backups/{backup}/restore"), body).await?;
            let copy = text(&answer, "service_id")?;
            restores[way].push(took(&client, &copy, "restore").await?.total);
            println!("  {method}: {:.1} s, {:.1} s", backups[way][pair], restores[way][pair]);
            remove(&client, &copy).await?;
        }
    }
    remove(&client, &source).await?;
    let row = |what: &str, [dump, clone]: &[Vec<f64>; 2]| {
        vec![what.to_owned(), shown(clone), shown(dump), ratio(clone, dump)]
    };
    Ok(format!(
        "## MySQL: a physical base against a dump\n\n{} MiB that do not compress; both through Holdfast, in turn, the content compared after each restore \
         (dump: a second\ndump; physical: the schema, and every page's checksum).\n\n{}",
        size.noise_mib,
        table(
            &["seconds", "`clone`", "`mysqldump`", "ratio"],
            &[row("backup", &backups), row("restore of a backup", &restores)]
        )
    ))
}

async fn replay(size: &Size, holdfast: &Holdfast, engines: &Path) -> Result<String> {
    let client = holdfast.client();
    let (source, _) = make(&client, EngineKind::Mysql, "replayed").await?;
    let mut root = Root::of(holdfast, engines, source);
    let (file, position) = root.position().await?;
    let transactions = write(&root, size.transactions).await?;
    let written = Timestamp::now();
    let log = root.binlogs_from(&file)?;
    covered(&client, source, written).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..size.pairs {
        for is_ours in [pair % 2 == 0, pair % 2 != 0] {
            let (name, seconds) = if is_ours {
                let body = json!({"target_service_name": format!("ours-{pair}"), "restore_point": written});
                let answer =
                    client.post(&format!("/managed-services/{source}/backups/restore"), body).await?;
                let copy = text(&answer, "service_id")?;
                let took = took(&client, &copy, "restore").await?;
                (copy, took.phase("replaying log") + took.phase("reading the log"))
            } else {
                let (target, _) = make(&client, EngineKind::Mysql, &format!("theirs-{pair}")).await?;
                let seconds = Root::of(holdfast, engines, target).pipe(&log, position)?;
                (target.to_string(), seconds)
            };
            let mut copy = Root::of(holdfast, engines, name.parse()?);
            let found: Option<u64> =
                copy.connection().await?.query_first("SELECT COUNT(*) FROM bench.t").await?;
            ensure!(found == Some(transactions), "{found:?} rows of {transactions}");
            println!("  {}: {seconds:.1} s", if is_ours { "relay logs" } else { "mysqlbinlog | mysql" });
            if is_ours { &mut ours } else { &mut theirs }.push(seconds);
            remove(&client, &name).await?;
        }
    }
    quiet(&client).await?;
    Ok(format!(
        "## MySQL: replay of the log\n\n{transactions} transactions of {WRITERS} writers, each an insert of 300 bytes and an update. By hand: `mysqlbinlog | mysql` into a \
         server with\nthe settings of a service. Holdfast: opening and reading the archived log, and its replay as relay logs (phases of the restore).\n\n{}",
        table(
            &["seconds", "Holdfast", "by hand", "ratio"],
            &[vec!["replay".to_owned(), shown(&ours), shown(&theirs), ratio(&ours, &theirs)]]
        )
    ))
}

async fn covered(client: &Client, service: Uuid, until: Timestamp) -> Result<()> {
    holdfast_testkit::wait_for("the log is archived", 300, || async {
        let latest = service::pitr(client, service).await?.windows.last().map(|window| window.latest);
        Ok((latest > Some(until)).then_some(()))
    })
    .await
}

/// An instance as the agent reaches it.
struct Root {
    folder: std::path::PathBuf,
    bin: std::path::PathBuf,
}

impl Root {
    fn of(holdfast: &Holdfast, engines: &Path, service: Uuid) -> Self {
        Self { folder: holdfast.instances.join(service.to_string()), bin: engines.join("mysql-9.7/bin") }
    }

    async fn connection(&mut self) -> Result<Conn> {
        let options = OptsBuilder::default()
            .socket(Some(self.socket().display().to_string()))
            .user(Some("root"))
            .pass(Some(self.password()?));
        Ok(Conn::new(options).await?)
    }

    fn socket(&self) -> std::path::PathBuf {
        Paths(&self.folder).run().join("mysqld.sock")
    }

    fn password(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("conf/admin-password"))?)
    }

    async fn position(&mut self) -> Result<(String, u64)> {
        let status: Option<mysql_async::Row> =
            self.connection().await?.query_first("SHOW BINARY LOG STATUS").await?;
        let status = status.context("it writes a binlog")?;
        Ok((status.get(0).context("a file")?, status.get(1).context("a position")?))
    }

    /// Kept by links, for the server removes what is archived.
    fn binlogs_from(&self, first: &str) -> Result<Vec<std::path::PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("data"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("binlog.0") && *name >= *first {
                let kept = self.folder.join(format!("kept-{name}"));
                std::fs::hard_link(entry.path(), &kept)?;
                files.push(kept);
            }
        }
        files.sort();
        ensure!(files.first().is_some_and(|file| file.ends_with(format!("kept-{first}"))), "{files:?}");
        Ok(files)
    }

    fn pipe(&self, log: &[std::path::PathBuf], position: u64) -> Result<f64> {
        let options = self.folder.join("by-hand.cnf");
        let text = format!(
            "[client]\nuser=root\npassword=\"{}\"\nsocket={}\n",
            self.password()?,
            self.socket().display()
        );
        std::fs::write(&options, text)?;
        let files: Vec<String> = log.iter().map(|file| file.display().to_string()).collect();
        let line = format!(
            "{bin}/mysqlbinlog --start-position={position} {} | {bin}/mysql --defaults-extra-file={} --binary-mode",
            files.join(" "),
            options.display(),
            bin = self.bin.display(),
        );
        let began = Instant::now();
        let ended =
            Command::new("bash").args(["-o", "pipefail", "-c", &line]).stdin(Stdio::null()).status()?;
        ensure!(ended.success(), "{line}: {ended}");
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Returns how many rows were written, one a transaction.
async fn write(root: &Root, transactions: u64) -> Result<u64> {
    let mut first = Root { folder: root.folder.clone(), bin: root.bin.clone() };
    let mut conn = first.connection().await?;
    conn.query_drop("CREATE DATABASE bench").await?;
    conn.query_drop("CREATE TABLE bench.t (id BIGINT PRIMARY KEY, n INT, pad VARCHAR(300))").await?;
    let each = transactions / WRITERS;
    let writers = (0..WRITERS).map(|writer| {
        let mut root = Root { folder: root.folder.clone(), bin: root.bin.clone() };
        async move {
            let mut conn = root.connection().await?;
            for number in 0..each {
                let id = writer * each + number;
                let update = writer * each + number / 2;
                conn.query_drop(format!(
                    "BEGIN; INSERT INTO bench.t VALUES ({id}, 0, REPEAT('x', 300)); \
                     UPDATE bench.t SET n = n + 1 WHERE id = {update}; COMMIT"
                ))
                .await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(writers).await?;
    Ok(each * WRITERS)
}
