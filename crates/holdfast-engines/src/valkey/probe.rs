//! Looks at a running instance: its load and its size. How far its log is, the log's reader tells.

use super::client::{Info, connect};
use crate::{Instance, Probe, Result, Statistics};

pub(super) async fn probe(instance: &Instance) -> Result<Probe> {
    let mut client = connect(instance).await?;
    let info = Info::read(&mut client, "clients stats persistence").await?;
    let (hits, misses) = (info.number("keyspace_hits"), info.number("keyspace_misses"));
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let cache_hit_ratio = (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64);
    let count = |name| i64::try_from(info.number(name)).unwrap_or(i64::MAX);
    Ok(Probe {
        mark: None,
        statistics: Some(Statistics {
            archiver_error: (info.text("aof_last_write_status") == "err")
                .then(|| "the engine cannot write its append-only file; is its disk full?".to_owned()),
            connections_active: count("connected_clients") - 1,
            connections_max: count("maxclients"),
            transactions_total: count("total_commands_processed"),
            cache_hit_ratio,
            database: None,
        }),
    })
}

/// What the data takes in memory, which is about what its snapshot takes on disk where it does not compress.
pub(super) async fn database_bytes(instance: &Instance) -> Result<u64> {
    let mut client = connect(instance).await?;
    let info = Info::read(&mut client, "memory").await?;
    Ok(info.number("used_memory_dataset"))
}
