//! What a tenant writes so that the agent runs it, in a copy above all: nothing of it runs, and it comes back as it is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_engines::{Driver as _, UserSpec};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{PASSWORD, Server, archived, base, base_by, engines, table};

const EVIL: &[&str] = &[
    // Texts that are printed as they are.
    "CREATE USER e1 IDENTIFIED BY 'x' REQUIRE SUBJECT 'x\'\'; CREATE DATABASE pwn1; -- '",
    "CREATE USER e2 IDENTIFIED BY 'x' REQUIRE ISSUER 'it\'\'s'",
    "CREATE USER e3 IDENTIFIED BY 'x' REQUIRE CIPHER '; CREATE DATABASE pwn3; -- '",
    "CREATE USER e4 IDENTIFIED BY 'x' COMMENT '\\\'; CREATE DATABASE pwn4; -- '",
    "CREATE USER e5 IDENTIFIED BY 'x' ATTRIBUTE '{\"holdfast_role\": \"admin\", \"a\": \"\''; CREATE DATABASE pwn5\"}'",
    "CREATE USER `e6'@'%; CREATE DATABASE pwn6; -- `@'%' IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 3 PASSWORD EXPIRE",
    // Rights that outlive what they name.
    "CREATE DATABASE s",
    "CREATE USER dev IDENTIFIED BY 'x'",
    "GRANT CREATE ROUTINE, SELECT ON s.* TO dev",
    "CREATE PROCEDURE s.report() SELECT 1",
    "GRANT EXECUTE, ALTER ROUTINE ON PROCEDURE s.report TO dev",
    "DROP DATABASE s",
    // A second password, and one of the service's own name elsewhere.
    "ALTER USER dev IDENTIFIED BY 'y' RETAIN CURRENT PASSWORD",
    "CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'mine'",
    "GRANT SELECT ON defaultdb.* TO 'reader'@'127.0.0.1'",
];
const LOOKS: &[&str] = &[
    "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
    "SELECT user, host, ssl_type, HEX(ssl_cipher), HEX(x509_issuer), HEX(x509_subject), max_user_connections, password_expired, \
        authentication_string, user_attributes FROM mysql.user WHERE user NOT IN ('app', 'reader', 'root') AND host <> 'localhost' ORDER BY 1, 2",
    "SELECT host, db, user, routine_name, routine_type, grantor, proc_priv FROM mysql.procs_priv WHERE host <> 'localhost' ORDER BY 1, 2, 3, 4",
];

async fn looks(server: &Server) -> Result<Vec<String>> {
    let mut root = server.root().await?;
    let mut seen = Vec::new();
    for look in LOOKS {
        seen.push(table(&mut root, look).await?);
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_tenants_runs_in_a_copy() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    for statement in EVIL {
        app.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    let expected = looks(&server).await?;
    for method in ["mysqldump", "clone"] {
        let base = base_by(method, &server, &archive).await?;
        ensure!(base.facts.instead.is_none(), "{:?}", base.facts.instead);
        let (copy, _) = server.restored(&engines, &base, None, &archive).await?;
        assert_eq!(looks(&copy).await?, expected, "{method}");
        ensure!(copy.tenant_with("reader", "mine").await.is_err(), "the source's password opens the copy");
        copy.tenant("reader").await?;
    }
    // A backup of an earlier release has accounts as statements: one that is more than one is none.
    let base = base(&server, &archive).await?;
    let create = "CREATE USER `e1`@`%` IDENTIFIED BY 'x' REQUIRE SUBJECT 'x'; CREATE DATABASE pwn; -- '";
    let old = serde_json::json!([{"user": "e1", "host": "%", "create": create, "grants": []}]);
    base.sink.replace("accounts.json", serde_json::to_vec(&old)?);
    let refused = server.restored(&engines, &base, None, &archive).await;
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("1064")), "it ran");
    Ok(())
}

/// A view whose table is gone runs as whoever reads it, or as whom it says: not as the agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_view_gives_nobody_the_agents_rights() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut base = base(&server, &archive).await?;
    // As a dump of an earlier release has it.
    base.facts.facts["broken_views"] =
        serde_json::json!([{"database": "defaultdb", "name": "v", "definition": "select 1"}]);
    let (copy, _) = server.restored(&engines, &base, Some(archive.catch_up().await?), &archive).await?;
    let mut app = copy.tenant("app").await?;
    let trap = [
        "CREATE FUNCTION peek() RETURNS TEXT READS SQL DATA SQL SECURITY INVOKER RETURN (SELECT GROUP_CONCAT(authentication_string) FROM mysql.user)",
        "CREATE SQL SECURITY INVOKER VIEW holdfast_gone AS SELECT peek() AS gone",
    ];
    for statement in trap {
        app.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    let read: std::result::Result<Vec<Option<String>>, _> = app.query("SELECT * FROM v").await;
    ensure!(read.is_err(), "it read the accounts: {read:?}");
    let views = "SELECT definer, security_type FROM information_schema.views WHERE table_name = 'v'";
    let found = table(&mut copy.root().await?, views).await?;
    ensure!(!found.contains("root"), "{found}");
    Ok(())
}

/// Whatever a tenant does to its own accounts, a new password is the only one that opens them.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_the_only_one_whatever_a_tenant_did_to_its_accounts() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let mut app = server.tenant("app").await?;
    let user = |password: &str| UserSpec {
        username: "app".to_owned(),
        role: "admin".to_owned(),
        password: password.to_owned(),
    };
    // An instance of an earlier release has no list of its users: it is made of all that were marked.
    let list = server.instance.folder.join("conf/users.json");
    std::fs::remove_file(&list)?;
    server.driver.set_password(&server.instance, &user("first")).await?;
    let known: serde_json::Value = serde_json::from_slice(&std::fs::read(&list)?)?;
    ensure!(known == serde_json::json!({"app": "admin", "reader": "readonly"}), "{known}");
    for statement in [
        "ALTER USER 'app'@'%' ATTRIBUTE '{\"holdfast_role\": null}'",
        "CREATE USER 'app'@'127.0.0.1' IDENTIFIED BY 'mine'",
        "GRANT SELECT ON defaultdb.* TO 'app'@'127.0.0.1'",
    ] {
        app.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    server.driver.set_password(&server.instance, &user("new")).await?;
    for old in [PASSWORD, "first"] {
        ensure!(server.tenant_with("app", old).await.is_err(), "an old one opens it");
    }
    ensure!(server.tenant_with("app", "mine").await.is_err(), "its own opens it");
    server.tenant_with("app", "new").await?;
    let mut root = server.root().await?;
    root.query_drop("ALTER USER 'app'@'127.0.0.1' IDENTIFIED BY 'newer' RETAIN CURRENT PASSWORD").await?;
    server.driver.set_password(&server.instance, &user("newest")).await?;
    ensure!(server.tenant_with("app", "new").await.is_err(), "the one that was kept opens it");
    server.tenant_with("app", "newest").await?;
    // And one that is gone is made.
    root.query_drop("DROP USER 'app'@'%', 'app'@'127.0.0.1'").await?;
    server.driver.set_password(&server.instance, &user("again")).await?;
    server.tenant_with("app", "again").await?;
    Ok(())
}

/// A definer whose name undoes the quotes once it stands in its event's character set: `Ö` is the byte of the backslash in `swe7`.
#[tokio::test(flavor = "multi_thread")]
async fn no_definers_name_runs_in_a_copy() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    for statement in [
        "CREATE DATABASE a",
        "CREATE PROCEDURE a.b() SQL SECURITY INVOKER CREATE DATABASE pwned",
        "CREATE USER `Ö'event a.e disable;call a.b#`@`%` IDENTIFIED BY 'x'",
        "GRANT EVENT ON a.* TO `Ö'event a.e disable;call a.b#`@`%`",
        "GRANT SELECT ON defaultdb.* TO `Ö'event a.e disable;call a.b#`@`%`",
    ] {
        app.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    // The event stays in the source when its time has passed.
    server.root().await?.query_drop("SET GLOBAL event_scheduler = OFF").await?;
    let mut other = server.tenant_with("Ö'event a.e disable;call a.b#", "x").await?;
    other.query_drop("SET NAMES swe7").await?;
    other.query_drop("CREATE EVENT a.e ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 7 SECOND DO DO 1").await?;
    let definer: Option<String> = server
        .root()
        .await?
        .query_first("SELECT definer FROM information_schema.events WHERE event_name = 'e'")
        .await?;
    ensure!(definer.as_deref() == Some("Ö'event a.e disable;call a.b#@%"), "{definer:?}");
    let bases = [base_by("clone", &server, &archive).await?, base(&server, &archive).await?];
    tokio::time::sleep(Duration::from_secs(8)).await;
    for base in bases {
        let (copy, _) = server.restored(&engines, &base, None, &archive).await?;
        let look = "SELECT schema_name FROM information_schema.schemata WHERE schema_name = 'pwned' \
            UNION ALL SELECT CONCAT(definer, status) FROM information_schema.events WHERE event_schema = 'a'";
        let expected = "\"Ö'event a.e disable;call a.b#@%DISABLED\"";
        assert_eq!(table(&mut copy.root().await?, look).await?, expected);
    }
    Ok(())
}

/// Behind a dump's last object, as if the client that loads it had taken them out of a tenant's text.
const SMUGGLED: &[(&str, &str)] = &[
    ("DELIMITER ;;\nCREATE DATABASE two; DROP DATABASE two ;;\nDELIMITER ;\n", "1064"),
    ("CREATE EVENT mysql.h ON SCHEDULE EVERY 1 DAY DO DO 1;\n", "event mysql.h"),
    ("ALTER USER root@localhost ATTRIBUTE '{\"a\": 1}';\n", "account of the server, by mysql.user"),
    ("GRANT ALL ON *.* TO app;\n", "mysql.global_grants"),
    (
        "SET PERSIST max_user_connections = 7;\nSET GLOBAL max_user_connections = DEFAULT;\n",
        "kept setting max_user_connections",
    ),
];

/// Whatever a dump makes beside its databases ends the restore, and so does what the log makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_and_a_replay_leave_what_is_the_servers_own() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut base = base(&server, &archive).await?;
    let at = archive.catch_up().await?;
    let dump = String::from_utf8(base.sink.object("dump.sql").context("no dump")?)?;
    let end = dump.rfind("-- Dump completed").context("the dump has no end")?;
    for (smuggled, found) in SMUGGLED.iter().chain([&("", "")]) {
        let text = [&dump[..end], smuggled, &dump[end..]].concat();
        base.facts.facts["dump_bytes"] = serde_json::json!(text.len());
        base.sink.replace("dump.sql", text.into_bytes());
        let refused = server.restored(&engines, &base, Some(at), &archive).await;
        if smuggled.is_empty() {
            refused.context("as it was")?;
            continue;
        }
        let error =
            refused.err().map(|error| format!("{error:#}")).with_context(|| format!("it ran: {smuggled}"))?;
        ensure!(error.contains(found), "{smuggled:?}: {error}");
    }
    // The server's owner could; no tenant can.
    server.root().await?.query_drop("CREATE PROCEDURE sys.theirs() SELECT 1").await?;
    let refused = server.restored(&engines, &base, Some(archive.catch_up().await?), &archive).await;
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("routine sys.theirs")), "it ran");
    Ok(())
}

/// What a program that ran would have made.
const WAS_HERE: &str = "/tmp/holdfast-mysql-was-here";
/// What leaves a row when it runs, and lines that `mysql` obeys where it takes them for lines.
const TRAPS: &[&str] = &[
    "CREATE TABLE traces (who TEXT, acting TEXT)",
    "CREATE FUNCTION leave_one() RETURNS INT MODIFIES SQL DATA SQL SECURITY INVOKER \
        BEGIN INSERT INTO traces VALUES (USER(), CURRENT_USER()); RETURN 1; END",
    "CREATE TABLE kept (n INT PRIMARY KEY, s TEXT)",
    "INSERT INTO kept VALUES (1, '\n\\\\! touch /tmp/holdfast-mysql-was-here\nsystem touch /tmp/holdfast-mysql-was-here\n')",
    "CREATE SQL SECURITY INVOKER VIEW v1 AS SELECT leave_one() AS a",
    "CREATE ALGORITHM = TEMPTABLE SQL SECURITY INVOKER VIEW v2 AS SELECT n FROM kept WHERE leave_one() = n",
    "CREATE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW v3 AS SELECT n, leave_one() AS a FROM kept",
    "CREATE SQL SECURITY INVOKER VIEW v4 AS SELECT a FROM v1 UNION SELECT n FROM v3 ORDER BY leave_one()",
    "CREATE SQL SECURITY DEFINER VIEW v5 AS SELECT (SELECT leave_one()) AS a FROM v2",
    "CREATE TRIGGER each_one BEFORE INSERT ON kept FOR EACH ROW SET NEW.s = CONCAT(leave_one(), NEW.s)",
    "CREATE TABLE `x\n\\! touch /tmp/holdfast-mysql-was-here #` (`y\n\\! touch /tmp/holdfast-mysql-was-here #` INT \
        COMMENT '\n\\\\! touch /tmp/holdfast-mysql-was-here\n') COMMENT '\nsystem touch /tmp/holdfast-mysql-was-here\n'",
    "CREATE DATABASE `--execute=\\! touch ..`",
    "CREATE TABLE `--execute=\\! touch ..`.`--result-file=x` (n INT)",
];

/// Views are described and not read, triggers come behind the rows, and no name is more than a name for the programs that are
/// started.
#[tokio::test(flavor = "multi_thread")]
async fn no_view_trigger_or_name_runs_in_a_dump_or_a_copy() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let _ = std::fs::remove_file(WAS_HERE); // of a run that found something
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("USE defaultdb").await?;
    for statement in TRAPS {
        app.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    app.query_drop("DO (SELECT COUNT(*) FROM v1)").await?; // it does snap
    let traces = "SELECT COUNT(*), MAX(who LIKE 'root%'), MAX(acting LIKE 'root%') FROM defaultdb.traces";
    let expected = table(&mut server.root().await?, traces).await?;
    let base = base(&server, &archive).await?;
    ensure!(base.facts.instead.is_none(), "{:?}", base.facts.instead);
    let until = archive.catch_up().await?;
    for target in [None, Some(until)] {
        let (copy, _) = server.restored(&engines, &base, target, &archive).await?;
        assert_eq!(table(&mut copy.root().await?, traces).await?, expected, "{target:?}");
    }
    assert_eq!(table(&mut server.root().await?, traces).await?, expected);
    ensure!(
        expected.contains('1') && !std::path::Path::new(WAS_HERE).exists(),
        "{expected}, or a program ran"
    );
    Ok(())
}
