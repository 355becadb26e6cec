//! How far the log archive is behind under load: as the API tells it, and as somebody sees it who watches the engine's position
//! and the store's folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, holdfast};

use crate::pgbench::Database;
use crate::report::table;
use crate::timed::quantile;
use crate::{BINARY, Size};

const LOOK: Duration = Duration::from_millis(100);
/// Not counted at the beginning: the log of before, and positions that were not looked at, are still on their way.
const UNCOUNTED: Duration = Duration::from_secs(12);

/// Lags in seconds.
#[derive(Default)]
struct Seen {
    told: Vec<f64>,
    outside: Vec<f64>,
}

pub(crate) async fn measure(size: &Size) -> Result<String> {
    println!("archive lag");
    let engines = holdfast::engines().context("no engines")?;
    let holdfast = Holdfast::start(BINARY, "bench").await?;
    let client = holdfast.client();
    let source = client.create("source").await?;
    let database = Database::of(&client.connection_string(&source).await?)?;
    database.fill(&engines, size.middle_scale).await?;
    client.wait_first_backup(&source).await?;
    let mut rows = Vec::new();
    for (name, rate) in [("as fast as 4 clients can", None), ("50 transactions a second", Some(50))] {
        let mut load = database.load(&engines, size.lag_seconds + UNCOUNTED.as_secs() + 2, rate)?;
        let seen = watch(&client, &holdfast.objects(), &source, size.lag_seconds).await;
        load.wait()?;
        let seen = seen?;
        for (whose, lags) in [("the API's figure", &seen.told), ("seen from outside", &seen.outside)] {
            let cell = |share| format!("{:.2}", quantile(lags, share));
            println!("  {name}, {whose}: p50 {} s, p99 {} s", cell(0.5), cell(0.99));
            rows.push(vec![
                name.to_owned(),
                whose.to_owned(),
                cell(0.5),
                cell(0.99),
                cell(1.0),
                lags.len().to_string(),
            ]);
        }
    }
    Ok(format!(
        "## Archive lag under load\n\nSeconds that the store was behind the database's own position, {} s of pgbench each. From outside: at each look, the \
         age of the\noldest position that no object in the store's folder reaches yet. Log is shipped 0.5 s after its first byte (`log_interval_ms`; target:\n\
         p99 at most 1 s). This part alone: `make bench BENCH_ONLY=lag`.\n\n{}",
        size.lag_seconds,
        table(&["load", "who tells", "p50", "p99", "largest", "looks"], &rows)
    ))
}

async fn watch(client: &Client, objects: &Path, service: &str, seconds: u64) -> Result<Seen> {
    let url = client.connection_string(service).await?;
    let engine = connect(&url).await?;
    let (mut seen, mut positions) = (Seen::default(), Vec::<(Instant, u64)>::new());
    let began = Instant::now();
    let mut next = began;
    while began.elapsed() < UNCOUNTED + Duration::from_secs(seconds) {
        let row =
            engine.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint", &[]).await?;
        positions.push((Instant::now(), u64::try_from(row.get::<_, i64>(0))?));
        let end = archived_to(objects);
        positions.retain(|(_, position)| *position > end);
        let oldest = positions.first().map_or(0.0, |(at, _)| at.elapsed().as_secs_f64());
        if began.elapsed() > UNCOUNTED {
            seen.outside.push(oldest);
            let metrics = client.get(&format!("/managed-services/{service}/metrics")).await?;
            seen.told.extend(metrics["pitr"]["archive_lag_seconds"].as_f64());
        }
        next += LOOK;
        tokio::time::sleep_until(next.into()).await;
    }
    Ok(seen)
}

/// Where the newest log ends, by the names of the objects: segments `…/archive/…/00000001000000000000002A-<checksum>.zst`, and
/// the tail's parts `…/log/00000001/<from>-<to>`.
fn archived_to(objects: &Path) -> u64 {
    let mut folders: Vec<PathBuf> = vec![objects.to_owned()];
    let mut end = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("/archive/") {
                end = end.max(segment_end(&name).unwrap_or(0));
            } else if path.to_string_lossy().contains("/log/") {
                let to = name.split_once('-').and_then(|(_, to)| u64::from_str_radix(to, 16).ok());
                end = end.max(to.unwrap_or(0));
            }
        }
    }
    end
}

fn segment_end(name: &str) -> Option<u64> {
    let segment = name.split_once('-')?.0;
    if segment.len() != 24 {
        return None;
    }
    let high = u64::from_str_radix(&segment[8..16], 16).ok()?;
    let low = u64::from_str_radix(&segment[16..], 16).ok()?;
    Some((high << 32) + ((low + 1) << 24))
}
