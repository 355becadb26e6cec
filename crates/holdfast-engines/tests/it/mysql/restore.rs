//! Dumps come back as they were, and instants exactly: nothing acknowledged before is missing, nothing sent later is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_core::Timestamp;
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Archive, Base, Server, archived, base, engines, table};

/// Things that dumps and replays have stumbled over.
pub(crate) const ZOO: &[&str] = &[
    "SET time_zone = '+05:30'",
    "CREATE TABLE z (id INT PRIMARY KEY AUTO_INCREMENT, ts TIMESTAMP(6) NULL, dt DATETIME(6), t TIME(6), y YEAR, \
        b BIT(17), e ENUM('b', 'ä'), s SET('x', 'y'), j JSON, bin VARBINARY(300), blo LONGBLOB, d DECIMAL(30, 10), dbl DOUBLE, \
        g GEOMETRY, v VECTOR(3), txt TEXT CHARACTER SET latin1, utf TEXT, \
        n INT DEFAULT 5, gen INT AS (n * 2) STORED, virt INT AS (n + 1) VIRTUAL, inv INT INVISIBLE DEFAULT 7, \
        KEY ((CAST(j->>'$.k' AS CHAR(10)))))",
    "INSERT INTO z (ts, dt, t, y, b, e, s, j, bin, blo, d, dbl, g, v, txt, utf) VALUES \
        ('2026-03-29 02:30:00.123456', '1999-12-31 23:59:59.999999', '-838:59:58.5', 1999, b'10101010101010101', 'ä', 'x,y', \
        '{\"k\": \"a\\\\n b\"}', X'00ff0a0d1a5c27', REPEAT(X'00270a5c', 5000), 12345678901234567890.0123456789, 0.1e0 + 0.2e0, \
        ST_GeomFromText('POINT(1 2)'), STRING_TO_VECTOR('[1,2,3]'), 'Grüße', '😀 -- /* ; delimiter //')",
    "CREATE TABLE `we``ird;name` (`a``b` INT PRIMARY KEY) PARTITION BY HASH (`a``b`) PARTITIONS 3",
    "INSERT INTO `we``ird;name` VALUES (1), (2), (3)",
    "CREATE TABLE parent (id INT PRIMARY KEY)",
    "CREATE TABLE child (id INT, FOREIGN KEY (id) REFERENCES parent (id) ON DELETE CASCADE)",
    "INSERT INTO parent VALUES (1), (2)",
    "INSERT INTO child VALUES (1), (2), (2)",
    "CREATE TABLE nokey (a INT, b VARCHAR(10))",
    "INSERT INTO nokey VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
    "CREATE TRIGGER tr BEFORE INSERT ON parent FOR EACH ROW SET NEW.id = NEW.id + 0",
    "CREATE VIEW vw AS SELECT p.id FROM parent p JOIN child c USING (id)",
    "CREATE PROCEDURE pr() SQL SECURITY DEFINER BEGIN\n-- a comment\nSELECT ';' AS x;\nEND",
    "CREATE FUNCTION fu(a INT) RETURNS INT DETERMINISTIC RETURN a + 1",
    "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    "CREATE EVENT ev_off ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
    "CREATE USER 'sub'@'10.%' IDENTIFIED BY 'pass\\'word' ATTRIBUTE '{\"a\": 1}'",
    "CREATE ROLE ro",
    "GRANT SELECT (id), UPDATE (id) ON defaultdb.parent TO 'ro'",
    "GRANT EXECUTE ON PROCEDURE defaultdb.pr TO 'sub'@'10.%'",
    "GRANT 'ro' TO 'sub'@'10.%'",
    "ALTER USER 'sub'@'10.%' DEFAULT ROLE 'ro'",
    "CREATE DATABASE `häß-lich` CHARACTER SET latin1",
    "CREATE TABLE `häß-lich`.t (a VARCHAR(10) PRIMARY KEY)",
    "INSERT INTO `häß-lich`.t VALUES ('ÄÖÜ')",
];

const LOOKS: &[&str] = &[
    "SELECT *, inv, HEX(blo), ST_AsText(g), VECTOR_TO_STRING(v) FROM z ORDER BY id",
    "SELECT * FROM `we``ird;name` ORDER BY 1",
    "SELECT * FROM child ORDER BY 1",
    "SELECT * FROM nokey ORDER BY 1, 2",
    "SELECT * FROM vw ORDER BY 1",
    "SELECT fu(1)",
    "SELECT * FROM `häß-lich`.t",
    "SELECT event_name, status, definer FROM information_schema.events ORDER BY 1",
    "SELECT routine_name, definer, sql_mode FROM information_schema.routines WHERE routine_schema = 'defaultdb' ORDER BY 1",
    "SELECT trigger_name, definer FROM information_schema.triggers WHERE trigger_schema = 'defaultdb' ORDER BY 1",
    "SHOW CREATE USER 'sub'@'10.%'",
    "SHOW GRANTS FOR 'sub'@'10.%'",
    "SHOW GRANTS FOR 'ro'",
    "SHOW GRANTS FOR 'app'",
];

pub(crate) async fn looks(server: &Server) -> Result<Vec<String>> {
    let mut root = server.root().await?;
    root.query_drop("USE defaultdb").await?;
    let mut seen = Vec::new();
    for look in LOOKS {
        seen.push(format!("{look}: {}", table(&mut root, look).await?));
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_server_comes_back_by_dump_and_by_replay() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    for statement in ZOO {
        app.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    let expected = looks(&server).await?;
    let at = archive.catch_up().await?;
    let full = base(&server, &archive).await?;

    let (copy, restored) = server.restored(&engines, &full, None, &archive).await?;
    assert_eq!(looks(&copy).await?, expected, "by the dump alone");
    assert_eq!(restored.reached, full.facts.consistent_at);
    assert_eq!(copy.binlogs()?.len(), 1);
    drop(copy);
    let idle = Archive::default();
    let now = Timestamp::now();
    idle.state().caught_up = Some(now);
    let unwritten = Base { archive_at: 0, ..full };
    let (copy, _) = server.restored(&engines, &unwritten, Some(now), &idle).await?;
    assert_eq!(looks(&copy).await?, expected, "without a byte of log since the base");
    drop(copy);
    let (copy, restored) = server.restored(&engines, &empty, Some(at), &archive).await?;
    assert_eq!(looks(&copy).await?, expected, "by replay alone");
    assert_eq!(restored.reached, at);
    let events: Option<i64> = copy.root().await?.query_first("SELECT @@event_scheduler = 'ON'").await?;
    assert_eq!(events, Some(1));
    copy.tenant("app").await?.query_drop("INSERT INTO parent VALUES (77)").await?;
    Ok(())
}

/// What was acknowledged, when.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    pub(crate) id: u64,
    pub(crate) sent: Timestamp,
    pub(crate) acknowledged: Timestamp,
}

pub(crate) async fn write(server: &Server, client: u64, stop: Arc<AtomicBool>) -> Result<Vec<Write>> {
    let mut conn = server.tenant("app").await?;
    let mut writes = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = client << 32 | number;
        if number % 7 == 3 {
            // The clock of a session is not the clock of its commits.
            conn.query_drop(format!("SET timestamp = {}", 1_000_000_000 + number % 10 * 100_000_000)).await?;
        }
        let sent = Timestamp::now();
        conn.query_drop(format!("INSERT INTO ledger (id, s) VALUES ({id}, REPEAT('y', {}))", id % 2000))
            .await?;
        writes.push(Write { id, sent, acknowledged: Timestamp::now() });
        if number % 20 == 0 {
            conn.query_drop("BEGIN").await?;
            conn.query_drop("UPDATE ledger SET s = 'z' LIMIT 5").await?;
            conn.query_drop("ROLLBACK").await?;
        }
    }
    Ok(writes)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_reached_exactly_also_in_a_restored_server() -> Result<()> {
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
    tokio::time::sleep(Duration::from_millis(700)).await;
    let first = base(&server, &archive).await?;
    tokio::time::sleep(Duration::from_millis(900)).await;
    server.root().await?.query_drop("FLUSH BINARY LOGS").await?;
    app.query_drop("ALTER TABLE ledger ADD COLUMN more INT DEFAULT 3, ALGORITHM = INSTANT").await?;
    app.query_drop("ALTER TABLE ledger DROP COLUMN more").await?;
    tokio::time::sleep(Duration::from_millis(900)).await;
    stop.store(true, Ordering::Relaxed);
    let mut writes = Vec::new();
    for client in clients {
        writes.extend(client.await??);
    }
    app.query_drop("DROP TABLE ledger").await?;
    archive.catch_up().await?;

    let after_base: Vec<Write> =
        writes.iter().copied().filter(|write| write.sent > first.facts.consistent_at).collect();
    let seed: u64 = rand::Rng::random(&mut holdfast_testkit::seed::generator("instants"));
    anyhow::ensure!(after_base.len() > 20, "hardly any writes");
    for (round, at) in
        [(seed % after_base.len() as u64) as usize, after_base.len() - 1].into_iter().enumerate()
    {
        let target = after_base[at].acknowledged;
        let (copy, restored) = server.restored(&engines, &first, Some(target), &archive).await?;
        assert_eq!(restored.reached, target);
        let ids = found(&copy).await?;
        for write in &writes {
            let is_there = ids.contains(&write.id);
            assert!(is_there || write.acknowledged > target, "lost {} at {target}", write.id);
            assert!(!is_there || write.sent <= target, "extra {} at {target}", write.id);
        }
        if round == 1 {
            second_generation(&engines, &copy, ids).await?;
        }
    }
    Ok(())
}

pub(crate) async fn found(server: &Server) -> Result<BTreeSet<u64>> {
    let ids: Vec<u64> = server.root().await?.query("SELECT id FROM defaultdb.ledger").await?;
    Ok(ids.into_iter().collect())
}

/// A restored server has a log, bases and instants of its own.
async fn second_generation(engines: &std::path::Path, server: &Server, mut ids: BTreeSet<u64>) -> Result<()> {
    let archive = Archive::default();
    let _follower = archive.follow(server);
    archive.catch_up().await?;
    let first = base(server, &archive).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("INSERT INTO ledger VALUES (1, 'second')").await?;
    let at = archive.catch_up().await?;
    app.query_drop("DELETE FROM ledger").await?;
    archive.catch_up().await?;
    ids.insert(1);
    let (copy, _) = server.restored(engines, &first, Some(at), &archive).await?;
    assert_eq!(found(&copy).await?, ids);
    Ok(())
}

/// A table that the log does not make: what the engine says of it is told, and the statement, which is the tenant's, is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_tells_the_engines_own_words() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut root = server.root().await?;
    root.query_drop("SET SESSION sql_log_bin = 0").await?;
    root.query_drop("CREATE TABLE defaultdb.unlogged (text VARCHAR(100))").await?;
    root.query_drop("SET SESSION sql_log_bin = 1").await?;
    root.query_drop("ALTER TABLE defaultdb.unlogged COMMENT 'my secret'").await?;
    let at = archive.catch_up().await?;
    let failed = server.restored(&engines, &empty, Some(at), &archive).await;
    let error = failed.err().context("there is no such table")?;
    let error = format!("{error:#}");
    assert!(error.contains("defaultdb.unlogged") && error.contains("doesn't exist"), "{error}");
    assert!(!error.contains("my secret") && !error.contains("See error log"), "{error}");
    Ok(())
}
