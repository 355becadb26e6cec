//! A restore that needs no control plane and no catalog: what a survey of the bucket found is enough. It ends in a running
//! instance that stands alone; it archives nothing and nobody supervises it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
use holdfast_core::Timestamp;
use holdfast_core::backup::BackupFacts;
use holdfast_core::engine::{Account, EngineKind};
use holdfast_core::key::KeyPurpose;
use holdfast_core::window::{RestorePlan, Target};
use holdfast_engines::{Base, Driver, Instance, Paths, ProgressSink, RestoreTo, UserSpec};
use holdfast_store::repository::cipher_passphrase;
use holdfast_store::survey::FoundService;
use holdfast_store::{Limits, Store};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::host::{Host, write_private};
use crate::instances;
use crate::source::{self, Source};
use crate::stream_source::{self, StreamSource};
use crate::{adoption, claims, ports, users};

/// The gateway's certificate and port lie here meanwhile.
const STATE: &str = "gateway";
/// What the instance is, for whoever starts and stops it.
const RECORD: &str = "opened.json";
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
    /// As an agent's.
    pub claims_dir: &'a Path,
}

/// An instance that runs.
#[derive(Debug, Clone)]
pub struct Opened {
    pub engine: EngineKind,
    pub engine_version: String,
    /// The system user that it runs as; `None`: whoever called.
    pub run_as: Option<String>,
    pub data: PathBuf,
    pub port: u16,
    /// The instant that it stands at, where the engine says it.
    pub reached: Option<Timestamp>,
    pub access: OpenedAccess,
}

/// How people get into it, and how they stop it.
#[derive(Debug, Clone)]
pub enum OpenedAccess {
    /// As superuser over a socket in this folder; the program starts and stops it.
    Socket { folder: PathBuf, control: PathBuf },
    /// With a password that was made just now; [`stop`] and [`start`] find the instance by its folder.
    Account { username: String, password: Secret },
}

/// What a restore found out.
struct Done {
    engine_version: String,
    reached: Option<Timestamp>,
    users: Vec<UserSpec>,
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
    let engine = request.found.engine();
    let driver = driver_of(engine, request.engines_dir)?;
    let claims = claims::folder(request.claims_dir, &target.join(STATE));
    let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = match request.port {
        Some(port) if ports::claim_this(&claims, target, port)? => port,
        Some(port) => {
            return Err(AgentError::Unusable(format!(
                "the port {port} is given to a service; choose another"
            )));
        }
        None => ports::claim(&claims, target, listen)?,
    };
    instances::make_passable(target)?;
    let run_as = users::claim(&claims, target).await?;
    let host = Host::open(&target.join(STATE))?;
    let prompt = request.store.with_limits(Limits::prompt());
    let gateway = host.start_gateway(prompt.map_err(AgentError::store("open the object store"))?).await?;
    let instance = Instance {
        repository: None,
        stanza: format!("open-{}", request.found.name()),
        version: version(request.found),
        listen,
        port,
        run_as,
        memory_mib: MEMORY_MIB,
        max_connections: MAX_CONNECTIONS,
        allowed_cidrs: vec!["127.0.0.0/8".to_owned()],
        folder: target.to_owned(),
    };
    let restored = tokio::select! {
        restored = restore(request, &host, &gateway, &*driver, &instance, progress) => restored,
        () = stop.cancelled() => Err(AgentError::Cancelled),
    };
    gateway.shutdown().await;
    match restored {
        Ok(done) => {
            let state = target.join(STATE);
            fs::remove_dir_all(&state).map_err(AgentError::file(&state))?;
            write_private(&target.join(RECORD), &record(engine, &instance))?;
            let access = match done.users.into_iter().next() {
                None => {
                    let Base::Repository(driver) = driver.data_path().base else {
                        return Err(AgentError::NoDriver(engine));
                    };
                    OpenedAccess::Socket {
                        folder: Paths(target).run(),
                        control: driver.control_program(&instance),
                    }
                }
                Some(user) => {
                    OpenedAccess::Account { username: user.username, password: Secret(user.password) }
                }
            };
            Ok(Opened {
                engine,
                engine_version: done.engine_version,
                run_as: instance.run_as.map(|user| user.name),
                data: Paths(target).data(),
                port,
                reached: done.reached,
                access,
            })
        }
        Err(error) => {
            discard(&*driver, &instance, &claims).await?;
            Err(error)
        }
    }
}

async fn restore(
    request: &OpenRequest<'_>,
    host: &Host,
    gateway: &holdfast_gateway::Gateway,
    driver: &dyn Driver,
    instance: &Instance,
    progress: &ProgressSink,
) -> Result<Done, AgentError> {
    let point = match request.plan.target {
        Target::Instant(point) => Some(point),
        Target::Backup => None,
    };
    let target = point.zip(request.plan.covered_to());
    match driver.data_path().base {
        Base::Repository(driver) => {
            instances::write_gateway_certificate(host, instance)?;
            let grant = grant(request, true)?;
            let from = Source {
                repository: &grant,
                base_label: &request.base.tool_label,
                base_stop: source::stop_of(request.base.log.map(|log| log.stop))?,
                database_bytes: request.base.database_bytes,
                target: target.map(|(point, covered_to)| RestoreTo { point, covered_to }),
                archives: false,
            };
            let restored =
                source::restore(gateway, &request.store, driver, instance, &from, &[], progress).await?;
            Ok(Done { engine_version: restored.engine_version, reached: point, users: Vec::new() })
        }
        Base::Streams(driver) => {
            let grant = grant(request, false)?;
            let from =
                StreamSource { grant: &grant, base: &request.base.tool_label, target, archives: false };
            let users = new_users(request.found.engine());
            let restoring = stream_source::restore(&request.store, driver, instance, &from, &users, progress);
            let (restored, _) = restoring.await?;
            Ok(Done { engine_version: restored.engine_version, reached: Some(restored.reached), users })
        }
    }
}

/// The users that every service has, with passwords of their own: nobody here knows the old ones.
fn new_users(engine: EngineKind) -> Vec<UserSpec> {
    let password = || (0..32).map(|_| char::from(rand::rng().sample(rand::distr::Alphanumeric))).collect();
    let new = |account: &Account| UserSpec {
        username: account.username.to_owned(),
        role: account.role.to_owned(),
        password: password(),
    };
    engine.capability().accounts.iter().map(new).collect()
}

/// What [`start`] and [`stop`] need to know, in the instance's folder; nothing of it is secret.
fn record(engine: EngineKind, instance: &Instance) -> Vec<u8> {
    let kept = Kept { engine, instance: Instance { repository: None, ..instance.clone() } };
    serde_json::to_vec_pretty(&kept).expect("a record has only string keys")
}

#[derive(Serialize, Deserialize)]
struct Kept {
    engine: EngineKind,
    instance: Instance,
}

fn kept(target: &Path, engines_dir: &Path) -> Result<(Kept, Box<dyn Driver>), AgentError> {
    let path = target.join(RECORD);
    let bytes = fs::read(&path).map_err(AgentError::file(&path))?;
    let kept: Kept = serde_json::from_slice(&bytes)
        .map_err(|error| AgentError::Unusable(format!("{} is not understood: {error}", path.display())))?;
    let driver = driver_of(kept.engine, engines_dir)?;
    Ok((kept, driver))
}

/// Starts an instance that [`open`] made and that was stopped.
///
/// # Errors
/// The folder is none of them, or the engine does not start.
pub async fn start(target: &Path, engines_dir: &Path) -> Result<(), AgentError> {
    let (kept, driver) = kept(target, engines_dir)?;
    driver.start(&kept.instance).await.map_err(AgentError::engine("start the instance"))
}

/// Stops an instance that [`open`] made.
///
/// # Errors
/// The folder is none of them, or the engine does not stop.
pub async fn stop(target: &Path, engines_dir: &Path) -> Result<(), AgentError> {
    let (kept, driver) = kept(target, engines_dir)?;
    driver.stop(&kept.instance, 60).await.map_err(AgentError::engine("stop the instance"))
}

fn driver_of(engine: EngineKind, engines_dir: &Path) -> Result<Box<dyn Driver>, AgentError> {
    holdfast_engines::drivers(engines_dir, &holdfast_engines::DriverSettings::default())
        .remove(&engine)
        .ok_or(AgentError::NoDriver(engine))
}

/// The keys that this restore reads with: those of its chain of backups, and all that are no backup's.
fn grant(request: &OpenRequest<'_>, of_a_tool: bool) -> Result<RepositoryGrant, AgentError> {
    let found = request.found;
    let chain = |id| {
        found.backups.iter().any(|backup| backup.key_id == id && request.plan.chain.contains(&backup.id))
    };
    let keys = found.keys.iter().filter(|key| key.purpose != KeyPurpose::Backup || chain(key.id));
    let repository = found.keys.iter().find(|key| key.purpose == KeyPurpose::Repository);
    if of_a_tool && repository.is_none() {
        let text = "the key of the service's repository is missing in the bucket";
        return Err(AgentError::Unusable(text.to_owned()));
    }
    Ok(RepositoryGrant {
        organization_id: found.scope.organization,
        service_id: found.scope.service,
        lineage_id: found.lineage,
        cipher_passphrase: Secret(repository.map_or_else(String::new, |key| cipher_passphrase(&key.key))),
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
async fn discard(driver: &dyn Driver, instance: &Instance, claims: &Path) -> Result<(), AgentError> {
    driver.stop(instance, 20).await.map_err(AgentError::engine("stop the instance"))?;
    adoption::remove_folders(&instance.folder).await?;
    users::release(claims, instance.run_as.as_ref(), &instance.folder);
    ports::release(claims, &instance.folder)
}
