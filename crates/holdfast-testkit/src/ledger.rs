//! A writer that notes what it was told, and the judge of a restore.
//!
//! Each transaction inserts two rows of one number. The judge knows only what a client can know: when a transaction was
//! sent, and when its commit was acknowledged. At an instant T, what was acknowledged at or before T must be there, what
//! was sent after T must not, and what was in flight may be either, but whole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use tokio_postgres::{Client, NoTls};

/// One transaction as its client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub number: i64,
    pub sent_at: Timestamp,
    /// `None`: no acknowledgement came.
    pub acknowledged_at: Option<Timestamp>,
}

/// What was written, by whom it was told.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Entry>>>);

/// What a restore holds against the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub found: usize,
    pub lost: Vec<i64>,
    pub extra: Vec<i64>,
    pub torn: Vec<i64>,
}

impl Ledger {
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, entry: Entry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.entries().iter().filter(|entry| entry.acknowledged_at.is_some()).count()
    }

    /// Judges the rows of a restored service at the instant `point`.
    #[must_use]
    pub fn judge(&self, rows: &HashMap<i64, i64>, point: Timestamp) -> Verdict {
        self.judge_between(rows, point, point)
    }

    /// As [`Self::judge`], where only an interval is known that holds the instant.
    #[must_use]
    pub fn judge_between(&self, rows: &HashMap<i64, i64>, earliest: Timestamp, latest: Timestamp) -> Verdict {
        let mut verdict =
            Verdict { found: rows.len(), lost: Vec::new(), extra: Vec::new(), torn: Vec::new() };
        let mut known = HashMap::new();
        for entry in self.entries() {
            known.insert(entry.number, entry);
            let there = rows.contains_key(&entry.number);
            if !there && entry.acknowledged_at.is_some_and(|at| at <= earliest) {
                verdict.lost.push(entry.number);
            }
            if there && entry.sent_at > latest {
                verdict.extra.push(entry.number);
            }
        }
        for (number, parts) in rows {
            if *parts != 2 {
                verdict.torn.push(*number);
            }
            if !known.contains_key(number) {
                verdict.extra.push(*number);
            }
        }
        verdict
    }
}

impl Verdict {
    /// # Errors
    /// When anything is lost, extra or torn.
    pub fn ensure_exact(&self, what: &str) -> Result<()> {
        ensure!(self.lost.is_empty() && self.extra.is_empty() && self.torn.is_empty(), "{what}: {self:?}");
        println!("{what}: {} transactions, 0 lost, 0 extra", self.found);
        Ok(())
    }
}

/// Connects as the tenant, without TLS (a test of its own shows TLS).
///
/// # Errors
/// When the service cannot be reached.
pub async fn connect(connection_string: &str) -> Result<Client> {
    let plain = connection_string.replace("sslmode=require", "sslmode=disable");
    let (client, connection) =
        tokio_postgres::connect(&plain, NoTls).await.context("connect to the service as its tenant")?;
    tokio::spawn(async move {
        let _ = connection.await; // its end shows in the next statement
    });
    Ok(client)
}

/// The numbers in a service with how many rows each has.
///
/// # Errors
/// When the service cannot be read.
pub async fn rows(connection_string: &str) -> Result<HashMap<i64, i64>> {
    let client = connect(connection_string).await?;
    let found = client.query("SELECT number, count(*) FROM ledger GROUP BY number", &[]).await?;
    Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A task that commits about 50 transactions a second until it is stopped.
pub struct Writer {
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Writer {
    /// Makes the table if need be and begins to write, counting on from `first`.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn start(connection_string: &str, ledger: Ledger, first: i64) -> Result<Self> {
        let client = connect(connection_string).await?;
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS ledger (number bigint, part int, pad text DEFAULT repeat('x', 100))")
            .await?;
        let (stop, pause) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(write(
            connection_string.to_owned(),
            client,
            ledger.clone(),
            first,
            Arc::clone(&stop),
            Arc::clone(&pause),
        ));
        Ok(Self { ledger, stop, pause, task })
    }

    /// Stops writing for a while; transactions in flight end first.
    pub fn pause(&self, paused: bool) {
        self.pause.store(paused, Ordering::SeqCst);
    }

    /// Ends; returns the longest time between two acknowledgements.
    ///
    /// # Errors
    /// When the writer panicked.
    pub async fn stop(self) -> Result<Duration> {
        self.stop.store(true, Ordering::SeqCst);
        Ok(self.task.await?)
    }
}

async fn write(
    url: String,
    mut client: Client,
    ledger: Ledger,
    first: i64,
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
) -> Duration {
    let mut number = first;
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        if pause.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = Instant::now();
            continue;
        }
        let sent_at = Timestamp::now();
        let insert = format!("INSERT INTO ledger (number, part) VALUES ({number}, 1), ({number}, 2)");
        let done = client.batch_execute(&insert).await;
        let acknowledged_at = done.is_ok().then(Timestamp::now);
        ledger.push(Entry { number, sent_at, acknowledged_at });
        number += 1;
        if done.is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        } else if let Ok(again) = connect(&url).await {
            client = again;
        }
        tokio::time::sleep(Duration::from_millis(18)).await;
    }
    longest
}
