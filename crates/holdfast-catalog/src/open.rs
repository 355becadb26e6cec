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
    ///
    /// It begins in a task of its own: sqlx 0.8.6 leaves the connection in a transaction that nobody can end when the
    /// future of a `begin_with` is dropped between the statement and its check (a client that hangs up drops it).
    pub(crate) async fn write(&self, doing: &'static str) -> Result<Transaction> {
        let writer = self.writer.clone();
        match tokio::spawn(async move { writer.begin_with("BEGIN IMMEDIATE").await }).await {
            Ok(begun) => begun.map_err(database(doing)),
            // The runtime is shutting down.
            Err(_) => Err(database(doing)(sqlx::Error::PoolClosed)),
        }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::task::Poll;

    use super::*;

    async fn pragma(pool: &sqlx::Pool<Db>, name: &str) -> String {
        use sqlx::Row as _;
        let row = sqlx::query(&format!("PRAGMA {name}")).fetch_one(pool).await.expect(name);
        row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string())).expect(name)
    }

    #[tokio::test]
    async fn every_connection_has_the_durable_settings() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("catalog.db");
        let catalog = Catalog::open(&path).await.expect("opens");
        for (pool, query_only) in [(&catalog.writer, "0"), (&catalog.readers, "1")] {
            let rows = [
                ("journal_mode", "wal"),
                ("synchronous", "2"), // FULL
                ("foreign_keys", "1"),
                ("secure_delete", "1"),
                ("busy_timeout", "10000"),
                ("query_only", query_only),
            ];
            for (name, expected) in rows {
                assert_eq!(pragma(pool, name).await, expected, "{name}");
            }
        }
        catalog.put_setting("a", "b").await.expect("writes");
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", path.display());
            let mode = std::fs::metadata(&file).expect("exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let refused = sqlx::query("DELETE FROM settings").execute(catalog.reader()).await;
        assert!(refused.is_err(), "a reader wrote");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_is_dropped_half_way_is_undone_and_holds_up_nobody() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let catalog = Catalog::open(&folder.path().join("catalog.db")).await.expect("opens");
        for polls in (1..20).cycle().take(400) {
            let mut write = Box::pin(catalog.put_setting("dropped", "x"));
            let mut left = polls;
            std::future::poll_fn(|context| {
                left -= 1;
                if write.as_mut().poll(context).is_ready() || left == 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            drop(write);
            catalog
                .put_setting("afterwards", "y")
                .await
                .unwrap_or_else(|e| panic!("dropped after {polls} polls: {e:?}"));
        }
    }

    #[tokio::test]
    async fn opening_again_migrates_nothing_and_loses_nothing() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("catalog.db");
        let first = Catalog::open(&path).await.expect("opens");
        first.put_setting("a", "b").await.expect("writes");
        let second = Catalog::open(&path).await.expect("opens beside the first");
        assert_eq!(second.setting("a").await.expect("reads").as_deref(), Some("b"));
        first.close().await;
        second.close().await;
        let third = Catalog::open(&path).await.expect("opens again");
        assert_eq!(third.setting("a").await.expect("reads").as_deref(), Some("b"));
        let applied: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations")
            .fetch_one(third.reader())
            .await
            .expect("counts");
        let migrations = sqlx::migrate!("./migrations").iter().count();
        assert_eq!(applied, i64::try_from(migrations).expect("few"));
    }

    #[tokio::test]
    async fn a_file_that_is_no_catalog_is_refused_and_left_alone() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("catalog.db");
        let letter = "Dear Sir or Madam, ".repeat(100);
        std::fs::write(&path, &letter).expect("writes");
        let error = Catalog::open(&path).await.expect_err("no database");
        assert!(matches!(error, CatalogError::Open { .. } | CatalogError::Migrate { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), letter);
    }
}
