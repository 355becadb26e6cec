//! Rows so long that the engine's own tools write what they cannot read.

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use holdfast_engines::{BackupSink, EngineError};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Archive, Server, engines};

/// Values of 62 MiB, of which a packet may have 64: a row of 558 MiB is 1,116 in a dump, and so is its change in the log.
const VALUES: usize = 9;

/// Keeps nothing.
struct Discards;

#[async_trait]
impl BackupSink for Discards {
    async fn store(
        &self,
        _name: &str,
        data: &mut (dyn tokio::io::AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let error = |source| EngineError::Io { doing: "store".to_owned(), source };
        tokio::io::copy(data, &mut tokio::io::sink()).await.map_err(error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_long_for_a_statement_is_copied_and_its_change_is_a_gap() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let archive = Archive::default();
    let mut root = server.root().await?;
    root.query_drop("SET SESSION sql_log_bin = 0").await?;
    let columns: Vec<String> = (0..VALUES).map(|column| format!("b{column} LONGBLOB")).collect();
    let create = format!("CREATE TABLE defaultdb.`a long` (id INT PRIMARY KEY, {})", columns.join(", "));
    root.query_drop(create).await?;
    root.query_drop("INSERT INTO defaultdb.`a long` (id) VALUES (1)").await?;
    for column in 0..VALUES {
        root.query_drop(format!("UPDATE defaultdb.`a long` SET b{column} = REPEAT('x', 62 << 20)")).await?;
    }
    let made = server.backup_by("mysqldump", &Discards).await?;
    let instead = made.instead.context("a dump was made that no server loads")?;
    ensure!(instead.method == "clone", "{instead:?}");
    ensure!(instead.reason.contains("1 GiB") && instead.reason.contains("`a long`"), "{}", instead.reason);

    let _follower = archive.follow(&server);
    archive.catch_up().await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("UPDATE `a long` SET id = 2").await?;
    app.query_drop("CREATE TABLE behind (a INT)").await?;
    archive.catch_up().await?;
    let state = archive.state();
    let causes: Vec<_> = state.begins.iter().filter_map(|(_, cause)| cause.as_deref()).collect();
    ensure!(matches!(causes[..], [cause] if cause.contains("1 GiB")), "{causes:?}, {:?}", state.errors);
    Ok(())
}
