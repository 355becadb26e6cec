//! Append-only files on the instance's disk, and what is done before they fill it.

use std::fs;

use async_trait::async_trait;

use super::{Valkey, client, spool, users};
use crate::{DiskGuard, EngineError, Instance, LogOnDisk, Result, files};

#[async_trait]
impl DiskGuard for Valkey {
    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk> {
        spool::log_on_disk(instance)
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        users::is_read_only(instance)
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        set_read_only(instance, read_only).await
    }

    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64> {
        spool::drop_waiting(instance)
    }
}

/// Refuses writes of everybody but the agent, or lets them in again, at once and over restarts. The marker is there before
/// the server refuses anything and until it has let everybody in again; whatever fails in between is repeated with the next
/// call.
async fn set_read_only(instance: &Instance, read_only: bool) -> Result<()> {
    let _changing = users::lock(instance).await;
    if !read_only && !users::is_read_only(instance) {
        return Ok(());
    }
    let marker = users::mark(instance);
    let users = users::read(instance)?;
    if !read_only {
        users::write_with(instance, &users, false)?;
    } else if !users::is_read_only(instance) {
        // Once: this is called every second, on a disk that is nearly full.
        files::write_secret(&marker, b"")?;
        users::write_with(instance, &users, true)?;
    }
    let mut client = client::connect(instance).await?;
    users::tell_with(&mut client, &users, read_only).await?;
    if read_only {
        return Ok(());
    }
    fs::remove_file(&marker).map_err(EngineError::io(format!("remove {}", marker.display())))
}
