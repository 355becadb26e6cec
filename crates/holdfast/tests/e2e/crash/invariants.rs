//! What must hold after any number of faults, once everything has come to rest: nothing stuck, nothing twice, and
//! nothing on the host or in the bucket that the catalog does not account for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_catalog::JobFilter;
use holdfast_core::ServiceId;
use holdfast_core::backup::{Backup, BackupStatus};
use holdfast_core::job::JobState;
use holdfast_core::key::KeyRecord;
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_store::ObjectName;
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_testkit::wait_for;

use crate::crash::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until nothing moves any more, then looks at everything.
pub(crate) async fn hold(world: &World) -> Result<()> {
    let began = Instant::now();
    loop {
        at_rest(world).await?;
        match look(world).await {
            Ok(()) => return Ok(()),
            // What follows the end of a job (its service's own backup, a report) may need a moment more.
            Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => return Err(error),
        }
    }
}

/// Waits until neither host nor bucket holds anything of a service.
pub(crate) async fn nothing_left(world: &World, service: ServiceId) -> Result<()> {
    let began = Instant::now();
    let folder = world.instances.join(service.to_string());
    loop {
        let objects = files(&world.objects);
        let left: Vec<&PathBuf> =
            objects.iter().filter(|path| is_of(&path.to_string_lossy(), &service.to_string())).collect();
        let engines = postmasters_of(&folder);
        if left.is_empty() && engines.is_empty() && !folder.exists() {
            return Ok(());
        }
        let folder = folder.exists();
        ensure!(began.elapsed() < PATIENCE, "left: folder {folder}, engines {engines:?}, objects {left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Its description is its record.
fn is_of(path: &str, service: &str) -> bool {
    path.contains(service) && !path.contains("/description/")
}

/// Every job has ended and what follows from it is recorded; every service rests.
pub(crate) async fn at_rest(world: &World) -> Result<()> {
    wait_for("everything is at rest", crate::crash::world::JOB_SECONDS, || async {
        let states = vec![JobState::Queued, JobState::Running];
        let open = world.catalog.jobs(1000, &JobFilter { states, ..JobFilter::default() }).await?;
        let unsettled = world.catalog.unsettled_jobs(100).await?;
        Ok((open.is_empty() && unsettled.is_empty()).then_some(()))
    })
    .await
}

async fn look(world: &World) -> Result<()> {
    let services = all_services(world).await?;
    for service in services.values() {
        let rests = matches!(
            service.status,
            ServiceStatus::Running | ServiceStatus::Stopped | ServiceStatus::Failed | ServiceStatus::Deleted
        );
        ensure!(rests, "service {} is stuck: {:?} {:?}", service.id, service.status, service.status_message);
    }
    host(world, &services)?;
    bucket(world, &services).await
}

/// Also the deleted ones: every service has a job of its own.
async fn all_services(world: &World) -> Result<BTreeMap<String, Service>> {
    let jobs = world.catalog.jobs(u32::MAX, &JobFilter::default()).await?;
    let ids: BTreeSet<ServiceId> = jobs.iter().filter_map(|job| job.service_id).collect();
    let mut services = BTreeMap::new();
    for id in ids {
        let service = world.catalog.service(id).await?.context("a job without its service")?;
        services.insert(id.to_string(), service);
    }
    Ok(services)
}

/// Folders, postmasters and claimed users: one each for a service that has an instance, none for others.
fn host(world: &World, services: &BTreeMap<String, Service>) -> Result<()> {
    let has_instance = |status| matches!(status, ServiceStatus::Running | ServiceStatus::Stopped);
    let expected: BTreeSet<String> =
        services.values().filter(|s| has_instance(s.status)).map(|s| s.id.to_string()).collect();
    // The room that is kept for a full disk is nobody's instance.
    let found: BTreeSet<String> =
        names_in(&world.instances).into_iter().filter(|name| !name.starts_with('.')).collect();
    ensure!(found == expected, "instance folders {found:?}, expected {expected:?}");
    let mut ports = BTreeSet::new();
    for service in services.values().filter(|s| has_instance(s.status)) {
        let folder = world.instances.join(service.id.to_string());
        ensure!(folder.join("instance.json").is_file(), "{} is half-made", folder.display());
        let running = postmasters_of(&folder);
        let wanted = usize::from(service.status == ServiceStatus::Running);
        ensure!(running.len() == wanted, "{} of service {}: {running:?}", running.len(), service.id);
        ensure!(ports.insert(service.port), "two services on port {:?}", service.port);
    }
    let all = postmasters_of(&world.instances);
    let running = services.values().filter(|s| s.status == ServiceStatus::Running).count();
    ensure!(all.len() == running, "{} postmasters for {running} running services", all.len());
    claims(world, &expected)?;
    for service in services.values() {
        let name = |name: String| std::env::temp_dir().join(format!("holdfast-{name}"));
        let (own, expiry) = (name(service.id.to_string()), name(format!("expire-{}", service.lineage_id)));
        ensure!(
            !own.exists() || has_instance(service.status),
            "a socket's folder is left: {}",
            own.display()
        );
        ensure!(!expiry.exists(), "left by expiry: {}", expiry.display());
    }
    let half: Vec<PathBuf> = files(&world.data)
        .into_iter()
        .chain(files(&world.instances))
        .filter(|path| {
            path.extension().is_some_and(|e| e == "new")
                || path.components().any(|c| c.as_os_str() == ".writing")
        })
        .collect();
    ensure!(half.is_empty(), "left by a write that was cut off: {half:?}");
    Ok(())
}

/// Users of the pool and ports claimed for this Holdfast's instances: one of both for each (as root; else none at all).
fn claims(world: &World, expected: &BTreeSet<String>) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    let expected: Vec<String> = expected.iter().filter(|_| root).cloned().collect();
    for kind in ["holdfast-", "port-"] {
        let owners = owners_of(kind, &world.instances);
        ensure!(owners == expected, "{kind}… claimed for {owners:?}, instances {expected:?}");
    }
    Ok(())
}

/// Names of the instances that have claims of a kind, as often as they have, sorted.
fn owners_of(kind: &str, instances: &Path) -> Vec<String> {
    let folder = Path::new("/var/cache/holdfast/users");
    let mut owners: Vec<String> = names_in(folder)
        .iter()
        .filter(|name| name.starts_with(kind))
        .filter_map(|name| std::fs::read_to_string(folder.join(name)).ok())
        .filter(|owner| Path::new(owner).starts_with(instances))
        .filter_map(|owner| Path::new(&owner).file_name()?.to_str().map(str::to_owned))
        .collect();
    owners.sort();
    owners
}

/// Process ids of postmasters whose data lies below a folder: what really runs, whatever lock files say.
pub(crate) fn postmasters_of(folder: &Path) -> Vec<i32> {
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_server = words.first().is_some_and(|program| program.ends_with(b"/postgres"));
        let data = words.iter().position(|word| *word == b"-D").and_then(|at| words.get(at + 1));
        let data = data.map(|data| PathBuf::from(String::from_utf8_lossy(data).into_owned()));
        is_server && data.is_some_and(|data| data.starts_with(folder))
    })
    .collect()
}

/// Every object belongs to something that the catalog knows, and everything that the catalog calls stored is there.
async fn bucket(world: &World, services: &BTreeMap<String, Service>) -> Result<()> {
    let mut objects: BTreeMap<String, Vec<ObjectName>> = BTreeMap::new();
    for path in files(&world.objects) {
        let relative = path.strip_prefix(&world.objects)?.to_string_lossy().into_owned();
        let name: ObjectName = relative.parse().with_context(|| format!("a foreign object: {relative}"))?;
        let service = relative.split('/').nth(2).unwrap_or_default().to_owned();
        objects.entry(service).or_default().push(name);
    }
    for service in objects.keys() {
        ensure!(services.contains_key(service), "objects of service {service}, which is not in the catalog");
    }
    for (id, service) in services {
        let of_service = objects.get(id).map(Vec::as_slice).unwrap_or_default();
        of_one(world, service, of_service)
            .await
            .with_context(|| format!("service {id} ({:?})", service.status))?;
    }
    Ok(())
}

async fn of_one(world: &World, service: &Service, objects: &[ObjectName]) -> Result<()> {
    let backups = world.catalog.backups_of(service.id).await?;
    let keys = world.catalog.keys_of(service.id).await?;
    let mut manifests = BTreeSet::new();
    let mut wrapped = BTreeMap::<String, usize>::new();
    for object in objects {
        if let Some(lineage) = object.lineage().copied() {
            ensure!(lineage.lineage == service.lineage_id, "an object of another lineage: {object}");
            ensure!(service.status != ServiceStatus::Failed, "a failed service left {object}");
        }
        match object {
            ObjectName::Key { key, .. } | ObjectName::KeyRecovery { key, .. } => {
                *wrapped.entry(key.to_string()).or_default() += 1;
            }
            ObjectName::BackupManifest { backup, .. } => {
                manifests.insert(backup.to_string());
            }
            ObjectName::Repository { path, .. } => {
                file(service, &backups, path.as_str()).with_context(|| object.to_string())?
            }
            _ => {}
        }
    }
    keys_match(service.id, &keys, &wrapped)?;
    let completed: BTreeSet<String> = backups
        .iter()
        .filter(|backup| backup.status == BackupStatus::Completed && backup.shredded_at.is_none())
        .map(|backup| backup.id.to_string())
        .collect();
    ensure!(manifests == completed, "manifests {manifests:?}, completed backups {completed:?}");
    let under_way = |backup: &&Backup| matches!(backup.status, BackupStatus::Pending | BackupStatus::Running);
    let stuck: Vec<&Backup> = backups.iter().filter(under_way).collect();
    ensure!(stuck.is_empty(), "backups that no job makes: {stuck:?}");
    Ok(())
}

/// A backup's file belongs to a completed backup. What one that was cut off stored goes with the next one; after a deleted
/// service's last, with the end of its lineage.
fn file(service: &Service, backups: &[Backup], path: &str) -> Result<()> {
    if let ObjectClass::BackupFile { label } = classify(path) {
        let cut_off = backups.iter().any(|backup| backup.status == BackupStatus::Failed);
        let owner = backups
            .iter()
            .find(|backup| backup.facts.as_ref().is_some_and(|facts| facts.tool_label == label));
        if owner.is_none() && cut_off && service.status == ServiceStatus::Deleted {
            return Ok(());
        }
        let owner = owner.context("a file of no backup")?;
        ensure!(owner.shredded_at.is_none(), "a file of backup {}, which was removed", owner.id);
    }
    Ok(())
}

/// Each living key is in the bucket in both wrappings, and no other key is.
fn keys_match(service: ServiceId, keys: &[KeyRecord], wrapped: &BTreeMap<String, usize>) -> Result<()> {
    let living: BTreeSet<String> =
        keys.iter().filter(|key| key.destroyed_at.is_none()).map(|key| key.id.to_string()).collect();
    let stored: BTreeSet<String> = wrapped.keys().cloned().collect();
    ensure!(living == stored, "keys of {service}: in the catalog {living:?}, in the bucket {stored:?}");
    ensure!(wrapped.values().all(|wrappings| *wrappings == 2), "wrappings: {wrapped:?}");
    Ok(())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
