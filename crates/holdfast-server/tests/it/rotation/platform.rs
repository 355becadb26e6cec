//! A control plane in a temp folder that can be closed and opened again, with services, keys and passwords.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt as _;
use holdfast_catalog::{Catalog, Credential, NewJob, Organization};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::{Job, JobKind, JobState, Place};
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::retention::Policy;
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{AgentId, JobId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_seal::RecoveryPrivate;
use holdfast_server::ControlPlane;
use holdfast_server::jobs::{repository, rotation, runner, steps};
use holdfast_server::live::Live;
use holdfast_server::settings::Settings;
use holdfast_server::vault::Vault;
use holdfast_store::{ObjectName, ObjectPrefix, ServiceScope, Store};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

pub(crate) struct Platform {
    pub cp: ControlPlane,
    pub kit: RecoveryPrivate,
    /// What each key holds.
    pub keys: Vec<(KeyId, Vec<u8>)>,
    pub services: Vec<Service>,
    folder: tempfile::TempDir,
}

async fn open(folder: &std::path::Path, kit: &mut Option<RecoveryPrivate>) -> ControlPlane {
    let store_url = format!("file://{}", folder.join("store").display());
    let vault = Vault::open(&folder.join("keys"), |private| {
        *kit = Some(private.clone());
        Ok(())
    });
    let cp = ControlPlane {
        catalog: Catalog::open(&folder.join("catalog.db")).await.unwrap(),
        vault: Arc::new(vault.unwrap()),
        store: Store::open(&store_url).unwrap(),
        live: Arc::new(Live::default()),
        settings: Arc::new(Settings {
            data_dir: folder.to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            store_url,
            max_body_bytes: 1024,
            max_services: None,
            policy: Policy::default(),
            kek_rotation_days: 90,
            faults: holdfast_fault::FaultPoints::default(),
        }),
    };
    // As at every start.
    for version in cp.vault.kek_versions() {
        cp.catalog.note_kek(version, Timestamp::now()).await.unwrap();
    }
    cp
}

impl Platform {
    /// So many services with so many keys and one password each.
    pub(crate) async fn new(services: usize, keys: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut kit = None;
        let cp = open(folder.path(), &mut kit).await;
        let organization = Organization {
            id: OrganizationId::random(),
            name: "Personal".to_owned(),
            slug: "personal".to_owned(),
            is_personal: true,
            created_at: Timestamp::now(),
        };
        cp.catalog.insert_organization(&organization).await.unwrap();
        let mut platform = Self { cp, kit: kit.unwrap(), keys: Vec::new(), services: Vec::new(), folder };
        for number in 0..services {
            let service = platform.service(organization.id, &format!("service-{number}")).await;
            for _ in 0..keys {
                platform.key(&service).await;
            }
            platform.services.push(service);
        }
        platform
    }

    async fn service(&self, organization_id: OrganizationId, name: &str) -> Service {
        let service = Service {
            id: ServiceId::random(),
            organization_id,
            lineage_id: LineageId::random(),
            name: name.to_owned(),
            engine: EngineKind::Postgresql,
            version: "17".to_owned(),
            engine_version: None,
            status: ServiceStatus::Running,
            status_message: None,
            plan_name: "tier-1".to_owned(),
            zone: "se-sto1".to_owned(),
            allowed_cidrs: Vec::new(),
            attributes: Attributes::default(),
            restored_from: None,
            host: None,
            port: None,
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
            deleted_at: None,
        };
        let job = NewJob::new(JobKind::Provision, service.id, serde_json::json!({}), Timestamp::now());
        self.cp.catalog.create_service(&service, &job, None).await.unwrap();
        self.cp.catalog.cancel(job.id, Timestamp::now()).await.unwrap();
        self.password(&service, "app_user", &format!("password of {name}")).await;
        service
    }

    pub(crate) async fn password(&self, service: &Service, username: &str, password: &str) {
        let wrapped = self.cp.vault.wrap_secret(service, &format!("user:{username}"), password);
        let credential = Credential {
            service_id: service.id,
            username: username.to_owned(),
            kek_version: wrapped.kek_version,
            wrapped: wrapped.bytes,
            roles: Vec::new(),
            privileges: String::new(),
            position: 0,
            created_at: Timestamp::now(),
        };
        self.cp.catalog.upsert_credential(&credential).await.unwrap();
    }

    /// One more key, in catalog and bucket.
    pub(crate) async fn key(&mut self, service: &Service) -> KeyId {
        let id = KeyId::random();
        let record = repository::ensure_key(&self.cp, service, id, KeyPurpose::Epoch).await.unwrap();
        self.keys.push((id, self.cp.vault.unwrap(&record).unwrap().expose().to_vec()));
        id
    }

    pub(crate) fn kek_file(&self, version: u32) -> PathBuf {
        self.folder.path().join(format!("keys/kek-{version}"))
    }

    /// What a new process finds.
    pub(crate) async fn start_again(&mut self) {
        self.cp.catalog.close().await;
        self.cp = open(self.folder.path(), &mut None).await;
    }

    /// A new process on an empty catalog into which these keys come as they were, with their services.
    pub(crate) async fn start_again_from(&mut self, keys: &[KeyRecord]) {
        self.cp.catalog.close().await;
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.folder.path().join(format!("catalog.db{suffix}")));
        }
        self.cp = open(self.folder.path(), &mut None).await;
        let organization = Organization {
            id: self.services[0].organization_id,
            name: "Personal".to_owned(),
            slug: "personal".to_owned(),
            is_personal: true,
            created_at: Timestamp::now(),
        };
        self.cp.catalog.insert_organization(&organization).await.unwrap();
        for service in &self.services {
            let job = NewJob::new(JobKind::Provision, service.id, serde_json::json!({}), Timestamp::now());
            self.cp.catalog.create_service(service, &job, None).await.unwrap();
            self.cp.catalog.cancel(job.id, Timestamp::now()).await.unwrap();
        }
        for key in keys {
            self.cp.catalog.insert_key(key).await.unwrap();
        }
    }

    pub(crate) async fn ask(&self, new_kek: bool) -> JobId {
        let job = rotation::new_job(&self.cp, new_kek, Timestamp::now());
        self.cp.catalog.enqueue(&job).await.unwrap();
        job.id
    }

    /// Runs the runner until the job has ended.
    pub(crate) async fn end(&self, job: JobId) -> Job {
        let stop = CancellationToken::new();
        let running = tokio::spawn(runner::run(self.cp.clone(), stop.clone()));
        let ended = holdfast_testkit::wait_for("the rotation has ended", 120, || async {
            Ok(self.cp.catalog.job(job).await?.filter(|job| job.state.is_terminal()))
        });
        let ended = ended.await.unwrap();
        stop.cancel();
        running.await.unwrap();
        ended
    }

    /// A rotation from its beginning to its good end.
    pub(crate) async fn rotate(&self) -> Job {
        let job = self.end(self.ask(true).await).await;
        assert_eq!(job.state, JobState::Completed, "{job:?}");
        job
    }

    /// One step of the control plane's under a lease; the process ends after `within`. Whether there was a step.
    pub(crate) async fn step(&self, within: std::time::Duration, now: &mut Timestamp) -> bool {
        // Whoever held it is dead: the lease has lapsed.
        *now += SignedDuration::from_mins(10);
        let lease_for = SignedDuration::from_mins(1);
        let job =
            self.cp.catalog.lease(Place::ControlPlane, AgentId::random(), *now, lease_for).await.unwrap();
        let Some(job) = job else { return false };
        let said = rotation::Said::new(None);
        if let Ok(outcome) = tokio::time::timeout(within, steps::perform(&self.cp, &job, &said)).await {
            let output = outcome.unwrap();
            self.cp
                .catalog
                .complete_step(job.id, job.generation, job.step_index, output, *now)
                .await
                .unwrap();
        }
        true
    }

    fn scope(record: &KeyRecord) -> ServiceScope {
        ServiceScope { organization: record.organization_id, service: record.service_id }
    }

    /// Versions of the KEKs that wrap a key in the bucket; 0 is the recovery key.
    pub(crate) async fn in_bucket(&self, record: &KeyRecord) -> Vec<u32> {
        let prefix = ObjectPrefix::Keys { service: Self::scope(record), key: Some(record.id) };
        let listed: Vec<_> = self.cp.store.list(&prefix).try_collect().await.unwrap();
        let mut versions: Vec<u32> = (listed.iter())
            .map(|object| match &object.name {
                ObjectName::Key { kek_version, .. } => *kek_version,
                _ => 0,
            })
            .collect();
        versions.sort_unstable();
        versions
    }

    pub(crate) async fn read(&self, name: &ObjectName) -> Vec<u8> {
        self.cp.store.get(name).await.unwrap().collect(4096).await.unwrap().to_vec()
    }

    /// Every key opens from the catalog, and from the bucket by a KEK that is here and by the kit; every password opens.
    pub(crate) async fn everything_opens(&self) {
        for (id, holds) in &self.keys {
            let record = self.cp.catalog.key(*id).await.unwrap().unwrap();
            assert_eq!(self.cp.vault.unwrap(&record).unwrap().expose().as_slice(), holds, "{record:?}");
            let mut opens = false;
            for kek_version in self.in_bucket(&record).await {
                let (service, key) = (Self::scope(&record), record.id);
                let name = match kek_version {
                    0 => ObjectName::KeyRecovery { service, key },
                    _ => ObjectName::Key { service, key, kek_version },
                };
                let stored = self.read(&name).await;
                if kek_version == 0 {
                    assert_eq!(self.by_kit(&record, &stored), *holds);
                } else {
                    opens |= self.cp.vault.holds_same_key(&record, &stored).unwrap();
                }
            }
            assert!(opens, "no wrapping of {id} in the bucket opens");
        }
        for service in &self.services {
            for user in self.cp.catalog.credentials_of(service.id).await.unwrap() {
                let name = format!("user:{}", user.username);
                let password = self.cp.vault.unwrap_secret(service, &name, &user.wrapped).unwrap();
                assert!(password.contains("password of"), "{name} of {}", service.name);
            }
        }
    }

    fn by_kit(&self, record: &KeyRecord, stored: &[u8]) -> Vec<u8> {
        let identity = holdfast_seal::KeyIdentity {
            key_id: record.id.0,
            organization: record.organization_id.to_string(),
            service: record.service_id.to_string(),
            lineage: record.lineage_id.to_string(),
            purpose: record.purpose.as_str().to_owned(),
        };
        holdfast_seal::unwrap_with_recovery(&self.kit, &identity, stored).unwrap().expose().to_vec()
    }

    /// Only this KEK is left, anywhere.
    pub(crate) async fn only(&self, version: u32) {
        assert_eq!(self.cp.vault.kek_versions(), [version]);
        for old in 1..version {
            assert!(!self.kek_file(old).exists(), "kek-{old} is still there");
        }
        assert!(self.kek_file(version).exists());
        let uses = self.cp.catalog.kek_uses().await.unwrap();
        assert!(uses.keys().all(|used| *used == version), "{uses:?}");
        for (id, _) in &self.keys {
            let record = self.cp.catalog.key(*id).await.unwrap().unwrap();
            assert_eq!((record.kek_version, self.in_bucket(&record).await), (version, vec![0, version]));
        }
    }
}
