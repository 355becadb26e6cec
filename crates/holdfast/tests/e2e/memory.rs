//! Memory is bounded and does not grow with the database (R11): backup and restore of 512 MiB that hardly compress.

use anyhow::{Context, Result, ensure};
use holdfast_conformance::service::{self, From, Made};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::memory::{Watch, peak_mib};
use holdfast_testkit::{Holdfast, holdfast, ledger};
use serde_json::json;

use crate::BINARY;

const DATABASE_MIB: i64 = 512;
const BOUND_MIB: u64 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_a_restore_of_512_mib_stay_below_256_mib() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let holdfast = Holdfast::start(BINARY, "memory").await?;
    let client = holdfast.client();
    let source = client.create("large").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;
    let bytes = fill(&url).await?;
    ensure!(bytes >= DATABASE_MIB << 20, "only {bytes} bytes");
    let tools = Watch::start("pgbackrest");

    let backup = client.trigger(&source).await?;
    let stored = client.wait_backup(&source, &backup, 300).await?["size_bytes"].as_i64().context("a size")?;
    ensure!(
        stored > bytes / 4,
        "the data compressed to {stored} bytes: too little passed through the pipeline"
    );
    let after_backup = peaks(&holdfast)?;
    let body = json!({"target_service_name": "large-copy"});
    let answer = client.post(&format!("/managed-services/{source}/backups/{backup}/restore"), body).await?;
    let copy = holdfast_testkit::client::text(&answer, "service_id")?;
    client.wait_running(&copy, 300).await?;
    let restored = ledger::connect(&client.connection_string(&copy).await?).await?;
    let rows: i64 = restored.query_one("SELECT count(*) FROM large", &[]).await?.get(0);
    ensure!(rows == ROWS, "{rows} rows");

    let [serve, agent] = peaks(&holdfast)?;
    println!("database {} MiB, stored {} MiB", bytes >> 20, stored >> 20);
    println!(
        "peak resident memory after the backup: serve {} MiB, agent {} MiB",
        after_backup[0], after_backup[1]
    );
    println!("peak resident memory in the end: serve {serve} MiB, agent {agent} MiB");
    println!("all pgBackRest processes together, at most: {} MiB", tools.peak_mib());
    for (who, mib) in [("serve", serve), ("agent", agent)] {
        ensure!(mib < BOUND_MIB, "{who} took {mib} MiB");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_in_mysql_stays_below_256_mib() -> Result<()> {
    stays_bounded(EngineKind::Mysql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_in_mongodb_stays_below_256_mib() -> Result<()> {
    stays_bounded(EngineKind::Mongodb).await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_in_valkey_stays_below_256_mib() -> Result<()> {
    stays_bounded(EngineKind::Valkey).await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_in_kafka_stays_below_256_mib() -> Result<()> {
    stays_bounded(EngineKind::Kafka).await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_in_opensearch_stays_below_256_mib() -> Result<()> {
    stays_bounded(EngineKind::Opensearch).await
}

/// The log of the filling goes through the archive as well, so it is three times the pipeline.
async fn stays_bounded(kind: EngineKind) -> Result<()> {
    const SECONDS: u64 = 300;
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let bytes = u64::try_from(DATABASE_MIB)? << 20;
    let holdfast = Holdfast::start(BINARY, &format!("memory-{kind}")).await?;
    holdfast.wait_for_agent().await?;
    let (client, made) = (holdfast.client(), Made::default());
    let body = json!({"name": "large", "database_type": kind.as_str(), "plan_name": "tier-1"});
    let source = service::create(&client, &made, body).await?;
    service::wait_running(&client, source, SECONDS).await?;
    service::wait_first_backup(&client, source, SECONDS).await?;
    service::database(&client, kind, source, "memory").await?.open().await?.fill(bytes).await?;
    let backup = service::back_up(&client, source, SECONDS).await?;
    let stored = backup.size_bytes.unwrap_or(0);
    ensure!(stored > bytes / 4, "only {stored} bytes passed through the pipeline");
    service::restore(&client, &made, source, From::Backup(&backup.id), "large-copy", SECONDS).await?;

    let [serve, agent] = peaks(&holdfast)?;
    println!(
        "{kind}: stored {} MiB; peak resident memory: serve {serve} MiB, agent {agent} MiB",
        stored >> 20
    );
    for (who, mib) in [("serve", serve), ("agent", agent)] {
        ensure!(mib < BOUND_MIB, "{who} took {mib} MiB");
    }
    Ok(())
}

fn peaks(holdfast: &Holdfast) -> Result<[u64; 2]> {
    let of = |pid: Option<i32>| pid.and_then(peak_mib).context("a living process");
    Ok([of(holdfast.serve_pid())?, of(holdfast.agent_pid())?])
}

const ROWS: i64 = 132_000;

/// Rows of 4 KB each, hexadecimal digits of hashes: they compress to a half, and no further.
async fn fill(url: &str) -> Result<i64> {
    let database = ledger::connect(url).await?;
    let fill = format!(
        "CREATE TABLE large (id bigint, text text STORAGE EXTERNAL) WITH (autovacuum_enabled = off);
         ALTER TABLE large SET (toast_tuple_target = 8160);
         INSERT INTO large SELECT g, (SELECT string_agg(encode(sha512((g * 100 + n)::text::bytea), 'hex'), '')
            FROM generate_series(1, 31) n) FROM generate_series(1, {ROWS}) g"
    );
    database.batch_execute(&fill).await?;
    Ok(database.query_one("SELECT pg_database_size(current_database())", &[]).await?.get(0))
}
