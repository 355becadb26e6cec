//! Looks at a running instance: its load and its size.

use super::client::{self, Bound, connect};
use crate::{Instance, Probe, Result, Statistics};

/// There is no log to be archived, so there is no mark.
pub(super) async fn probe(instance: &Instance) -> Result<Probe> {
    let mut client = connect(instance).await?;
    let topics = client::topics(&mut client).await?;
    let ends = client::offsets(&mut client, &topics, Bound::End).await?;
    let records = ends.values().flat_map(|partitions| partitions.values()).sum();
    Ok(Probe {
        mark: None,
        statistics: Some(Statistics {
            archiver_error: None,
            connections_active: connections(instance.port),
            connections_max: instance.max_connections.into(),
            transactions_total: records,
            cache_hit_ratio: None,
            database: None,
        }),
    })
}

/// Connections to the clients' port that are established, as the kernel tells (proc(5), `/proc/net/tcp`); the server does not.
fn connections(port: u16) -> i64 {
    const ESTABLISHED: &str = "01";
    let count = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let end = format!(":{port:04X}");
        let is_one = |line: &&str| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&end)) && words.nth(1) == Some(ESTABLISHED)
        };
        i64::try_from(text.lines().filter(is_one).count()).unwrap_or(i64::MAX)
    };
    count("/proc/net/tcp") + count("/proc/net/tcp6")
}

pub(super) async fn database_bytes(instance: &Instance) -> Result<u64> {
    let mut client = connect(instance).await?;
    let topics = client::topics(&mut client).await?;
    let sizes = client::sizes(&mut client).await?;
    let tenants = topics.iter().filter_map(|topic| sizes.get(&topic.name));
    Ok(tenants.flat_map(|partitions| partitions.values()).sum())
}
