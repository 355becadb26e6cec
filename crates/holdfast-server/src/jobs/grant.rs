//! Equips the steps that agents run: which keys, passwords and facts each one needs, and nothing more.

use holdfast_api::agent::{
    ApplySettings, CreateInstance, ExpiredBackup, InstanceSpec, KeyGrant, NewUser, RemoveExpired,
    RepositoryGrant, RestoreInstance, RestoreTarget, RunBackup, Secret, SetPassword, ShipLog, StepInput,
};
use holdfast_catalog::Credential;
use holdfast_core::backup::{Backup, BackupStatus};
use holdfast_core::job::{Job, Step};
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::retention::ExpiryPlan;
use holdfast_core::service::Service;
use holdfast_core::size::plan;
use holdfast_core::window::Target;
use holdfast_core::{BackupId, KeyId, ServiceId, Timestamp};
use holdfast_store::{ObjectName, ServiceScope};

use super::steps::{PlannedRestore, PreparedKeys};
use super::{StepError, input, input_of, output_of};
use crate::ControlPlane;
use crate::vault::new_password;

/// What to do with the job's current step.
pub enum Equipped {
    /// The service that it acts on, and what it needs.
    Run(ServiceId, Box<StepInput>),
    /// Nothing is to be done.
    Skip,
}

/// Collects what the job's current agent step needs.
///
/// # Errors
/// When keys cannot be made, stored or unwrapped.
pub async fn equip(cp: &ControlPlane, job: &Job) -> Result<Equipped, StepError> {
    let service = load(cp, job, job.service_id).await?;
    let run = |input| Ok(Equipped::Run(service.id, Box::new(input)));
    match job.step() {
        Some(Step::CreateInstance) => {
            let repository = own_repository(cp, &service).await?;
            let users = users(cp, &service).await?;
            run(StepInput::CreateInstance(Box::new(CreateInstance {
                instance: spec(&service),
                users,
                repository,
            })))
        }
        Some(Step::RunBackup) => run(StepInput::RunBackup(run_backup(cp, job, &service).await?)),
        Some(Step::ShipLog) => ship_log(cp, job).await,
        Some(Step::RestoreInstance) => {
            run(StepInput::RestoreInstance(Box::new(restore_instance(cp, job, &service).await?)))
        }
        Some(Step::ApplySettings) => {
            run(StepInput::ApplySettings(ApplySettings { instance: spec(&service) }))
        }
        Some(Step::StopInstance) => run(StepInput::StopInstance),
        Some(Step::StartInstance) => run(StepInput::StartInstance),
        Some(Step::SetPassword) => {
            let asked: input::ResetPassword = input_of(job)?;
            let password = unwrap_password(cp, &service, &asked)?;
            run(StepInput::SetPassword(SetPassword { username: asked.username, password }))
        }
        Some(Step::RemoveInstance) => run(StepInput::RemoveInstance),
        Some(Step::RemoveExpired) => remove_expired(cp, job, &service).await,
        other => Err(incomplete(job, format!("a step of an agent's (it stands at {other:?})"))),
    }
}

fn incomplete(job: &Job, what: impl Into<String>) -> StepError {
    StepError::Incomplete { job: job.id.to_string(), what: what.into() }
}

async fn load(cp: &ControlPlane, job: &Job, service: ServiceId) -> Result<Service, StepError> {
    cp.catalog.service(service).await?.ok_or_else(|| incomplete(job, format!("service {service}")))
}

/// # Errors
/// When the catalog does not know the backup.
pub async fn backup(cp: &ControlPlane, job: &Job, id: &BackupId) -> Result<Backup, StepError> {
    cp.catalog.backup(id).await?.ok_or_else(|| incomplete(job, format!("backup {id}")))
}

fn spec(service: &Service) -> InstanceSpec {
    let size = plan(&service.plan_name);
    InstanceSpec {
        service_id: service.id,
        organization_id: service.organization_id,
        lineage_id: service.lineage_id,
        name: service.name.clone(),
        engine: service.engine,
        version: service.version.clone(),
        memory_mib: size.map_or(2048, |size| size.memory_mib),
        max_connections: size.map_or(100, holdfast_core::size::ServicePlan::max_connections),
        allowed_cidrs: service.allowed_cidrs.clone(),
    }
}

/// The service's users with their passwords, made at the first call: the tenant's own first.
async fn users(cp: &ControlPlane, service: &Service) -> Result<Vec<NewUser>, StepError> {
    let mut known = cp.catalog.credentials_of(service.id).await?;
    if known.is_empty() {
        for (position, username) in (0_u32..).zip(["app_user", "admin"]) {
            let wrapped = cp.vault.wrap_secret(service, &user_secret(username), &new_password());
            let credential = Credential {
                service_id: service.id,
                username: username.to_owned(),
                kek_version: cp.vault.current_kek_version(),
                wrapped,
                roles: vec!["admin".to_owned()],
                privileges: "owner of defaultdb, may create databases and roles".to_owned(),
                position,
                created_at: Timestamp::now(),
            };
            cp.catalog.upsert_credential(&credential).await?;
        }
        known = cp.catalog.credentials_of(service.id).await?;
    }
    known
        .into_iter()
        .map(|user| {
            let password = cp.vault.unwrap_secret(service, &user_secret(&user.username), &user.wrapped)?;
            let role = user.roles.first().cloned().unwrap_or_default();
            Ok(NewUser { username: user.username, role, password: Secret(password.to_string()) })
        })
        .collect()
}

/// The name under which a database user's password is wrapped.
#[must_use]
pub fn user_secret(username: &str) -> String {
    format!("user:{username}")
}

fn unwrap_password(
    cp: &ControlPlane,
    service: &Service,
    asked: &input::ResetPassword,
) -> Result<Secret, StepError> {
    let wrapped = hex::decode(&asked.wrapped_hex).unwrap_or_default();
    let password = cp.vault.unwrap_secret(service, &user_secret(&asked.username), &wrapped)?;
    Ok(Secret(password.to_string()))
}

/// The key of that id, made if it is not there, and stored wrapped in the bucket: a key that only the catalog knew would
/// be lost with it.
///
/// # Errors
/// When catalog or store do not take it.
pub async fn ensure_key(
    cp: &ControlPlane,
    service: &Service,
    id: KeyId,
    purpose: KeyPurpose,
) -> Result<KeyRecord, StepError> {
    if cp.catalog.key(id).await?.is_none() {
        let owner = (service.organization_id, service.id, service.lineage_id);
        let record = cp.vault.mint(id, owner, purpose, Timestamp::now());
        cp.catalog.insert_key(&record).await?;
    }
    let record = cp
        .catalog
        .key(id)
        .await?
        .ok_or_else(|| StepError::Incomplete { job: service.id.to_string(), what: format!("key {id}") })?;
    store_key(cp, &record).await?;
    Ok(record)
}

async fn store_key(cp: &ControlPlane, record: &KeyRecord) -> Result<(), StepError> {
    let service = ServiceScope { organization: record.organization_id, service: record.service_id };
    let wrapped = ObjectName::Key { service, key: record.id, kek_version: record.kek_version };
    cp.store.put_if_absent(&wrapped, record.wrapped.clone().into()).await?;
    let recovery = ObjectName::KeyRecovery { service, key: record.id };
    cp.store.put_if_absent(&recovery, record.recovery_wrapped.clone().into()).await?;
    Ok(())
}

/// The repository of the service's own lineage with the keys that archiving needs; made at the first call.
async fn own_repository(cp: &ControlPlane, service: &Service) -> Result<RepositoryGrant, StepError> {
    let keys = lineage_keys(cp, service).await?;
    for purpose in [KeyPurpose::Repository, KeyPurpose::Coverage, KeyPurpose::Epoch] {
        // Also a known one: a try that was cut off may have left it out of the bucket.
        let id = keys.iter().find(|key| key.purpose == purpose).map_or_else(KeyId::random, |key| key.id);
        ensure_key(cp, service, id, purpose).await?;
    }
    repository(cp, service, |key| key.purpose != KeyPurpose::Backup).await
}

async fn lineage_keys(cp: &ControlPlane, service: &Service) -> Result<Vec<KeyRecord>, StepError> {
    let mut keys = cp.catalog.keys_of(service.id).await?;
    keys.retain(|key| key.lineage_id == service.lineage_id && key.destroyed_at.is_none());
    keys.sort_by_key(|key| key.created_at);
    Ok(keys)
}

/// A repository with those of its keys that `wanted` names.
async fn repository(
    cp: &ControlPlane,
    service: &Service,
    wanted: impl Fn(&KeyRecord) -> bool,
) -> Result<RepositoryGrant, StepError> {
    let backups = cp.catalog.backups_of(service.id).await?;
    let keys = lineage_keys(cp, service).await?;
    let active_epoch = keys.iter().rev().find(|key| key.purpose == KeyPurpose::Epoch).map(|key| key.id);
    let repository_key = keys.iter().find(|key| key.purpose == KeyPurpose::Repository);
    let passphrase = match repository_key {
        Some(key) => crate::vault::cipher_passphrase(&cp.vault.unwrap(key)?),
        None => String::new(),
    };
    let keys = keys
        .iter()
        .filter(|key| wanted(key))
        .map(|key| grant(cp, key, &backups))
        .collect::<Result<_, StepError>>()?;
    Ok(RepositoryGrant {
        organization_id: service.organization_id,
        service_id: service.id,
        lineage_id: service.lineage_id,
        cipher_passphrase: Secret(passphrase),
        keys,
        active_epoch,
    })
}

fn grant(cp: &ControlPlane, key: &KeyRecord, backups: &[Backup]) -> Result<KeyGrant, StepError> {
    let backup = backups.iter().find(|backup| backup.key_id == key.id);
    let owner = backup.map_or_else(|| key.id.to_string(), |backup| backup.id.to_string());
    let clear = cp.vault.unwrap(key)?;
    Ok(KeyGrant { id: key.id, purpose: key.purpose, owner, key_hex: Secret(hex::encode(clear.expose())) })
}

async fn run_backup(cp: &ControlPlane, job: &Job, service: &Service) -> Result<RunBackup, StepError> {
    let asked: input::Backup = input_of(job)?;
    let prepared: PreparedKeys = output_of(job, "prepare_keys")?;
    let backups = cp.catalog.backups_of(service.id).await?;
    let this = backup(cp, job, &asked.backup_id).await?;
    let key = |id: KeyId| async move {
        cp.catalog.key(id).await?.ok_or_else(|| incomplete(job, format!("key {id}")))
    };
    let backup_key = grant(cp, &key(this.key_id).await?, &backups)?;
    let next_epoch_key = grant(cp, &key(prepared.epoch_key).await?, &backups)?;
    let known: Vec<&Backup> = backups
        .iter()
        .filter(|other| {
            other.status == BackupStatus::Completed && other.shredded_at.is_none() && other.id != this.id
        })
        .collect();
    let mut parent_keys = Vec::new();
    for other in &known {
        if let Some(record) =
            cp.catalog.key(other.key_id).await?.filter(|record| record.destroyed_at.is_none())
        {
            parent_keys.push(grant(cp, &record, &backups)?);
        }
    }
    Ok(RunBackup {
        backup_id: this.id.clone(),
        mode: this.mode,
        backup_key,
        next_epoch_key,
        previous_manifest_sha256: newest_manifest(&backups, &this),
        known_labels: known
            .iter()
            .filter_map(|other| Some((other.facts.as_ref()?.tool_label.clone(), other.id.clone())))
            .collect(),
        parent_keys,
    })
}

/// The manifest written last before this backup's, shredded ones included: the chain has no holes.
fn newest_manifest(backups: &[Backup], this: &Backup) -> Option<String> {
    backups
        .iter()
        .filter(|other| other.id != this.id)
        .filter_map(|other| Some((other.completed_at?, other.facts.as_ref()?.manifest_sha256.clone())))
        .max_by_key(|(completed_at, _)| *completed_at)
        .map(|(_, sha256)| sha256)
}

/// Log is shipped only for a point that the store does not hold yet; a source that does not run has nothing to ship, and
/// the plan that follows says whether the point can be reached.
async fn ship_log(cp: &ControlPlane, job: &Job) -> Result<Equipped, StepError> {
    let asked: input::Restore = input_of(job)?;
    let Some(point) = asked.point else { return Ok(Equipped::Skip) };
    let source = load(cp, job, asked.source).await?;
    let archived = cp.catalog.coverage_of(source.lineage_id).await?;
    let newest = archived.iter().filter_map(|coverage| coverage.complete_until).max();
    let runs = source.status == holdfast_core::service::ServiceStatus::Running;
    if newest.is_some_and(|until| until >= point) || !runs {
        return Ok(Equipped::Skip);
    }
    Ok(Equipped::Run(source.id, Box::new(StepInput::ShipLog(ShipLog { until: point }))))
}

async fn restore_instance(
    cp: &ControlPlane,
    job: &Job,
    service: &Service,
) -> Result<RestoreInstance, StepError> {
    let asked: input::Restore = input_of(job)?;
    let planned: PlannedRestore = output_of(job, "plan_restore")?;
    let source = load(cp, job, asked.source).await?;
    let backups = cp.catalog.backups_of(source.id).await?;
    let chain: Vec<KeyId> = backups
        .iter()
        .filter(|backup| planned.plan.chain.contains(&backup.id))
        .map(|backup| backup.key_id)
        .collect();
    let source_grant =
        repository(cp, &source, |key| key.purpose != KeyPurpose::Backup || chain.contains(&key.id));
    let target = match (planned.plan.target, planned.covered_to) {
        (Target::Instant(point), Some(covered_to)) => {
            Some(RestoreTarget { point, covered_to, timeline: planned.base.stop.timeline })
        }
        (Target::Instant(_), None) => return Err(incomplete(job, "the log's end")),
        (Target::Backup, _) => None,
    };
    Ok(RestoreInstance {
        instance: spec(service),
        users: users(cp, service).await?,
        repository: own_repository(cp, service).await?,
        source: RepositoryGrant { active_epoch: None, ..source_grant.await? },
        base_label: planned.base.tool_label.clone(),
        base_stop: planned.base.stop,
        database_bytes: planned.base.database_bytes,
        target,
    })
}

async fn remove_expired(cp: &ControlPlane, job: &Job, service: &Service) -> Result<Equipped, StepError> {
    let plan: ExpiryPlan = output_of(job, "select_expired")?;
    if plan.shred.is_empty() && plan.remove_log_before.is_empty() && !plan.lineage_done {
        return Ok(Equipped::Skip);
    }
    let backups = cp.catalog.backups_of(service.id).await?;
    let going: Vec<&Backup> =
        plan.shred.iter().filter_map(|id| backups.iter().find(|b| b.id == *id)).collect();
    // From here on no new restore is planned from them; one that was planned just before is waited for.
    for backup in &going {
        cp.catalog
            .update_backup(&backup.id, |backup| {
                backup.shredded_at = backup.shredded_at.or(Some(Timestamp::now()))
            })
            .await?;
    }
    let read = super::steps::plans_reading(cp, service).await?;
    if !read.is_some_and(|plans| plans.iter().all(|plan| !plan.chain.iter().any(|id| is_going(&going, id)))) {
        return Err(StepError::Busy { job: job.id.to_string() });
    }
    let mut destroy_keys: Vec<KeyId> = going.iter().map(|backup| backup.key_id).collect();
    destroy_keys.extend(unneeded_epochs(cp, service, &backups, &plan).await?);
    let grant = repository(cp, service, |key| !destroy_keys.contains(&key.id)).await?;
    // From here on the catalog cannot give these keys to anybody; the agent removes their copies in the bucket, then the
    // objects.
    for key in &destroy_keys {
        if cp.catalog.key(*key).await?.is_some() {
            cp.catalog.destroy_key(*key, Timestamp::now()).await?;
        }
    }
    let expired = |backup: &&Backup| ExpiredBackup {
        backup_id: backup.id.clone(),
        tool_label: backup.facts.as_ref().map(|facts| facts.tool_label.clone()),
        manifest_sha256: backup.facts.as_ref().map(|facts| facts.manifest_sha256.clone()),
        previous_manifest_sha256: newest_manifest_before(&backups, backup),
        key_id: backup.key_id,
        reason: if plan.delist.contains(&backup.id) { "expired" } else { "no longer needed" }.to_owned(),
    };
    let input = RemoveExpired {
        repository: RepositoryGrant { active_epoch: None, ..grant },
        backups: going.iter().map(expired).collect(),
        remove_log_before: plan.remove_log_before.clone(),
        destroy_keys,
        whole_lineage: plan.lineage_done,
    };
    Ok(Equipped::Run(service.id, Box::new(StepInput::RemoveExpired(Box::new(input)))))
}

fn is_going(going: &[&Backup], id: &BackupId) -> bool {
    going.iter().any(|backup| backup.id == *id)
}

fn newest_manifest_before(backups: &[Backup], this: &Backup) -> Option<String> {
    let until = this.completed_at?;
    let earlier: Vec<Backup> =
        backups.iter().filter(|other| other.completed_at.is_some_and(|at| at < until)).cloned().collect();
    newest_manifest(&earlier, this)
}

/// Epochs whose log is all gone. The log from the start of the oldest kept base on is sealed with the epoch that was
/// active then: that of the last backup completed before that base. Everything older goes.
async fn unneeded_epochs(
    cp: &ControlPlane,
    service: &Service,
    backups: &[Backup],
    plan: &ExpiryPlan,
) -> Result<Vec<KeyId>, StepError> {
    let keys = lineage_keys(cp, service).await?;
    let epochs: Vec<&KeyRecord> = keys.iter().filter(|key| key.purpose == KeyPurpose::Epoch).collect();
    if plan.lineage_done {
        return Ok(keys.iter().map(|key| key.id).collect());
    }
    if plan.remove_log_before.is_empty() {
        return Ok(Vec::new());
    }
    let oldest_kept = backups
        .iter()
        .filter(|backup| backup.is_restorable() && !plan.shred.contains(&backup.id))
        .filter(|backup| {
            backup.facts.as_ref().is_some_and(|facts| {
                plan.remove_log_before
                    .iter()
                    .any(|cut| cut.timeline == facts.start.timeline && cut.offset <= facts.start.offset)
            })
        })
        .map(|backup| backup.created_at)
        .min();
    let Some(oldest_kept) = oldest_kept else { return Ok(Vec::new()) };
    let completed = backups.iter().filter(|backup| backup.facts.is_some()).map(|backup| backup.created_at);
    let made: Vec<(KeyId, Timestamp)> = epochs.iter().map(|key| (key.id, key.created_at)).collect();
    Ok(epochs_before(&made, completed, oldest_kept))
}

/// Of these epochs (with when their keys were made), those that ended before the epoch in which the backup made at
/// `oldest_kept` began. An epoch begins when its backup completes; that of a failed backup never began.
fn epochs_before(
    made: &[(KeyId, Timestamp)],
    completed: impl Iterator<Item = Timestamp>,
    oldest_kept: Timestamp,
) -> Vec<KeyId> {
    let Some(active_since) = completed.filter(|at| *at < oldest_kept).max() else { return Vec::new() };
    made.iter().filter(|(_, at)| *at < active_since).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + hour * 3600).expect("in range")
    }

    /// Backups at hours 10, 20 and 30, each with an epoch of its own made a moment later, and a first epoch at hour 0.
    fn epochs() -> [(KeyId, Timestamp); 4] {
        [hour(0), hour(10), hour(20), hour(30)].map(|at| (KeyId::random(), at))
    }

    #[test]
    fn the_epoch_in_which_the_oldest_kept_base_began_stays() {
        let made = epochs();
        let completed = [hour(10), hour(20), hour(30)];
        let gone = epochs_before(&made, completed.into_iter(), hour(30));
        assert_eq!(gone, [made[0].0, made[1].0], "the log from hour 20 on is sealed with the third");
        assert!(
            epochs_before(&made, completed.into_iter(), hour(10)).is_empty(),
            "the first base needs the first epoch"
        );
    }

    #[test]
    fn the_epoch_of_a_failed_backup_covers_nothing() {
        let made = epochs();
        // The backup at hour 20 failed: until hour 30 the log was sealed with the epoch of hour 10.
        let completed = [hour(10), hour(30)];
        assert_eq!(epochs_before(&made, completed.into_iter(), hour(30)), [made[0].0]);
    }
}
