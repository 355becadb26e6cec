//! Writers, several at once, each with a connection of its own, that note in a [`Ledger`] what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::engines::{Database, Session};
use crate::error::{ConformanceError, Result};
use crate::ledger::{ACCOUNTS, Act, Ledger, Write};

/// Between the first numbers of two writers.
const STRIDE: i64 = 10_000_000_000;
const NEXT_TRY: Duration = Duration::from_millis(50);

/// What is written and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub writers: i32,
    /// The first writer's first number.
    pub first: i64,
    /// Between the end of a write and the next.
    pub pause: Duration,
    /// Inserts only, or all kinds.
    pub inserts_only: bool,
    pub seed: u64,
}

/// Writers at work.
pub struct Load {
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Duration>>,
}

impl Load {
    /// Makes the tables if need be and begins to write.
    ///
    /// # Errors
    /// When the database cannot be reached or does not take the tables.
    pub async fn start(database: &Database, ledger: Ledger, mix: Mix) -> Result<Self> {
        database.open().await?.prepare().await?;
        let (stop, pause) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for writer in 0..mix.writers {
            let session = database.open().await?;
            let task = Writer {
                database: database.clone(),
                ledger: ledger.clone(),
                writer,
                mix,
                stop: Arc::clone(&stop),
                pause: Arc::clone(&pause),
                inserts: Vec::new(),
                random: StdRng::seed_from_u64(mix.seed.wrapping_add(writer.unsigned_abs().into())),
            };
            tasks.push(tokio::spawn(task.write(session)));
        }
        Ok(Self { ledger, stop, pause, tasks })
    }

    /// Stops writing for a while; writes in flight end first.
    pub fn pause(&self, paused: bool) {
        self.pause.store(paused, Ordering::SeqCst);
    }

    /// Ends; returns the longest time between two acknowledgements of a writer.
    ///
    /// # Errors
    /// When a writer panicked.
    pub async fn stop(mut self) -> Result<Duration> {
        self.stop.store(true, Ordering::SeqCst);
        let mut longest = Duration::ZERO;
        for task in std::mem::take(&mut self.tasks) {
            let of_one = task.await.map_err(|source| ConformanceError::database("stop a writer", source))?;
            longest = longest.max(of_one);
        }
        Ok(longest)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Writer {
    database: Database,
    ledger: Ledger,
    writer: i32,
    mix: Mix,
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    /// Numbers of acknowledged inserts that nothing has taken away.
    inserts: Vec<i64>,
    random: StdRng,
}

impl Writer {
    async fn write(mut self, session: Box<dyn Session>) -> Duration {
        let mut session = Some(session);
        let mut number = self.mix.first + i64::from(self.writer) * STRIDE;
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        while !self.stop.load(Ordering::SeqCst) {
            if self.pause.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                last = Instant::now();
                continue;
            }
            let Some(open) = session.as_mut() else {
                tokio::time::sleep(NEXT_TRY).await;
                session = self.database.open().await.ok();
                continue;
            };
            let write = Write { number, writer: self.writer, act: self.next_act() };
            number += 1;
            let place = self.ledger.send(write);
            if open.apply(&write).await.is_ok() {
                self.ledger.acknowledge(place);
                longest = longest.max(last.elapsed());
                last = Instant::now();
                if write.act == Act::Insert {
                    self.inserts.push(write.number);
                }
            } else {
                session = None; // whether it was carried out, nobody knows
            }
            tokio::time::sleep(self.mix.pause).await;
        }
        longest
    }

    fn next_act(&mut self) -> Act {
        if self.mix.inserts_only {
            return Act::Insert;
        }
        match self.random.random_range(0..10) {
            0..4 => Act::Insert,
            4..7 => {
                let from = self.random.random_range(0..ACCOUNTS);
                let to = (from + self.random.random_range(1..ACCOUNTS)) % ACCOUNTS;
                Act::Transfer { from, to, amount: self.random.random_range(1..1000) }
            }
            7..9 => Act::Update,
            _ if self.inserts.is_empty() => Act::Insert,
            _ => {
                let chosen = self.random.random_range(0..self.inserts.len());
                Act::Delete { number: self.inserts.swap_remove(chosen) }
            }
        }
    }
}
