//! A catalog in a folder of its own, and domain values with nothing special about them.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use holdfast_catalog::{Catalog, NewJob, Organization};
use holdfast_core::backup::{Backup, BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobKind;
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId};
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

pub(crate) struct Fixture {
    pub(crate) catalog: Catalog,
    pub(crate) organization: OrganizationId,
    folder: TempDir,
    crashes: u32,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let catalog = Catalog::open(&file(folder.path(), 0)).await.unwrap();
        let organization = add_organization(&catalog, "acme").await;
        Self { catalog, organization, folder, crashes: 0 }
    }

    pub(crate) fn path(&self) -> PathBuf {
        file(self.folder.path(), self.crashes)
    }

    /// Goes on with what a `kill -9` at this moment would have left on the disk: the file and its write-ahead log,
    /// without anything that a polite end would still have done.
    pub(crate) async fn crash(&mut self) {
        let before = self.path();
        self.crashes += 1;
        let after = self.path();
        for suffix in ["", "-wal"] {
            let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
            if with(&before).exists() {
                std::fs::copy(with(&before), with(&after)).unwrap();
            }
        }
        self.catalog.close().await;
        self.catalog = Catalog::open(&after).await.unwrap();
    }

    /// A service of the fixture's organization; its first job is cancelled and settled.
    pub(crate) async fn service(&self, name: &str) -> ServiceId {
        let service = service(self.organization, name);
        let job = new_job(service.id, JobKind::Provision, at(0));
        self.catalog.create_service(&service, &job, None).await.unwrap();
        self.catalog.cancel(job.id, at(0)).await.unwrap();
        self.catalog.settle_job(job.id).await.unwrap();
        service.id
    }
}

fn file(folder: &Path, crashes: u32) -> PathBuf {
    folder.join(format!("catalog-{crashes}.db"))
}

/// Seconds after an instant of no importance.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_str("2026-01-05T12:00:00.123456Z").unwrap() + jiff::SignedDuration::from_secs(seconds)
}

pub(crate) async fn add_organization(catalog: &Catalog, slug: &str) -> OrganizationId {
    let organization = Organization {
        id: OrganizationId::random(),
        name: slug.to_uppercase(),
        slug: slug.to_owned(),
        is_personal: false,
        created_at: at(0),
    };
    catalog.insert_organization(&organization).await.unwrap();
    organization.id
}

pub(crate) fn service(organization_id: OrganizationId, name: &str) -> Service {
    Service {
        id: ServiceId::random(),
        organization_id,
        lineage_id: LineageId::random(),
        name: name.to_owned(),
        engine: EngineKind::Postgresql,
        version: "17".to_owned(),
        engine_version: None,
        status: ServiceStatus::Pending,
        status_message: None,
        plan_name: "tier-2".to_owned(),
        zone: "se-sto1".to_owned(),
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        attributes: Attributes { storage_size_gb: 20, ..Attributes::default() },
        restored_from: None,
        host: None,
        port: None,
        created_at: at(0),
        updated_at: at(0),
        deleted_at: None,
    }
}

pub(crate) fn backup(service_id: ServiceId, backup_type: BackupType, created: Timestamp) -> Backup {
    Backup {
        id: BackupId::random(),
        service_id,
        lineage_id: LineageId::random(),
        backup_type,
        mode: BackupMode::Full,
        method: None,
        status: BackupStatus::Pending,
        label: None,
        retention_days: Some(30),
        key_id: KeyId::random(),
        created_at: created,
        started_at: None,
        completed_at: None,
        error: None,
        facts: None,
        delisted_at: None,
        shredded_at: None,
        removed_at: None,
    }
}

/// Of the service, or of none where the kind is about none.
pub(crate) fn new_job(service: ServiceId, kind: JobKind, now: Timestamp) -> NewJob {
    let input = json!({ "why": "a test" });
    if kind.is_of_a_service() {
        NewJob::new(kind, service, input, now)
    } else {
        NewJob::of_platform(kind, input, now)
    }
}
