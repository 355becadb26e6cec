//! The instances of this host: one folder each, with a record that says whether it is whole.
//!
//! The record is written last when an instance is made, so a folder without one is a half-made instance and may be removed.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use holdfast_api::agent::{InstanceFacts, InstanceSpec, RepositoryGrant, RestoredInstance};
use holdfast_core::engine::EngineKind;
use holdfast_core::{LineageId, OrganizationId, ServiceId};
use holdfast_engines::{Instance, Paths, RepositoryAccess};
use holdfast_store::gateway::{Access, Repository};
use holdfast_store::{LineageScope, ObjectPrefix};
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, chain};
use crate::host::write_private;
use crate::keys::{KeptKeys, LineageKeys};
use crate::lineage::Lineage;
use crate::{Agent, users};

const RECORD: &str = "instance.json";
const KEYS: &str = "keys.sealed";
/// Beginning of the names of folders in which expiry runs the tool.
pub(crate) const SCRATCH: &str = "expire-";
const PORTS: std::ops::Range<u16> = 20_000..28_000;

/// `instance.json`, readable by the agent alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub spec: InstanceSpec,
    pub instance: Instance,
    pub facts: InstanceFacts,
    /// What a restore reached, so that a repeated step answers the same.
    pub restored: Option<RestoredInstance>,
    /// Whether the engine is to run; an agent without its control plane goes by this.
    pub running: bool,
}

/// An instance that is whole.
pub(crate) struct Local {
    record: Mutex<Record>,
    pub lineage: Arc<Lineage>,
    /// As measured last; 0 until then.
    pub database_bytes: AtomicU64,
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
        keep_keys(agent, &self.instance().folder, &self.lineage)
    }
}

/// All whole instances, and the ports that are given out.
#[derive(Default)]
pub(crate) struct Instances {
    local: Mutex<HashMap<ServiceId, Arc<Local>>>,
    ports: Mutex<std::collections::HashSet<u16>>,
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

    fn insert(&self, record: Record, lineage: Arc<Lineage>) -> Arc<Local> {
        let service = record.spec.service_id;
        let local = Arc::new(Local {
            record: Mutex::new(record),
            lineage,
            database_bytes: AtomicU64::new(0),
            busy: tokio::sync::Mutex::default(),
        });
        // Also that of a stopped service, on which nobody listens.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(local.instance().port);
        self.lock().insert(service, Arc::clone(&local));
        local
    }

    pub(crate) fn remove(&self, service: ServiceId) -> Option<Arc<Local>> {
        self.lock().remove(&service)
    }

    /// A port that nobody listens on and that no other instance of this agent was given.
    pub(crate) fn reserve_port(&self, address: std::net::IpAddr) -> Result<u16, AgentError> {
        let mut taken = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..1000 {
            let port = rand::random_range(PORTS);
            if !taken.contains(&port) && TcpListener::bind((address, port)).is_ok() {
                taken.insert(port);
                return Ok(port);
            }
        }
        Err(AgentError::Unusable("no free port between 20000 and 28000".to_owned()))
    }

    pub(crate) fn release_port(&self, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
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

/// Claims a user and a port and lays out what a new instance is to be. Nothing runs yet; [`discard`] undoes it.
pub(crate) async fn plan(
    agent: &Agent,
    spec: &InstanceSpec,
    grant: &RepositoryGrant,
) -> Result<Instance, AgentError> {
    let folder = folder_of(agent, spec.service_id);
    make_passable(&folder)?;
    let run_as = users::claim(&agent.config.users_dir, &folder).await?;
    let port = agent.instances.reserve_port(agent.config.service_address)?;
    let instance = Instance {
        repository: access(agent, &folder, &grant.cipher_passphrase.0),
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
    write_gateway_certificate(agent, &instance)?;
    Ok(instance)
}

/// A credential of its own for one repository behind the gateway.
pub(crate) fn access(agent: &Agent, folder: &Path, passphrase: &str) -> RepositoryAccess {
    RepositoryAccess {
        gateway_port: agent.gateway.local_addr().port(),
        gateway_ca_file: Paths(folder).conf().join("gateway.crt"),
        access_key: format!("HF{}", hex::encode_upper(rand::random::<[u8; 9]>())),
        secret_key: hex::encode(rand::random::<[u8; 32]>()),
        cipher_passphrase: passphrase.to_owned(),
    }
}

pub(crate) fn write_gateway_certificate(agent: &Agent, instance: &Instance) -> Result<(), AgentError> {
    use std::os::unix::fs::PermissionsExt;
    let conf = Paths(&instance.folder).conf();
    fs::create_dir_all(&conf).map_err(AgentError::file(&conf))?;
    fs::set_permissions(&instance.folder, fs::Permissions::from_mode(0o711))
        .and_then(|()| fs::set_permissions(&conf, fs::Permissions::from_mode(0o711)))
        .map_err(AgentError::file(&conf))?;
    let path = conf.join("gateway.crt");
    fs::write(&path, agent.host.gateway_certificate()?).map_err(AgentError::file(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(AgentError::file(&path))
}

pub(crate) fn register(agent: &Agent, access_to: &RepositoryAccess, lineage: &Arc<Lineage>, access: Access) {
    agent.gateway.register(Repository {
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
    keep_keys(agent, &record.instance.folder, &lineage)?;
    save(&record)?;
    Ok(agent.instances.insert(record, lineage))
}

/// Removes an instance and everything that it held on this host. What lies in the object store stays.
pub(crate) async fn discard(
    agent: &Agent,
    spec: &InstanceSpec,
    instance: &Instance,
) -> Result<(), AgentError> {
    let record = instance.folder.join(RECORD);
    // First the record: a removal that is cut off here leaves a half-made instance, which is removed at the next start.
    if record.exists() {
        fs::remove_file(&record).map_err(AgentError::file(&record))?;
    }
    agent.instances.remove(spec.service_id);
    // Before the engine ends, so that a discarded one pushes nothing more.
    agent.gateway.unregister(&instance.repository.access_key);
    let driver = agent.driver(spec.engine)?;
    driver.stop(instance, 20).await.map_err(AgentError::engine("stop the instance"))?;
    remove_folder(&instance.folder).await?;
    let run = Paths(&instance.folder).run();
    if !run.starts_with(&instance.folder) {
        remove_folder(&run).await?;
    }
    agent.instances.release_port(instance.port);
    users::release(&agent.config.users_dir, instance.run_as.as_ref(), &instance.folder);
    Ok(())
}

pub(crate) async fn remove_folder(folder: &Path) -> Result<(), AgentError> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(AgentError::file(folder)(error)),
        _ => Ok(()),
    }
}

/// Removes what a killed agent left of an instance that never became whole. Its engine, if one runs, is stopped first,
/// as the user that the folder's data belongs to.
pub(crate) async fn discard_half_made(agent: &Agent, spec: &InstanceSpec) -> Result<(), AgentError> {
    use std::os::unix::fs::MetadataExt;
    let folder = folder_of(agent, spec.service_id);
    let data = Paths(&folder).data();
    if folder.join(RECORD).exists() {
        return Err(AgentError::NotAdopted(spec.service_id));
    }
    let Ok(meta) = fs::metadata(&data) else { return remove_folder(&folder).await };
    let owner = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(meta.uid())).ok().flatten();
    let run_as = owner.filter(|user| !user.uid.is_root() && nix::unistd::geteuid().is_root()).map(|user| {
        holdfast_engines::RunAs { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
    });
    let instance = Instance {
        repository: access(agent, &folder, ""),
        stanza: stanza_of(spec.lineage_id),
        version: spec.version.clone(),
        listen: agent.config.service_address,
        port: 0,
        run_as,
        memory_mib: spec.memory_mib,
        max_connections: spec.max_connections,
        allowed_cidrs: Vec::new(),
        folder,
    };
    discard(agent, spec, &instance).await
}

/// Empties the lineage's part of the store, for an instance that is about to be made: what an earlier try archived
/// belongs to another cluster, and the tool would refuse to go on from it.
pub(crate) async fn clear_lineage(agent: &Agent, scope: LineageScope) -> Result<(), AgentError> {
    let mut objects = agent.store.list(&ObjectPrefix::Lineage(scope));
    while let Some(object) =
        objects.try_next().await.map_err(AgentError::store("list an earlier try's objects"))?
    {
        agent
            .store
            .delete(&object.name)
            .await
            .map_err(AgentError::store("remove an earlier try's objects"))?;
    }
    Ok(())
}

/// As [`discard_half_made`], where nothing is known but the service's id.
pub(crate) async fn discard_leftover(agent: &Agent, service: ServiceId) -> Result<(), AgentError> {
    let versions = agent.driver(EngineKind::Postgresql)?.versions();
    let spec = InstanceSpec {
        service_id: service,
        organization_id: OrganizationId::random(),
        lineage_id: LineageId::random(),
        name: String::new(),
        engine: EngineKind::Postgresql,
        version: versions.last().cloned().unwrap_or_default(),
        memory_mib: 0,
        max_connections: 0,
        allowed_cidrs: Vec::new(),
    };
    discard_half_made(agent, &spec).await
}

/// Takes up every whole instance below the agent's folder again, and removes what never became one. An instance that
/// cannot be taken up is left as it is.
pub(crate) async fn adopt_all(agent: &Arc<Agent>) -> Result<(), AgentError> {
    let folder = &agent.config.instances_dir;
    make_passable(folder)?;
    for entry in fs::read_dir(folder).map_err(AgentError::file(folder))?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let service: Option<ServiceId> = name.to_str().and_then(|name| name.parse().ok());
        let done = match service {
            Some(_) if path.join(RECORD).is_file() => adopt(agent, &path.join(RECORD)).await,
            Some(service) => discard_leftover(agent, service).await,
            None if name.to_string_lossy().starts_with(SCRATCH) => remove_folder(&path).await,
            None => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(instance = %path.display(), error = %chain(&error), "an instance could not be taken up");
        }
    }
    Ok(())
}

/// Services' users pass through the folder of all instances, whatever the agent's umask.
fn make_passable(folder: &Path) -> Result<(), AgentError> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).map_err(AgentError::file(folder))
}

async fn adopt(agent: &Arc<Agent>, path: &Path) -> Result<(), AgentError> {
    let text = fs::read(path).map_err(AgentError::file(path))?;
    let mut record: Record = serde_json::from_slice(&text)
        .map_err(|error| AgentError::Unusable(format!("{} is damaged: {error}", path.display())))?;
    let folder = record.instance.folder.clone();
    let keys_path = folder.join(KEYS);
    let sealed = fs::read(&keys_path).map_err(AgentError::file(&keys_path))?;
    let kept = agent.host.open_sealed(&record.spec.service_id.to_string(), &sealed)?;
    let kept: KeptKeys = serde_json::from_slice(&kept)
        .map_err(|error| AgentError::Unusable(format!("{} is damaged: {error}", keys_path.display())))?;
    let keys = LineageKeys::from_kept(&kept).map_err(|error| AgentError::Unusable(error.to_string()))?;
    let port = agent.gateway.local_addr().port();
    if record.instance.repository.gateway_port != port {
        record.instance.repository.gateway_port = port;
        save(&record)?;
        write_gateway_certificate(agent, &record.instance)?;
        let driver = agent.driver(record.spec.engine)?;
        driver
            .write_repository_settings(&record.instance)
            .await
            .map_err(AgentError::engine("write the repository settings"))?;
    }
    let lineage = Arc::new(Lineage::new(scope_of(&record.spec), keys));
    let access = record.instance.repository.clone();
    agent.instances.insert(record, Arc::clone(&lineage));
    tokio::spawn(open_archive(Arc::clone(agent), access, lineage));
    Ok(())
}

/// Learns from the store what is archived, and only then lets the engine push more: the coverage begins from the truth.
/// While the store is away the engine runs and keeps its log.
async fn open_archive(agent: Arc<Agent>, access: RepositoryAccess, lineage: Arc<Lineage>) {
    while let Err(error) = lineage.load_archive(&agent.store).await {
        tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "the log archive cannot be listed yet");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    // Removed meanwhile: its credential stays closed.
    if agent.instances.get(lineage.scope.service).is_some() {
        register(&agent, &access, &lineage, Access::ReadWrite);
    }
}

fn save(record: &Record) -> Result<(), AgentError> {
    let text = serde_json::to_vec_pretty(record).expect("a record has only string keys");
    write_private(&record.instance.folder.join(RECORD), &text)
}

fn keep_keys(agent: &Agent, folder: &Path, lineage: &Lineage) -> Result<(), AgentError> {
    let plain = serde_json::to_vec(&lineage.keys.kept()).expect("kept keys have only string keys");
    let sealed = agent.host.seal(&lineage.scope.service.to_string(), &plain);
    write_private(&folder.join(KEYS), &sealed)
}
