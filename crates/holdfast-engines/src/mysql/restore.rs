//! Restores: the base into a new server, then, for an instant, the archived log up to its exact transaction.
//!
//! The server runs without a binlog of its own until everything is there, so nothing of the restore is in it, with its
//! durability relaxed, without a network and without scheduled events. A restore that is cut off is thrown away.

use std::time::Duration;

use mysql_async::Conn;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use super::backup::databases;
use super::events::{self, EventStatus};
use super::facts::{DUMP, DUMP_SECONDS, DumpFacts, Facts, Loaded, damaged};
use super::gtid::GtidSet;
use super::histograms::{self, Histogram};
use super::keys::Keys;
use super::own::Own;
use super::replay::{self, Replay};
use super::single_statement::Door;
use super::sql::{self, rows, run, text};
use super::verify::DumpWatch;
use super::{Mysql, accounts, config, probe, programs, users, views};
use crate::exec::{self, FeedError, ProcessSpec};
use crate::{
    EngineError, Instance, Paths, ProgressSink, RestoreSource, Result, StreamRestore, StreamRestored,
};

/// How the server runs while it is filled.
const FILLING: [&str; 13] = [
    "--skip-log-bin",
    "--skip-networking",
    "--event-scheduler=OFF",
    "--super-read-only=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--sync-relay-log=0",
    "--max-allowed-packet=1G",
    "--replica-max-allowed-packet=1G",
    "--replica-parallel-workers=4",
    "--replica-preserve-commit-order=ON",
    // A copy of a copy meets log with the number of its own server.
    "--replicate-same-server-id=ON",
    "--log-replica-updates=OFF",
];
/// Without any transaction for so long, replay counts as stuck.
const STUCK: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(50);
const STOP_SECONDS: u64 = 600;

impl Mysql {
    pub(super) async fn run_restore(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        let facts: Facts = serde_json::from_value(request.facts.clone())
            .map_err(|error| unexpected(format!("the backup's facts cannot be read: {error}")))?;
        progress.phase("preparing");
        let target = request.target;
        let is_physical = matches!(facts, Facts::Clone(_));
        let base = match facts {
            Facts::Dump(facts) => {
                let bytes = request.database_bytes;
                self.load_dump(instance, facts, target.is_none(), bytes, source, progress).await?
            }
            Facts::Clone(facts) => self.load_clone(instance, facts, &FILLING, source, progress).await?,
        };
        let mut reached = base.consistent_at;
        let mut expected = base.gtids.clone();
        let mut conn = sql::connect(instance).await?;
        if let Some(target) = target {
            let replay = self.replay(&mut conn, instance, request, &base, source, progress).await?;
            replay.events.apply(&mut conn).await?;
            (reached, expected) = (target, replay.expected);
        }
        progress.phase("finishing");
        events::disable_passed(&mut conn).await?;
        accounts::make_tenant(&mut conn, instance, request.users).await?;
        drop(conn);
        self.stop_instance(instance, STOP_SECONDS).await?;
        if is_physical && target.is_none() {
            progress.phase("checking the pages");
            self.check_pages(instance).await?;
        }
        if !request.archives {
            config::stand_alone(instance)?;
        }
        self.start_instance(instance).await?;
        let mut conn = sql::connect(instance).await?;
        let own: String = sql::one(&mut conn, "read the server's identity", "SELECT @@server_uuid").await?;
        // Events may have run by now, in the copy's own name.
        assert_reached(&sql::executed(&mut conn).await?.without(&own), &expected)?;
        let engine_version = probe::version(instance).await?;
        Ok(StreamRestored { engine_version, reached, position: expected.to_string(), left_out: Vec::new() })
    }

    /// A new server with a dump in it; with `compare` its content has the dump's fingerprint.
    async fn load_dump(
        &self,
        instance: &Instance,
        facts: DumpFacts,
        compare: bool,
        database_bytes: u64,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<Loaded> {
        if !facts.has_plain_programs {
            programs::require_plain(source.read(DUMP).await?).await?;
        }
        self.make_data_folder(instance).await?;
        self.first_start(instance, &FILLING).await?;
        progress.phase("loading the base");
        self.load(instance, &facts, database_bytes, source, progress).await?;
        if compare {
            progress.phase("comparing the content");
            self.compare(instance, &facts).await?;
        }
        Ok(Loaded { gtids: facts.gtids, consistent_at: facts.consistent_at })
    }

    /// Accounts, then the dump, then the rights again: definers must be there before, rights on tables come after.
    async fn load(
        &self,
        instance: &Instance,
        facts: &DumpFacts,
        database_bytes: u64,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<()> {
        let saved: users::Saved = read_json(source, users::NAME).await?;
        let mut conn = sql::connect(instance).await?;
        saved.make(&mut conn).await?;
        let own = Own::of(&mut conn).await?;
        // A crash during the load throws the restore away, so nothing needs to be logged for it.
        run(&mut conn, "prepare the load", "ALTER INSTANCE DISABLE INNODB REDO_LOG").await?;
        let (mut dump, added) = with_every_date(source.read(DUMP).await?).await?;
        let door = Door::open(instance)?;
        let options = config::client_options(instance, "load", door.path())?;
        let spec = ProcessSpec::new(self.program(instance, "mysql")?, &instance.folder)
            .args([format!("--defaults-file={}", options.path().display())])
            .args(["--batch", "--binary-mode", "--default-character-set=utf8mb4"])
            // Events whose time has passed since are made too: the log may drop or alter them.
            .args([format!("--init-command=SET SESSION timestamp = {}", facts.load_at())])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(DUMP_SECONDS);
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let on_bytes = |bytes: u64| {
            progress.percent(100.0 * bytes as f64 / facts.dump_bytes.max(1) as f64, Some(database_bytes));
        };
        let loaded = exec::run_fed(spec, &mut *dump, on_bytes).await.map_err(|error| match error {
            FeedError::Input(source) => damaged(&source.to_string()),
            FeedError::Exec(source) => EngineError::exec("load the base")(source),
        })?;
        let loaded = loaded.saturating_sub(added);
        if loaded != facts.dump_bytes {
            return Err(damaged(&format!(
                "the dump has {loaded} bytes and should have {}",
                facts.dump_bytes
            )));
        }
        run(&mut conn, "end the load", "ALTER INSTANCE ENABLE INNODB REDO_LOG").await?;
        views::make_broken(&mut conn, &facts.broken_views).await?;
        saved.check(&mut conn).await?;
        Own::require_as(&mut conn, &own).await?;
        let databases = databases(&mut conn).await?;
        if databases != facts.databases {
            return Err(EngineError::Differs {
                doing: "load the base".to_owned(),
                what: format!("it has the databases {databases:?}, the backup {:?}", facts.databases),
            });
        }
        if facts.has_histograms {
            let saved: Vec<Histogram> = read_json(source, histograms::NAME).await?;
            histograms::make(&mut conn, &saved).await?;
        }
        assert_reached(&sql::executed(&mut conn).await?, &facts.gtids)
    }

    /// A second dump, which goes nowhere, must have the fingerprint of the first (R24).
    async fn compare(&self, instance: &Instance, facts: &DumpFacts) -> Result<()> {
        use futures::StreamExt as _;
        let options = config::client_options(instance, "compare", &config::socket(instance))?;
        let mut output = self.dump(instance, options.path(), &facts.databases, &facts.broken_views, false)?;
        let mut watch = DumpWatch::new();
        while let Some(chunk) = output.next().await {
            watch.take(&chunk.map_err(EngineError::io("compare the content"))?);
        }
        let (found, as_before) = watch.finish_both()?;
        if found == facts.fingerprint || as_before.as_ref() == Some(&facts.fingerprint) {
            return Ok(());
        }
        Err(EngineError::Differs {
            doing: "compare the content".to_owned(),
            what: format!("its fingerprint is {found}, that of the backup {}", facts.fingerprint),
        })
    }

    async fn replay(
        &self,
        conn: &mut Conn,
        instance: &Instance,
        request: &StreamRestore<'_>,
        base: &Loaded,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<Replay> {
        let target = request.target.unwrap_or(base.consistent_at);
        progress.phase("reading the log");
        let events = EventStatus::of(conn).await?;
        let log = source.log().await?;
        let replay = replay::write_relay_logs(instance, &base.gtids, events, target, log).await?;
        if replay.cut_at.is_none() && request.complete_until.is_none_or(|until| until < target) {
            let until =
                request.complete_until.map_or_else(|| "nothing".to_owned(), |until| until.to_string());
            return Err(EngineError::Hole { reached: until, expected: target.to_string() });
        }
        tracing::info!(stanza = %instance.stanza, transactions = replay.transactions, cut = ?replay.cut_at, "replaying log");
        progress.phase("replaying log");
        if replay.transactions > 0 {
            let own = Own::of(conn).await?;
            apply(conn, &replay, &base.gtids, progress).await?;
            Own::require_as(conn, &own).await?;
        }
        remove_relay_logs(instance)?;
        assert_reached(&sql::executed(conn).await?, &replay.expected)?;
        Ok(replay)
    }
}

/// Settings that the dump makes for its session, and the same with which dates go in that sessions may have allowed themselves
/// (`ALLOW_INVALID_DATES`: the thirty-first of each month).
const MODE: &[u8] = b"SQL_MODE='NO_AUTO_VALUE_ON_ZERO'";
const MODE_OF_EVERY_DATE: &[u8] = b"SQL_MODE='NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'";
/// They stand in the dump's first lines.
const HEAD_BYTES: u64 = 16 << 10;

/// The dump with those settings, and how many bytes it is longer.
async fn with_every_date(
    dump: Box<dyn AsyncRead + Send + Unpin>,
) -> Result<(Box<dyn AsyncRead + Send + Unpin>, u64)> {
    let (mut head, mut dump) = (Vec::new(), dump);
    (&mut dump).take(HEAD_BYTES).read_to_end(&mut head).await.map_err(|error| damaged(&error.to_string()))?;
    let found = head.windows(MODE.len()).position(|window| window == MODE);
    let Some(at) = found else { return Ok((Box::new(std::io::Cursor::new(head).chain(dump)), 0)) };
    head.splice(at..at + MODE.len(), MODE_OF_EVERY_DATE.iter().copied());
    let added = (MODE_OF_EVERY_DATE.len() - MODE.len()) as u64;
    Ok((Box::new(std::io::Cursor::new(head).chain(dump)), added))
}

/// Lets the server's own replica threads apply the relay logs.
async fn apply(conn: &mut Conn, replay: &Replay, base: &GtidSet, progress: &ProgressSink) -> Result<()> {
    let doing = "replay the log";
    let source = format!(
        "CHANGE REPLICATION SOURCE TO RELAY_LOG_FILE = '{}', RELAY_LOG_POS = 4, SOURCE_HOST = 'archive'",
        replay::FIRST
    );
    run(conn, doing, source).await?;
    run(conn, doing, "START REPLICA SQL_THREAD").await?;
    let (mut done, mut changed) = (0, Instant::now());
    let mut keys = Keys::new();
    loop {
        let executed = sql::executed(conn).await?;
        if executed.contains(&replay.expected) {
            break;
        }
        let now = executed.count_in(&replay.expected).saturating_sub(base.count());
        if now != done {
            (done, changed) = (now, Instant::now());
        }
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent(100.0 * done as f64 / replay.transactions.max(1) as f64, None);
        let status = rows(conn, doing, "SHOW REPLICA STATUS").await?;
        let status = status.first().ok_or_else(|| unexpected("the applier is gone".to_owned()))?;
        if text(status, "Last_SQL_Errno") != "0" {
            if keys.make_way(conn).await? {
                run(conn, doing, "START REPLICA SQL_THREAD").await?;
                continue;
            }
            let why = why_it_stopped(conn, &text(status, "Last_SQL_Error")).await?;
            return Err(EngineError::Unexpected { doing: doing.to_owned(), what: why });
        }
        if text(status, "Replica_SQL_Running") != "Yes" || changed.elapsed() > STUCK {
            return Err(unexpected(format!(
                "the applier ended after {done} of {} transactions",
                replay.transactions
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    run(conn, doing, "STOP REPLICA").await?;
    run(conn, doing, "RESET REPLICA ALL").await?;
    keys.settle(conn).await
}

/// The worker's own words where the coordinator only says that one failed; without the statement, which is the tenant's.
async fn why_it_stopped(conn: &mut Conn, coordinator: &str) -> Result<String> {
    let ask = "SELECT LAST_ERROR_MESSAGE FROM performance_schema.replication_applier_status_by_worker \
               WHERE LAST_ERROR_NUMBER <> 0 ORDER BY LAST_ERROR_TIMESTAMP LIMIT 1";
    let workers = rows(conn, "ask why the applier stopped", ask).await?;
    let words = workers.first().map_or_else(|| coordinator.to_owned(), |row| text(row, "LAST_ERROR_MESSAGE"));
    Ok(format!("the engine's applier stopped: {}", without_statement(&words)))
}

fn without_statement(words: &str) -> &str {
    let end = [" Query: '", " on query", " near '"].iter().filter_map(|word| words.find(word)).min();
    words[..end.unwrap_or(words.len())].trim_end_matches(['.', ' '])
}

/// Those that the applier did not need; it removes the others itself.
fn remove_relay_logs(instance: &Instance) -> Result<()> {
    let data = Paths(&instance.folder).data();
    let names = std::fs::read_dir(&data).into_iter().flatten().flatten();
    for entry in names.filter(|entry| entry.file_name().to_string_lossy().starts_with("relay-bin.")) {
        std::fs::remove_file(entry.path()).map_err(EngineError::io("remove a relay log"))?;
    }
    Ok(())
}

/// Not one transaction fewer, and none more.
fn assert_reached(executed: &GtidSet, expected: &GtidSet) -> Result<()> {
    if executed == expected {
        return Ok(());
    }
    Err(EngineError::Hole { reached: executed.to_string(), expected: expected.to_string() })
}

/// A whole object of the backup.
async fn read_json<T: DeserializeOwned>(source: &dyn RestoreSource, name: &str) -> Result<T> {
    let mut bytes = Vec::new();
    let mut reader = source.read(name).await?;
    reader.read_to_end(&mut bytes).await.map_err(|error| damaged(&error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))
}

fn unexpected(what: String) -> EngineError {
    EngineError::Unexpected { doing: "restore".to_owned(), what }
}
