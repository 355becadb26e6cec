//! The archived binlog is the server's, byte for byte, whatever is killed; what is missing is told.

use holdfast_engines::{DiskGuard as _, Driver as _, LogDriver as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Archive, Server, engines, wait, without_flag};

/// Writes as four clients would, until it is dropped.
struct Writers(Arc<AtomicBool>, Vec<tokio::task::JoinHandle<Result<u64>>>);

impl Writers {
    async fn start(server: &Server) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        server
            .tenant("app")
            .await?
            .query_drop("CREATE TABLE IF NOT EXISTS w (id BIGINT PRIMARY KEY AUTO_INCREMENT, s LONGTEXT)")
            .await?;
        let mut tasks = Vec::new();
        for client in 0..4 {
            let (mut conn, stop) = (server.tenant("app").await?, Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let size = if done % 50 == 0 { 100_000 } else { 10 + client };
                    conn.query_drop(format!("INSERT INTO w (s) VALUES (REPEAT('x', {size}))")).await?;
                    done += 1;
                }
                Ok(done)
            }));
        }
        Ok(Self(stop, tasks))
    }

    async fn stop(self) -> Result<u64> {
        self.0.store(true, Ordering::Relaxed);
        let mut total = 0;
        for task in self.1 {
            total += task.await??;
        }
        Ok(total)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_is_the_servers_binlog_however_often_its_reader_is_killed() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let mut root = server.root().await?;
    root.query_drop("SET GLOBAL max_binlog_size = 4194304").await?;
    let archive = Archive::default();
    let writers = Writers::start(&server).await?;
    for round in 0..6 {
        let follower = archive.follow(&server);
        let before = archive.state().segments.len();
        wait("some log", || archive.state().segments.len() > before + 20).await?;
        drop(follower); // wherever it is
        match round {
            1 => root.query_drop("FLUSH BINARY LOGS").await?,
            2 => root.query_drop("SET GLOBAL binlog_transaction_compression = ON").await?,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert!(writers.stop().await? > 0);
    let mut tagged = server.root().await?;
    tagged.query_drop("SET gtid_next = 'AUTOMATIC:blue'").await?;
    tagged.query_drop("INSERT INTO defaultdb.w (s) VALUES ('tagged')").await?;
    // A crash of the server, too.
    let _follower = archive.follow(&server);
    archive.catch_up().await?;
    server.driver.stop(&server.instance, 30).await?;
    server.driver.start(&server.instance).await?;
    server.root().await?.query_drop("INSERT INTO defaultdb.w (s) VALUES ('after')").await?;
    archive.catch_up().await?;
    assert_eq!(archive.state().begins.len(), 1, "{:?}", archive.state().begins);
    let (expected, found) = (server.binlogs()?, archive.files());
    assert!(expected.len() > 2, "{:?}", expected.keys());
    for (name, bytes) in &expected {
        let archived = found
            .get(name)
            .map(|bytes| without_flag(bytes.clone()))
            .with_context(|| format!("{name} is missing"))?;
        assert!(
            archived == *bytes,
            "{name}: {} bytes archived, {} on the server",
            archived.len(),
            bytes.len()
        );
    }
    // What the store has may go.
    let cursor = archive.state().cursor.clone().context("it was read")?;
    server.driver.release_log(&server.instance, &cursor).await?;
    assert_eq!(server.binlogs()?.len(), 1);
    server.root().await?.query_drop("INSERT INTO defaultdb.w (s) VALUES ('released')").await?;
    archive.catch_up().await?;
    assert_eq!(archive.state().begins.len(), 1, "releasing is no gap");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_was_removed_or_reset_is_a_gap_with_its_cause() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let archive = Archive::default();
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE t (a INT PRIMARY KEY AUTO_INCREMENT)").await?;
    let follower = archive.follow(&server);
    archive.catch_up().await?;
    assert_eq!(archive.state().begins.len(), 1);
    assert_eq!(archive.state().begins[0].1, None, "an archive that was empty");

    // Removed while nobody read it.
    drop(follower);
    let mut root = server.root().await?;
    for statement in
        ["INSERT INTO defaultdb.t VALUES ()", "FLUSH BINARY LOGS", "INSERT INTO defaultdb.t VALUES ()"]
    {
        root.query_drop(statement).await?;
    }
    server.driver.drop_waiting_log(&server.instance).await?;
    let follower = archive.follow(&server);
    archive.catch_up().await?;
    let cause = |index: usize| {
        archive.state().begins.get(index).and_then(|(_, cause)| cause.clone()).unwrap_or_default()
    };
    assert!(cause(1).contains("was removed"), "{:?}", archive.state().begins);

    // Reset while it is read, with more transactions after than before.
    root.query_drop("RESET BINARY LOGS AND GTIDS").await?;
    for _ in 0..50 {
        app.query_drop("INSERT INTO t VALUES ()").await?;
    }
    archive.catch_up().await?;
    assert!(cause(2).contains("reset"), "{} {:?}", cause(2), archive.state().errors);

    // Reset while nobody reads, and then exactly as much as before.
    drop(follower);
    root.query_drop("RESET BINARY LOGS AND GTIDS").await?;
    tokio::time::sleep(Duration::from_secs(1)).await; // files are told apart by the second in which they were begun
    root.query_drop("FLUSH BINARY LOGS").await?;
    root.query_drop("RESET BINARY LOGS AND GTIDS").await?;
    for _ in 0..50 {
        app.query_drop("INSERT INTO t VALUES ()").await?;
    }
    let follower = archive.follow(&server);
    archive.catch_up().await?;
    assert!(cause(3).contains("reset"), "{} {:?}", cause(3), archive.state().errors);
    assert_eq!(archive.state().begins.len(), 4);

    // The key of the last segment is gone, and with it the cursor.
    drop(follower);
    archive.state().cursor = Some(holdfast_engines::LogCursor::unknown());
    let _follower = archive.follow(&server);
    archive.catch_up().await?;
    assert!(cause(4).contains("is not known any more"), "{} {:?}", cause(4), archive.state().errors);
    Ok(())
}
