//! Databases that a dump cannot hold: a physical copy is made instead, which says why, and everything comes back from it, from an
//! instant behind it and from a copy of that. Each row is from somebody's bug report; the second part is what a query shows.

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use holdfast_engines::{BackupSink, EngineError};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Archive, Server, archived, base, engines, table};

/// The reason that is given, statements, and a query whose answer must stay.
const ROWS: &[(&str, &[&str], &str)] = &[
    (
        "FLOAT",
        &[
            "CREATE TABLE g (id INT PRIMARY KEY, lat FLOAT, lng FLOAT, UNIQUE (lat, lng))",
            "INSERT INTO g VALUES (1, 59.329323, 18.068581), (2, 59.32933, 18.068581)",
        ],
        "SELECT id, lat + 0e0, lng + 0e0 FROM defaultdb.g ORDER BY 1",
    ),
    (
        "not unique",
        &[
            "SET SESSION restrict_fk_on_non_standard_key = OFF",
            "CREATE TABLE p (id INT PRIMARY KEY, a INT, KEY (a))",
            "CREATE TABLE c (a INT, FOREIGN KEY (a) REFERENCES p (a))",
            "INSERT INTO p VALUES (1, 5), (2, 5)",
            "INSERT INTO c VALUES (5)",
        ],
        "SELECT a, (SELECT COUNT(*) FROM information_schema.referential_constraints WHERE constraint_schema = 'defaultdb') FROM defaultdb.c",
    ),
    (
        "not unique",
        &[
            "SET SESSION restrict_fk_on_non_standard_key = OFF",
            "CREATE TABLE parts (a INT, b INT, PRIMARY KEY (a, b))",
            "CREATE TABLE of_parts (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES parts (a))",
        ],
        "SELECT constraint_name FROM information_schema.referential_constraints WHERE constraint_schema = 'defaultdb' AND table_name = 'of_parts'",
    ),
    (
        "another character set",
        &[
            "SET NAMES latin1",
            "CREATE TABLE `tab_\u{e9}` (id INT PRIMARY KEY, n INT)",
            "CREATE TRIGGER tr_x BEFORE INSERT ON `tab_\u{e9}` FOR EACH ROW SET NEW.n = LENGTH('\u{e9}')",
            "CREATE EVENT `caf\u{e9}` ON SCHEDULE EVERY 1 DAY DO SELECT '\u{e9}'",
            "SET NAMES utf8mb4",
        ],
        "SELECT HEX(event_name), HEX(event_definition), character_set_client, collation_connection, database_collation, sql_mode, time_zone, status, definer \
            FROM information_schema.events WHERE event_schema = 'defaultdb' ORDER BY 1",
    ),
    (
        "no Unicode",
        &[
            "CREATE TABLE bytes (id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET cp1251, b VARCHAR(9) CHARACTER SET greek)",
            "INSERT INTO bytes VALUES (1, X'98', X'A4')",
        ],
        "SELECT id, HEX(a), HEX(b) FROM defaultdb.bytes",
    ),
    (
        "four bytes",
        &[
            "CREATE TABLE en (id INT PRIMARY KEY, e ENUM('😀', 'x') CHARACTER SET utf8mb4)",
            "INSERT INTO en VALUES (1, 1), (2, 'x')",
        ],
        "SELECT id, e + 0, HEX(e) FROM defaultdb.en ORDER BY 1",
    ),
    (
        "four bytes",
        &[
            "CREATE TABLE wide (id INT PRIMARY KEY, e ENUM('😀', 'x') CHARACTER SET utf16, s SET('p', '😀') CHARACTER SET utf32)",
            "INSERT INTO wide VALUES (1, 1, 2), (2, 'x', 'p')",
        ],
        "SELECT id, e + 0, HEX(e), s + 0, HEX(s) FROM defaultdb.wide ORDER BY 1",
    ),
    (
        "no text",
        &[
            "CREATE TABLE lat (id INT PRIMARY KEY, e ENUM('x', 'ä'), s SET('p', 'ü')) CHARACTER SET latin1",
            "INSERT INTO lat VALUES (1, 'ä', 'p,ü'), (2, 'x', 'p')",
            "ALTER TABLE lat CONVERT TO CHARACTER SET utf8mb4",
        ],
        "SELECT id, e + 0, HEX(e), s + 0, HEX(s) FROM defaultdb.lat ORDER BY 1",
    ),
    (
        "are equal",
        &[
            "CREATE TABLE asked (id INT PRIMARY KEY, e ENUM('ä', 'it''s', 'ö'))",
            "INSERT INTO asked VALUES (1, 'ä'), (2, 'ö')",
            "ALTER TABLE asked CONVERT TO CHARACTER SET ascii",
        ],
        "SELECT id, e + 0, HEX(e) FROM defaultdb.asked ORDER BY 1",
    ),
    (
        "cannot be read",
        &[
            "CREATE TABLE orders (id INT PRIMARY KEY, a INT)",
            "CREATE VIEW `a.b` AS SELECT id, a FROM orders",
            "DROP TABLE orders",
        ],
        "SELECT table_name, view_definition, definer FROM information_schema.views WHERE table_schema = 'defaultdb'",
    ),
    (
        "cannot be read",
        &[
            "CREATE TABLE parted (id INT PRIMARY KEY) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (9), PARTITION p1 VALUES LESS THAN (99))",
            "CREATE VIEW of_part AS SELECT id FROM parted PARTITION (p1)",
            "ALTER TABLE parted DROP PARTITION p1",
        ],
        "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = 'defaultdb' AND table_name = 'of_part'",
    ),
    (
        ";;",
        &["CREATE EVENT spin ON SCHEDULE EVERY 1 DAY DO SELECT ';;'"],
        "SELECT event_definition FROM information_schema.events WHERE event_schema = 'defaultdb' ORDER BY event_name",
    ),
    (
        "read otherwise",
        &[
            "SET SESSION sql_mode = 'ANSI_QUOTES'",
            "CREATE PROCEDURE ansi() BEGIN DECLARE \"a\\\" INT; SELECT '\"\n\\C gbk\n' AS \"b'/*\" /* */; END",
            "SET SESSION sql_mode = DEFAULT",
        ],
        "SELECT routine_definition, sql_mode FROM information_schema.routines WHERE routine_name = 'ansi'",
    ),
    (
        "read otherwise",
        &["CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM g WHERE id < 0 -- at night"],
        "SELECT event_definition FROM information_schema.events WHERE event_name = 'nightly'",
    ),
    (
        "read otherwise",
        &["CREATE PROCEDURE one_of_two() SELECT 1; SELECT 2"],
        "SELECT HEX(routine_definition) FROM information_schema.routines WHERE routine_name = 'one_of_two'",
    ),
    (
        "read otherwise",
        &[
            "CREATE TABLE fires (id INT PRIMARY KEY)",
            "CREATE TRIGGER one_of_two BEFORE INSERT ON fires FOR EACH ROW SET NEW.id = 1; SELECT 2",
        ],
        "SELECT HEX(action_statement) FROM information_schema.triggers WHERE trigger_name = 'one_of_two'",
    ),
    (
        "does not quote",
        &[
            "CREATE FUNCTION own_language(a INT) RETURNS INT SQL SECURITY INVOKER COMMENT 'it''s' LANGUAGE `my own` DETERMINISTIC AS $$ return 1 $$",
        ],
        "SELECT external_language, routine_definition, routine_comment, security_type, is_deterministic FROM information_schema.routines WHERE routine_name = 'own_language'",
    ),
    (
        "libraries",
        &["CREATE LIBRARY own_language COMMENT 'it''s' LANGUAGE `1 ``2` AS $$ it's $$"],
        "SELECT library_definition, language FROM information_schema.libraries WHERE library_name = 'own_language'",
    ),
    (
        "libraries",
        &["CREATE LIBRARY lib LANGUAGE JAVASCRIPT AS $$ export function f() { return \"it's\" } $$"],
        "SELECT library_definition FROM information_schema.libraries WHERE library_schema = 'defaultdb'",
    ),
    (
        "DECIMALs, dates",
        &[
            "CREATE TABLE js (id INT PRIMARY KEY, `a ``b` JSON, n INT, g JSON AS (JSON_OBJECT('n', n * 1.0)) STORED)",
            "INSERT INTO js (id, `a ``b`, n) VALUES (1, JSON_OBJECT('price', 1.10), 7), (2, '[1.1]', 7)",
        ],
        "SELECT id, `a ``b`, n, g, JSON_TYPE(`a ``b`->'$.price') FROM defaultdb.js ORDER BY 1",
    ),
    (
        "DECIMALs, dates",
        &[
            "CREATE TABLE jt (id INT PRIMARY KEY, j JSON)",
            "INSERT INTO jt VALUES (1, JSON_ARRAY(DATE'2026-11-29', TIME'01:02:03', TIMESTAMP'2026-11-29 01:02:03.5', X'00FF', 12345678901234567890.5))",
        ],
        "SELECT j, JSON_TYPE(j->'$[0]'), JSON_TYPE(j->'$[1]'), JSON_TYPE(j->'$[2]'), JSON_TYPE(j->'$[3]'), JSON_TYPE(j->'$[4]') FROM defaultdb.jt",
    ),
    (
        "shows as others",
        &[
            "CREATE TABLE folded (id INT PRIMARY KEY, a VARCHAR(40) AS (NULLIF(q, 0.1)), q TIMESTAMP NULL)",
            "INSERT INTO folded (id, q) VALUES (1, '2026-11-30 10:00:00')",
        ],
        "SELECT generation_expression, (SELECT HEX(a) FROM defaultdb.folded) FROM information_schema.columns WHERE table_name = 'folded' AND column_name = 'a'",
    ),
    (
        "shows as others",
        &[
            "CREATE TABLE early (id INT PRIMARY KEY, t TIME, is_early INT DEFAULT (t < '10:00'))",
            "INSERT INTO early (id, t) VALUES (1, '09:59')",
        ],
        "SELECT column_default, (SELECT is_early FROM defaultdb.early) FROM information_schema.columns WHERE table_name = 'early' AND column_name = 'is_early'",
    ),
    (
        "shows as others",
        &[
            "CREATE TABLE years (id INT PRIMARY KEY, y YEAR, KEY ((y = 99)))",
            "INSERT INTO years VALUES (1, 1999)",
        ],
        "SELECT expression, (SELECT y FROM defaultdb.years) FROM information_schema.statistics WHERE table_name = 'years' AND expression IS NOT NULL",
    ),
    (
        "shows as others",
        &[
            "CREATE TABLE sets (id INT PRIMARY KEY, s VARCHAR(9), g INT AS (s = _latin1 X'E9'))",
            "INSERT INTO sets (id, s) VALUES (1, 'é')",
        ],
        "SELECT HEX(generation_expression), (SELECT g FROM defaultdb.sets) FROM information_schema.columns WHERE table_name = 'sets' AND column_name = 'g'",
    ),
    (
        "columns that are gone",
        &[
            "CREATE TABLE lost (id INT PRIMARY KEY, gone INT, kept INT)",
            "CREATE TRIGGER of_lost BEFORE INSERT ON lost FOR EACH ROW SET NEW.`Gone` = NEW.kept",
            "ALTER TABLE lost DROP COLUMN gone",
        ],
        "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_name = 'of_lost'",
    ),
    (
        "columns that are gone",
        &[
            "CREATE TABLE moved (id INT PRIMARY KEY, a INT)",
            "CREATE TRIGGER of_moved AFTER UPDATE ON moved FOR EACH ROW BEGIN IF OLD.a <> new.a THEN SET @changed = 1; END IF; END",
            "ALTER TABLE moved RENAME COLUMN a TO b",
        ],
        "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_name = 'of_moved'",
    ),
    (
        "read-only",
        &["CREATE DATABASE ro", "CREATE TABLE ro.t (a INT PRIMARY KEY)", "ALTER DATABASE ro READ ONLY = 1"],
        "SELECT options FROM information_schema.schemata_extensions WHERE schema_name = 'ro'",
    ),
];
/// What looks like it, and a dump holds.
const HELD: &[&str] = &[
    "CREATE TABLE of_bytes (id INT PRIMARY KEY, e ENUM('a', 'A', 'ä') CHARACTER SET binary, s SET('x', '') CHARACTER SET binary)",
    "INSERT INTO of_bytes VALUES (1, 'A', 'x')",
    "CREATE TABLE empty_one (id INT PRIMARY KEY, e ENUM('', 'ä'), s SET('p', 'ü') CHARACTER SET ucs2) CHARACTER SET utf8mb4",
    "INSERT INTO empty_one VALUES (1, '', 'p,ü'), (2, 'ä', '')",
    "CREATE TABLE collated (e ENUM('a', 'A', 'á') COLLATE utf8mb4_bin, f ENUM('it''s', 'ab', 'c') CHARACTER SET utf16)",
    "CREATE TABLE shown (id INT PRIMARY KEY, at DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), \
        d DATE DEFAULT (CURRENT_DATE), s VARCHAR(9) DEFAULT (CONCAT('it''s \\ \"ä😀\n')), l CHAR CHARACTER SET latin1 DEFAULT (_latin1 X'E9'), \
        g INT AS (d > '2026-11-30') STORED, n INT AS (at > '2026-11-30'), CHECK (at > 20261130), KEY ((s = 'ä')))",
    "CREATE TRIGGER of_shown BEFORE INSERT ON shown FOR EACH ROW SET NEW.S = IFNULL(NEW . `s`, 'x'), new.D = NEW.d",
    "INSERT INTO shown (id, at, d, s) VALUES (1, '2026-12-01', '2026-12-01', 'ä')",
];
const LOOK_AT_HELD: &str = "SELECT s.*, HEX(l), e FROM defaultdb.shown AS s, defaultdb.of_bytes";
/// Takes a row's away, so that the next one is alone.
const CLEAR: &[&str] = &["DROP DATABASE defaultdb", "CREATE DATABASE defaultdb", "USE defaultdb"];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dump_cannot_hold_is_copied_and_comes_back() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut root = server.root().await?;
    // Each by itself is found.
    for (reason, statements, _) in ROWS {
        run(&mut root, CLEAR).await?;
        run(&mut root, statements).await.context(*reason)?;
        let made = base(&server, &archive).await.context(*reason)?.facts;
        let instead = made.instead.with_context(|| format!("{reason}: a dump was made"))?;
        ensure!(instead.method == "clone" && instead.reason.contains(reason), "{reason}: {instead:?}");
    }
    run(&mut root, &["ALTER DATABASE ro READ ONLY = 0", "DROP DATABASE ro"]).await?;
    run(&mut root, CLEAR).await?;
    ensure!(base(&server, &archive).await?.facts.instead.is_none(), "without them a dump is made");
    run(&mut root, HELD).await?;
    let of_held = base(&server, &archive).await?;
    ensure!(of_held.facts.instead.is_none(), "a dump holds these: {:?}", of_held.facts.instead);
    let expected = table(&mut root, LOOK_AT_HELD).await?;
    let (copy, _) = server.restored(&engines, &of_held, None, &archive).await?;
    assert_eq!(table(&mut copy.root().await?, LOOK_AT_HELD).await?, expected, "from a dump");
    drop(copy);
    run(&mut root, CLEAR).await?;
    // All of them together come back, also what is made behind the base.
    run(&mut root, ROWS[0].1).await?;
    let base = base(&server, &archive).await?;
    for (reason, statements, _) in &ROWS[1..] {
        run(&mut root, statements).await.context(*reason)?;
    }
    let expected = looks(&server).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    assert_eq!(looks(&copy).await?, expected, "at the instant");
    drop(server);
    let archive = Archive::default();
    let _follower = archive.follow(&copy);
    archive.catch_up().await?;
    let base = crate::mysql::rig::base(&copy, &archive).await?;
    let (copy, _) = copy.restored(&engines, &base, None, &archive).await?;
    assert_eq!(looks(&copy).await?, expected, "of the copy");
    Ok(())
}

async fn run(conn: &mut mysql_async::Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

async fn looks(server: &Server) -> Result<Vec<String>> {
    let mut root = server.root().await?;
    let mut seen = Vec::new();
    for (reason, _, query) in ROWS {
        let found = table(&mut root, query).await?;
        ensure!(!found.is_empty(), "{reason}: nothing is there");
        seen.push(format!("{reason}: {found}"));
    }
    Ok(seen)
}

/// Dates that a session allowed itself go into a dump, and come back from it alone and from the log.
#[tokio::test(flavor = "multi_thread")]
async fn dates_that_there_are_not_come_back_from_a_dump() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    let insert = "INSERT INTO d VALUES (?, '2024-02-31', '2023-11-31 10:00:00', '0000-00-00')";
    run(
        &mut app,
        &[
            "CREATE TABLE d (id INT PRIMARY KEY, a DATE, b DATETIME, c DATE)",
            "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'",
        ],
    )
    .await?;
    app.exec_drop(insert, (1,)).await?;
    let look = "SELECT id, CAST(a AS CHAR), CAST(b AS CHAR), CAST(c AS CHAR) FROM defaultdb.d ORDER BY 1";
    let of_base = table(&mut server.root().await?, look).await?;
    ensure!(of_base.contains("2024-02-31"), "{of_base}");
    let base = base(&server, &archive).await?;
    ensure!(base.facts.instead.is_none(), "a dump holds it");
    app.exec_drop(insert, (2,)).await?;
    let of_instant = table(&mut server.root().await?, look).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, None, &archive).await?;
    assert_eq!(table(&mut copy.root().await?, look).await?, of_base);
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    assert_eq!(table(&mut copy.root().await?, look).await?, of_instant);
    Ok(())
}

/// Keeps nothing, and writes JSON as soon as a dump is to be stored.
struct WritesMeanwhile(tokio::sync::Mutex<mysql_async::Conn>);

#[async_trait]
impl BackupSink for WritesMeanwhile {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn tokio::io::AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        if name == "dump.sql" {
            let insert = "INSERT INTO late VALUES (JSON_OBJECT('at', NOW()))";
            self.0.lock().await.query_drop(insert).await.expect("it is written");
        }
        let error = |source| EngineError::Io { doing: "store".to_owned(), source };
        tokio::io::copy(data, &mut tokio::io::sink()).await.map_err(error)
    }
}

/// What comes between the look at JSON and the dump's snapshot is no silent loss.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_comes_as_a_dump_begins_is_seen() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE late (j JSON)").await?;
    let sink = WritesMeanwhile(tokio::sync::Mutex::new(app));
    let error = server.backup_by("mysqldump", &sink).await.err().context("a dump was made")?;
    ensure!(format!("{error:#}").contains("came while it was made"), "{error:#}");
    ensure!(base(&server, &archive).await?.facts.instead.is_some(), "the next one is a dump");
    Ok(())
}

/// An event that replay altered under another spelling of its name.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_found_by_any_spelling_of_its_name() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    run(
        &mut app,
        &[
            "CREATE EVENT Nightly ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "CREATE EVENT Daily ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
        ],
    )
    .await?;
    let base = base(&server, &archive).await?;
    run(&mut app, &["ALTER EVENT nightly DISABLE", "ALTER EVENT DAILY COMMENT 'x'"]).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    let look = "SELECT event_name, status FROM information_schema.events ORDER BY 1";
    assert_eq!(table(&mut copy.root().await?, look).await?, table(&mut server.root().await?, look).await?);
    Ok(())
}
