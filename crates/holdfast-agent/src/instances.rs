//! The instances of this host: one folder each, with a record that says whether it is whole.
//!
//! The record is written last when an instance is made, so a folder without one is a half-made instance and may be removed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_api::agent::{InstanceFacts, InstanceSpec, RepositoryGrant, RestoredInstance};
use holdfast_core::disk::Level;
use holdfast_core::{KeyId, LineageId, ServiceId};
use holdfast_engines::{Instance, Paths, RepositoryAccess};
use holdfast_gateway::{Access, Gateway, Repository};
use holdfast_store::LineageScope;
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::host::{Host, write_private};
use crate::keys::KeptKeys;
use crate::lineage::Lineage;
use crate::{Agent, ports, users};

pub(crate) const RECORD: &str = "instance.json";
pub(crate) const KEYS: &str = "keys.sealed";
/// Beginning of the names of folders in which expiry runs the tool.
pub(crate) const SCRATCH: &str = "expire-";

/// `instance.json`, readable by the agent alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub spec: InstanceSpec,
    pub instance: Instance,
    pub facts: InstanceFacts,
    /// What a restore reached, so that a repeated step answers the same.
    pub restored: Option<RestoredInstance>,
    /// Why log was given up, until the gap that this makes is seen.
    #[serde(default)]
    pub log_dropped: Option<String>,
    /// Whether the engine is to run; an agent without its control plane goes by this.
    pub running: bool,
}

/// An instance that is whole.
pub(crate) struct Local {
    record: Mutex<Record>,
    pub lineage: Arc<Lineage>,
    /// As measured last; 0 until then.
    pub database_bytes: AtomicU64,
    pub disk_level: Mutex<Level>,
    /// Held by a step that starts, stops or changes the engine, so that the supervisor leaves it alone meanwhile.
    pub busy: tokio::sync::Mutex<()>,
}

impl Local {
    pub(crate) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn instance(&self) -> Instance {
        self.record().instance
    }

    /// Changes the record, on disk first.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) -> Result<Record, AgentError> {
        let mut guard = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = guard.clone();
        change(&mut record);
        save(&record)?;
        *guard = record.clone();
        Ok(record)
    }

    pub(crate) fn keep_keys(&self, agent: &Agent) -> Result<(), AgentError> {
        keep_keys(&agent.host, &self.instance().folder, &self.lineage)
    }

    /// From now on log is sealed with this key, which is on disk first.
    pub(crate) fn begin_epoch(&self, agent: &Agent, epoch: KeyId) -> Result<(), AgentError> {
        let (folder, scope) = (self.instance().folder, self.lineage.scope);
        self.lineage.keys.begin_epoch(epoch, |kept| write_keys(&agent.host, &folder, scope, kept))
    }
}

/// All whole instances.
#[derive(Default)]
pub(crate) struct Instances {
    local: Mutex<HashMap<ServiceId, Arc<Local>>>,
}

impl Instances {
    pub(crate) fn get(&self, service: ServiceId) -> Option<Arc<Local>> {
        self.lock().get(&service).cloned()
    }

    pub(crate) fn require(&self, service: ServiceId) -> Result<Arc<Local>, AgentError> {
        self.get(service).ok_or(AgentError::NoInstance(service))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Local>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn insert(&self, record: Record, lineage: Arc<Lineage>) -> Arc<Local> {
        let service = record.spec.service_id;
        let local = Arc::new(Local {
            record: Mutex::new(record),
            lineage,
            database_bytes: AtomicU64::new(0),
            disk_level: Mutex::default(),
            busy: tokio::sync::Mutex::default(),
        });
        self.lock().insert(service, Arc::clone(&local));
        local
    }

    pub(crate) fn remove(&self, service: ServiceId) -> Option<Arc<Local>> {
        self.lock().remove(&service)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceId, Arc<Local>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn folder_of(agent: &Agent, service: ServiceId) -> PathBuf {
    agent.config.instances_dir.join(service.to_string())
}

pub(crate) fn scope_of(spec: &InstanceSpec) -> LineageScope {
    LineageScope { organization: spec.organization_id, service: spec.service_id, lineage: spec.lineage_id }
}

/// The tool's name for a lineage's repository; never reused, so it is the same wherever the repository is read.
pub(crate) fn stanza_of(lineage: LineageId) -> String {
    format!("hf-{}", lineage.0.simple())
}

/// Claims a user and a port and lays out what a new instance is to be. Nothing runs yet; [`crate::adoption::discard`] undoes it.
pub(crate) async fn plan(
    agent: &Agent,
    spec: &InstanceSpec,
    grant: &RepositoryGrant,
) -> Result<Instance, AgentError> {
    let folder = folder_of(agent, spec.service_id);
    make_passable(&folder)?;
    let run_as = users::claim(&agent.config.claims_dir, &folder).await?;
    let port = ports::claim(&agent.config.claims_dir, &folder, agent.config.service_address)?;
    let has_repository = agent.repository(spec.engine).is_ok();
    let instance = Instance {
        repository: has_repository.then(|| access(&agent.gateway, &folder, &grant.cipher_passphrase.0)),
        stanza: stanza_of(spec.lineage_id),
        version: spec.version.clone(),
        listen: agent.config.service_address,
        port,
        run_as,
        memory_mib: spec.memory_mib,
        max_connections: spec.max_connections,
        allowed_cidrs: spec.allowed_cidrs.clone(),
        folder,
    };
    if has_repository {
        write_gateway_certificate(&agent.host, &instance)?;
    }
    Ok(instance)
}

/// A credential of its own for one repository behind the gateway.
pub(crate) fn access(gateway: &Gateway, folder: &Path, passphrase: &str) -> RepositoryAccess {
    RepositoryAccess {
        gateway_port: gateway.local_addr().port(),
        gateway_ca_file: Paths(folder).conf().join("gateway.crt"),
        access_key: format!("HF{}", hex::encode_upper(rand::random::<[u8; 9]>())),
        secret_key: hex::encode(rand::random::<[u8; 32]>()),
        cipher_passphrase: passphrase.to_owned(),
    }
}

pub(crate) fn write_gateway_certificate(host: &Host, instance: &Instance) -> Result<(), AgentError> {
    use std::os::unix::fs::PermissionsExt;
    let conf = Paths(&instance.folder).conf();
    fs::create_dir_all(&conf).map_err(AgentError::file(&conf))?;
    fs::set_permissions(&instance.folder, fs::Permissions::from_mode(0o711))
        .and_then(|()| fs::set_permissions(&conf, fs::Permissions::from_mode(0o711)))
        .map_err(AgentError::file(&conf))?;
    let path = conf.join("gateway.crt");
    fs::write(&path, host.gateway_certificate()?).map_err(AgentError::file(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(AgentError::file(&path))
}

pub(crate) fn register(
    gateway: &Gateway,
    access_to: &RepositoryAccess,
    lineage: &Arc<Lineage>,
    access: Access,
) {
    gateway.register(Repository {
        access_key: access_to.access_key.clone(),
        secret_key: access_to.secret_key.clone(),
        organization: lineage.scope.organization,
        service: lineage.scope.service,
        lineage: lineage.scope.lineage,
        access,
        keys: Arc::clone(lineage) as _,
        events: Arc::clone(lineage) as _,
    });
}

/// The instance is whole: from here on it is kept, also over a restart.
pub(crate) fn commit(agent: &Agent, record: Record, lineage: Arc<Lineage>) -> Result<Arc<Local>, AgentError> {
    keep_keys(&agent.host, &record.instance.folder, &lineage)?;
    save(&record)?;
    Ok(agent.instances.insert(record, lineage))
}

pub(crate) fn save(record: &Record) -> Result<(), AgentError> {
    let text = serde_json::to_vec_pretty(record).expect("a record has only string keys");
    let folder = &record.instance.folder;
    write_private(&folder.join(RECORD), &text)?;
    // The name of the folder itself; it was made without.
    let above = folder.parent().unwrap_or(folder);
    fs::File::open(above).and_then(|above| above.sync_all()).map_err(AgentError::file(above))
}

fn keep_keys(host: &Host, folder: &Path, lineage: &Lineage) -> Result<(), AgentError> {
    lineage.keys.keep(|kept| write_keys(host, folder, lineage.scope, kept))
}

fn write_keys(host: &Host, folder: &Path, scope: LineageScope, kept: &KeptKeys) -> Result<(), AgentError> {
    let plain = serde_json::to_vec(kept).expect("kept keys have only string keys");
    let sealed = host.seal(&scope.service.to_string(), &plain);
    write_private(&folder.join(KEYS), &sealed)
}

/// Services' users pass through the folder of all instances, whatever the agent's umask.
pub(crate) fn make_passable(folder: &Path) -> Result<(), AgentError> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).map_err(AgentError::file(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::tests::Bucket;

    #[test]
    fn keys_that_are_kept_twice_at_once_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = Host::open(&folder.path().join("agent")).expect("a host");
        let lineage = Bucket::new().lineage();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        keep_keys(&host, folder.path(), &lineage).expect("kept");
                    }
                });
            }
        });
        let sealed = fs::read(folder.path().join(KEYS)).expect("kept");
        let plain = host.open_sealed(&lineage.scope.service.to_string(), &sealed).expect("it opens");
        let kept: KeptKeys = serde_json::from_slice(&plain).expect("whole");
        assert_eq!(kept.keys.len(), 2);
    }
}
