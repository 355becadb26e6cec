//! What MySQL's own tests (`suite`) found, as small as it goes: each comes back from a dump and from the log.

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;

use crate::mysql::reading::{reading, same};
use crate::mysql::rig::{archived, base, engines, table};

/// A dump holds them.
const HELD: &[&str] = &[
    // The server names its primary key as the one that the foreign key uses.
    "CREATE TABLE parts (a INT, b INT, PRIMARY KEY (a, b), UNIQUE (a), UNIQUE (b, a))",
    "CREATE TABLE one_part (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES parts (a))",
    "CREATE TABLE two_parts (id INT PRIMARY KEY, a INT, b INT, FOREIGN KEY (b, a) REFERENCES parts (b, a))",
    // Once loaded, the column says its character set too.
    "CREATE TABLE collated (id INT PRIMARY KEY, a CHAR(10)) COLLATE utf8mb4_bin",
    "CREATE TABLE wide (id INT PRIMARY KEY, a CHAR(10)) COLLATE utf8mb3_unicode_ci",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_suite_found_comes_back_from_a_dump_and_from_the_log() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    run(&mut app, HELD).await?;
    app.disconnect().await?;
    let expected = reading(&server).await?;
    let base = base(&server, &archive).await?;
    ensure!(base.facts.instead.is_none(), "{:?}", base.facts.instead);
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, None, &archive).await.context("restore the base")?;
    same(&expected, &reading(&copy).await?, true).context("the copy of the base")?;
    let (copy, _) = server.restored(&engines, &empty, Some(at), &archive).await.context("replay")?;
    same(&expected, &reading(&copy).await?, false).context("the copy of the log")
}

/// Before the base, and behind it. The server makes a key for a foreign key that has none, and takes it away once there is
/// another; which of a table's keys are of that kind no dump says, nor the log of tables without a primary key.
const KEYS: [&[&str]; 2] = [
    &[
        "CREATE TABLE p (a INT PRIMARY KEY)",
        "CREATE TABLE c (a INT, FOREIGN KEY (a) REFERENCES p (a))",
        "CREATE TABLE `c``c` (id INT PRIMARY KEY, a INT, CONSTRAINT `k``` FOREIGN KEY (a) REFERENCES p (a))",
        "CREATE TABLE comment (id INT PRIMARY KEY, a INT, CONSTRAINT a FOREIGN KEY (a) REFERENCES p (a))", // not meant
        "INSERT INTO p VALUES (1)",
    ],
    &[
        "CREATE /* x */ INDEX a ON c (a) COMMENT 'my own'", // the word `comment` is a table's name too
        "ALTER TABLE `c``c` ADD b INT, ADD UNIQUE `k``` (a, b)",
        "INSERT INTO c VALUES (1)",
        "ALTER TABLE c DROP KEY a, ADD KEY b (a)",
    ],
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_server_made_are_in_no_ones_way() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    run(&mut app, KEYS[0]).await?;
    let base = base(&server, &archive).await?;
    run(&mut app, KEYS[1]).await?;
    let expected = reading(&server).await?;
    let at = archive.catch_up().await?;
    for (base, what) in [(&base, "behind a dump"), (&empty, "by replay alone")] {
        let (copy, _) = server.restored(&engines, base, Some(at), &archive).await.context(what)?;
        same(&expected, &reading(&copy).await?, false).context(what)?;
    }
    Ok(())
}

/// One that is disabled, and whose time passed before the base, is altered behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_time_has_passed_is_there_for_the_log() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    run(
        &mut app,
        &[
            "CREATE EVENT e ON SCHEDULE AT NOW() + INTERVAL 1 SECOND DISABLE DO SELECT 1",
            "CREATE EVENT f ON SCHEDULE EVERY 1 SECOND ENDS NOW() + INTERVAL 1 SECOND DISABLE DO SELECT 1",
            "CREATE EVENT later ON SCHEDULE AT '2037-01-01 00:00:00' DO SELECT 1",
            "SELECT SLEEP(3)",
        ],
    )
    .await?;
    let base = base(&server, &archive).await?;
    run(&mut app, &["ALTER EVENT e COMMENT 'x'", "ALTER EVENT f COMMENT 'x'"]).await?;
    let expected = reading(&server).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    same(&expected, &reading(&copy).await?, false)
}

/// What the server made, it makes again: members that a conversion has made equal, in a table that took them from another. What bytes they
/// had no log tells (`docs/engines/mysql.md`).
#[tokio::test(flavor = "multi_thread")]
async fn a_table_from_one_whose_members_are_equal_is_replayed() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let base = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    let made = [
        "CREATE TABLE t (a SET('p', 'q', 'ü'), b INT)",
        "INSERT INTO t VALUES ('p,ü', 1), ('q', 2)",
        "ALTER TABLE t CONVERT TO CHARACTER SET utf16",
        "CREATE TABLE u AS SELECT * FROM t WHERE b > 2",
        "INSERT INTO u VALUES (5, 3), (2, 4)",
    ];
    run(&mut app, &made).await?;
    let look = "SELECT a + 0, b, (SELECT @@GLOBAL.sql_mode) FROM defaultdb.u ORDER BY b";
    let expected = table(&mut server.root().await?, look).await?;
    ensure!(expected.contains('5'), "{expected}");
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    assert_eq!(table(&mut copy.root().await?, look).await?, expected);
    Ok(())
}

async fn run(conn: &mut mysql_async::Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

/// By sessions in which a backslash is a letter; the server writes some of it into its log with escapes.
const WITHOUT_ESCAPES: &[&str] = &[
    "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'",
    r"CREATE TABLE keyless (q TIME(2) COMMENT 'new\nline', s VARCHAR(9) DEFAULT 'a\b', e ENUM('x\y', 'b'), CHECK (s <> 'c\d')) COMMENT 'tab\le'",
    r"CREATE TABLE keyed (id INT PRIMARY KEY, s VARCHAR(9) DEFAULT 'a\b' COMMENT 'x\\y') COMMENT 'o\o'",
    r"INSERT INTO keyless (q, e) VALUES ('10:00', 'x\y')",
    r"CREATE TABLE asked (id INT PRIMARY KEY) COMMENT 'k\l' AS SELECT 1 AS id, 'a\b' AS s",
    r"CREATE TABLE asked_keyless COMMENT 'k\l' AS SELECT e FROM keyless",
    r"CREATE PROCEDURE p(a VARCHAR(9), e ENUM('x\y')) COMMENT 'a\b' SELECT 'c\d'",
    r"CREATE FUNCTION f() RETURNS ENUM('q\r', 's') DETERMINISTIC COMMENT 'a\\b' RETURN 'q\r'",
    r"CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DISABLE COMMENT 'a\b' DO SELECT 'c\d'",
    r"CREATE VIEW v AS SELECT 'c\d' AS `a\b`",
    "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'",
    r#"CREATE TABLE "AN""SI" ("s'" VARCHAR(9) DEFAULT 'a\b' COMMENT 'x\y')"#,
    r#"CREATE PROCEDURE "p""2"() COMMENT 'a\b' SELECT 'c\d' AS "d\e""#,
];

#[tokio::test(flavor = "multi_thread")]
async fn what_sessions_without_escapes_make_comes_back_from_the_log() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    run(&mut app, WITHOUT_ESCAPES).await?;
    app.disconnect().await?;
    let expected = reading(&server).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &empty, Some(at), &archive).await.context("replay")?;
    same(&expected, &reading(&copy).await?, false).context("the copy of the log")
}
