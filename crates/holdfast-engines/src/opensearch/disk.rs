//! What is done before the disk is full: nobody but the agent may write any more. There is no log that waits for an archive.

use std::path::PathBuf;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::Client;
use super::{OpenSearch, config};
use crate::{DiskGuard, EngineError, Instance, LogOnDisk, Result, files};

/// There from before the first write is refused until the last is let in again.
const READ_ONLY: &str = "read-only";
/// Refuses writes and everything that alters indices, but lets indices be deleted.
const BLOCK: &str = "cluster.blocks.read_only_allow_delete";
/// Held while a block is put, or lifted for a moment.
static BLOCKS: Mutex<()> = Mutex::const_new(());

#[async_trait]
impl DiskGuard for OpenSearch {
    fn log_on_disk(&self, _instance: &Instance) -> Result<LogOnDisk> {
        Ok(LogOnDisk::default())
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        marker(instance).exists()
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        let marker = marker(instance);
        let _held = BLOCKS.lock().await;
        if read_only {
            files::write_secret(&marker, b"")?;
            return block(&Client::new(instance)?, json!(true)).await;
        }
        if !marker.exists() {
            return Ok(());
        }
        block(&Client::new(instance)?, Value::Null).await?;
        std::fs::remove_file(&marker).map_err(EngineError::io("let clients write again"))
    }

    async fn drop_waiting_log(&self, _instance: &Instance) -> Result<u64> {
        Ok(0)
    }
}

fn marker(instance: &Instance) -> PathBuf {
    config::path(instance, READ_ONLY)
}

/// Does what the server refuses as long as writes are blocked, such as to register a repository or to make a user.
pub(super) async fn past_block<T>(
    instance: &Instance,
    client: &Client,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let _held = BLOCKS.lock().await;
    if !marker(instance).exists() {
        return work.await;
    }
    block(client, Value::Null).await?;
    let done = work.await;
    block(client, json!(true)).await?;
    done
}

/// After a crash in the midst of [`past_block`].
pub(super) async fn block_again(instance: &Instance) -> Result<()> {
    let _held = BLOCKS.lock().await;
    match marker(instance).exists() {
        true => block(&Client::new(instance)?, json!(true)).await,
        false => Ok(()),
    }
}

/// Kept over restarts by the server.
pub(super) async fn block(client: &Client, blocks: Value) -> Result<()> {
    let body = json!({"persistent": {BLOCK: blocks}});
    client.put("block writes, or end that", "/_cluster/settings", body).await.map(drop)
}
