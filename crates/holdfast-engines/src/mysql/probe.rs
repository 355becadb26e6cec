//! Looks at a running instance: its load and its size. How far its log is, the log's reader tells.

use std::collections::BTreeMap;

use super::sql::{self, rows, text};
use crate::{Instance, Probe, Result, Statistics};

const STATUS: &str = "SHOW GLOBAL STATUS WHERE variable_name IN ('Threads_connected', 'Com_commit', 'Com_rollback', \
    'Handler_commit', 'Innodb_buffer_pool_read_requests', 'Innodb_buffer_pool_reads')";

pub(super) async fn probe(instance: &Instance) -> Result<Probe> {
    let mut conn = sql::connect(instance).await?;
    let doing = "read the engine's statistics";
    let status: BTreeMap<String, i64> = rows(&mut conn, doing, STATUS)
        .await?
        .iter()
        .map(|row| (text(row, "Variable_name"), text(row, "Value").parse().unwrap_or(0)))
        .collect();
    let value = |name: &str| status.get(name).copied().unwrap_or(0);
    let reads = value("Innodb_buffer_pool_read_requests");
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = (reads > 0).then(|| 1.0 - value("Innodb_buffer_pool_reads") as f64 / reads as f64);
    let statistics = Statistics {
        archiver_error: None,
        // Not counting the agent's: this one and the two that read the log.
        connections_active: (value("Threads_connected") - 3).max(0),
        connections_max: i64::from(instance.max_connections),
        transactions_total: value("Handler_commit"),
        cache_hit_ratio: ratio,
        database: None,
    };
    Ok(Probe { mark: None, statistics: Some(statistics) })
}

pub(super) async fn database_bytes(instance: &Instance) -> Result<u64> {
    let mut conn = sql::connect(instance).await?;
    let query = "SELECT CAST(COALESCE(SUM(file_size), 0) AS UNSIGNED) FROM information_schema.innodb_tablespaces \
        WHERE space_type = 'Single'";
    sql::one(&mut conn, "read the databases' size", query).await
}

pub(super) async fn version(instance: &Instance) -> Result<String> {
    let mut conn = sql::connect(instance).await?;
    let version: String = sql::one(&mut conn, "read the engine's version", "SELECT VERSION()").await?;
    Ok(version.split('-').next().unwrap_or_default().to_owned())
}
