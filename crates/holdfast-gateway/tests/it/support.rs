//! A gateway over a local folder, with keys and events that a test can look at, and S3 clients for it.
#![allow(unreachable_pub)] // nothing of it leaves this program

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_gateway::{
    Access, BUCKET, Gateway, GatewayConfig, Repository, RepositoryEvents, RepositoryKeys, StoredObject,
};
use holdfast_seal::DataKey;
use holdfast_store::repository::ObjectClass;
use holdfast_store::{KeyRefused, LineageScope, OwnedKey, Store};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ClientOptions, RetryConfig};

/// One key a backup, one for the log and one for the rest, as the agent has it.
#[derive(Default)]
pub struct TestKeys {
    keys: Mutex<HashMap<String, OwnedKey>>,
}

impl TestKeys {
    fn of(&self, owner: &str) -> OwnedKey {
        let new = || OwnedKey { key_id: KeyId::random(), owner: owner.to_owned(), key: DataKey::random() };
        self.keys.lock().expect("no test panics here").entry(owner.to_owned()).or_insert_with(new).clone()
    }
}

impl RepositoryKeys for TestKeys {
    fn sealing_key(&self, class: &ObjectClass) -> Result<OwnedKey, KeyRefused> {
        Ok(match class {
            ObjectClass::BackupFile { label } => self.of(label),
            ObjectClass::Log { .. }
            | ObjectClass::PartialLog { .. }
            | ObjectClass::TimelineHistory { .. } => self.of("epoch"),
            ObjectClass::BackupHistory | ObjectClass::Info | ObjectClass::Other => self.of("repository"),
        })
    }

    fn opening_key(&self, key_id: KeyId) -> Result<OwnedKey, KeyRefused> {
        let keys = self.keys.lock().expect("no test panics here");
        let found = keys.values().find(|key| key.key_id == key_id).cloned();
        found.ok_or_else(|| KeyRefused { reason: format!("key {key_id} is unknown here") })
    }
}

/// What the gateway told.
#[derive(Default)]
pub struct TestEvents {
    pub stored: Mutex<Vec<StoredObject>>,
    pub deleted: Mutex<Vec<String>>,
    pub served: Mutex<u64>,
}

impl RepositoryEvents for TestEvents {
    fn stored(&self, object: &StoredObject) {
        self.stored.lock().expect("no test panics here").push(object.clone());
    }
    fn deleted(&self, path: &str) {
        self.deleted.lock().expect("no test panics here").push(path.to_owned());
    }
    fn served(&self, plain_bytes: u64) {
        *self.served.lock().expect("no test panics here") += plain_bytes;
    }
}

/// One lineage with a credential.
pub struct Tenant {
    pub scope: LineageScope,
    pub keys: Arc<TestKeys>,
    pub events: Arc<TestEvents>,
    pub access_key: String,
    pub secret_key: String,
}

pub struct Bench {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub gateway: Gateway,
    /// The certificate that clients may trust.
    pub certificate_pem: String,
}

impl Bench {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = open(folder.path());
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let config = GatewayConfig {
            listen: "127.0.0.1:0".parse().expect("an address"),
            certificate_pem: certificate.cert.pem(),
            key_pem: certificate.signing_key.serialize_pem(),
        };
        let gateway = Gateway::start(config, store.clone()).await.expect("the gateway starts");
        Self { folder, store, gateway, certificate_pem: certificate.cert.pem() }
    }

    pub fn tenant(&self) -> Tenant {
        let scope = LineageScope {
            organization: OrganizationId::random(),
            service: ServiceId::random(),
            lineage: LineageId::random(),
        };
        let tenant = Tenant {
            scope,
            keys: Arc::default(),
            events: Arc::default(),
            access_key: format!("AK{}", uuid::Uuid::new_v4().simple()),
            secret_key: uuid::Uuid::new_v4().to_string(),
        };
        self.register(&tenant, &tenant.access_key, Access::ReadWrite);
        tenant
    }

    pub fn register(&self, tenant: &Tenant, access_key: &str, access: Access) {
        self.gateway.register(Repository {
            access_key: access_key.to_owned(),
            secret_key: tenant.secret_key.clone(),
            organization: tenant.scope.organization,
            service: tenant.scope.service,
            lineage: tenant.scope.lineage,
            access,
            keys: Arc::clone(&tenant.keys) as Arc<dyn RepositoryKeys>,
            events: Arc::clone(&tenant.events) as Arc<dyn RepositoryEvents>,
        });
    }

    pub fn client(&self, tenant: &Tenant) -> AmazonS3 {
        self.client_with(&tenant.access_key, &tenant.secret_key)
    }

    pub fn client_with(&self, access_key: &str, secret_key: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(format!("https://localhost:{}", self.gateway.local_addr().port()))
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(access_key)
            .with_secret_access_key(secret_key)
            .with_client_options(ClientOptions::new().with_allow_invalid_certificates(true))
            // What the gateway answers is what the test sees.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .expect("a client")
    }

    /// All files in the store's folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(self.folder.path(), &mut files);
        files
    }

    /// The file of the only object whose name ends so.
    pub fn file_ending(&self, suffix: &str) -> PathBuf {
        let mut files = self.files();
        files.retain(|file| file.to_string_lossy().ends_with(suffix));
        assert_eq!(files.len(), 1, "{suffix}: {files:?}");
        files.remove(0)
    }

    /// Whether `needle` lies anywhere in the store, in content or name.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.files().iter().any(|file| {
            let name = file.as_os_str().as_encoded_bytes();
            let content = std::fs::read(file).expect("a readable file");
            [name, &content].iter().any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
        })
    }
}

pub fn open(folder: &Path) -> Store {
    Store::open(&format!("file://{}", folder.display())).expect("the store opens")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        if entry.file_type().expect("a file type").is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}
