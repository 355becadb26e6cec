//! The steps that run in the control plane. Each is idempotent: it is repeated whenever its outcome was not recorded.

use holdfast_api::agent::{InstanceFacts, RestoredInstance, ShippedLog, StepOutput};
use holdfast_catalog::{Credential, NewJob, OnDemandRule};
use holdfast_core::backup::{Backup, BackupFacts, BackupMode, BackupStatus, BackupType};
use holdfast_core::job::{Job, JobKind, Step};
use holdfast_core::key::KeyPurpose;
use holdfast_core::position::{Coverage, Position};
use holdfast_core::retention::{ExpiryPlan, plan_expiry};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::window::{History, RestorePlan};
use holdfast_core::{BackupId, KeyId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::grant::service_id;
use super::{StepError, fallback, grant, input, input_of, output_of, repository, rotation};
use crate::ControlPlane;

type Outcome = Result<Value, StepError>;

/// What [`Step::PrepareKeys`] decided.
#[derive(Debug, Serialize, Deserialize)]
pub struct PreparedKeys {
    pub epoch_key: KeyId,
}

/// What [`Step::PlanRestore`] decided; the steps after it choose nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedRestore {
    pub plan: RestorePlan,
    pub base: BackupFacts,
    /// Where the archived log ends that vouches for the restore point.
    pub covered_to: Option<Position>,
}

/// Performs the job's current step; one that takes longer says how far it is.
///
/// # Errors
/// [`StepError`]; the queue decides whether it is tried again.
pub async fn perform(cp: &ControlPlane, job: &Job, said: &rotation::Said) -> Outcome {
    match job.step() {
        Some(Step::Activate) => activate(cp, job).await,
        Some(Step::PrepareKeys) => prepare_keys(cp, job).await,
        Some(Step::RecordBackup) => record_backup(cp, job).await,
        Some(Step::PlanRestore) => plan_restore(cp, job).await,
        Some(Step::SelectExpired) => select_expired(cp, job).await,
        Some(Step::Finish) => finish(cp, job).await,
        Some(Step::MakeKek) => rotation::make_kek(cp, job).await,
        Some(Step::RewrapKeys) => rotation::rewrap_keys(cp, job, said).await,
        Some(Step::RetireKeks) => rotation::retire_keks(cp, job, said).await,
        other => Err(StepError::Incomplete {
            job: job.id.to_string(),
            what: format!("a step that runs here (it stands at {other:?})"),
        }),
    }
}

pub(super) async fn service_of(cp: &ControlPlane, job: &Job) -> Result<Service, StepError> {
    cp.catalog
        .service(service_id(job)?)
        .await?
        .ok_or_else(|| StepError::Incomplete { job: job.id.to_string(), what: "its service".to_owned() })
}

/// The instance runs: say so, and ask for the first backup.
async fn activate(cp: &ControlPlane, job: &Job) -> Outcome {
    let service = service_id(job)?;
    let (facts, reached, left_out): (InstanceFacts, Option<Timestamp>, Vec<String>) = match job.kind {
        JobKind::Restore => {
            let StepOutput::RestoreInstance(RestoredInstance { instance, reached, left_out, .. }) =
                output_of(job, "restore_instance")?
            else {
                return Err(StepError::Incomplete {
                    job: job.id.to_string(),
                    what: "the restore's outcome".to_owned(),
                });
            };
            (instance, reached, left_out)
        }
        _ => {
            let StepOutput::CreateInstance(facts) = output_of(job, "create_instance")? else {
                return Err(StepError::Incomplete {
                    job: job.id.to_string(),
                    what: "the instance's facts".to_owned(),
                });
            };
            (facts, None, Vec::new())
        }
    };
    let planned: Option<PlannedRestore> = output_of(job, "plan_restore").ok();
    let reached = reached.or(planned.as_ref().map(|planned| planned.base.consistent_at));
    cp.catalog
        .update_service(service, Timestamp::now(), |service| {
            if matches!(service.status, ServiceStatus::Pending | ServiceStatus::Provisioning) {
                service.status = ServiceStatus::Running;
                service.status_message = message(job, &left_out);
            }
            service.host = Some(facts.host.clone());
            service.port = Some(facts.port);
            service.engine_version = Some(facts.engine_version.clone());
            if let Some(from) = service.restored_from.as_mut() {
                from.restore_point = reached.or(from.restore_point);
            }
        })
        .await?;
    if cp.catalog.backups_of(service).await?.is_empty() {
        enqueue_automated(cp, service, BackupMode::Full).await?;
    }
    Ok(Value::Null)
}

/// What is to be known of an instance that runs, if anything.
fn message(job: &Job, left_out: &[String]) -> Option<String> {
    let left_out = (!left_out.is_empty()).then(|| format!("not in the copy: {}", left_out.join("; ")));
    let all: Vec<String> = [fallback::told(job), left_out].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(". "))
}

/// Asks for an automated backup.
///
/// # Errors
/// Whatever the catalog says.
pub async fn enqueue_automated(
    cp: &ControlPlane,
    service: holdfast_core::ServiceId,
    mode: BackupMode,
) -> Result<(), StepError> {
    let Some(service) = cp.catalog.service(service).await? else { return Ok(()) };
    let now = Timestamp::now();
    let backup = Backup {
        id: BackupId::random(),
        service_id: service.id,
        lineage_id: service.lineage_id,
        backup_type: BackupType::Automated,
        mode,
        method: None,
        status: BackupStatus::Pending,
        label: None,
        retention_days: None,
        key_id: KeyId::random(),
        created_at: now,
        started_at: None,
        completed_at: None,
        error: None,
        facts: None,
        delisted_at: None,
        shredded_at: None,
        removed_at: None,
    };
    let asked = input::Backup { backup_id: backup.id.clone() };
    let value = serde_json::to_value(asked).expect("an input has only string keys");
    let job = NewJob::new(JobKind::Backup, service.id, value, now);
    cp.catalog.create_backup(&backup, &job, OnDemandRule::Queue).await?;
    Ok(())
}

/// The backup's key and the next epoch's exist, wrapped, in catalog and bucket, before anything is sealed with them.
async fn prepare_keys(cp: &ControlPlane, job: &Job) -> Outcome {
    let asked: input::Backup = input_of(job)?;
    let service = service_of(cp, job).await?;
    let backup = grant::backup(cp, job, &asked.backup_id).await?;
    repository::ensure_key(cp, &service, backup.key_id, KeyPurpose::Backup).await?;
    // The epoch's key takes its id from the job's, so that a repeated step makes no second one.
    let epoch_key = KeyId(job.id.0);
    repository::ensure_key(cp, &service, epoch_key, KeyPurpose::Epoch).await?;
    cp.catalog
        .update_backup(&asked.backup_id, |backup| {
            backup.status = BackupStatus::Running;
            backup.started_at = backup.started_at.or(Some(Timestamp::now()));
        })
        .await?;
    Ok(serde_json::to_value(PreparedKeys { epoch_key }).expect("it has only string keys"))
}

async fn record_backup(cp: &ControlPlane, job: &Job) -> Outcome {
    let asked: input::Backup = input_of(job)?;
    let StepOutput::RunBackup(facts) = output_of(job, "run_backup")? else {
        return Err(StepError::Incomplete { job: job.id.to_string(), what: "the backup's facts".to_owned() });
    };
    cp.catalog
        .update_backup(&asked.backup_id, |backup| {
            backup.status = BackupStatus::Completed;
            backup.completed_at = backup.completed_at.or(Some(Timestamp::now()));
            backup.error = None;
            // The tool makes a full one where there is nothing to build on.
            backup.mode = if facts.parent.is_some() { backup.mode } else { BackupMode::Full };
            backup.facts = Some(facts.clone());
        })
        .await?;
    Ok(Value::Null)
}

/// What the source's catalog says now, with the log that was shipped for this restore.
async fn plan_restore(cp: &ControlPlane, job: &Job) -> Outcome {
    if let Ok(StepOutput::ShipLog(ShippedLog { coverage })) = output_of(job, "ship_log") {
        let asked: input::Restore = input_of(job)?;
        if let Some(source) = cp.catalog.service(asked.source).await? {
            cp.catalog.upsert_coverage(source.lineage_id, &coverage).await?;
        }
    }
    let (plan, base) = fallback::plan(cp, job, &fallback::passed_over(job)).await?;
    let covered_to = plan.covered_to();
    let planned = PlannedRestore { plan, base, covered_to };
    Ok(serde_json::to_value(planned).expect("a plan has only string keys"))
}

/// Chooses what goes and destroys its keys in the catalog. What running restores read stays.
async fn select_expired(cp: &ControlPlane, job: &Job) -> Outcome {
    let service = service_of(cp, job).await?;
    let reading = plans_reading(cp, &service).await?;
    let Some(reading) = reading else {
        // A restore has not decided yet what it reads: nothing goes this time, the next round looks again.
        return Ok(serde_json::to_value(nothing_expires()).expect("it has only string keys"));
    };
    let backups = cp.catalog.backups_of(service.id).await?;
    let coverage = cp.catalog.coverage_of(service.lineage_id).await?;
    let gaps = cp.catalog.gaps_of(service.lineage_id).await?;
    let history = History { backups: &backups, coverage: &coverage, gaps: &gaps, live_until: None };
    let now = super::scheduler::expiry_now(cp).await?.unwrap_or(service.created_at);
    // One that never came to be has nothing to keep either.
    let ended_at =
        service.deleted_at.or((service.status == ServiceStatus::Failed).then_some(service.updated_at));
    let mut plan = plan_expiry(&history, &cp.settings.policy, now, ended_at, &reading);
    plan.remove_log_before =
        whole_pieces(&plan.remove_log_before, &coverage, service.engine.capability().log_piece);
    for id in &plan.delist {
        cp.catalog
            .update_backup(id, |backup| backup.delisted_at = backup.delisted_at.or(Some(Timestamp::now())))
            .await?;
    }
    Ok(serde_json::to_value(plan).expect("a plan has only string keys"))
}

/// Log goes in whole pieces: a cut inside one takes nothing of it, and one that takes nothing at all is no cut.
fn whole_pieces(cuts: &[Position], coverage: &[Coverage], piece: u64) -> Vec<Position> {
    cuts.iter()
        .map(|cut| Position { offset: cut.offset - cut.offset % piece, ..*cut })
        .filter(|cut| coverage.iter().any(|c| c.from.timeline == cut.timeline && c.from.offset < cut.offset))
        .collect()
}

fn nothing_expires() -> ExpiryPlan {
    ExpiryPlan {
        delist: Vec::new(),
        shred: Vec::new(),
        remove_log_before: Vec::new(),
        keep_reasons: Vec::new(),
        lineage_done: false,
    }
}

/// Plans of the open restores that read this service; `None` while one of them is undecided.
pub(super) async fn plans_reading(
    cp: &ControlPlane,
    service: &Service,
) -> Result<Option<Vec<RestorePlan>>, StepError> {
    let mut plans = Vec::new();
    for job in cp.catalog.open_restores_from(service.id).await? {
        match output_of::<PlannedRestore>(&job, "plan_restore") {
            Ok(planned) => plans.push(planned.plan),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(plans))
}

/// The last step of the short jobs: what they did becomes visible.
async fn finish(cp: &ControlPlane, job: &Job) -> Outcome {
    let now = Timestamp::now();
    match job.kind {
        JobKind::Stop => {
            // Reports of what only became complete until later are put off, and here no later one follows.
            if let Ok(StepOutput::StopInstance(stopped)) = output_of(job, "stop_instance") {
                take_coverage(cp, &service_of(cp, job).await?, stopped.coverage).await?;
            }
            let from = [ServiceStatus::Running, ServiceStatus::Error];
            cp.catalog.set_service_status(service_id(job)?, &from, ServiceStatus::Stopped, None, now).await?;
        }
        JobKind::Start => {
            let from = [ServiceStatus::Stopped];
            cp.catalog.set_service_status(service_id(job)?, &from, ServiceStatus::Running, None, now).await?;
        }
        JobKind::ResetPassword => new_password(cp, job).await?,
        JobKind::DeleteService => close_log(cp, job, now).await?,
        JobKind::Expire => super::expiry::forget_expired(cp, job, now).await?,
        JobKind::Configure
        | JobKind::Provision
        | JobKind::Backup
        | JobKind::Restore
        | JobKind::RotateKeys => {}
    }
    Ok(Value::Null)
}

async fn new_password(cp: &ControlPlane, job: &Job) -> Result<(), StepError> {
    let asked: input::ResetPassword = input_of(job)?;
    let service_id = service_id(job)?;
    let known = cp.catalog.credential(service_id, &asked.username).await?;
    let known = known.ok_or_else(|| grant::incomplete(job, format!("database user {}", asked.username)))?;
    let wrapped = hex::decode(&asked.wrapped_hex).unwrap_or_default();
    let kek_version = holdfast_seal::wrapped_kek_version(&wrapped)
        .ok_or_else(|| grant::incomplete(job, "a wrapped password"))?;
    let credential = Credential { kek_version, wrapped, ..known };
    Ok(cp.catalog.upsert_credential(&credential).await?)
}

async fn close_log(cp: &ControlPlane, job: &Job, now: Timestamp) -> Result<(), StepError> {
    let service = service_of(cp, job).await?;
    if let Ok(StepOutput::RemoveInstance(closed)) = output_of(job, "remove_instance") {
        take_coverage(cp, &service, closed.coverage).await?;
        for gap in &closed.gaps {
            cp.catalog.insert_gap(service.lineage_id, gap).await?;
        }
    }
    cp.live.forget(service.id);
    let from = [ServiceStatus::Deleting];
    cp.catalog.set_service_status(service.id, &from, ServiceStatus::Deleted, None, now).await?;
    // A service without any backup has nothing left to wait for.
    super::scheduler::enqueue_expiry(cp, service.id).await
}

async fn take_coverage(
    cp: &ControlPlane,
    service: &Service,
    coverage: Vec<Coverage>,
) -> Result<(), StepError> {
    let all: Vec<_> = coverage.into_iter().map(|stretch| (service.lineage_id, stretch)).collect();
    Ok(cp.catalog.upsert_all_coverage(&all).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_cut_between_segments_and_only_where_that_removes_something() {
        let at = |offset| Position { timeline: 1, offset };
        let coverage = [Coverage { from: at(0x100_0000), to: at(0x900_0000), complete_until: None }];
        let piece = 16 << 20;
        assert_eq!(whole_pieces(&[at(0x300_0028)], &coverage, piece), [at(0x300_0000)]);
        assert_eq!(whole_pieces(&[at(0x1FF_FFFF)], &coverage, piece), []);
        let other = Position { timeline: 2, offset: 0x300_0028 };
        assert_eq!(whole_pieces(&[other], &coverage, piece), []);
    }
}
