//! Equips the steps that agents run: which keys, passwords and facts each one needs, and nothing more.

use holdfast_api::agent::{
    ApplySettings, CreateInstance, InstanceSpec, NewUser, RepositoryGrant, RestoreInstance, RestoreTarget,
    RunBackup, Secret, SetPassword, ShipLog, StepInput,
};
use holdfast_catalog::Credential;
use holdfast_core::backup::{Backup, BackupStatus};
use holdfast_core::job::{Job, Step};
use holdfast_core::key::KeyPurpose;
use holdfast_core::service::Service;
use holdfast_core::size::plan;
use holdfast_core::window::Target;
use holdfast_core::{BackupId, KeyId, ServiceId, Timestamp};

use super::expiry::remove_expired;
use super::repository::{grant, own_repository, repository};
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
    let service = load(cp, job, service_id(job)?).await?;
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

pub(super) fn incomplete(job: &Job, what: impl Into<String>) -> StepError {
    StepError::Incomplete { job: job.id.to_string(), what: what.into() }
}

/// The service that the job is about.
pub(super) fn service_id(job: &Job) -> Result<ServiceId, StepError> {
    job.service_id.ok_or_else(|| incomplete(job, "its service"))
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
        storage_bytes: u64::from(service.attributes.storage_size_gb) << 30,
    }
}

/// The service's users with their passwords, made at the first call: the tenant's own first.
async fn users(cp: &ControlPlane, service: &Service) -> Result<Vec<NewUser>, StepError> {
    let mut known = cp.catalog.credentials_of(service.id).await?;
    if known.is_empty() {
        for (position, account) in (0_u32..).zip(service.engine.capability().accounts) {
            let wrapped = cp.vault.wrap_secret(service, &user_secret(account.username), &new_password());
            let credential = Credential {
                service_id: service.id,
                username: account.username.to_owned(),
                kek_version: wrapped.kek_version,
                wrapped: wrapped.bytes,
                roles: vec![account.role.to_owned()],
                privileges: account.privileges.to_owned(),
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
    let mut known: Vec<&Backup> = backups
        .iter()
        .filter(|other| {
            other.status == BackupStatus::Completed && other.shredded_at.is_none() && other.id != this.id
        })
        .collect();
    known.sort_by_key(|other| other.completed_at);
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
        method: this.method.clone().unwrap_or_else(|| service.engine.capability().usual_method().to_owned()),
        backup_key,
        next_epoch_key,
        previous_manifest_sha256: newest_manifest(&backups, &this),
        expected_bytes: known
            .iter()
            .filter(|other| other.mode == this.mode && other.method == this.method)
            .max_by_key(|other| other.completed_at)
            .and_then(|other| Some(other.facts.as_ref()?.stored_bytes)),
        known_labels: known
            .iter()
            .filter_map(|other| Some((other.facts.as_ref()?.tool_label.clone(), other.id.clone())))
            .collect(),
        failed: backups
            .iter()
            .filter(|other| other.status == BackupStatus::Failed)
            .map(|other| other.id.clone())
            .collect(),
        parent_keys,
    })
}

/// The manifest written last before this backup's, shredded ones included: the chain has no holes.
pub(super) fn newest_manifest(backups: &[Backup], this: &Backup) -> Option<String> {
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
            let log = planned.base.log.ok_or_else(|| incomplete(job, "the base's place in the log"))?;
            Some(RestoreTarget { point, covered_to, timeline: log.stop.timeline })
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
        base_stop: planned.base.log.map(|log| log.stop),
        database_bytes: planned.base.database_bytes,
        log_bytes: planned.plan.log.map_or(0, |(from, to)| to.offset.saturating_sub(from.offset)),
        target,
    })
}
