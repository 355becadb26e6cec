//! Opening the catalog: durable settings, migrations, one writer and a few readers, and the signal of change.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use crate::error::{CatalogError, Result, database};
use crate::{Db, Transaction, migrations};

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
            // A full disk makes SQLite roll back by itself; sqlx then goes on counting a transaction that is none (0.8) and
            // would never begin another on this connection.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await
            .map_err(opened)?;
        let migrated = |source| CatalogError::Migrate { path: path.into(), source };
        migrations::all().await.map_err(migrated)?.run(&writer).await.map_err(migrated)?;
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
    async fn a_full_disk_is_told_and_forgotten_once_there_is_room() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let catalog = Catalog::open(&folder.path().join("catalog.db")).await.expect("opens");
        let limit = |pages: u32| format!("PRAGMA max_page_count = {pages}");
        sqlx::query(&limit(1)).execute(&catalog.writer).await.expect("no more pages than there are");
        let large = "x".repeat(1 << 20);
        let full = catalog.put_setting("large", &large).await.expect_err("there is no room");
        assert_eq!(full.kind(), crate::ErrorKind::DiskFull, "{full:?}");
        sqlx::query(&limit(1 << 20)).execute(&catalog.writer).await.expect("room again");
        catalog.put_setting("large", &large).await.expect("writes");
        assert_eq!(catalog.setting("large").await.expect("reads"), Some(large));
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
        let migrations = migrations::all().await.expect("resolves").iter().count();
        assert_eq!(applied, i64::try_from(migrations).expect("few"));
    }

    /// All rows of a table as text, column by column.
    async fn dump(pool: &sqlx::Pool<Db>, table: &str, columns: &str) -> Vec<String> {
        let listed = columns.split(", ").map(|column| format!("quote({column})")).collect::<Vec<_>>();
        let query = format!("SELECT {} FROM {table} ORDER BY 1", listed.join(" || '|' || "));
        sqlx::query_scalar(&query).fetch_all(pool).await.expect(table)
    }

    /// What a fresh catalog and one that came all the way have in common: tables, indices and their columns.
    async fn shape(pool: &sqlx::Pool<Db>) -> Vec<String> {
        let query = "SELECT m.type || ' ' || m.name || ' ' || COALESCE(c.name || ' ' || c.type || ' ' || c.\"notnull\", \
                     m.sql) FROM sqlite_master m LEFT JOIN pragma_table_info(m.name) c ON m.type = 'table' \
                     WHERE m.name NOT LIKE 'sqlite_%' ORDER BY 1";
        sqlx::query_scalar(query).fetch_all(pool).await.expect("lists")
    }

    #[tokio::test]
    async fn a_catalog_of_the_first_shape_keeps_its_rows_and_its_walls() {
        const JOBS: &str = "id, kind, service_id, state, step_index, place, generation, attempt, max_attempts, \
                            leased_by, lease_until, not_before, input, outputs, progress, error, cancel_requested, \
                            created_at, started_at, finished_at, settled";
        const STEPS: &str =
            "job_id, generation, step_index, step, attempt, worker, started_at, ended_at, outcome, error";
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("catalog.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).foreign_keys(true);
        let old = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("opens");
        let mut first = migrations::all().await.expect("resolves");
        first.migrations = first.migrations.iter().filter(|one| one.version == 1).cloned().collect();
        first.run(&old).await.expect("the first shape");
        for statement in [
            "INSERT INTO organizations VALUES ('o', 'O', 'o', 1, 1)",
            "INSERT INTO services (id, organization_id, lineage_id, name, engine, version, status, plan_name, zone, \
             allowed_cidrs, attributes, created_at, updated_at, revision) \
             VALUES ('s', 'o', 'l', 'n', 'postgresql', '17', 'running', 'tier-1', 'z', '[]', '{}', 1, 1, 1)",
            "INSERT INTO jobs VALUES ('j1', 'backup', 's', 'completed', 3, 'control_plane', 3, 0, 5, NULL, NULL, 1, \
             '{}', '{\"a\":1}', NULL, NULL, 0, 1, 2, 3, 1)",
            "INSERT INTO jobs VALUES ('j2', 'reset_password', 's', 'running', 0, 'agent', 4, 1, 3, 'w', 9, 1, \
             '{\"wrapped_hex\":\"00\"}', '{}', '{}', NULL, 0, 5, 6, NULL, 0)",
            "INSERT INTO job_steps VALUES ('j1', 1, 0, 'prepare_keys', 1, 'w', 2, 3, 'done', NULL)",
            "INSERT INTO job_steps VALUES ('j2', 4, 0, 'set_password', 1, 'w', 6, NULL, 'started', NULL)",
        ] {
            sqlx::query(statement).execute(&old).await.expect(statement);
        }
        let before = (dump(&old, "jobs", JOBS).await, dump(&old, "job_steps", STEPS).await);
        assert_eq!((before.0.len(), before.1.len()), (2, 2));
        old.close().await;

        let catalog = Catalog::open(&path).await.expect("migrates");
        let after =
            (dump(catalog.reader(), "jobs", JOBS).await, dump(catalog.reader(), "job_steps", STEPS).await);
        assert_eq!(after, before);
        assert!(!catalog.retire_kek(1, jiff::Timestamp::UNIX_EPOCH).await.expect("counts").is_none());
        let fresh = Catalog::open(&folder.path().join("fresh.db")).await.expect("opens");
        assert_eq!(shape(catalog.reader()).await, shape(fresh.reader()).await);
        let violations: Vec<String> = sqlx::query_scalar("SELECT \"table\" FROM pragma_foreign_key_check")
            .fetch_all(catalog.reader())
            .await
            .expect("checks");
        assert_eq!(violations, Vec::<String>::new());
        // The walls stand: a step needs its job, a job of a service its service, two of one do not run at once.
        for refused in [
            "INSERT INTO job_steps VALUES ('j9', 1, 0, 'x', 1, 'w', 2, 3, 'done', NULL)",
            "INSERT INTO job_steps VALUES ('j1', 7, 0, 'prepare_keys', 1, 'w', 2, 3, 'done', NULL)",
            "UPDATE jobs SET service_id = 'nobody' WHERE id = 'j1'",
            "UPDATE jobs SET state = 'running' WHERE id = 'j1'",
            "DELETE FROM jobs WHERE id = 'j1'",
        ] {
            let answer = sqlx::query(refused).execute(&catalog.writer).await;
            assert!(matches!(answer, Err(sqlx::Error::Database(_))), "{refused}: {answer:?}");
        }
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
