//! An instance's life: who may do what, stop and start, a full disk.

use anyhow::{Result, ensure};
use holdfast_engines::{DiskGuard as _, Driver, LogDriver as _, UserSpec};

use crate::valkey::harness::{PASSWORD, Server};

/// What would change the server, its users, its log, or show other people's secrets.
const FORBIDDEN: &[&str] = &[
    "BGREWRITEAOF",
    "BGSAVE",
    "SAVE",
    "CONFIG GET maxmemory",
    "CONFIG SET appendonly no",
    "CONFIG REWRITE",
    "ACL SETUSER second on nopass",
    "ACL LIST",
    "ACL LOAD",
    "REPLICAOF NO ONE",
    "PSYNC ? -1",
    "SYNC",
    "DEBUG SLEEP 0",
    "DEBUG RELOAD",
    "MODULE LIST",
    "MONITOR",
    "SHUTDOWN NOSAVE",
    "FAILOVER",
    "MIGRATE 127.0.0.1 1 k 0 10",
    "CLIENT PAUSE 1",
    "CLIENT KILL TYPE normal",
    "SLOWLOG GET",
    "CLUSTER RESET",
    "SCRIPT DEBUG YES",
    "WAITAOF 1 0 0",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tenants_use_their_data_and_nothing_else() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let mut client = server.client().await?;
    for line in FORBIDDEN {
        let mut command = redis::Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        let refused = command.query_async::<redis::Value>(&mut client).await;
        let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(text.contains("NOPERM") || text.contains("permissions"), "{line}: {text:?}");
    }
    for line in [
        "SET k v",
        "EXPIRE k 100",
        "KEYS *",
        "FLUSHDB",
        "INFO server",
        "EVAL return(1) 0",
        "SELECT 5",
        "CLIENT LIST",
    ] {
        let mut command = redis::Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        command.query_async::<redis::Value>(&mut client).await?;
    }
    ensure!(server.client_as("app_user", "wrong").await.is_err());
    let mut nameless =
        holdfast_testkit::valkey::connect(format!("redis://127.0.0.1:{}", server.instance.port)).await?;
    ensure!(
        redis::cmd("GET").arg("k").query_async::<redis::Value>(&mut nameless).await.is_err(),
        "a password is asked for"
    );
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_instance_keeps_its_data_users_and_guards_over_restarts() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let (driver, instance) = (&server.driver, &server.instance);
    let mut client = server.client().await?;
    redis::cmd("SET").arg("k").arg("v").query_async::<()>(&mut client).await?;

    let new = UserSpec { username: "second".into(), role: String::new(), password: "renewed".into() };
    driver.set_password(instance, &new).await?;
    ensure!(server.client_as("second", "other").await.is_err(), "the old password is gone");

    driver.set_read_only(instance, true).await?;
    let refused = redis::cmd("SET").arg("k").arg("w").query_async::<()>(&mut client).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("permissions")), "writes are refused");
    redis::cmd("GET").arg("k").query_async::<String>(&mut client).await?;

    ensure!(driver.is_running(instance).await);
    driver.stop(instance, 20).await?;
    ensure!(!driver.is_running(instance).await);
    driver.start(instance).await?;
    let mut client = server.client_as("second", "renewed").await?;
    let value: String = redis::cmd("GET").arg("k").query_async(&mut client).await?;
    ensure!(value == "v" && driver.is_read_only(instance));
    ensure!(redis::cmd("SET").arg("k").arg("w").query_async::<()>(&mut client).await.is_err(), "still");
    driver.set_read_only(instance, false).await?;
    redis::cmd("SET").arg("k").arg("w").query_async::<()>(&mut client).await?;

    let probe = driver.probe(instance).await?;
    ensure!(probe.mark.is_none() && probe.statistics.is_some_and(|now| now.connections_max > 0));
    ensure!(driver.database_bytes(instance).await? > 0);
    let mut smaller = instance.clone();
    smaller.max_connections = 50;
    driver.apply_settings(&smaller).await?;

    driver.quiesce(instance).await?;
    driver.unquiesce(instance).await?;
    redis::cmd("SET").arg("k").arg("w").query_async::<()>(&mut client).await?;
    driver.quiesce(instance).await?;
    let mut late = redis::cmd("SET");
    let waits = late.arg("k").arg("late").query_async::<()>(&mut client);
    ensure!(!matches!(tokio::time::timeout(std::time::Duration::from_secs(1), waits).await, Ok(Ok(()))));
    driver.stop(instance, 20).await?;
    driver.start(instance).await?;
    let mut client = server.client().await?;
    let value: String = redis::cmd("GET").arg("k").query_async(&mut client).await?;
    ensure!(value == "w", "{value}: nothing was written before the stop");

    // No secret lies where the engine's user, or anybody else, could read it.
    for file in ["agent.json", "users.json"] {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(instance.folder.join("conf").join(file))?;
        ensure!(meta.mode() & 0o077 == 0 && meta.uid() == nix::unistd::geteuid().as_raw(), "{file}");
    }
    let acl = std::fs::read_to_string(instance.folder.join("conf/users.acl"))?;
    ensure!(!acl.contains(PASSWORD), "hashes only");
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_server_was_not_told_of_its_users_is_told_again() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let (driver, instance) = (&server.driver, &server.instance);
    let mut client = server.client().await?;
    let mut write = async || redis::cmd("SET").arg("k").arg("v").query_async::<()>(&mut client).await;
    for read_only in [true, false] {
        server.cut_off(true)?;
        ensure!(driver.set_read_only(instance, read_only).await.is_err(), "nobody can be told");
        server.cut_off(false)?;
        ensure!(driver.is_read_only(instance), "a guard that has been tried, or is not yet ended, is known");
        ensure!(write().await.is_err() != read_only, "the server was not told");
        driver.set_read_only(instance, read_only).await?;
        ensure!(write().await.is_err() == read_only && driver.is_read_only(instance) == read_only);
    }
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passwords_that_are_set_at_once_are_all_kept() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let name = |number: usize| format!("user_{number}");
    let setting = (0..24).map(|number| {
        let (driver, instance) = (server.driver.clone(), server.instance.clone());
        let user = UserSpec { username: name(number), role: "admin".into(), password: PASSWORD.into() };
        tokio::spawn(async move { driver.set_password(&instance, &user).await })
    });
    for set in setting.collect::<Vec<_>>() {
        set.await??;
    }
    // As they are on disk.
    server.driver.stop(&server.instance, 20).await?;
    server.driver.start(&server.instance).await?;
    for number in 0..24 {
        server.client_as(&name(number), PASSWORD).await?;
    }
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other_services_files_are_neither_read_nor_kept_as_log() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let (driver, instance) = (&server.driver, &server.instance);
    driver.stop(instance, 20).await?;
    let (folder, aside) = (server.aof(), server.aof().with_extension("aside"));
    let (manifest, log) = ("appendonly.aof.manifest", "appendonly.aof.1.incr.aof");
    let refused = async |what: &str| -> Result<()> {
        let (feed, _items) = holdfast_engines::LogFeed::new(4, std::sync::Arc::default());
        let error = driver.follow(instance, None, &feed).await.err();
        ensure!(!server.kept().join("1.incr").exists(), "{what}: it was kept, {error:?}");
        let bytes = driver.log_on_disk(instance).map_or(0, |log| log.total_bytes);
        ensure!(bytes == 0, "{what}: {bytes} bytes of it were looked at");
        Ok(())
    };
    let follow = async |what: &str| {
        tokio::time::timeout(std::time::Duration::from_secs(2), refused(what))
            .await
            .unwrap_or_else(|_| anyhow::bail!("{what}: it was followed"))
    };
    // The engine's user puts a link where its folder was.
    let other = tempfile::tempdir()?;
    std::fs::write(other.path().join(manifest), format!("file {log} seq 1 type i\n"))?;
    std::fs::write(other.path().join(log), b"*1\r\n$4\r\nPING\r\n")?;
    std::fs::rename(&folder, &aside)?;
    std::os::unix::fs::symlink(other.path(), &folder)?;
    follow("a folder that is a link").await?;
    // Its own folder, with a link to somebody else's file, and with that file itself.
    std::fs::remove_file(&folder)?;
    std::fs::rename(&aside, &folder)?;
    std::fs::remove_file(folder.join(log))?;
    std::os::unix::fs::symlink(other.path().join(log), folder.join(log))?;
    follow("a file that is a link").await?;
    if instance.run_as.is_some() {
        std::fs::remove_file(folder.join(log))?;
        std::fs::hard_link(other.path().join(log), folder.join(log))
            .or_else(|_| std::fs::write(folder.join(log), b"*1\r\n$4\r\nPING\r\n"))?;
        follow("somebody else's file").await?;
    }
    Ok(())
}
