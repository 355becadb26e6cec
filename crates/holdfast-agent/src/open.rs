//! A restore that needs no control plane and no catalog: what a survey of the bucket found is enough. It ends in a running
//! instance that stands alone; it archives nothing and nobody supervises it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
use holdfast_core::backup::BackupFacts;
use holdfast_core::key::KeyPurpose;
use holdfast_core::window::{RestorePlan, Target};
use holdfast_engines::postgresql::Postgresql;
use holdfast_engines::{Driver, Instance, Paths, ProgressSink, RestoreTo, Restored};
use holdfast_store::Store;
use holdfast_store::gateway::cipher_passphrase;
use holdfast_store::survey::FoundService;
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::host::Host;
use crate::instances::{self, Instances};
use crate::source::{self, Source};
use crate::{adoption, users};

/// The gateway's certificate and port lie here meanwhile.
const STATE: &str = "gateway";
/// A standby must admit at least as many connections as its source did (PostgreSQL 17, 26.4.5); no service plan has more.
const MAX_CONNECTIONS: u32 = 1000;
const MEMORY_MIB: u64 = 512;

/// What to restore, and where to.
pub struct OpenRequest<'a> {
    pub store: Store,
    pub found: &'a FoundService,
    pub plan: &'a RestorePlan,
    pub base: &'a BackupFacts,
    /// An empty folder, or one that is still to be made.
    pub target: &'a Path,
    /// A free one is taken when there is none.
    pub port: Option<u16>,
    pub engines_dir: &'a Path,
    pub users_dir: &'a Path,
}

/// An instance that runs.
#[derive(Debug, Clone)]
pub struct Opened {
    pub engine_version: String,
    /// The system user that it runs as; `None`: whoever called.
    pub run_as: Option<String>,
    /// Folder of its socket.
    pub socket: PathBuf,
    pub data: PathBuf,
    pub port: u16,
    /// The engine's program for starting and stopping it.
    pub pg_ctl: PathBuf,
}

/// Restores and starts. When it fails, or `stop` is cancelled, nothing of it stays.
///
/// # Errors
/// [`AgentError`]: a target that cannot be used, an engine that is not installed, damaged or missing objects.
pub async fn open(
    request: &OpenRequest<'_>,
    progress: &ProgressSink,
    stop: &CancellationToken,
) -> Result<Opened, AgentError> {
    let target = request.target;
    check_target(target)?;
    instances::make_passable(target)?;
    let run_as = users::claim(request.users_dir, target).await?;
    let host = Host::open(&target.join(STATE))?;
    let gateway = host.start_gateway(request.store.clone()).await?;
    let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = match request.port {
        Some(port) => port,
        None => Instances::default().reserve_port(listen)?,
    };
    let instance = Instance {
        repository: instances::access(&gateway, target, ""),
        stanza: format!("open-{}", request.found.name()),
        version: version(request.found),
        listen,
        port,
        run_as,
        memory_mib: MEMORY_MIB,
        max_connections: MAX_CONNECTIONS,
        allowed_cidrs: vec!["127.0.0.1/32".to_owned()],
        folder: target.to_owned(),
    };
    let driver = Postgresql::new(request.engines_dir);
    let restored = tokio::select! {
        restored = restore(request, &host, &gateway, &driver, &instance, progress) => restored,
        () = stop.cancelled() => Err(AgentError::Cancelled),
    };
    gateway.shutdown().await;
    match restored {
        Ok(restored) => {
            let state = target.join(STATE);
            fs::remove_dir_all(&state).map_err(AgentError::file(&state))?;
            Ok(Opened {
                engine_version: restored.engine_version,
                run_as: instance.run_as.map(|user| user.name),
                socket: Paths(target).run(),
                data: Paths(target).data(),
                port,
                pg_ctl: request.engines_dir.join(format!("postgresql-{}/bin/pg_ctl", version(request.found))),
            })
        }
        Err(error) => {
            discard(&driver, &instance, request.users_dir).await?;
            Err(error)
        }
    }
}

async fn restore(
    request: &OpenRequest<'_>,
    host: &Host,
    gateway: &holdfast_store::gateway::Gateway,
    driver: &Postgresql,
    instance: &Instance,
    progress: &ProgressSink,
) -> Result<Restored, AgentError> {
    instances::write_gateway_certificate(host, instance)?;
    let grant = grant(request)?;
    let point = match request.plan.target {
        Target::Instant(point) => Some(point),
        Target::Backup => None,
    };
    let from = Source {
        repository: &grant,
        base_label: &request.base.tool_label,
        base_stop: request.base.stop,
        database_bytes: request.base.database_bytes,
        target: point
            .zip(request.plan.covered_to())
            .map(|(point, covered_to)| RestoreTo { point, covered_to }),
        archives: false,
    };
    source::restore(gateway, &request.store, driver, instance, &from, &[], progress).await
}

/// The keys that this restore reads with: those of its chain of backups, and all that are no backup's.
fn grant(request: &OpenRequest<'_>) -> Result<RepositoryGrant, AgentError> {
    let found = request.found;
    let chain = |id| {
        found.backups.iter().any(|backup| backup.key_id == id && request.plan.chain.contains(&backup.id))
    };
    let keys = found.keys.iter().filter(|key| key.purpose != KeyPurpose::Backup || chain(key.id));
    let repository =
        found.keys.iter().find(|key| key.purpose == KeyPurpose::Repository).ok_or_else(|| {
            AgentError::Unusable("the key of the service's repository is missing in the bucket".to_owned())
        })?;
    Ok(RepositoryGrant {
        organization_id: found.scope.organization,
        service_id: found.scope.service,
        lineage_id: found.lineage,
        cipher_passphrase: Secret(cipher_passphrase(&repository.key)),
        keys: keys
            .filter_map(|key| {
                let owned = found.owned_key(key.id)?;
                let key_hex = Secret(hex::encode(owned.key.expose()));
                Some(KeyGrant { id: key.id, purpose: key.purpose, owner: owned.owner, key_hex })
            })
            .collect(),
        active_epoch: None,
    })
}

fn version(found: &FoundService) -> String {
    let described = found.description.as_ref().map(|description| description.service.version.clone());
    described.or_else(|| found.version.clone()).unwrap_or_default()
}

/// The folder is empty, and whoever the engine will run as can come to it.
fn check_target(target: &Path) -> Result<(), AgentError> {
    if target.exists() && fs::read_dir(target).map_err(AgentError::file(target))?.next().is_some() {
        return Err(AgentError::Unusable(format!("{} is not empty", target.display())));
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    for folder in target.ancestors().skip(1).filter(|folder| folder.exists()) {
        let mode = fs::metadata(folder).map_err(AgentError::file(folder))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Err(AgentError::Unusable(format!(
                "{} cannot be entered by the unprivileged user that the engine runs as",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// Removes what was made, the target folder too.
async fn discard(driver: &Postgresql, instance: &Instance, users_dir: &Path) -> Result<(), AgentError> {
    driver.stop(instance, 20).await.map_err(AgentError::engine("stop the instance"))?;
    adoption::remove_folders(&instance.folder).await?;
    users::release(users_dir, instance.run_as.as_ref(), &instance.folder);
    Ok(())
}
