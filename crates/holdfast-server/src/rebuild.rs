//! Makes a lost catalog anew from the bucket and the recovery kit. The bucket is only read.
//!
//! Everything is made below `rebuilding/` in the data folder and moved to its place at the end; while that folder is there,
//! [`crate::boot`] refuses the data folder, and the next rebuild begins anew. Keys are wrapped under a new key-encryption
//! key; the old one was lost with the old host.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use holdfast_catalog::{Catalog, CatalogError, Organization};
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{OrganizationId, Timestamp};
use holdfast_seal::{RecoveryPrivate, SealError};
use holdfast_store::survey::{FoundService, Survey, organization_slug};
use nix::fcntl::{Flock, FlockArg};

use crate::vault::{Vault, VaultError};

/// Where the new data is made.
pub(crate) const REBUILDING: &str = "rebuilding";
const CATALOG: &str = "catalog.db";
const KEYS: &str = "keys";
const LOCK: &str = "lock";

/// Why a catalog could not be made anew. The data folder is then as it was, but for what the next rebuild removes.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("cannot use {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the data folder {0} is not empty: a rebuild needs one of its own")]
    NotEmpty(PathBuf),
    #[error("another holdfast works in the data folder {0}")]
    Locked(PathBuf),
    #[error("cannot write the new catalog")]
    Catalog(#[from] CatalogError),
    #[error("cannot make the new keys")]
    Vault(#[from] VaultError),
    #[error("{path} holds no recovery key: {source}")]
    Kit {
        path: PathBuf,
        #[source]
        source: SealError,
    },
}

/// Reads the private line out of a recovery kit: the whole text that Holdfast wrote, or the line alone.
///
/// # Errors
/// The file cannot be read, or holds no such line; the text never repeats it.
pub fn read_kit(path: &Path) -> Result<RecoveryPrivate, RebuildError> {
    let text = fs::read_to_string(path).map(zeroize::Zeroizing::new).map_err(file(path))?;
    let line = text.lines().find_map(|line| Some(&line[line.to_ascii_uppercase().find("HFPRIV1")?..]));
    RecoveryPrivate::from_text(line.unwrap_or_default().trim())
        .map_err(|source| RebuildError::Kit { path: path.to_owned(), source })
}

/// Refuses a data folder that holds anything but what an unfinished rebuild left.
///
/// # Errors
/// [`RebuildError::NotEmpty`], or the folder cannot be read.
pub fn check_folder(data: &Path) -> Result<(), RebuildError> {
    if !data.exists() {
        return Ok(());
    }
    let unfinished = data.join(REBUILDING).is_dir();
    let known = [REBUILDING, CATALOG, KEYS, LOCK];
    for entry in fs::read_dir(data).map_err(file(data))? {
        let name = entry.map_err(file(data))?.file_name();
        let name = name.to_string_lossy();
        let part = name.strip_suffix("-wal").or(name.strip_suffix("-shm")).unwrap_or(&name);
        let ours = unfinished && known.contains(&part);
        if !ours && name != "lost+found" && name != LOCK {
            return Err(RebuildError::NotEmpty(data.to_owned()));
        }
    }
    Ok(())
}

/// Writes what a survey found into a new data folder. After `Ok` a control plane can be started on it; killed before, it
/// leaves nothing that one would take for whole.
///
/// # Errors
/// [`RebuildError`].
pub async fn rebuild(data: &Path, kit: &RecoveryPrivate, survey: &Survey) -> Result<(), RebuildError> {
    check_folder(data)?;
    make_folder(data)?;
    let _lock = lock(data)?;
    let work = data.join(REBUILDING);
    make_folder(&work)?;
    flush(data)?;
    // What an earlier one left, while the folder says that all of this is unfinished.
    for folder in [data, &work] {
        remove_folder(&folder.join(KEYS))?;
        remove_catalog(folder)?;
    }
    let vault = Vault::found(&work.join(KEYS), survey.highest_kek_version + 1, &kit.public())?;
    let catalog = Catalog::open(&work.join(CATALOG)).await?;
    let filled = fill(&catalog, &vault, survey).await;
    catalog.close().await;
    filled?;
    move_into_place(data, &work)
}

async fn fill(catalog: &Catalog, vault: &Vault, survey: &Survey) -> Result<(), RebuildError> {
    let mut living = HashSet::new();
    for found in &survey.services {
        if catalog.organization(&found.scope.organization.to_string()).await?.is_none() {
            catalog.insert_organization(&organization(found)).await?;
        }
        let keys: Vec<_> = found
            .keys
            .iter()
            .map(|key| {
                let owner = (found.scope.organization, found.scope.service, found.lineage);
                let both = (&key.key, key.recovery_wrapped.as_slice());
                vault.take_over(key.id, owner, key.purpose, both, key.created_at)
            })
            .collect();
        let mut service = service(found, Timestamp::now());
        // A deletion that the description does not tell of yet had freed the name for another service.
        if service.status != ServiceStatus::Deleted
            && !living.insert((service.organization_id, service.name.clone()))
        {
            service.name = format!("{}-{}", service.name, &service.id.to_string()[..8]);
        }
        catalog.import_service(&service, &found.backups, &keys, &found.coverage, &found.gaps).await?;
    }
    Ok(())
}

fn organization(found: &FoundService) -> Organization {
    match &found.description {
        Some(description) => {
            let known = &description.organization;
            Organization {
                id: known.id,
                name: known.name.clone(),
                slug: known.slug.clone(),
                is_personal: known.is_personal,
                created_at: known.created_at,
            }
        }
        None => unknown_organization(found.scope.organization),
    }
}

fn unknown_organization(id: OrganizationId) -> Organization {
    let slug = organization_slug(id);
    Organization { id, name: slug.clone(), slug, is_personal: false, created_at: Timestamp::now() }
}

/// The service as the new control plane has it: its instance is not here, so it is stopped for good, or deleted if it
/// was. Its backups and its window are as they were.
fn service(found: &FoundService, now: Timestamp) -> Service {
    let description = found.description.as_ref().map(|description| &description.service);
    let status = description.map_or(ServiceStatus::Stopped, |known| match known.status {
        ServiceStatus::Running | ServiceStatus::Stopped | ServiceStatus::Error => ServiceStatus::Stopped,
        ServiceStatus::Pending | ServiceStatus::Provisioning | ServiceStatus::Failed => ServiceStatus::Failed,
        ServiceStatus::Deleting | ServiceStatus::Deleted => ServiceStatus::Deleted,
    });
    let message = match status {
        ServiceStatus::Deleted => None,
        ServiceStatus::Failed => Some("it was not whole when the control plane was lost; delete it"),
        _ => Some(LOST),
    };
    let described_at = found.description.as_ref().map(|description| description.written_at);
    let deleted_at = (status == ServiceStatus::Deleted)
        .then(|| description.and_then(|known| known.deleted_at).or(described_at).unwrap_or(now));
    let earliest = found.backups.iter().map(|backup| backup.created_at).min();
    let version =
        found.version.clone().unwrap_or_else(|| found.engine().capability().default_version.to_owned());
    Service {
        id: found.scope.service,
        organization_id: found.scope.organization,
        lineage_id: found.lineage,
        name: found.name(),
        engine: found.engine(),
        version: description.map_or(version, |known| known.version.clone()),
        engine_version: description.and_then(|known| known.engine_version.clone()),
        status,
        status_message: message.map(str::to_owned),
        plan_name: description.map_or_else(|| "tier-1".to_owned(), |known| known.plan_name.clone()),
        zone: description.map_or_else(|| "se-sto1".to_owned(), |known| known.zone.clone()),
        // Not known is not the same as no restriction: a restored service begins with nobody let in but this host.
        allowed_cidrs: description
            .map_or_else(|| vec!["127.0.0.0/8".to_owned()], |known| known.allowed_cidrs.clone()),
        attributes: description.map_or_else(Attributes::default, |known| known.attributes.clone()),
        restored_from: description.and_then(|known| known.restored_from.clone()),
        host: None,
        port: None,
        created_at: description.map_or(earliest, |known| Some(known.created_at)).unwrap_or(now),
        updated_at: now,
        deleted_at,
    }
}

/// What users read of a service whose instance did not come back with the catalog.
pub const LOST: &str = "its instance is on another host or lost; its backups are here: restore it into a new service, then delete it";

fn move_into_place(data: &Path, work: &Path) -> Result<(), RebuildError> {
    let rename = |name: &str| {
        let from = work.join(name);
        if from.exists() { fs::rename(&from, data.join(name)).map_err(file(&from)) } else { Ok(()) }
    };
    rename(KEYS)?;
    for suffix in ["-wal", "-shm", ""] {
        rename(&format!("{CATALOG}{suffix}"))?;
    }
    flush(data)?;
    // From here on it is whole.
    fs::remove_dir(work).map_err(file(work))?;
    flush(data)
}

fn remove_catalog(data: &Path) -> Result<(), RebuildError> {
    for suffix in ["", "-wal", "-shm"] {
        let path = data.join(format!("{CATALOG}{suffix}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), RebuildError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file(path)(error)),
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), RebuildError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file(path))
}

fn flush(folder: &Path) -> Result<(), RebuildError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(file(folder))
}

fn lock(data: &Path) -> Result<Flock<fs::File>, RebuildError> {
    let path = data.join(LOCK);
    let handle =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(file(&path))?;
    Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|_| RebuildError::Locked(data.to_owned()))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> RebuildError + use<> {
    let path = path.to_owned();
    move |source| RebuildError::File { path, source }
}
