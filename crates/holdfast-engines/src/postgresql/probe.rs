//! Looks at a running instance: its position, its archiver, its load.

use std::time::Duration;

use holdfast_core::Timestamp;
use holdfast_core::position::Position;
use tokio_postgres::{Client, Row};

use super::position::{parse_lsn, without_empty_page};
use super::sql::connect;
use crate::{EngineError, Instance, Mark, Probe, Result, Statistics};

/// After a restart the engine does not know its last commit; then no two marks are equal.
///
/// The clock is read first: what was acknowledged before lies before the position. The last commit is read before the
/// position too, so that an unchanged one vouches for the whole mark.
const MARK: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at), \
     last AS MATERIALIZED (SELECT at, (SELECT coalesce(xid::text || '@' || timestamp::text, 'unknown at ' || at::text) \
        FROM pg_last_committed_xact()) AS last_commit FROM clock) \
     SELECT (extract(epoch FROM at) * 1000000)::bigint AS at_us, last_commit, \
        pg_current_wal_insert_lsn()::text AS lsn, \
        pg_walfile_name(pg_current_wal_insert_lsn()) AS wal_name FROM last";

const STATISTICS: &str = "SELECT \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres') AS active, \
     current_setting('max_connections')::bigint AS max, \
     (SELECT coalesce(sum(xact_commit + xact_rollback), 0)::bigint FROM pg_stat_database) AS transactions, \
     (SELECT (sum(blks_hit)::float8 / nullif(sum(blks_hit + blks_read), 0)) FROM pg_stat_database) AS hit_ratio, \
     (SELECT CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
        THEN 'archiving ' || last_failed_wal || ' fails since ' || last_failed_time::text END FROM pg_stat_archiver) \
        AS archiver_error, \
     (SELECT datname::text FROM pg_database WHERE NOT datistemplate AND datallowconn AND datname <> 'postgres' \
        ORDER BY datname <> 'defaultdb', oid LIMIT 1) AS database";

/// How long an engine may take over its figures.
const STATISTICS_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn probe(instance: &Instance) -> Result<Probe> {
    let client = connect(instance, "postgres").await?;
    let mark = take_mark(&client).await?;
    let statistics = match tokio::time::timeout(STATISTICS_LIMIT, client.query_one(STATISTICS, &[])).await {
        Ok(row) => Some(statistics_of(&row.map_err(EngineError::client("read the engine's statistics"))?)),
        Err(_) => None,
    };
    Ok(Probe { mark: Some(mark), statistics })
}

fn statistics_of(row: &Row) -> Statistics {
    Statistics {
        archiver_error: row.get("archiver_error"),
        connections_active: row.get("active"),
        connections_max: row.get("max"),
        transactions_total: row.get("transactions"),
        cache_hit_ratio: row.get("hit_ratio"),
        // A name that is no text is in no connection string.
        database: row.try_get("database").ok(),
    }
}

pub(super) async fn database_bytes(instance: &Instance) -> Result<u64> {
    let client = connect(instance, "postgres").await?;
    let row = client
        .query_one("SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database", &[])
        .await
        .map_err(EngineError::client("read the databases' size"))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

pub(super) async fn take_mark(client: &Client) -> Result<Mark> {
    let row = client.query_one(MARK, &[]).await.map_err(EngineError::client("read the log position"))?;
    mark_of(&row).ok_or_else(|| EngineError::Unexpected {
        doing: "read the log position".to_owned(),
        what: format!("lsn {:?}", row.get::<_, String>("lsn")),
    })
}

fn mark_of(row: &Row) -> Option<Mark> {
    let lsn = parse_lsn(&row.get::<_, String>("lsn"))?;
    // The segment's name carries the timeline that is being written, also right after a promotion.
    let timeline = u32::from_str_radix(row.get::<_, String>("wal_name").get(..8)?, 16).ok()?;
    Some(Mark {
        at: Timestamp::from_microsecond(row.get("at_us")).ok()?,
        position: Position { timeline, offset: without_empty_page(lsn) },
        last_commit: row.get("last_commit"),
    })
}

/// Commits a message of our own, then closes the segment. Recovery to a time stops only at a commit later than it: this is
/// one for every instant before (R17). The mark is taken behind it, so that while nothing else is committed every later
/// instant is covered too.
pub(super) async fn cut_log(instance: &Instance) -> Result<Mark> {
    let client = connect(instance, "postgres").await?;
    client
        .batch_execute("SELECT pg_logical_emit_message(true, 'holdfast', 'mark')")
        .await
        .map_err(EngineError::client("commit a mark into the log"))?;
    let mark = take_mark(&client).await?;
    let row = client
        .query_one("SELECT pg_switch_wal()::text AS lsn", &[])
        .await
        .map_err(EngineError::client("close the current WAL segment"))?;
    // The end of what was written; the mark is covered once the store has up to here.
    let end = parse_lsn(&row.get::<_, String>("lsn")).unwrap_or(mark.position.offset);
    Ok(Mark { position: Position { offset: end, ..mark.position }, ..mark })
}
