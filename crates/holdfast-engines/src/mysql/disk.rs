//! Binlogs on the instance's disk, and what is done before they fill it.
//!
//! The server writes on for the archive's reader while nobody else may write: `super_read_only` refuses all commits, and is
//! in the settings too, so that it lasts over restarts.

use std::fs;

use async_trait::async_trait;

use super::sql::{self, number, rows, run, text};
use super::{Mysql, config};
use crate::files::write_readable;
use crate::{DiskGuard, EngineError, Instance, LogOnDisk, Paths, Result};

#[async_trait]
impl DiskGuard for Mysql {
    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk> {
        log_on_disk(instance)
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        config::is_read_only(instance)
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        set_read_only(instance, read_only).await
    }

    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64> {
        drop_waiting_log(instance).await
    }
}

/// Counts names and sizes. All files but the newest are finished; what the archive has of them is removed every few seconds.
fn log_on_disk(instance: &Instance) -> Result<LogOnDisk> {
    let data = Paths(&instance.folder).data();
    let entries = fs::read_dir(&data).map_err(EngineError::io(format!("look into {}", data.display())))?;
    let mut files: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("binlog.")?.parse().ok()?;
            Some((number, entry.metadata().ok()?.len()))
        })
        .collect();
    files.sort_unstable();
    let total_bytes = files.iter().map(|(_, bytes)| bytes).sum();
    let newest = files.last().map_or(0, |(_, bytes)| *bytes);
    Ok(LogOnDisk { total_bytes, waiting_bytes: total_bytes - newest })
}

/// Refuses writes, or allows them again. Repeated while they are refused, it ends transactions that have written already.
async fn set_read_only(instance: &Instance, read_only: bool) -> Result<()> {
    let path = config::guard(instance);
    if !read_only {
        // The mark goes last: as long as it is there, this is called again.
        run(&mut sql::connect(instance).await?, "allow writes", "SET GLOBAL read_only = OFF").await?;
        if path.exists() {
            fs::remove_file(&path).map_err(EngineError::io(format!("remove {}", path.display())))?;
        }
        return config::write_settings(instance);
    }
    write_readable(&path, b"", instance.run_as.as_ref())?;
    config::write_settings(instance)?;
    let mut conn = sql::connect(instance).await?;
    // First, for the switch waits for commits under way.
    let writers = "SELECT trx_mysql_thread_id AS id FROM information_schema.innodb_trx \
        WHERE trx_rows_modified > 0 AND trx_mysql_thread_id > 0";
    for writer in rows(&mut conn, "look for sessions that write", writers).await? {
        let _ = run(&mut conn, "end a session that writes", format!("KILL {}", text(&writer, "id"))).await; // it may be gone
    }
    run(&mut conn, "refuse writes", "SET GLOBAL super_read_only = ON").await
}

/// Gives up all finished files, whether the archive has them or not. Whoever reads them is stopped first: the server keeps
/// a file that is being sent.
async fn drop_waiting_log(instance: &Instance) -> Result<u64> {
    let doing = "give up log that waits for the archive";
    let before = log_on_disk(instance)?;
    let mut conn = sql::connect(instance).await?;
    let readers = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
    for reader in rows(&mut conn, doing, readers).await? {
        let _ = run(&mut conn, doing, format!("KILL {}", text(&reader, "id"))).await; // it may be gone
    }
    run(&mut conn, doing, "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS").await?;
    let newest = binlogs(&mut conn).await?.pop().map(|(name, _)| name).unwrap_or_default();
    run(&mut conn, doing, format!("PURGE BINARY LOGS TO {}", sql::literal(&newest))).await?;
    Ok(before.total_bytes.saturating_sub(log_on_disk(instance)?.total_bytes))
}

/// The server's binlog files with their sizes, oldest first.
pub(super) async fn binlogs(conn: &mut mysql_async::Conn) -> Result<Vec<(String, u64)>> {
    let found = rows(conn, "list the binlogs", "SHOW BINARY LOGS").await?;
    Ok(found.iter().map(|row| (text(row, "Log_name"), number(row, "File_size"))).collect())
}
