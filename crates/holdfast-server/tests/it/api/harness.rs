//! A control plane without an agent, services and backups in every state, and requests to it.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, SaltString};
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use base64::Engine as _;
use holdfast_catalog::{Catalog, Credential, NewJob, OnDemandRule, Organization};
use holdfast_core::backup::{Backup, BackupFacts, BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::{Job, JobKind};
use holdfast_core::position::{Coverage, Position};
use holdfast_core::retention::{ClockReading, Policy};
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_server::http::auth::PASSWORD_SETTING;
use holdfast_server::live::Live;
use holdfast_server::settings::Settings;
use holdfast_server::vault::Vault;
use holdfast_server::{ControlPlane, http};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const PASSWORD: &str = "correct horse: battery";
/// More than any test creates by chance.
pub(crate) const MAX_SERVICES: u32 = 40;
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Of [`PASSWORD`], by parameters that take no time; a stored hash names its own. Every test is a process that checks it anew.
fn hash() -> String {
    let quick = argon2::Params::new(argon2::Params::MIN_M_COST, 1, 1, None).unwrap();
    let salt = SaltString::from_b64("c2FsdHNhbHQ").unwrap();
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, quick);
    argon2.hash_password(PASSWORD.as_bytes(), &salt).unwrap().to_string()
}

pub(crate) struct Platform {
    pub cp: ControlPlane,
    pub app: axum::Router,
    pub organization: OrganizationId,
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The text of an error in the one shape.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> String {
        let json = self.expect(status);
        let object = json.as_object().expect("an object");
        assert_eq!(object.keys().collect::<Vec<_>>(), ["error", "message"], "{json}");
        assert_eq!(json["error"], json["message"]);
        let text = json["error"].as_str().expect("a text");
        assert!(!text.is_empty());
        text.to_owned()
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

pub(crate) fn minutes_ago(minutes: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_mins(minutes)
}

/// A new platform with the personal organization and a password.
pub(crate) async fn platform() -> Platform {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&folder.path().join("catalog.db")).await.unwrap();
    catalog.put_setting(PASSWORD_SETTING, &hash()).await.unwrap();
    let organization = Organization {
        id: OrganizationId::random(),
        name: "Personal".to_owned(),
        slug: "personal".to_owned(),
        is_personal: true,
        created_at: minutes_ago(100),
    };
    catalog.insert_organization(&organization).await.unwrap();
    let vault = Vault::open(&folder.path().join("keys"), |_| Ok(())).unwrap();
    let store_url = format!("file://{}", folder.path().join("store").display());
    let cp = ControlPlane {
        catalog,
        vault: Arc::new(vault),
        store: holdfast_store::Store::open(&store_url).unwrap(),
        live: Arc::new(Live::default()),
        settings: Arc::new(Settings {
            data_dir: folder.path().to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            store_url,
            max_body_bytes: MAX_BODY_BYTES,
            max_services: Some(MAX_SERVICES),
            policy: Policy::default(),
            faults: holdfast_fault::FaultPoints::default(),
            kek_rotation_days: 90,
        }),
    };
    Platform { app: http::router(cp.clone()), cp, organization: organization.id, _folder: folder }
}

impl Platform {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// As after a week of a steady clock.
    pub(crate) async fn trust_the_clock(&self) {
        let reading = ClockReading::confirmed(Timestamp::now());
        let kept = json!({"reading": reading, "boot_id": "another", "boot_seconds": 0});
        self.cp.catalog.put_setting("clock_reading", &kept.to_string()).await.unwrap();
    }

    /// With good credentials.
    pub(crate) async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, basic("admin", PASSWORD));
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body.to_string()).await
    }

    /// A service in the catalog, past its first job.
    pub(crate) async fn service(&self, name: &str, engine: EngineKind, status: ServiceStatus) -> Service {
        let is_up = matches!(status, ServiceStatus::Running | ServiceStatus::Stopped | ServiceStatus::Error);
        let service = Service {
            id: ServiceId::random(),
            organization_id: self.organization,
            lineage_id: LineageId::random(),
            name: name.to_owned(),
            engine,
            version: engine.capability().default_version.to_owned(),
            engine_version: is_up.then(|| "17.6".to_owned()),
            status,
            status_message: None,
            plan_name: "tier-2".to_owned(),
            zone: "fi-hel1".to_owned(),
            allowed_cidrs: vec!["10.0.0.0/8".to_owned(), "0.0.0.0/0".to_owned()],
            attributes: Attributes {
                storage_size_gb: 100,
                storage_tier: "standard".to_owned(),
                node_count: 1,
                replication_mode: "async".to_owned(),
                encryption_enabled: true,
                ..Attributes::default()
            },
            restored_from: None,
            host: is_up.then(|| "127.0.0.1".to_owned()),
            port: is_up.then_some(5432),
            created_at: minutes_ago(90),
            updated_at: minutes_ago(90),
            deleted_at: None,
        };
        let job = NewJob::new(JobKind::Provision, service.id, serde_json::json!({}), minutes_ago(90));
        self.cp.catalog.create_service(&service, &job, None).await.unwrap();
        if is_up {
            self.cp.catalog.cancel(job.id, minutes_ago(89)).await.unwrap();
        }
        self.cp.catalog.service(service.id).await.unwrap().unwrap()
    }

    pub(crate) async fn set_status(&self, id: ServiceId, status: ServiceStatus) {
        self.cp
            .catalog
            .update_service(id, Timestamp::now(), |service| service.status = status)
            .await
            .unwrap();
    }

    /// A backup made so many minutes ago. Completed ones took a minute and lie in a stretch of log that reaches up to a
    /// minute ago.
    pub(crate) async fn backup(
        &self,
        service: &Service,
        kind: BackupType,
        status: BackupStatus,
        minutes: i64,
    ) -> BackupId {
        let at = |offset| Position { timeline: 1, offset };
        let offset = u64::try_from(100_000 - minutes).unwrap() * 1000;
        let completed = status == BackupStatus::Completed;
        let backup = Backup {
            id: BackupId::random(),
            service_id: service.id,
            lineage_id: service.lineage_id,
            backup_type: kind,
            mode: BackupMode::Full,
            method: None,
            status,
            label: None,
            retention_days: None,
            key_id: KeyId::random(),
            created_at: minutes_ago(minutes),
            started_at: (status != BackupStatus::Pending).then(|| minutes_ago(minutes)),
            completed_at: completed.then(|| minutes_ago(minutes - 1)),
            error: (status == BackupStatus::Failed).then(|| "the disk is full".to_owned()),
            facts: completed.then(|| BackupFacts {
                tool_label: format!("label-{minutes}"),
                parent: None,
                log: Some(holdfast_core::backup::LogSpan { start: at(offset), stop: at(offset + 10) }),
                consistent_at: minutes_ago(minutes - 1),
                stored_bytes: 3 * 1024 * 1024,
                database_bytes: 30 * 1024 * 1024,
                manifest_sha256: "00".repeat(32),
                engine: serde_json::Value::Null,
                instead: None,
            }),
            delisted_at: None,
            shredded_at: None,
            removed_at: None,
        };
        let input = serde_json::json!({"backup_id": backup.id});
        let job = NewJob::new(JobKind::Backup, service.id, input, backup.created_at);
        self.cp.catalog.create_backup(&backup, &job, OnDemandRule::Queue).await.unwrap();
        if !matches!(status, BackupStatus::Pending | BackupStatus::Running) {
            self.cp.catalog.cancel(job.id, minutes_ago(minutes - 1)).await.unwrap();
        }
        if completed {
            let stretch =
                Coverage { from: at(1000), to: at(200_000_000), complete_until: Some(minutes_ago(1)) };
            self.cp.catalog.upsert_coverage(service.lineage_id, &stretch).await.unwrap();
        }
        backup.id
    }

    pub(crate) async fn user(&self, service: &Service, username: &str, password: &str, position: u32) {
        let wrapped = self.cp.vault.wrap_secret(service, &format!("user:{username}"), password);
        let credential = Credential {
            service_id: service.id,
            username: username.to_owned(),
            kek_version: wrapped.kek_version,
            wrapped: wrapped.bytes,
            roles: vec!["admin".to_owned()],
            privileges: String::new(),
            position,
            created_at: minutes_ago(80),
        };
        self.cp.catalog.upsert_credential(&credential).await.unwrap();
    }

    pub(crate) async fn open_jobs(&self, service: ServiceId) -> Vec<JobKind> {
        self.cp.catalog.open_jobs_of(service).await.unwrap().into_iter().map(|job| job.kind).collect()
    }

    /// All that a request could have changed.
    pub(crate) async fn everything(&self) -> (Vec<Service>, Vec<Backup>, Vec<Job>) {
        let catalog = &self.cp.catalog;
        let jobs = catalog.jobs(u32::MAX, &holdfast_catalog::JobFilter::default()).await.unwrap();
        (catalog.services(None).await.unwrap(), catalog.unshredded_backups().await.unwrap(), jobs)
    }
}
