//! How instances are found again after a restart, and how they and their half-made remains go.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use holdfast_api::agent::InstanceSpec;
use holdfast_core::causes::chain;
use holdfast_core::engine::EngineKind;
use holdfast_core::{LineageId, OrganizationId, ServiceId};
use holdfast_engines::{Base, Instance, Paths, RepositoryAccess};
use holdfast_gateway::Access;
use holdfast_store::{LineageScope, ObjectPrefix};

use crate::error::AgentError;
use crate::instances::{
    KEYS, RECORD, Record, SCRATCH, folder_of, make_passable, register, save, scope_of, stanza_of,
    write_gateway_certificate,
};
use crate::keys::{KeptKeys, LineageKeys};
use crate::lineage::Lineage;
use crate::{Agent, ports, users};

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
    if let Some(access) = &instance.repository {
        agent.gateway.unregister(&access.access_key);
    }
    let driver = agent.driver(spec.engine)?;
    driver.stop(instance, 20).await.map_err(AgentError::engine("stop the instance"))?;
    remove_folders(&instance.folder).await?;
    users::release(&agent.config.claims_dir, instance.run_as.as_ref(), &instance.folder);
    ports::release(&agent.config.claims_dir, &instance.folder)
}

/// Removes an instance's folder. The one outside of it goes first: what is left of it finds nobody any more, and is in the
/// way of the next instance of that name, which may have another user.
pub(crate) async fn remove_folders(folder: &Path) -> Result<(), AgentError> {
    remove_folder(&Paths(folder).run()).await?;
    remove_folder(folder).await
}

async fn remove_folder(folder: &Path) -> Result<(), AgentError> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(AgentError::file(folder)(error)),
        _ => Ok(()),
    }
}

/// Removes what a killed agent left of an instance that never became whole. Its engine, if one runs, is stopped first,
/// as the user that the folder's data belongs to.
pub(crate) async fn discard_half_made(agent: &Agent, spec: &InstanceSpec) -> Result<(), AgentError> {
    match half_made(agent, spec)? {
        Some(instance) => discard(agent, spec, &instance).await,
        None => {
            let folder = folder_of(agent, spec.service_id);
            remove_folders(&folder).await?;
            ports::release(&agent.config.claims_dir, &folder)
        }
    }
}

/// `None` where no data folder was made yet.
fn half_made(agent: &Agent, spec: &InstanceSpec) -> Result<Option<Instance>, AgentError> {
    use std::os::unix::fs::MetadataExt;
    let folder = folder_of(agent, spec.service_id);
    let data = Paths(&folder).data();
    if folder.join(RECORD).exists() {
        return Err(AgentError::NotAdopted(spec.service_id));
    }
    let Ok(meta) = fs::metadata(&data) else { return Ok(None) };
    let owner = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(meta.uid())).ok().flatten();
    let run_as = owner.filter(|user| !user.uid.is_root() && nix::unistd::geteuid().is_root()).map(|user| {
        holdfast_engines::RunAs { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
    });
    Ok(Some(Instance {
        repository: None,
        stanza: stanza_of(spec.lineage_id),
        version: spec.version.clone(),
        listen: agent.config.service_address,
        port: 0,
        run_as,
        memory_mib: spec.memory_mib,
        max_connections: spec.max_connections,
        allowed_cidrs: Vec::new(),
        folder,
    }))
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

/// As [`discard_half_made`], where nothing is known but the service's id: whichever engine runs there is stopped.
pub(crate) async fn discard_leftover(agent: &Agent, service: ServiceId) -> Result<(), AgentError> {
    let spec = |engine, version| InstanceSpec {
        service_id: service,
        organization_id: OrganizationId::random(),
        lineage_id: LineageId::random(),
        name: String::new(),
        engine,
        version,
        memory_mib: 0,
        max_connections: 0,
        allowed_cidrs: Vec::new(),
        storage_bytes: 0,
    };
    let mut last = spec(EngineKind::Postgresql, String::new());
    for (engine, versions) in agent.versions() {
        last = spec(engine, versions.last().cloned().unwrap_or_default());
        if let Some(instance) = half_made(agent, &last)? {
            let stopped = agent.driver(engine)?.stop(&instance, 20).await;
            stopped.map_err(AgentError::engine("stop what is left of an instance"))?;
        }
    }
    discard_half_made(agent, &last).await
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
            None if name.to_string_lossy().starts_with(SCRATCH) => remove_folders(&path).await,
            None => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(instance = %path.display(), error = %chain(&error), "an instance could not be taken up");
        }
    }
    Ok(())
}

async fn adopt(agent: &Arc<Agent>, path: &Path) -> Result<(), AgentError> {
    let text = fs::read(path).map_err(AgentError::file(path))?;
    let mut record: Record = serde_json::from_slice(&text)
        .map_err(|error| AgentError::Unusable(format!("{} is damaged: {error}", path.display())))?;
    let folder = record.instance.folder.clone();
    let (claims, port) = (&agent.config.claims_dir, record.instance.port);
    if let Some(user) = &record.instance.run_as {
        users::claim_again(claims, user, &folder)?;
    }
    if !ports::claim_this(claims, &folder, port)? {
        tracing::error!(instance = %folder.display(), port, "the instance's port was given to another one meanwhile");
    }
    let keys_path = folder.join(KEYS);
    let sealed = fs::read(&keys_path).map_err(AgentError::file(&keys_path))?;
    let kept = agent.host.open_sealed(&record.spec.service_id.to_string(), &sealed)?;
    let kept: KeptKeys = serde_json::from_slice(&kept)
        .map_err(|error| AgentError::Unusable(format!("{} is damaged: {error}", keys_path.display())))?;
    let keys = LineageKeys::from_kept(&kept).map_err(|error| AgentError::Unusable(error.to_string()))?;
    follow_gateway(agent, &mut record).await?;
    let lineage = Arc::new(Lineage::unlisted(scope_of(&record.spec), keys));
    lineage.note_dropped(record.log_dropped.clone());
    let has_repository = agent.repository(record.spec.engine).is_ok();
    let access = record.instance.repository.clone().filter(|_| has_repository);
    agent.instances.insert(record, Arc::clone(&lineage));
    tokio::spawn(open_archive(Arc::clone(agent), access, lineage));
    Ok(())
}

/// The gateway may have another port at each start of the agent: the tool is told.
async fn follow_gateway(agent: &Agent, record: &mut Record) -> Result<(), AgentError> {
    let port = agent.gateway.local_addr().port();
    let (Some(access), Base::Repository(driver)) =
        (record.instance.repository.as_mut(), agent.driver(record.spec.engine)?.data_path().base)
    else {
        return Ok(());
    };
    if access.gateway_port == port {
        return Ok(());
    }
    access.gateway_port = port;
    save(record)?;
    write_gateway_certificate(&agent.host, &record.instance)?;
    let written = driver.write_repository_settings(&record.instance).await;
    written.map_err(AgentError::engine("write the repository settings"))
}

/// Learns from the store what is archived, and only then lets the engine push more: the coverage begins from the truth.
/// While the store is away the engine runs and keeps its log.
async fn open_archive(agent: Arc<Agent>, access: Option<RepositoryAccess>, lineage: Arc<Lineage>) {
    while let Err(error) = lineage.load_archive(&agent.prompt_store).await {
        tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "the log archive cannot be listed yet");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    // Removed meanwhile: its credential stays closed.
    if let Some(access) = access.filter(|_| agent.instances.get(lineage.scope.service).is_some()) {
        register(&agent.gateway, &access, &lineage, Access::ReadWrite);
    }
}
