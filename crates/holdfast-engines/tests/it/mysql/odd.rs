//! What real servers have in them and dumps or replays stumble over: rights on tables that are gone, events whose time has passed, JSON with numbers of all kinds, accounts of odd names.

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Server, archived, base, engines, table};

const ODD: &[&str] = &[
    "CREATE USER 'u'@'%' IDENTIFIED BY 'x'",
    "CREATE USER 'root'@'%' IDENTIFIED BY 'x'",
    "CREATE TABLE gone (a INT PRIMARY KEY, b INT)",
    "CREATE TABLE thin (a INT PRIMARY KEY, b INT, c INT)",
    "GRANT SELECT ON defaultdb.gone TO 'u'@'%'",
    "GRANT SELECT (b), UPDATE (c) ON defaultdb.thin TO 'u'@'%'",
    "GRANT INSERT (b) ON defaultdb.gone TO 'root'@'%'",
    "DROP TABLE gone",
    "ALTER TABLE thin DROP COLUMN b",
    // A view that calls a function, by a definer who may run that function alone.
    "CREATE FUNCTION twice(a INT) RETURNS INT DETERMINISTIC RETURN a * 2",
    "GRANT EXECUTE ON FUNCTION defaultdb.twice TO 'u'@'%'",
    "GRANT SELECT, CREATE VIEW, SHOW VIEW ON defaultdb.* TO 'u'@'%'",
    "CREATE DEFINER = 'u'@'%' VIEW doubled AS SELECT twice(a) AS d FROM thin",
    "CREATE TABLE js (id INT PRIMARY KEY, j JSON, n INT)",
    "INSERT INTO js (id, j) VALUES (1, JSON_OBJECT('price', 1.5, 'whole', CAST(3 AS DECIMAL(5)))), (2, JSON_ARRAY(CAST(1.5e0 AS DOUBLE), 0.1e0 + 0.2e0)), \
        (3, '[18446744073709551616, -0.0, 1e300]')",
    "ANALYZE TABLE thin UPDATE HISTOGRAM ON c WITH 3 BUCKETS AUTO UPDATE",
    r#"ANALYZE TABLE js UPDATE HISTOGRAM ON n USING DATA '{"buckets": [[7, 1.0]], "data-type": "int", "null-values": 0.0, "collation-id": 8, "sampling-rate": 1.0, "histogram-type": "singleton", "number-of-buckets-specified": 9}'"#,
    "CREATE TABLE fired (at TIMESTAMP(6))",
    "CREATE EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 6 SECOND DO INSERT INTO fired VALUES (NOW(6))",
    "CREATE EVENT until ON SCHEDULE EVERY 1 HOUR ENDS CURRENT_TIMESTAMP + INTERVAL 6 SECOND ON COMPLETION PRESERVE DO SELECT 1",
];

const LOOKS: &[&str] = &[
    "SHOW GRANTS FOR 'u'@'%'",
    "SHOW GRANTS FOR 'root'@'%'",
    "SELECT host, db, user, table_name, table_priv, column_priv FROM mysql.tables_priv WHERE db = 'defaultdb' ORDER BY 1, 2, 3, 4",
    "SELECT host, db, user, table_name, column_name, column_priv FROM mysql.columns_priv WHERE db = 'defaultdb' ORDER BY 1, 2, 3, 4, 5",
    "SELECT table_name FROM information_schema.views WHERE table_schema = 'defaultdb' ORDER BY 1",
    "SELECT id, j FROM js ORDER BY 1",
    "SELECT * FROM doubled",
    r#"SELECT table_name, column_name, JSON_REMOVE(histogram, '$."last-updated"') FROM information_schema.column_statistics ORDER BY 1"#,
];

async fn looks(server: &Server) -> Result<Vec<String>> {
    let mut root = server.root().await?;
    root.query_drop("USE defaultdb").await?;
    let mut seen = Vec::new();
    for look in LOOKS {
        seen.push(format!("{look}: {}", table(&mut root, look).await?));
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn oddities_come_back_and_stop_neither_dump_nor_replay() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    let mut root = server.root().await?;
    root.query_drop("USE defaultdb").await?;
    for statement in ODD {
        let by = if statement.starts_with("CREATE DEFINER") { &mut root } else { &mut app };
        by.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    let base = base(&server, &archive).await?;
    assert_eq!(base.facts.instead, None, "a dump holds it");
    let expected = looks(&server).await?;
    // The event runs, and the server drops it by itself.
    holdfast_testkit::wait_for("the event has run and is gone", 60, || async {
        let mut app = server.tenant("app").await?;
        let fired: Option<u64> = app.query_first("SELECT COUNT(*) FROM fired").await?;
        let left: Option<u64> = app
            .query_first("SELECT COUNT(*) FROM information_schema.events WHERE event_name = 'once'")
            .await?;
        Ok(((fired, left) == (Some(1), Some(0))).then_some(()))
    })
    .await?;
    for statement in [
        "DROP EVENT until",
        "REVOKE SELECT ON defaultdb.gone FROM 'u'@'%'",
        "ALTER USER 'root'@'%' IDENTIFIED BY 'y'",
        "DROP USER 'root'@'%'",
        // The server's own log has these without escapes.
        "ALTER USER 'u'@'%' REQUIRE SUBJECT '/O=Moe''s\\\\b' AND ISSUER '\\\\''; DROP USER u; -- ' WITH MAX_USER_CONNECTIONS 3 COMMENT 'it''s'",
        "CREATE USER 'v'@'%' IDENTIFIED BY 'x' REQUIRE CIPHER 'two\nlines''' PASSWORD EXPIRE",
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "CREATE USER 'w\\'@'%' IDENTIFIED BY 'x' REQUIRE SUBJECT 'it''s\\' COMMENT 'c\\'",
    ] {
        app.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    let after = looks_after(&server).await?;
    let at = archive.catch_up().await?;

    let (copy, _) = server.restored(&engines, &base, None, &archive).await?;
    assert_eq!(looks(&copy).await?, expected, "by the dump alone");
    let fired: Option<u64> = copy.root().await?.query_first("SELECT COUNT(*) FROM defaultdb.fired").await?;
    assert_eq!(fired, Some(0), "an event whose time has passed does not run again");
    drop(copy);
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await?;
    assert_eq!(looks_after(&copy).await?, after, "by dump and log");
    Ok(())
}

async fn looks_after(server: &Server) -> Result<Vec<String>> {
    let mut root = server.root().await?;
    root.query_drop("USE defaultdb").await?;
    let mut seen = Vec::new();
    for look in [
        LOOKS[0],
        LOOKS[2],
        LOOKS[3],
        LOOKS[4],
        "SELECT * FROM fired",
        "SHOW EVENTS",
        "SELECT user, host, ssl_type, ssl_cipher, x509_issuer, x509_subject, max_user_connections, password_expired, user_attributes \
            FROM mysql.user WHERE user NOT IN ('app', 'reader') ORDER BY 1, 2",
    ] {
        seen.push(format!("{look}: {}", table(&mut root, look).await?));
    }
    Ok(seen)
}
