//! Instances: made, stopped, found again; who may do what.

use std::time::Duration;

use anyhow::Result;
use holdfast_engines::{DiskGuard as _, Driver as _, UserSpec};
use mysql_async::prelude::Queryable;

use crate::mysql::rig::{Server, engines, users};

#[tokio::test]
async fn an_instance_is_made_stopped_and_found_again() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let driver = &server.driver;
    assert!(driver.is_running(&server.instance).await);
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE t (a INT PRIMARY KEY)").await?;
    app.query_drop("INSERT INTO t VALUES (1)").await?;
    let probe = driver.probe(&server.instance).await?;
    assert!(probe.statistics.is_some_and(|statistics| statistics.transactions_total > 0));
    assert!(driver.database_bytes(&server.instance).await? > 0);
    assert!(driver.log_on_disk(&server.instance)?.total_bytes > 0);

    driver.stop(&server.instance, 30).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    assert!(!driver.is_running(&server.instance).await);
    driver.stop(&server.instance, 30).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    driver.start(&server.instance).await?;
    driver.start(&server.instance).await?;
    let mut app = server.tenant("app").await?;
    assert_eq!(app.query_first::<i64, _>("SELECT count(*) FROM t").await?, Some(1));
    let tls: Option<(String, String)> =
        server.root().await?.query_first("SHOW GLOBAL VARIABLES LIKE 'ssl_cert'").await?;
    assert!(tls.is_some_and(|(_, file)| file.ends_with(".pem")), "it offers TLS");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_starts_though_another_process_has_its_number() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let lock = server.instance.folder.join("run/mysqld.sock.lock");
    assert!(lock.exists(), "the lock has another name by now");
    server.kill();
    let ended = async {
        while server.driver.is_running(&server.instance).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await?;
    let mut command = tokio::process::Command::new("sleep");
    command.arg("60").kill_on_drop(true);
    if let Some(user) = &server.instance.run_as {
        command.uid(user.uid);
    }
    let sleeper = command.spawn()?;
    std::fs::write(&lock, format!("{}\n", sleeper.id().expect("it sleeps")))?;
    server.driver.start(&server.instance).await?;
    server.tenant("app").await?;
    Ok(())
}

#[tokio::test]
async fn tenants_reach_their_data_and_nothing_of_the_servers() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let mut app = server.tenant("app").await?;
    for allowed in [
        "CREATE DATABASE other",
        "CREATE TABLE other.t (a INT PRIMARY KEY)",
        "CREATE USER 'sub'@'%' IDENTIFIED BY 'x'",
        "GRANT SELECT ON other.* TO 'sub'@'%'",
        "CREATE PROCEDURE p() SELECT 1",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    ] {
        app.query_drop(allowed).await?;
    }
    for refused in [
        "SELECT * FROM mysql.user",
        "INSERT INTO mysql.time_zone_name VALUES ('x', 1)",
        "SET sql_log_bin = 0",
        "SET GLOBAL sync_binlog = 0",
        "RESET BINARY LOGS AND GTIDS",
        "PURGE BINARY LOGS BEFORE NOW()",
        "FLUSH BINARY LOGS",
        "ALTER USER root@localhost IDENTIFIED BY 'x'",
        "DROP USER root@localhost",
        "GRANT SUPER ON *.* TO 'sub'@'%'",
        "GRANT SELECT ON mysql.* TO 'sub'@'%'",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE other.t",
        "INSTALL PLUGIN clone SONAME 'mysql_clone.so'",
        "CLONE LOCAL DATA DIRECTORY = '/tmp/copy'",
        "GRANT root@localhost TO app",
        "CREATE USER 'heir'@'%' IDENTIFIED BY 'x' DEFAULT ROLE root@localhost",
        "SHUTDOWN",
        "CREATE TABLE m (a INT) ENGINE = MyISAM",
        "LOCK INSTANCE FOR BACKUP",
    ] {
        assert!(app.query_drop(refused).await.is_err(), "{refused}");
    }
    let mut reader = server.tenant("reader").await?;
    reader.query_drop("SELECT * FROM other.t").await?;
    assert!(reader.query_drop("INSERT INTO other.t VALUES (1)").await.is_err());

    let changed = UserSpec { password: "another".to_owned(), ..users().swap_remove(0) };
    server.driver.set_password(&server.instance, &changed).await?;
    assert!(server.tenant("app").await.is_err());
    server.tenant_with("app", "another").await?;
    Ok(())
}

#[tokio::test]
async fn only_allowed_networks_come_in_and_definers_keep_their_account() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let mut server = Server::start(&engines).await?;
    server.tenant("app").await?.query_drop("CREATE VIEW v AS SELECT 1 AS one").await?;
    for (cidrs, welcome) in [
        (&["10.0.0.0/8"][..], false),
        (&["127.0.0.0/8", "10.0.0.0/8"], true),
        (&["127.0.0.2/32"], false),
        (&["127.0.0.0/24"], true),
        (&[], true),
    ] {
        server.instance.allowed_cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
        server.driver.apply_settings(&server.instance).await?;
        let tenant = server.tenant("app").await;
        assert_eq!(tenant.is_ok(), welcome, "{cidrs:?}: {:?}", tenant.as_ref().err());
        if let Ok(mut tenant) = tenant {
            assert_eq!(tenant.query_first::<i64, _>("SELECT one FROM v").await?, Some(1));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_over_restarts_and_gives_up_log() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let server = Server::start(&engines).await?;
    let driver = &server.driver;
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE t (a INT PRIMARY KEY)").await?;
    let mut writer = server.tenant("app").await?;
    writer.query_drop("BEGIN").await?;
    writer.query_drop("INSERT INTO t VALUES (1)").await?;
    driver.set_read_only(&server.instance, true).await?;
    driver.set_read_only(&server.instance, true).await?;
    assert!(writer.query_drop("COMMIT").await.is_err(), "it was ended");
    assert!(app.query_drop("INSERT INTO t VALUES (2)").await.is_err());
    driver.stop(&server.instance, 30).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    driver.start(&server.instance).await?;
    assert!(driver.is_read_only(&server.instance));
    let mut app = server.tenant("app").await?;
    assert!(app.query_drop("INSERT INTO t VALUES (3)").await.is_err());
    assert!(driver.log_on_disk(&server.instance)?.waiting_bytes > 0);
    assert!(driver.drop_waiting_log(&server.instance).await? > 0);
    assert_eq!(driver.log_on_disk(&server.instance)?.waiting_bytes, 0);
    driver.set_read_only(&server.instance, false).await?;
    app.query_drop("INSERT INTO t VALUES (4)").await?;
    assert_eq!(app.query_first::<i64, _>("SELECT count(*) FROM t").await?, Some(1));
    Ok(())
}
