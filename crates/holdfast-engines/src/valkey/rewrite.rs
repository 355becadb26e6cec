//! Has the server write its data set anew: a new base, and an incremental file that begins exactly where the base ends.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::client::{Info, ask, connect, words};
use super::spool;
use crate::{EngineError, Instance, ProgressSink, Result};

const POLL: Duration = Duration::from_millis(100);

/// Begins a rewrite, unless one is under way. What it is about to remove is kept for the archive first, and what it opens
/// as soon as it is there.
pub(super) async fn begin(instance: &Instance) -> Result<()> {
    let mut client = connect(instance).await?;
    if is_running(&mut client).await? {
        return Ok(());
    }
    spool::keep(instance)?;
    ask::<String>(&mut client, &words("BGREWRITEAOF"), "rewrite the append-only file").await?;
    spool::keep(instance).map(drop)
}

async fn is_running(client: &mut MultiplexedConnection) -> Result<bool> {
    let info = Info::read(client, "persistence").await?;
    Ok(info.number("aof_rewrite_in_progress") + info.number("aof_rewrite_scheduled") > 0)
}

/// Waits until none is under way.
pub(super) async fn wait_idle(client: &mut MultiplexedConnection) -> Result<()> {
    while is_running(client).await? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits for the end of the one that was begun.
pub(super) async fn wait_end(client: &mut MultiplexedConnection, progress: &ProgressSink) -> Result<()> {
    loop {
        let info = Info::read(client, "persistence").await?;
        if info.number("aof_rewrite_in_progress") + info.number("aof_rewrite_scheduled") == 0 {
            if info.text("aof_last_bgrewrite_status") == "ok" {
                return Ok(());
            }
            return Err(EngineError::Unexpected {
                doing: "write a snapshot".to_owned(),
                what: "the engine could not; is its disk full, or memory short for a fork? Its own log says more".to_owned(),
            });
        }
        let (done, total) =
            (info.number("current_save_keys_processed"), info.number("current_save_keys_total"));
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        if total > 0 {
            progress.percent(100.0 * done as f64 / total as f64, None);
        }
        tokio::time::sleep(POLL).await;
    }
}
