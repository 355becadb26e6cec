//! Base backups by `mysqldump`: one consistent snapshot of all databases, streamed, with the transactions that are in it.
//!
//! Beside it a connection holds the backup lock: statements that change tables or accounts wait, so the dump does not fail
//! on them and the accounts are those of the snapshot. Reading and writing rows goes on.
//!
//! Where the dump's lock would hold up others no dump is begun ([`running`]): a physical copy is made instead.
//!
//! A statement that changes a table may have its global lock already when it waits for the backup lock; mysqldump's first
//! lock then waits for the statement, and everybody's writes for mysqldump. So mysqldump waits for seconds only: then both
//! locks are given up, the statement passes, and the dump begins anew.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use holdfast_core::Timestamp;
use holdfast_core::causes::chain;
use mysql_async::Conn;
use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tokio_util::io::StreamReader;

use super::facts::{DUMP, DUMP_SECONDS, DumpFacts, Facts};
use super::sql::{one, rows, run, text};
use super::verify::{DumpWatch, Snapshot};
use super::views::BrokenView;
use super::{Mysql, clone, config, content, events, histograms, holds, probe, running, sql, users};
use crate::exec::{self, ProcessSpec};
use crate::{BackupSink, EngineError, Instance, Instead, ProgressSink, Result, StreamBackup};

const DOING: &str = "dump the databases";
/// mysqldump waits so long for a lock, while writes wait for it.
const LOCK_WAIT_SECONDS: u32 = 3;
/// The server waits so long for a reader whose store is slow.
const STALL_SECONDS: u32 = 3600;
/// How often a backup is begun that could not get its lock.
const TRIES: u32 = 20;
/// How many of these may be dumps that wait for tables: each makes others wait.
const DUMPS: u32 = 3;
/// Where a physical copy can be made, JSON is looked at for so long.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
const NO_LIMIT: Duration = Duration::from_secs(DUMP_SECONDS);
const PAUSE: Duration = Duration::from_secs(1);
const TOO_LONG: &str = "rows that are longer as a statement than the 1 GiB that a server takes";

enum Made {
    Base(StreamBackup),
    /// None was made, and why.
    Not(NoDump),
}

/// Why no dump is made.
enum NoDump {
    /// What it cannot hold.
    Unheld(String),
    /// What it would hold up; another time it would not.
    Disturbing(String),
}

impl NoDump {
    /// No copy was made either. What the database holds stays in the way; what runs in it ends.
    fn without_clone(self, error: &EngineError) -> EngineError {
        let (doing, error) = ("back up".to_owned(), chain(error));
        match self {
            Self::Unheld(reason) => {
                let what =
                    format!("a dump cannot hold {reason}, and a physical copy cannot be made: {error}");
                EngineError::Unfit { doing, what }
            }
            Self::Disturbing(reason) => {
                let what = format!(
                    "no dump is made because of {reason}, for which all others on its tables would wait; and a physical copy cannot be made: {error}"
                );
                EngineError::Unexpected { doing, what }
            }
        }
    }
}

/// A dump on its way, and what was seen of it so far.
struct Watched {
    watch: DumpWatch,
    /// The snapshot, and an instant behind it.
    snapshot: Option<(Snapshot, Timestamp)>,
}

impl Mysql {
    pub(super) async fn run_backup(
        &self,
        instance: &Instance,
        method: &str,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        clone::remove_copy(instance).await?; // one that was cut off
        let mut locked_out = 0;
        for tried in 1.. {
            let made = match method {
                "clone" => self.try_clone(instance, sink, progress).await,
                _ => self.dump_or_clone(instance, locked_out >= DUMPS, sink, progress).await,
            };
            match made {
                Err(error) if tried < TRIES && waited_for_a_lock(&error) => {
                    tracing::info!(stanza = %instance.stanza, tried, "a change of the schema goes before the backup");
                    progress.phase("waiting for changes of the schema");
                    locked_out += u32::from(is_of_the_dump(&error));
                    tokio::time::sleep(PAUSE).await;
                }
                made => return made,
            }
        }
        unreachable!("the last try returns")
    }

    /// A dump, or a physical copy where a dump would not be the database or would hold up others.
    async fn dump_or_clone(
        &self,
        instance: &Instance,
        locked_out: bool,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        let made = match locked_out {
            true => Made::Not(NoDump::Disturbing(format!(
                "tables in use: mysqldump waited for them {DUMPS} times"
            ))),
            false => self.try_dump(instance, sink, progress).await?,
        };
        let no_dump = match made {
            Made::Base(base) => return Ok(base),
            Made::Not(no_dump) => no_dump,
        };
        let (NoDump::Unheld(reason) | NoDump::Disturbing(reason)) = &no_dump;
        tracing::info!(stanza = %instance.stanza, reason, "a physical copy is made instead of a dump");
        match self.try_clone(instance, sink, progress).await {
            Ok(base) => Ok(StreamBackup {
                instead: Some(Instead { method: "clone", reason: reason.clone() }),
                ..base
            }),
            Err(error) if waited_for_a_lock(&error) => Err(error),
            Err(error) => Err(no_dump.without_clone(&error)),
        }
    }

    async fn try_dump(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<Made> {
        progress.phase("preparing");
        let mut lock = sql::connect(instance).await?;
        let bearable = u64::from(LOCK_WAIT_SECONDS);
        if let Some(reason) = running::in_the_way(&mut lock, bearable, progress).await? {
            return Ok(Made::Not(NoDump::Disturbing(reason)));
        }
        run(&mut lock, "lock the instance for the backup", "LOCK INSTANCE FOR BACKUP").await?;
        if let Some(reason) = holds::unheld(&mut lock).await? {
            return Ok(Made::Not(NoDump::Unheld(reason)));
        }
        let limit = if clone::require_room(instance).is_ok() { LOOK_LIMIT } else { NO_LIMIT };
        if let Some(reason) = content::unheld(&mut lock, limit).await? {
            return Ok(Made::Not(NoDump::Unheld(reason)));
        }
        let database_bytes = probe::database_bytes(instance).await?;
        let prepared = no_prepared(&mut lock, None).await?;
        let databases = databases(&mut lock).await?;
        let accounts = users::save(&mut lock).await?;
        let histograms = histograms::save(&mut lock).await?;
        let before_events = events::before_all(&mut lock).await?;
        progress.phase("dumping the databases");
        let watched = Arc::new(Mutex::new(Watched { watch: DumpWatch::new(), snapshot: None }));
        let options = config::client_options(instance, "dump", &config::socket(instance))?;
        let output = self.dump(instance, options.path(), &databases, &[], true)?;
        let begun = Arc::new(Notify::new());
        let progress_of_dump = progress.clone();
        let mut output =
            watch_dump(output, Arc::clone(&watched), Arc::clone(&begun), progress_of_dump, database_bytes);
        // What is prepared behind the snapshot is in the log as a whole. Such values may have been written since the look at them.
        let still_held = async {
            begun.notified().await;
            no_prepared(&mut lock, Some(prepared)).await?;
            match content::unheld(&mut lock, NO_LIMIT).await? {
                Some(reason) => Err(unexpected(&format!(
                    "{reason} came while it was made; the next try copies the files"
                ))),
                None => Ok(()),
            }
        };
        let stored = async {
            let stored = sink.store(DUMP, &mut output).await;
            begun.notify_one(); // a dump that does not say of when it is
            stored
        };
        let made = tokio::try_join!(stored, still_held);
        drop(output);
        let too_long = watched.lock().unwrap_or_else(PoisonError::into_inner).watch.too_long.take();
        if let Some(table) = too_long {
            return Ok(Made::Not(NoDump::Unheld(format!("{TOO_LONG} ({table})"))));
        }
        let (dump_bytes, ()) = made?;
        let accounts = serde_json::to_vec(&accounts).expect("strings");
        sink.store(users::NAME, &mut &*accounts).await?;
        if !histograms.is_empty() {
            let histograms = serde_json::to_vec(&histograms).expect("strings");
            sink.store(histograms::NAME, &mut &*histograms).await?;
        }

        let server_uuid = one(&mut lock, DOING, "SELECT @@server_uuid").await?;
        run(&mut lock, "unlock the instance", "UNLOCK INSTANCE").await?;
        let watched = Arc::into_inner(watched).expect("the dump's reader is gone");
        let watched = watched.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, consistent_at) =
            watched.snapshot.ok_or_else(|| unexpected("it does not say of when it is"))?;
        let facts = DumpFacts {
            server_version: probe::version(instance).await?,
            server_uuid,
            gtids: snapshot.gtids,
            file: snapshot.file,
            position: snapshot.position,
            consistent_at,
            databases,
            broken_views: Vec::new(),
            has_histograms: !histograms.is_empty(),
            has_plain_programs: true, // or it would be none
            before_events,
            fingerprint: watched.watch.finish()?,
            dump_bytes,
        };
        let facts = serde_json::to_value(Facts::Dump(facts)).expect("strings and numbers");
        Ok(Made::Base(StreamBackup { consistent_at, database_bytes, facts, instead: None }))
    }

    /// The output of `mysqldump`; `with_position` wants a server that writes a binlog.
    pub(super) fn dump(
        &self,
        instance: &Instance,
        options: &std::path::Path,
        databases: &[String],
        left_out: &[BrokenView],
        with_position: bool,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let position = match with_position {
            true => ["--source-data=2", "--set-gtid-purged=ON"],
            false => ["--source-data=0", "--set-gtid-purged=OFF"],
        };
        let spec = ProcessSpec::new(self.program(instance, "mysqldump")?, &instance.folder)
            .args([format!("--defaults-file={}", options.display())])
            .args([format!("--init-command=SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}, net_write_timeout = {STALL_SECONDS}")])
            .args(["--single-transaction", "--routines", "--events", "--triggers", "--hex-blob"])
            .args(["--default-character-set=utf8mb4", "--tz-utc", "--column-statistics=0"])
            .args(position)
            .args(left_out.iter().map(BrokenView::left_out))
            .args(["--databases", "--"])
            .args(databases)
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(DUMP_SECONDS);
        exec::output_of(&spec).map_err(EngineError::exec(DOING))
    }
}

/// Whether it failed for another's lock (ER_LOCK_WAIT_TIMEOUT, MySQL's error 1205), or for a copy that is just ending
/// (ER_CLONE_TOO_MANY_CONCURRENT_CLONES, 3634).
fn waited_for_a_lock(error: &EngineError) -> bool {
    let text = chain(error);
    text.contains("Lock wait timeout exceeded") || text.contains("Too many concurrent clone operations")
}

/// Whether it was mysqldump that waited: for tables in use, or for a change of the schema that waits for the backup lock.
fn is_of_the_dump(error: &EngineError) -> bool {
    chain(error).contains("FLUSH")
}

/// The dump's bytes with what is seen of them; a dump without its end is an error of the reader, and so is one that cannot be loaded.
fn watch_dump(
    output: BoxStream<'static, std::io::Result<Bytes>>,
    watched: Arc<Mutex<Watched>>,
    begun: Arc<Notify>,
    progress: ProgressSink,
    database_bytes: u64,
) -> impl AsyncRead + Send + Unpin {
    let seen = output.map(move |chunk| {
        let chunk = chunk?;
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.watch.take(&chunk);
        if watched.watch.too_long.is_some() {
            return Err(std::io::Error::other(TOO_LONG));
        }
        if watched.snapshot.is_none() {
            watched.snapshot = watched.watch.snapshot().map(|snapshot| (snapshot, Timestamp::now()));
            if watched.snapshot.is_some() {
                begun.notify_one();
            }
        }
        // A dump is about as long as the tables are large.
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let percent = 100.0 * watched.watch.bytes as f64 / database_bytes.max(1) as f64;
        progress.percent(percent.min(99.0), Some(database_bytes));
        Ok(chunk)
    });
    StreamReader::new(seen.boxed())
}

/// All databases but the server's own.
pub(super) async fn databases(conn: &mut Conn) -> Result<Vec<String>> {
    let query = "SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name NOT IN \
        ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY schema_name";
    let databases: Vec<String> =
        rows(conn, DOING, query).await?.iter().map(|row| text(row, "name")).collect();
    if databases.is_empty() {
        // A dump of no database says nothing of its snapshot.
        run(conn, DOING, "CREATE DATABASE IF NOT EXISTS defaultdb").await?;
        return Ok(vec!["defaultdb".to_owned()]);
    }
    Ok(databases)
}

/// A transaction that was prepared (XA) before the snapshot is not in it, and replay could not commit it. So none may be
/// prepared, nor have been since `before`. Returns the server's count of them.
pub(super) async fn no_prepared(conn: &mut Conn, before: Option<u64>) -> Result<u64> {
    let doing = "look for prepared transactions";
    let status = rows(conn, doing, "SHOW GLOBAL STATUS LIKE 'Com_xa_prepare'").await?;
    let count = status.first().map_or(0, |row| sql::number(row, "Value"));
    let prepared = rows(conn, doing, "XA RECOVER").await?.len();
    if prepared > 0 || before.is_some_and(|before| before != count) {
        return Err(unexpected(
            "transactions are prepared (XA PREPARE): no snapshot can hold them. Commit or roll them back, and try again",
        ));
    }
    Ok(count)
}

fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected { doing: DOING.to_owned(), what: what.to_owned() }
}
