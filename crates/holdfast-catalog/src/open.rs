//! Opening the catalog: durable settings, migrations, one writer and a few readers, and the signal of change.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use crate::error::{CatalogError, Result, database};
use crate::{Db, Transaction};

/// Handle to the catalog; clones share it.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// One connection: writers queue here instead of meeting SQLite's lock.
    writer: sqlx::Pool<Db>,
    readers: sqlx::Pool<Db>,
    changes: Arc<watch::Sender<u64>>,
}

const READERS: u32 = 4;
/// How long a statement waits for another process's lock (a backup tool, a human with a shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl Catalog {
    /// Opens the catalog in the file `path`, creates it (readable by its owner alone) where it is missing, and brings
    /// it to this release's shape. Opening twice is harmless.
    ///
    /// # Errors
    /// `Create`, `Open` or `Migrate`, the last also when a newer release has written the file.
    pub async fn open(path: &Path) -> Result<Self> {
        // Made by us, not by SQLite, for its mode; the `-wal` and `-shm` files inherit it.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| CatalogError::Create { path: path.into(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit has reached the disk when it returns; NORMAL may lose the last ones at a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // Overwrites what is deleted: a destroyed key leaves no bytes in free pages.
            .pragma("secure_delete", "ON");
        let opened = |source| CatalogError::Open { path: path.into(), source };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(opened)?;
        sqlx::migrate!("./migrations")
            .run(&writer)
            .await
            .map_err(|source| CatalogError::Migrate { path: path.into(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(opened)?;
        Ok(Self { writer, readers, changes: Arc::new(watch::Sender::new(0)) })
    }

    /// Waits for running statements and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Wakes on changes that may make a job due or end one: `changed().await` on the receiver returns after the next
    /// one. Only a hint that makes polls prompt: it knows this process's changes alone and does not outlive it, so a
    /// periodic look at the catalog stays the truth.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn announce(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Connections that can only read.
    pub(crate) fn reader(&self) -> &sqlx::Pool<Db> {
        &self.readers
    }

    /// A transaction that holds the write lock from its first statement on; dropped without `commit`, it is undone.
    pub(crate) async fn write(&self, doing: &'static str) -> Result<Transaction> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database(doing))
    }

    /// Empties the write-ahead log, so that bytes just wiped from the tables do not linger there. Best effort: an
    /// open reader postpones it to a later checkpoint. (On PostgreSQL there is nothing to do here.)
    pub(crate) async fn scrub_write_ahead_log(&self) -> Result<()> {
        let doing = "emptying the write-ahead log";
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&self.writer)
            .await
            .map_err(database(doing))?;
        Ok(())
    }
}

/// Ends a write.
pub(crate) async fn commit(tx: Transaction, doing: &'static str) -> Result<()> {
    tx.commit().await.map_err(database(doing))
}
