//! PostgreSQL's regression suite, and behind it `sqlsmith`, by a service's tenant, beside a writer that counts. Copies of a backup and of quiet instants hold all
//! that the source held, as a superuser's dumps tell; copies of instants amid a file are whole, and the writer's part is exact.

mod server;
mod sqlsmith;
mod suite;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::exactness::between;
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed};
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::json;

use crate::BINARY;
use server::{Reading, Server};
use suite::{By, Outcome, Suite};

const PATIENCE_SECONDS: u64 = 300;
/// `pg_regress` calls it so, and some files know it by this name.
const DATABASE: &str = "regression";
/// Restores to instants at which files were running.
const AMID: usize = 3;
/// A restore that takes so long tells its phases.
const LONG: Duration = Duration::from_secs(20);

/// A moment of which everything is known.
struct Known {
    what: String,
    point: Timestamp,
    reading: Reading,
}

/// A service under its suite.
struct Source<'a> {
    holdfast: &'a Holdfast,
    client: Client,
    id: String,
    server: Server,
    ledger: Ledger,
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresqls_own_suite_comes_back() -> Result<()> {
    comes_back("postgresqls_own_suite_comes_back", By::Tenant).await
}

/// More of it runs: event triggers, access methods, other sessions' users.
#[tokio::test(flavor = "multi_thread")]
async fn postgresqls_own_suite_by_its_superuser_comes_back() -> Result<()> {
    comes_back("postgresqls_own_suite_by_its_superuser_comes_back", By::Superuser).await
}

async fn comes_back(test: &str, by: By) -> Result<()> {
    let mut random = seed::generator(test);
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let suite = Suite::open(&engines, by)?;
    let holdfast = Holdfast::start(BINARY, "regression").await?;
    let client = holdfast.client();
    let id = client.create("suite").await?;
    client.wait_first_backup(&id).await?;
    let url = client.connection_string(&id).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let server = Server::of(&engines, &holdfast, &id)?;
    let source = Source { holdfast: &holdfast, client, id, server, ledger: writer.ledger.clone() };

    // Quiet moments lie behind groups by chance: a backup in the first half, an instant in each.
    let groups = suite.groups.len();
    let quiet = [random.random_range(1..groups / 2), random.random_range(groups / 2..groups - 1)];
    let backed_up = random.random_range(1..groups / 2);
    let busy_backup = random.random_range(groups / 2..groups - 1);
    println!(
        "quiet behind the groups {quiet:?}, backups behind {backed_up} and amid {busy_backup} of {groups}"
    );
    let (began, started) = (Timestamp::now(), Instant::now());
    connect(&url).await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
    let url = match by {
        By::Tenant => url.replace("/defaultdb?", &format!("/{DATABASE}?")),
        By::Superuser => source.server.database(DATABASE),
    };
    let (mut outcome, mut known, mut backup, mut busy) = (Outcome::default(), Vec::new(), None, None);
    for (number, names) in suite.groups.iter().enumerate() {
        if number == busy_backup {
            busy = Some(source.client.trigger(&source.id).await?);
        }
        suite.run(names, &url, &mut outcome).await?;
        if quiet.contains(&number) {
            known.push(source.known(&format!("behind group {number}")).await?);
        }
        if number == backed_up {
            backup = Some((source.backup().await?, source.server.reading().await?));
        }
    }
    known.push(source.known("behind the suite").await?);
    // By the superuser it would call functions that stop the server.
    if by == By::Tenant {
        let (made, refused) = sqlsmith::run(&suite.psql, &url, random.random()).await?;
        println!("postgresql: {made} statements of sqlsmith's, and {refused} refused");
        ensure!(made > 100, "few of sqlsmith's statements were made");
        known.push(source.known("behind sqlsmith").await?);
    }
    let ended = Timestamp::now();
    println!("postgresql: {outcome}; the whole of the suite in {:.0} s", started.elapsed().as_secs_f64());
    ensure!(outcome.files > 200, "the suite has more files");
    if let Some(busy) = busy {
        source.client.wait_backup(&source.id, &busy, PATIENCE_SECONDS).await?;
    }
    let (backup, reading) = backup.context("it was made")?;
    source.of_backup(&backup, &reading).await?;
    for known in known {
        source.of_point(&known.what, known.point, Some(&known.reading)).await?;
    }
    for number in 0..AMID {
        source.of_point(&format!("amid files {number}"), between(&mut random, began, ended), None).await?;
    }
    writer.stop().await?;
    Ok(())
}

impl Source<'_> {
    /// Reads everything, and says at which instant it was so.
    async fn known(&self, what: &str) -> Result<Known> {
        let reading = self.server.reading().await?;
        let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Known { what: what.to_owned(), point, reading })
    }

    async fn backup(&self) -> Result<String> {
        let backup = self.client.trigger(&self.id).await?;
        self.client.wait_backup(&self.id, &backup, PATIENCE_SECONDS).await?;
        Ok(backup)
    }

    async fn of_backup(&self, backup: &str, reading: &Reading) -> Result<()> {
        let path = format!("/managed-services/{}/backups/{backup}/restore", self.id);
        let asked = self.client.post(&path, json!({ "target_service_name": "of-the-backup" })).await?;
        let copy = text(&asked, "service_id")?;
        self.judge("the backup", &copy, Some(reading)).await?;
        self.client.delete(&format!("/managed-services/{copy}")).await
    }

    async fn of_point(&self, what: &str, point: Timestamp, reading: Option<&Reading>) -> Result<()> {
        let copy = self.client.restore_to(&self.id, &point.to_string(), &what.replace(' ', "-")).await?;
        self.judge(what, &copy, reading).await?;
        let found = rows(&self.client.connection_string(&copy).await?).await?;
        self.ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
        self.client.delete(&format!("/managed-services/{copy}")).await
    }

    /// The copy runs, holds what was read of its source, and its heaps and indexes fit together.
    async fn judge(&self, what: &str, copy: &str, reading: Option<&Reading>) -> Result<()> {
        let started = Instant::now();
        self.client.wait_running(copy, PATIENCE_SECONDS).await.with_context(|| what.to_owned())?;
        let running = started.elapsed();
        let server = self.server.copied(self.holdfast, copy)?;
        if running > LONG {
            println!("{}", self.client.get(&format!("/managed-services/{copy}/jobs")).await?);
            println!("{}", server.log()?);
        }
        let found = server.reading().await.with_context(|| what.to_owned())?;
        let how = match reading {
            Some(reading) => reading.same(&found).map(|()| "as it was"),
            None => Ok("whole"),
        };
        let how = how.with_context(|| what.to_owned())?;
        server.check().await.with_context(|| what.to_owned())?;
        println!("postgresql, {what}: {how}, {found}, restored in {:.1} s", running.as_secs_f64());
        Ok(())
    }
}
