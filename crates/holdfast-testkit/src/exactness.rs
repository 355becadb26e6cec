//! The exactness scenario: a restore holds exactly what clients were told was committed at the restore point, nothing lost,
//! nothing extra. Run by test programs on any store, with and without faults.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use rand::Rng;

use crate::Client;
use crate::client::text;
use crate::ledger::{Ledger, Writer, connect, rows};

/// How much of the scenario, and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Seconds of writing before the idle stretch.
    pub busy_seconds: u64,
    pub idle_seconds: u64,
    /// Restores to random points of the busy stretch.
    pub random_points: usize,
    /// Also a commit's own microsecond, and a restore of a restored service.
    pub thorough: bool,
    /// Also rows that do not compress, so that objects are large enough for multipart uploads.
    pub bulk: bool,
    /// Longest wait for a backup or a restore.
    pub patience_seconds: u64,
}

impl Scale {
    pub const FULL: Self = Self {
        busy_seconds: 12,
        idle_seconds: 6,
        random_points: 3,
        thorough: true,
        bulk: false,
        patience_seconds: 180,
    };
    pub const SHORT: Self = Self {
        busy_seconds: 6,
        idle_seconds: 4,
        random_points: 1,
        thorough: false,
        bulk: false,
        patience_seconds: 300,
    };
}

/// A service with a ledger of what its writer was told.
pub struct Source {
    pub client: Client,
    pub id: String,
    pub ledger: Ledger,
    pub patience_seconds: u64,
}

impl Source {
    /// Restores to `point`, judges, and removes the copy again.
    ///
    /// # Errors
    /// When the restore fails or is not exact.
    pub async fn check(&self, what: &str, point: Timestamp) -> Result<()> {
        let copy = self.restore(what, point).await?;
        let found = rows(&self.client.connection_string(&copy).await?).await?;
        self.ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
        self.remove(&copy).await
    }

    async fn restore(&self, what: &str, point: Timestamp) -> Result<String> {
        restore(&self.client, &self.id, what, point, self.patience_seconds).await
    }

    async fn remove(&self, copy: &str) -> Result<()> {
        self.client.delete(&format!("/managed-services/{copy}")).await
    }
}

/// Makes a table of 24 MB that do not compress: base backup and log then need multipart uploads.
///
/// # Errors
/// When the service does not take it.
pub async fn fill(url: &str, table: &str) -> Result<()> {
    let fill = format!(
        "CREATE TABLE {table} AS SELECT g AS id, decode(string_agg(md5(random()::text || g || part), ''), 'hex') AS noise \
         FROM generate_series(1, 25000) g, generate_series(1, 60) part GROUP BY g"
    );
    Ok(connect(url).await?.batch_execute(&fill).await?)
}

async fn restore(
    client: &Client,
    source: &str,
    what: &str,
    point: Timestamp,
    patience_seconds: u64,
) -> Result<String> {
    let name = format!("r-{}-{:06x}", what.replace(' ', "-"), rand::random::<u32>() & 0xff_ffff);
    let copy = client.restore_to(source, &point.to_string(), &name).await?;
    let running = client.wait_running(&copy, patience_seconds).await;
    let service = running.with_context(|| format!("{what}: restore to {point}"))?;
    assert_eq!(service["restored_from"]["restore_point"], point.to_string(), "the instant reached is told");
    Ok(copy)
}

/// A random instant of whole microseconds.
pub fn between(random: &mut impl Rng, from: Timestamp, to: Timestamp) -> Timestamp {
    let micros = random.random_range(from.as_microsecond()..to.as_microsecond());
    Timestamp::from_microsecond(micros).expect("between two timestamps")
}

/// A point of whole microseconds, PostgreSQL's unit.
#[must_use]
pub fn later(point: Timestamp, micros: i64) -> Timestamp {
    let point = point.checked_add(SignedDuration::from_micros(micros)).expect("in range");
    Timestamp::from_microsecond(point.as_microsecond()).expect("in range")
}

/// Writes into a new service, backs it up and restores it to random instants. `begin` is called once the first backup is
/// there.
///
/// # Errors
/// When a backup or a restore fails, or is not exact.
pub async fn run(client: &Client, random: &mut impl Rng, scale: Scale, begin: impl FnOnce()) -> Result<()> {
    let id = client.create("ledger").await?;
    client.wait_first_backup(&id).await?;
    let url = client.connection_string(&id).await?;
    begin();
    if scale.bulk {
        fill(&url, "bulk").await?;
    }

    // A busy stretch, an idle one, and a busy one with a backup inside.
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let busy_from = Timestamp::now(); // behind the ledger's table, which a restore to an earlier point would not have
    let source = Source {
        client: client.clone(),
        id,
        ledger: writer.ledger.clone(),
        patience_seconds: scale.patience_seconds,
    };
    tokio::time::sleep(Duration::from_secs(scale.busy_seconds)).await;
    let busy_to = Timestamp::now();
    writer.pause(true);
    tokio::time::sleep(Duration::from_secs(scale.idle_seconds)).await;
    let idle_from = later(busy_to, 500_000);
    let idle_to = Timestamp::now();
    writer.pause(false);
    let backup_from = Timestamp::now();
    let backup = client.trigger(&source.id).await?;
    client.wait_backup(&source.id, &backup, scale.patience_seconds).await?;
    let backup_to = Timestamp::now();

    for round in 0..scale.random_points {
        source.check(&format!("random {round}"), between(random, busy_from, busy_to)).await?;
    }
    source.check("idle", between(random, idle_from, idle_to)).await?;
    source.check("during a backup", between(random, backup_from, backup_to)).await?;
    if scale.thorough {
        at_a_commits_own_microsecond(&source, &url).await?;
    }
    let recent = later(Timestamp::now(), -2_000_000);
    source.check("two seconds ago", recent).await?;
    source.check("after the backup", between(random, backup_to, Timestamp::now())).await?;
    if scale.thorough {
        second_generation(&source, recent).await?;
    }
    from_a_backup(&source, &backup, (backup_from, backup_to)).await?;
    writer.stop().await?;
    Ok(())
}

/// One microsecond before a commit's own stamp it is not there; at the stamp and after it, it is.
async fn at_a_commits_own_microsecond(source: &Source, url: &str) -> Result<()> {
    let entries = source.ledger.entries();
    let number = entries[entries.len() / 2].number;
    let database = connect(url).await?;
    let row = database
        .query_one(
            "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM ledger WHERE number = $1 LIMIT 1",
            &[&number],
        )
        .await?;
    let stamp = Timestamp::from_microsecond(row.get(0))?;
    for offset in [-1, 0, 1] {
        let point = later(stamp, offset);
        let what = format!("commit {offset:+} us");
        let copy = source.restore(&what.replace('+', "plus").replace("-1", "minus 1"), point).await?;
        let found = rows(&source.client.connection_string(&copy).await?).await?;
        source.ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
        assert_eq!(found.contains_key(&number), offset >= 0, "{what}: commit {number} stamped {stamp}");
        source.remove(&copy).await?;
    }
    Ok(())
}

/// A restored service is a service: it goes on, and is itself restored to any second.
async fn second_generation(source: &Source, point: Timestamp) -> Result<()> {
    let client = &source.client;
    let child = source.restore("parent", point).await?;
    client.wait_first_backup(&child).await?;
    let url = client.connection_string(&child).await?;
    let inherited = rows(&url).await?;
    let writer = Writer::start(&url, Ledger::default(), 1_000_000).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let inside = later(Timestamp::now(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let own = writer.ledger.clone();
    writer.stop().await?;

    let grandchild = restore(client, &child, "child", inside, source.patience_seconds).await?;
    let mut found = rows(&client.connection_string(&grandchild).await?).await?;
    for (number, parts) in &inherited {
        assert_eq!(found.remove(number), Some(*parts), "inherited transaction {number}");
    }
    own.judge(&found, inside).ensure_exact(&format!("second generation {inside}"))?;
    // The source never noticed.
    let still = rows(&client.connection_string(&source.id).await?).await?;
    assert!(
        source
            .ledger
            .entries()
            .iter()
            .filter(|e| e.acknowledged_at.is_some_and(|at| at < point))
            .all(|e| still.contains_key(&e.number))
    );
    assert!(still.keys().all(|number| *number < 1_000_000), "a restored service wrote into its source");
    source.remove(&grandchild).await?;
    source.remove(&child).await
}

/// A restore of a backup holds the state at its own consistent point, which lies inside the time that it took.
///
/// # Errors
/// When it fails or is not exact.
pub async fn from_a_backup(source: &Source, backup: &str, (from, to): (Timestamp, Timestamp)) -> Result<()> {
    let body = serde_json::json!({"target_service_name": "r-of-a-backup"});
    let path = format!("/managed-services/{}/backups/{backup}/restore", source.id);
    let copy = text(&source.client.post(&path, body).await?, "service_id")?;
    source.client.wait_running(&copy, source.patience_seconds).await?;
    let found = rows(&source.client.connection_string(&copy).await?).await?;
    source.ledger.judge_between(&found, from, to).ensure_exact("restore of a backup")?;
    source.remove(&copy).await
}
