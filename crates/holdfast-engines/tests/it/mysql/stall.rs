//! A backup holds up nobody: mysqldump's FLUSH TABLES makes all others wait for whoever uses a table for long.
//! From: github.com/alestic/ec2-consistent-snapshot, issue 23.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use holdfast_engines::Driver as _;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use crate::mysql::rig::{Archive, MemorySink, Server, archived, base, engines};

/// What the documentation promises is 3 s; the machine of a test may be busy. Without a cure it was until the end of what is
/// in the way.
const LIMIT: Duration = Duration::from_secs(10);

/// `ER_LOCK_WAIT_TIMEOUT`.
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const READ: &str = "SELECT COUNT(*) FROM orders";

/// Somebody who runs a statement all the time; the longest that it took. It may give up for another's lock.
struct Client(Arc<AtomicBool>, JoinHandle<Result<Duration>>);

impl Client {
    async fn start(server: &Server, statement: &'static str) -> Result<Self> {
        Ok(Self::run(server.tenant("app").await?, statement))
    }

    /// It waits for another's lock for a second at most.
    async fn impatient(server: &Server, statement: &'static str) -> Result<Self> {
        let mut conn = server.tenant("app").await?;
        conn.query_drop("SET lock_wait_timeout = 1").await?;
        Ok(Self::run(conn, statement))
    }

    fn run(mut conn: Conn, statement: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                match conn.query_drop(statement).await {
                    Err(mysql_async::Error::Server(refused)) if refused.code == LOCK_WAIT_TIMEOUT => {}
                    done => done?,
                }
                longest = longest.max(began.elapsed());
            }
            Ok(longest)
        });
        Self(stop, task)
    }

    async fn longest(self) -> Result<Duration> {
        self.0.store(true, Ordering::Relaxed);
        tokio::time::timeout(6 * LIMIT, self.1).await.context("a statement waits still")??
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_makes_nobody_wait_for_those_who_use_tables_for_long() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("CREATE TABLE orders (id INT PRIMARY KEY)").await?;
    app.query_drop("INSERT INTO orders VALUES (1), (2)").await?;
    // Many short statements are in nobody's way, though the table is always in use.
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(Client::start(&server, READ).await?);
    }
    let made = base(&server, &archive).await?.facts;
    for client in busy {
        client.longest().await?;
    }
    ensure!(made.instead.is_none(), "a dump could be made: {:?}", made.instead);
    // It ends while the backup waits: a dump is made.
    let mut report = server.tenant("app").await?;
    let ends = tokio::spawn(async move { report.query_drop("SELECT SLEEP(5) FROM orders LIMIT 1").await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(base(&server, &archive).await?.facts.instead.is_none(), "a dump could be made");
    ends.await??;
    // It does not.
    let mut report = server.tenant("app").await?;
    let id = report.id();
    let stays = tokio::spawn(async move { report.query_drop("SELECT SLEEP(200) FROM orders LIMIT 1").await });
    tokio::time::sleep(Duration::from_secs(2)).await; // of a younger one nobody can know that it will be long
    copied_beside(&server, &archive, READ, "has run for").await.context("a report")?;
    ensure!(!stays.is_finished(), "the report goes on");
    server.root().await?.query_drop(format!("KILL QUERY {id}")).await?;
    stays.await??;
    // A session that does nothing.
    let mut locks = server.tenant("app").await?;
    locks.query_drop("LOCK TABLES orders READ").await?;
    copied_beside(&server, &archive, READ, "keeps defaultdb.orders").await.context("a locked table")?;
    locks.query_drop("UNLOCK TABLES").await?;
    ensure!(base(&server, &archive).await?.facts.instead.is_none(), "a dump is made again");
    Ok(())
}

/// Those who wait for a locked table do not pass for those who use it, and who has nothing to do with it does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_for_writing_is_left_to_those_who_want_it() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut locks = server.tenant("app").await?;
    locks.query_drop("CREATE TABLE orders (id INT PRIMARY KEY)").await?;
    locks.query_drop("CREATE TABLE other (id INT PRIMARY KEY)").await?;
    locks.query_drop("LOCK TABLES orders WRITE").await?;
    let wanting = [Client::impatient(&server, READ).await?, Client::impatient(&server, READ).await?];
    copied_beside(&server, &archive, "REPLACE INTO other VALUES (1)", "keeps defaultdb.orders").await?;
    for client in wanting {
        client.longest().await?;
    }
    Ok(())
}

async fn copied_beside(
    server: &Server,
    archive: &Archive,
    statement: &'static str,
    reason: &str,
) -> Result<()> {
    let client = Client::start(server, statement).await?;
    let made = base(server, archive).await?.facts;
    let longest = client.longest().await?;
    let instead = made.instead.context("a dump was made")?;
    ensure!(instead.method == "clone" && instead.reason.contains(reason), "{instead:?}");
    println!("{}: others waited {longest:?} at most", instead.reason);
    ensure!(longest < LIMIT, "a statement took {longest:?}");
    Ok(())
}

/// An application that never gives a connection back has all that its plan allows, and the agent its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_takes_all_connections_leaves_the_agents() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut taken = Vec::new();
    let refused = loop {
        match server.tenant("app").await {
            Ok(conn) => taken.push(conn),
            Err(refused) => break format!("{refused:#}"),
        }
        ensure!(taken.len() <= 40, "more than the plan's");
    };
    ensure!(taken.len() == 40 && refused.contains("max_user_connections"), "{}: {refused}", taken.len());
    taken[0].query_drop("CREATE TABLE t (a INT PRIMARY KEY)").await?;
    ensure!(server.driver.probe(&server.instance).await?.statistics.is_some(), "it is looked at");
    for method in ["mysqldump", "clone"] {
        server.backup_by(method, &MemorySink::default()).await.context(method)?;
    }
    archive.catch_up().await?;
    Ok(())
}
