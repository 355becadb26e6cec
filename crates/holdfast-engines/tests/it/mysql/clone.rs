//! Physical bases by CLONE: everything comes back, instants are as exact from them as from dumps, and what cannot be copied is
//! refused without a trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_core::Timestamp;
use mysql_async::prelude::Queryable;

use crate::mysql::restore::{ZOO, found, looks, write};
use crate::mysql::rig::{Archive, MemorySink, Server, archived, base_by, engines, table, wait};

const SINGLES: &str = "CREATE TABLE singles (id INT PRIMARY KEY, f FLOAT)";
const SINGLE: &str =
    "INSERT INTO singles VALUES (1, 16777213), (2, 0.123456789), (3, 3.4028234e38), (4, -1.17549435e-38)";
const SINGLES_ARE: &str = "SELECT id, CAST(f AS DOUBLE) FROM singles ORDER BY id";

fn copy_is_gone(server: &Server) -> bool {
    !server.instance.folder.join("spool/clone").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_as_it_was_floats_and_prepared_transactions_too() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    for statement in ZOO.iter().chain(&[SINGLES, SINGLE]) {
        app.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    let mut prepared = server.tenant("app").await?;
    for statement in ["XA START 'x'", "INSERT INTO parent VALUES (50)", "XA END 'x'", "XA PREPARE 'x'"] {
        prepared.query_drop(statement).await?;
    }
    drop(prepared);
    let expected = looks(&server).await?;
    let singles = table(&mut app, SINGLES_ARE).await?;
    archive.catch_up().await?;
    let soon = "CREATE EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 3 SECOND ON COMPLETION PRESERVE DO DELETE FROM singles";
    app.query_drop(soon).await?;
    let base = base_by("clone", &server, &archive).await?;
    app.query_drop("DROP EVENT once").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(copy_is_gone(&server), "the copy is left");

    let (copy, restored) = server.restored(&engines, &base, None, &archive).await?;
    copy.root().await?.query_drop("DROP EVENT defaultdb.once").await?;
    assert_eq!(looks(&copy).await?, expected, "by the copy alone");
    assert_eq!(restored.reached, base.facts.consistent_at);
    assert_eq!(table(&mut copy.tenant("app").await?, SINGLES_ARE).await?, singles, "to the bit");
    assert_eq!(copy.binlogs()?.len(), 1);
    let uuid = "SELECT @@server_uuid";
    assert_ne!(
        table(&mut copy.root().await?, uuid).await?,
        table(&mut server.root().await?, uuid).await?,
        "an identity of its own"
    );
    copy.tenant("app").await?.query_drop("XA ROLLBACK 'x'").await?;
    drop(copy);

    // What was prepared in the base is committed by the log.
    app.query_drop("XA COMMIT 'x'").await?;
    app.query_drop("ALTER EVENT ev DISABLE").await?;
    let expected = looks(&server).await?;
    let committed = archive.catch_up().await?;
    app.query_drop("DELETE FROM nokey").await?;
    archive.catch_up().await?;
    let (copy, restored) = server.restored(&engines, &base, Some(committed), &archive).await?;
    assert_eq!(restored.reached, committed);
    assert_eq!(looks(&copy).await?, expected, "copy and log");
    let prepared: Option<String> =
        copy.root().await?.query_first("SELECT id FROM defaultdb.parent WHERE id = 50").await?;
    assert!(prepared.is_some(), "the prepared transaction's row");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn instants_are_exact_from_a_copy_made_under_load() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let server = Arc::new(server);
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE ledger (id BIGINT PRIMARY KEY, s TEXT)").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (1..=3)
        .map(|client| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            tokio::spawn(async move { write(&server, client, stop).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Timestamp::now();
    let base = base_by("clone", &server, &archive).await?;
    app.query_drop("ALTER TABLE ledger ADD COLUMN more INT DEFAULT 3").await?;
    app.query_drop("ALTER TABLE ledger DROP COLUMN more").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut writes = Vec::new();
    for client in clients {
        writes.extend(client.await??);
    }
    app.query_drop("DROP TABLE ledger").await?;
    archive.catch_up().await?;
    let during = writes.iter().filter(|w| w.sent > began && w.sent < base.facts.consistent_at).count();
    ensure!(during > 5, "hardly any writes while the copy was made: {during}");

    let later: Vec<_> = writes.iter().filter(|write| write.acknowledged > base.facts.consistent_at).collect();
    ensure!(later.len() > 20, "hardly any writes behind it");
    let seed: u64 = rand::Rng::random(&mut holdfast_testkit::seed::generator("instants behind a copy"));
    let random = later[(seed % later.len() as u64) as usize].acknowledged;
    // The copy itself, the first instant that it can reach, and any.
    for target in [None, Some(base.facts.consistent_at), Some(random)] {
        let (copy, _) = server.restored(&engines, &base, target, &archive).await?;
        let ids = found(&copy).await?;
        let (from, to) = target.map_or((began, base.facts.consistent_at), |at| (at, at));
        for write in &writes {
            let is_there = ids.contains(&write.id);
            assert!(is_there || write.acknowledged > from, "lost {} at {target:?}", write.id);
            assert!(!is_there || write.sent <= to, "extra {} at {target:?}", write.id);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_cannot_hold_is_refused_and_what_was_cut_off_is_removed() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let mut root = server.root().await?;
    root.query_drop("CREATE TABLE defaultdb.rows_of_noise (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)")
        .await?;
    for _ in 0..24 {
        root.query_drop("INSERT INTO defaultdb.rows_of_noise (v) SELECT REPEAT(RANDOM_BYTES(1024), 2048)")
            .await?;
    }
    // Cut off while it copies: the statement runs on in the server, and the next backup ends it.
    let sink = MemorySink::default();
    let backup = server.backup_by("clone", &sink);
    assert!(tokio::time::timeout(Duration::from_millis(150), backup).await.is_err(), "it was to be cut off");
    let base = server.backup_by("clone", &MemorySink::default()).await?;
    ensure!(copy_is_gone(&server) && base.database_bytes > 50 << 20, "{base:?}");

    // A server that dies in mid-copy leaves nothing either.
    let sink = MemorySink::default();
    let (failed, ()) = tokio::join!(server.backup_by("clone", &sink), async {
        let _ = wait("a copy", || !copy_is_gone(&server)).await;
        server.kill();
    });
    failed.expect_err("the server died");
    holdfast_engines::Driver::start(&server.driver, &server.instance).await?;
    ensure!(copy_is_gone(&server), "left by a server that died");

    // A file without content that is larger than what is free on the disk, however much other tests remove meanwhile.
    let large = server.instance.folder.join("data/large");
    let free = holdfast_store::space_of(&server.instance.folder)?.room_bytes();
    std::fs::File::create(&large)?.set_len(free + (100 << 30))?;
    let error = server.backup_by("clone", &MemorySink::default()).await.expect_err("there is no room");
    let text = format!("{error:#}");
    ensure!(text.contains("MiB beside the data") && text.contains("mysqldump"), "{text}");
    ensure!(copy_is_gone(&server), "refused before anything was made");
    std::fs::remove_file(&large)?;

    // Tables of other storage engines cannot be made here, but may have come from elsewhere.
    server.allow_every_storage_engine().await?;
    let mut root = server.root().await?;
    root.query_drop("CREATE TABLE defaultdb.old (a INT) ENGINE = MyISAM").await?;
    let error =
        server.backup_by("clone", &MemorySink::default()).await.expect_err("it would come back empty");
    let text = format!("{error:#}");
    ensure!(text.contains("defaultdb.old (MyISAM)") && text.contains("mysqldump"), "{text}");
    ensure!(copy_is_gone(&server), "refused before anything was made");
    Ok(())
}

#[tokio::test]
async fn a_copy_with_a_damaged_page_is_not_handed_over() -> Result<()> {
    const TEXT: &str = "whoever changes a bit of this row changes it in its page alone";
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE rows_of_text (id INT PRIMARY KEY, v VARCHAR(100))").await?;
    app.query_drop(format!("INSERT INTO rows_of_text VALUES (1, '{TEXT}')")).await?;
    drop(app);
    // So that the row is in its page, and in no log that is copied too.
    holdfast_engines::Driver::stop(&server.driver, &server.instance, 60).await?;
    holdfast_engines::Driver::start(&server.driver, &server.instance).await?;
    let base = base_by("clone", &server, &Archive::default()).await?;
    ensure!(base.sink.damage(TEXT.as_bytes()) == 1, "the row is stored once");
    let restored = server.restored(&engines, &base, None, &Archive::default()).await;
    let text = format!("{:#}", restored.err().context("it was restored")?);
    ensure!(text.contains("check the pages' checksums"), "{text}");
    Ok(())
}
