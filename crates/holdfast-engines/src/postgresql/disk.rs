//! WAL on the instance's disk: how much lies there, how much of it waits for the archive, and what is done before it fills
//! the disk.
//!
//! A full disk makes PostgreSQL stop with a PANIC, and then nothing ships the very log that fills it. So writes are refused
//! while there is still room: sessions become read-only by default, and one that writes all the same is ended. The engine
//! stays up and archives on; log that has gone to the archive is removed at once, instead of being kept for new log at some
//! checkpoint that without writes never comes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::position::SEGMENT_BYTES;
use super::sql::reload;
use super::{Postgresql, sql, wal_name_start};
use crate::files::write_readable;
use crate::{DiskGuard, EngineError, Instance, LogOnDisk, Paths, Result};

/// Both are included by `postgresql.conf` while they are there.
pub(super) const GUARDS: [&str; 2] = [READ_ONLY, SMALL_LOG];
const READ_ONLY: &str = "read-only.conf";
const SMALL_LOG: &str = "small-log.conf";
/// Log that is kept for new log while the disk is full; `max_wal_size` is a soft bound.
const SMALL_LOG_MIB: u64 = 64;
/// Holds the archiver off while it is there and fresh.
const PAUSE: &str = "archive-pause";
/// Shorter than the pause.
const PUSH_LIMIT: Duration = Duration::from_secs(60);
const READY: &str = ".ready";
const DONE: &str = ".done";

fn wal_folder(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).data().join("pg_wal")
}

#[async_trait]
impl DiskGuard for Postgresql {
    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk> {
        log_on_disk(instance)
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        is_read_only(instance)
    }

    fn is_guarded(&self, instance: &Instance) -> bool {
        is_guarded(instance)
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        set_read_only(instance, read_only).await
    }

    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64> {
        drop_waiting_log(instance).await
    }
}

/// Counts names and opens nothing, so it costs the same however large the log is, and works while the engine is down.
fn log_on_disk(instance: &Instance) -> Result<LogOnDisk> {
    let folder = wal_folder(instance);
    let count = |path: PathBuf, counts: fn(&str) -> bool| -> Result<u64> {
        let entries =
            fs::read_dir(&path).map_err(EngineError::io(format!("look into {}", path.display())))?;
        let names = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(counts)).count();
        Ok(names as u64 * SEGMENT_BYTES)
    };
    let total_bytes = count(folder.clone(), |name| name.len() == 24 && wal_name_start(name).is_some())?;
    let waiting_bytes = count(folder.join("archive_status"), is_waiting_segment)?;
    Ok(LogOnDisk { total_bytes, waiting_bytes })
}

fn is_waiting_segment(name: &str) -> bool {
    name.strip_suffix(READY).is_some_and(|name| name.len() == 24 && wal_name_start(name).is_some())
}

fn guard(instance: &Instance, name: &str) -> PathBuf {
    Paths(&instance.folder).conf().join(name)
}

/// Whether writes are refused at the moment; also known after a restart of the agent.
fn is_read_only(instance: &Instance) -> bool {
    guard(instance, READ_ONLY).exists()
}

/// Whether anything is done against a full disk at the moment.
fn is_guarded(instance: &Instance) -> bool {
    GUARDS.iter().any(|name| guard(instance, name).exists())
}

/// Refuses writes, or ends all that is done against a full disk. Repeated while they are refused, it ends the sessions that
/// write nevertheless (those that were at it, and those that set the default aside) and removes log that is archived.
async fn set_read_only(instance: &Instance, read_only: bool) -> Result<()> {
    if !read_only {
        for path in GUARDS.map(|name| guard(instance, name)).iter().filter(|path| path.exists()) {
            fs::remove_file(path).map_err(EngineError::io(format!("remove {}", path.display())))?;
        }
        return reload(instance).await;
    }
    if !is_read_only(instance) {
        let text = b"# Written by Holdfast: the disk is full.\ndefault_transaction_read_only = on\n";
        write_readable(&guard(instance, READ_ONLY), text, instance.run_as.as_ref())?;
        keep_little_log(instance).await?;
    }
    let client = sql::connect(instance, "postgres").await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND backend_xid IS NOT NULL AND usename <> 'postgres'";
    client.query(end, &[]).await.map_err(EngineError::client("end the sessions that write"))?;
    let log = log_on_disk(instance)?;
    if log.total_bytes.saturating_sub(log.waiting_bytes) > (2 * SMALL_LOG_MIB) << 20 {
        checkpoint(instance).await?;
    }
    Ok(())
}

/// Log that is no longer needed goes at the next checkpoint.
async fn keep_little_log(instance: &Instance) -> Result<()> {
    let text = format!(
        "# Written by Holdfast: the disk is full.\nmax_wal_size = {SMALL_LOG_MIB}MB\nmin_wal_size = {}MB\n",
        SMALL_LOG_MIB / 2
    );
    write_readable(&guard(instance, SMALL_LOG), text.as_bytes(), instance.run_as.as_ref())?;
    reload(instance).await
}

/// Gives up finished log that waits for the archive, so that the engine recycles it: what lies between it and the next base
/// backup can no longer be reached. Returns the bytes that were given up.
///
/// A segment must not be recycled while the archiver reads it, or the store would get bytes of another under its name. So
/// the archiver is held off first and its push in hand awaited. The oldest segment stays: the archiver is at it and does
/// not look again whether it should be (PostgreSQL 17, `pgarch.c`).
async fn drop_waiting_log(instance: &Instance) -> Result<u64> {
    keep_little_log(instance).await?;
    let pause = guard(instance, PAUSE);
    write_readable(&pause, b"", instance.run_as.as_ref())?;
    let dropped = match wait_for_push(instance).await {
        Ok(()) => drop_all_but_oldest(instance),
        Err(error) => Err(error),
    };
    let freed = if dropped.is_ok() { checkpoint(instance).await } else { Ok(()) };
    fs::remove_file(&pause).map_err(EngineError::io(format!("remove {}", pause.display())))?;
    freed.and(dropped)
}

fn drop_all_but_oldest(instance: &Instance) -> Result<u64> {
    let folder = wal_folder(instance).join("archive_status");
    let doing = || format!("give up log in {}", folder.display());
    let entries = fs::read_dir(&folder).map_err(EngineError::io(doing()))?;
    let mut waiting: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    waiting.retain(|name| is_waiting_segment(name));
    waiting.sort();
    let mut dropped = 0;
    for name in waiting.iter().skip(1) {
        fs::rename(folder.join(name), folder.join(name.replace(READY, DONE)))
            .map_err(EngineError::io(doing()))?;
        dropped += SEGMENT_BYTES;
    }
    Ok(dropped)
}

/// Segments go at a checkpoint.
async fn checkpoint(instance: &Instance) -> Result<()> {
    let client = sql::connect(instance, "postgres").await?;
    client.batch_execute("CHECKPOINT").await.map_err(EngineError::client("checkpoint"))
}

/// What `archive_command` asks first. The pause ends by itself after two minutes, whatever became of the agent.
pub(super) fn may_archive(instance: &Instance) -> String {
    let pause = guard(instance, PAUSE);
    format!("test -z \"$(find \"{}\" -mmin -2 2>/dev/null)\"", pause.display())
}

/// Waits until no push of this instance's runs. The shell that asked before the pause has the push in its command line.
async fn wait_for_push(instance: &Instance) -> Result<()> {
    let began = Instant::now();
    while is_pushing(instance) {
        if began.elapsed() > PUSH_LIMIT {
            let last = "the archiver's push did not end".to_owned();
            return Err(EngineError::NotReady { seconds: PUSH_LIMIT.as_secs(), last });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn is_pushing(instance: &Instance) -> bool {
    let conf = Paths(&instance.folder).conf();
    let conf = conf.to_string_lossy();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok()).any(|arguments| {
        let line = String::from_utf8_lossy(&arguments);
        line.contains("archive-push") && line.contains(&*conf)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_wait() {
        assert!(is_waiting_segment("00000001000000000000000A.ready"));
        for other in [
            "00000001000000000000000A.done",
            "00000001000000000000000A.00000028.backup.ready",
            "00000002.history.ready",
            "00000001000000000000000A.partial.ready",
            ".ready",
        ] {
            assert!(!is_waiting_segment(other), "{other}");
        }
    }
}
