//! Base backups by the server's own CLONE: a copy of its files, beside them on the same disk, sent off as one archive and
//! removed. Restored by unpacking it: seconds where a dump takes minutes, and exact to the bit.
//!
//! The copy is of the instant at which the statement ends; which transactions are in it, only a server that starts on it can
//! tell. So a backup keeps what must be in it and what may be, and a restore asserts both and replays from what it finds.
//! The backup lock is held meanwhile: what the schema was is known, and the copy must have the same.
//!
//! Source: MySQL 9.7 manual, "The Clone Plugin".

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use holdfast_core::Timestamp;
use mysql_async::Conn;
use tokio_util::io::StreamReader;

use super::facts::{CloneFacts, DUMP_SECONDS, Facts, Loaded, damaged};
use super::sql::{self, literal, rows, run, text};
use super::{Mysql, probe, schema, users};
use crate::bulk_sync::BulkSync;
use crate::exec::{self, ExecError, FeedError, ProcessSpec};
use crate::{
    BackupSink, EngineError, Instance, Paths, ProgressSink, RestoreSource, Result, StreamBackup, files,
};

/// Object of a backup that holds the copy: a tar archive of the data folder.
const COPY: &str = "clone.tar";
const DOING: &str = "copy the data folder";
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A statement that was told to end does so within this time; it looks at every chunk of a file.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Files that one run of a program is given; names are some 100 bytes, and arguments may be 2 MiB (execve(2)).
const FILES_AT_ONCE: usize = 500;
/// How many tables an error names.
const NAMED: usize = 3;

impl Mysql {
    pub(super) async fn try_clone(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        let made = self.clone_and_send(instance, sink, progress).await;
        if made.is_err()
            && let Err(error) = remove_copy(instance).await
        {
            tracing::warn!(stanza = %instance.stanza, %error, "a copy of the data folder is left; the next backup removes it");
        }
        made
    }

    async fn clone_and_send(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        progress.phase("preparing");
        let mut lock = sql::connect(instance).await?;
        load_plugin(&mut lock).await?;
        let total = require_room(instance)?;
        run(&mut lock, "lock the instance for the backup", "LOCK INSTANCE FOR BACKUP").await?;
        refuse_emptied(&mut lock).await?;
        // As rows: what a server says of rights, it forgets in part when it starts anew (docs/engines/mysql.md).
        let accounts = users::save(&mut lock).await?;
        let fingerprint = schema::fingerprint(&mut lock, &accounts.to_json()).await?;
        let at_least = sql::executed(&mut lock).await?;
        progress.phase("copying files");
        make_copy(instance, total, progress).await?;
        // Behind the copy: every commit in it is stamped earlier.
        let consistent_at = Timestamp::now();
        let at_most = sql::executed(&mut lock).await?;
        let server_uuid = sql::one(&mut lock, DOING, "SELECT @@server_uuid").await?;
        run(&mut lock, "unlock the instance", "UNLOCK INSTANCE").await?;
        drop(lock);
        let (database_bytes, tar_bytes) = send(instance, sink, progress).await?;
        remove_copy(instance).await?;
        let facts = Facts::Clone(CloneFacts {
            server_version: probe::version(instance).await?,
            server_uuid,
            at_least,
            at_most,
            consistent_at,
            fingerprint,
            account_columns: accounts.columns(),
            tar_bytes,
        });
        let facts = serde_json::to_value(facts).expect("strings and numbers");
        Ok(StreamBackup { consistent_at, database_bytes, facts, instead: None })
    }

    /// Unpacks a copy and starts a server on it, which runs with `options`.
    pub(super) async fn load_clone(
        &self,
        instance: &Instance,
        facts: CloneFacts,
        options: &[&str],
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<Loaded> {
        files::make_folders(instance)?;
        self.require_release(instance, &facts.server_version).await?;
        progress.phase("copying files");
        let bulk = BulkSync::open(&instance.folder);
        unpack(instance, &facts, source, progress).await?;
        progress.phase("writing to disk");
        to_disk(instance, bulk).await?;
        progress.phase("starting the engine");
        self.first_start(instance, options).await?;
        let mut conn = sql::connect(instance).await?;
        let gtids = sql::executed(&mut conn).await?;
        if !gtids.contains(&facts.at_least) || !facts.at_most.contains(&gtids) {
            let expected = format!("{} to {}", facts.at_least, facts.at_most);
            return Err(EngineError::Hole { reached: gtids.to_string(), expected });
        }
        let accounts = users::to_compare(&mut conn, facts.account_columns).await?;
        let found = schema::fingerprint(&mut conn, &accounts).await?;
        if found != facts.fingerprint {
            return Err(EngineError::Damaged {
                doing: "compare the schema".to_owned(),
                what: format!("its fingerprint is {found}, that of the backup {}", facts.fingerprint),
            });
        }
        Ok(Loaded { gtids, consistent_at: facts.consistent_at })
    }

    /// Files are read by the release that wrote them and by later ones.
    async fn require_release(&self, instance: &Instance, needed: &str) -> Result<()> {
        let doing = "read the engine's version";
        let spec = ProcessSpec::new(self.program(instance, "mysqld")?, &instance.folder).args(["--version"]);
        let said = exec::run(spec).await.map_err(EngineError::exec(doing))?;
        let here =
            said.split_once("Ver ").map_or("", |(_, rest)| rest).split(['-', ' ']).next().unwrap_or_default();
        if release(here) < release(needed) {
            return Err(EngineError::Unfit {
                doing: "restore a physical copy".to_owned(),
                what: format!(
                    "it was made by MySQL {needed}, and this host has {here}; install {needed} or later"
                ),
            });
        }
        Ok(())
    }

    /// Every page of every tablespace has the checksum that it says (R24). The server is stopped.
    pub(super) async fn check_pages(&self, instance: &Instance) -> Result<()> {
        let mut spaces = Vec::new();
        each_file(&Paths(&instance.folder).data(), &mut |path, _| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".ibd") || name.starts_with("undo_") || name.starts_with("ibdata") {
                spaces.push(path);
            }
        })?;
        for some in spaces.chunks(FILES_AT_ONCE) {
            let spec = ProcessSpec::new(self.program(instance, "innochecksum")?, &instance.folder)
                .args(some)
                .run_as(instance.run_as.as_ref())
                .timeout_seconds(DUMP_SECONDS);
            let doing = "check the pages' checksums";
            exec::run(spec).await.map_err(|error| match error {
                ExecError::Failed { tail, .. } => {
                    EngineError::Damaged { doing: doing.to_owned(), what: tail }
                }
                other => EngineError::exec(doing)(other),
            })?;
        }
        Ok(())
    }
}

/// Numbers of a release, in order.
fn release(text: &str) -> Vec<u64> {
    text.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

/// In a folder of the engine's user, which makes it.
fn copy_folder(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).spool().join("clone")
}

/// Once in an instance's life; the copies have it too.
async fn load_plugin(conn: &mut Conn) -> Result<()> {
    let query = "SELECT plugin_status AS status FROM information_schema.plugins WHERE plugin_name = 'clone'";
    match rows(conn, DOING, query).await?.first().map(|row| text(row, "status")).as_deref() {
        Some("ACTIVE") => Ok(()),
        _ => run(conn, "load the clone plugin", "INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await,
    }
}

/// The copy needs as much room as the data. Returns how much that is.
pub(super) fn require_room(instance: &Instance) -> Result<u64> {
    let mut needed = 0;
    each_file(&Paths(&instance.folder).data(), &mut |path, bytes| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("binlog.") && !name.starts_with("#ib_redo") && !name.starts_with("ibtmp") {
            needed += bytes;
        }
    })?;
    let space =
        holdfast_store::space_of(&instance.folder).map_err(EngineError::io("look at the instance's disk"))?;
    let room = space.room_bytes();
    if room < needed {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(EngineError::Unfit {
            doing: "make a physical copy".to_owned(),
            what: format!(
                "it needs {} MiB beside the data, and the instance's disk has room for {} MiB; make room, or ask for mysqldump, which needs none",
                mib(needed),
                mib(room)
            ),
        });
    }
    Ok(needed)
}

/// CLONE copies InnoDB's tables and leaves others empty, with a warning at most.
async fn refuse_emptied(conn: &mut Conn) -> Result<()> {
    let query = "SELECT CONCAT(table_schema, '.', table_name, ' (', COALESCE(engine, 'no engine'), ')') AS name \
        FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND COALESCE(engine, '') <> 'InnoDB' \
        AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1";
    let found: Vec<String> = rows(conn, DOING, query).await?.iter().map(|row| text(row, "name")).collect();
    if found.is_empty() {
        return Ok(());
    }
    let named = found.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = if found.len() > NAMED { format!(" and {} more", found.len() - NAMED) } else { String::new() };
    Err(EngineError::Unfit {
        doing: "make a physical copy".to_owned(),
        what: format!(
            "tables that are not InnoDB's would come back empty: {named}{more}; make them InnoDB's (ALTER TABLE … ENGINE = InnoDB), or ask for mysqldump"
        ),
    })
}

async fn make_copy(instance: &Instance, total: u64, progress: &ProgressSink) -> Result<()> {
    let folder = copy_folder(instance);
    let mut conn = sql::connect(instance).await?;
    let statement = format!("CLONE LOCAL DATA DIRECTORY = {}", literal(&folder.to_string_lossy()));
    let limit = Duration::from_secs(DUMP_SECONDS);
    let copying = tokio::time::timeout(limit, run(&mut conn, DOING, statement));
    tokio::pin!(copying);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            done = &mut copying => {
                return done.unwrap_or_else(|_| Err(unexpected("it did not end")));
            }
            _ = looks.tick() => {
                let mut bytes = 0;
                let _ = each_file(&folder, &mut |_, length| bytes += length); // not there yet, or growing
                // A file has its length before it has its content.
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                progress.percent((100.0 * bytes as f64 / total.max(1) as f64).min(99.0), Some(total));
            }
        }
    }
}

/// The copy as one archive, read by the engine's own user. Returns the copy's bytes and the archive's.
async fn send(instance: &Instance, sink: &dyn BackupSink, progress: &ProgressSink) -> Result<(u64, u64)> {
    let folder = copy_folder(instance);
    let mut bytes = 0;
    each_file(&folder, &mut |_, length| bytes += length)?;
    progress.phase("sending the copy");
    let spec = ProcessSpec::new("tar", &instance.folder)
        .args(["--create", "--sparse", "--format=gnu", "--file=-", "--directory"])
        .args([folder.as_os_str(), ".".as_ref()])
        .run_as(instance.run_as.as_ref())
        .timeout_seconds(DUMP_SECONDS);
    let mut sent = 0;
    let progress = progress.clone();
    let output = exec::output_of(&spec).map_err(EngineError::exec("send the copy"))?;
    let output = output.inspect_ok(move |chunk| {
        sent += chunk.len() as u64;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent((100.0 * sent as f64 / bytes.max(1) as f64).min(99.0), Some(bytes));
    });
    let tar_bytes = sink.store(COPY, &mut StreamReader::new(output.boxed())).await?;
    Ok((bytes, tar_bytes))
}

/// Ends a CLONE that is under way, whoever began it, and removes what there is of a copy.
pub(super) async fn remove_copy(instance: &Instance) -> Result<()> {
    let mut conn = sql::connect(instance).await?;
    let doing = "end a copy that was cut off";
    let began = tokio::time::Instant::now();
    loop {
        let query =
            "SELECT id FROM information_schema.processlist WHERE info LIKE 'CLONE LOCAL DATA DIRECTORY%'";
        let found = rows(&mut conn, doing, query).await?;
        for row in &found {
            let _ = run(&mut conn, doing, format!("KILL {}", text(row, "id"))).await; // it may have ended
        }
        if found.is_empty() {
            break;
        }
        if began.elapsed() > END_LIMIT {
            return Err(unexpected("the statement does not end"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    remove_folder(&copy_folder(instance))
}

/// What a copy left that was cut off with the server.
pub(super) fn remove_copy_of_stopped(instance: &Instance) -> Result<()> {
    remove_folder(&copy_folder(instance))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

async fn unpack(
    instance: &Instance,
    facts: &CloneFacts,
    source: &dyn RestoreSource,
    progress: &ProgressSink,
) -> Result<()> {
    let data = Paths(&instance.folder).data();
    let mut archive = source.read(COPY).await?;
    let spec = ProcessSpec::new("tar", &instance.folder)
        .args(["--extract", "--file=-", "--directory"])
        .args([data.as_os_str()])
        .run_as(instance.run_as.as_ref())
        .timeout_seconds(DUMP_SECONDS);
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let on_bytes = |bytes: u64| {
        progress.percent(100.0 * bytes as f64 / facts.tar_bytes.max(1) as f64, Some(facts.tar_bytes));
    };
    let unpacked = exec::run_fed(spec, &mut *archive, on_bytes).await.map_err(|error| match error {
        FeedError::Input(source) => damaged(&source.to_string()),
        FeedError::Exec(source) => EngineError::exec("unpack the copy")(source),
    })?;
    if unpacked != facts.tar_bytes {
        return Err(damaged(&format!("the copy has {unpacked} bytes and should have {}", facts.tar_bytes)));
    }
    Ok(())
}

/// What was unpacked; the server syncs only what it writes by itself.
async fn to_disk(instance: &Instance, bulk: Option<BulkSync>) -> Result<()> {
    let doing = "write the copy to disk";
    if let Some(bulk) = bulk {
        return bulk.finish().await.map_err(EngineError::io(doing));
    }
    let mut unpacked = Vec::new();
    each_file(&Paths(&instance.folder).data(), &mut |path, _| unpacked.push(path))?;
    for some in unpacked.chunks(FILES_AT_ONCE) {
        let spec = ProcessSpec::new("sync", &instance.folder)
            .args(["--"])
            .args(some)
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(DUMP_SECONDS);
        exec::run(spec).await.map_err(EngineError::exec(doing))?;
    }
    Ok(())
}

/// Every plain file below a folder with its length; links are not followed.
fn each_file(folder: &Path, take: &mut dyn FnMut(PathBuf, u64)) -> Result<()> {
    let io = || EngineError::io(format!("look into {}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(io())? {
        let entry = entry.map_err(io())?;
        // Gone meanwhile: a table may be dropped.
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.is_dir() {
            match each_file(&entry.path(), take) {
                Err(EngineError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        } else if meta.is_file() {
            take(entry.path(), meta.len());
        }
    }
    Ok(())
}

fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected { doing: DOING.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (a, b) in [("9.7.4", "9.7.10"), ("9.7", "9.7.1"), ("8.4.9", "9.7.0"), ("", "9.7.4")] {
            assert!(release(a) < release(b), "{a} {b}");
        }
        assert_eq!(release("9.7.4"), release("9.7.4"));
    }
}
