//! How long the API takes to list and to get, with a large catalog and no agent.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use holdfast_catalog::{Catalog, NewJob, OnDemandRule};
use holdfast_core::backup::{Backup, BackupFacts, BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobKind;
use holdfast_core::position::Position;
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_testkit::{Client, Holdfast};
use jiff::{SignedDuration, Timestamp};

use crate::report::table;
use crate::timed::{millis, quantile};
use crate::{BINARY, Size};

const CLIENTS: usize = 4;
const CATALOG: &str = "catalog.db";

/// What the n-th request asks for.
type Paths<'a> = dyn Fn(usize) -> String + Send + Sync + 'a;

pub(crate) async fn measure(size: &Size) -> Result<String> {
    println!("API latency");
    // Made by Holdfast, filled while it does not run, and then served without an agent: nothing acts on what is not there.
    let no_agent = [("HOLDFAST_AGENT", "none")];
    let mut holdfast = Holdfast::start_with(BINARY, "bench", &no_agent).await?;
    holdfast.kill_serve()?;
    let services = fill(&holdfast.data().join(CATALOG), size).await?;
    holdfast.spawn().await?;
    let client = holdfast.client();
    client.get("/managed-services?limit=1").await?; // the password is checked once, which takes long on purpose

    let some = |n: usize| services[n * 7919 % services.len()];
    let backup_of = |n: usize| format!("/managed-services/{}/backups", some(n));
    let rows: [(&str, Box<Paths<'_>>); 4] = [
        ("get a service", Box::new(|n| format!("/managed-services/{}", some(n)))),
        ("list a service's backups", Box::new(backup_of)),
        (
            "list 50 services, anywhere",
            Box::new(|n| format!("/managed-services?limit=50&offset={}", n * 131 % services.len())),
        ),
        ("the recovery window of a service", Box::new(|n| format!("/managed-services/{}/pitr", some(n)))),
    ];
    let mut lines = Vec::new();
    for (what, path) in &rows {
        for clients in [1, CLIENTS] {
            let times = ask(&client, path.as_ref(), size.requests, clients).await?;
            let cell = |share| format!("{:.2}", quantile(&times, share));
            println!("  {what}, {clients} at once: p50 {} ms, p99 {} ms", cell(0.5), cell(0.99));
            lines.push(vec![(*what).to_owned(), clients.to_string(), cell(0.5), cell(0.99), cell(1.0)]);
        }
    }
    let whole = ask(&client, &|_| "/managed-services".to_owned(), 5, 1).await?;
    Ok(format!(
        "## API latency\n\n{} services with {} backups in the catalog (SQLite), as a client of the same machine sees it; the target is a p99 of at most \
         10 ms.\nThe list of *all* services in one answer, which clients may ask for too, takes {:.0} ms.\n\n{}",
        services.len(),
        services.len() * size.backups_each,
        quantile(&whole, 0.5),
        table(&["request", "clients at once", "p50, ms", "p99, ms", "largest, ms"], &lines)
    ))
}

/// Milliseconds of each request.
async fn ask(client: &Client, path: &Paths<'_>, requests: usize, clients: usize) -> Result<Vec<f64>> {
    let one = async |first: usize| -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for n in (first..requests).step_by(clients) {
            let path = path(n);
            let began = Instant::now();
            client.get(&path).await?;
            times.push(millis(began.elapsed()));
        }
        Ok(times)
    };
    let all = futures::future::try_join_all((0..clients).map(one)).await?;
    Ok(all.into_iter().flatten().collect())
}

/// Fills the catalog in memory and puts it back: each row is a transaction of its own, as in life.
async fn fill(path: &Path, size: &Size) -> Result<Vec<ServiceId>> {
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm)? } else { tempfile::tempdir()? };
    let copy = folder.path().join(CATALOG);
    for suffix in ["", "-wal"] {
        let file = |path: &Path| format!("{}{suffix}", path.display());
        if Path::new(&file(path)).exists() {
            std::fs::copy(file(path), file(&copy))?;
            std::fs::remove_file(file(path))?;
        }
    }
    let catalog = Catalog::open(&copy).await?;
    let organization = catalog.organizations().await?.first().context("an organization")?.id;
    let mut ids = Vec::new();
    for n in 0..size.services {
        let service = service(organization, n)?;
        catalog.create_service(&service, &ended(service.id), None).await?;
        for k in 0..size.backups_each {
            let backup = backup(&service, k)?;
            catalog.create_backup(&backup, &ended(service.id), OnDemandRule::Queue).await?;
        }
        end_jobs(&catalog, service.id).await?;
        ids.push(service.id);
    }
    catalog.close().await;
    let _ = std::fs::remove_file(format!("{}-shm", path.display())); // none where it was closed
    std::fs::copy(&copy, path)?;
    Ok(ids)
}

/// A job that is ended before anybody begins it; of a kind that the scheduler then does not ask for within the hour.
fn ended(service: ServiceId) -> NewJob {
    NewJob::new(JobKind::Expire, service, serde_json::json!({}), Timestamp::now())
}

async fn end_jobs(catalog: &Catalog, service: ServiceId) -> Result<()> {
    for job in catalog.open_jobs_of(service).await? {
        catalog.cancel(job.id, Timestamp::now()).await?;
        catalog.settle_job(job.id).await?;
    }
    Ok(())
}

fn service(organization: OrganizationId, n: usize) -> Result<Service> {
    let at = Timestamp::now().checked_sub(SignedDuration::from_hours(24 * 30))?;
    let at = at.checked_add(SignedDuration::from_secs(i64::try_from(n)?))?;
    Ok(Service {
        id: ServiceId::random(),
        organization_id: organization,
        lineage_id: LineageId::random(),
        name: format!("service-{n:05}"),
        engine: EngineKind::Postgresql,
        version: "17".to_owned(),
        engine_version: Some("17.11".to_owned()),
        status: ServiceStatus::Running,
        status_message: None,
        plan_name: "tier-1".to_owned(),
        zone: "se-sto1".to_owned(),
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        attributes: Attributes {
            storage_size_gb: 50,
            storage_tier: "standard".to_owned(),
            node_count: 1,
            ..Attributes::default()
        },
        restored_from: None,
        host: Some("127.0.0.1".to_owned()),
        port: Some(20_000),
        created_at: at,
        updated_at: at,
        deleted_at: None,
    })
}

/// One a day, the newest an hour old.
fn backup(service: &Service, k: usize) -> Result<Backup> {
    let at = Timestamp::now().checked_sub(SignedDuration::from_hours(1 + 24 * i64::try_from(k)?))?;
    let position = |offset| Position { timeline: 1, offset };
    let from = 0x200_0000 * (100 - k as u64);
    Ok(Backup {
        id: BackupId::random(),
        service_id: service.id,
        lineage_id: service.lineage_id,
        backup_type: BackupType::Automated,
        mode: BackupMode::Full,
        method: None,
        status: BackupStatus::Completed,
        label: None,
        retention_days: None,
        key_id: KeyId::random(),
        created_at: at,
        started_at: Some(at),
        completed_at: Some(at),
        error: None,
        facts: Some(BackupFacts {
            tool_label: format!("20261122-{k:06}F"),
            parent: None,
            log: Some(holdfast_core::backup::LogSpan { start: position(from), stop: position(from + 0x100) }),
            consistent_at: at,
            stored_bytes: 4 << 20,
            database_bytes: 20 << 20,
            manifest_sha256: "00".repeat(32),
            engine: serde_json::Value::Null,
            instead: None,
        }),
        delisted_at: None,
        shredded_at: None,
        removed_at: None,
    })
}
