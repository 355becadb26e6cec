//! Jobs as users see them, and the progress that services and backups show.

use holdfast_catalog::JobFilter;
use holdfast_core::job::{Job, JobKind, JobState, Progress, Step};
use holdfast_core::service::ServiceStatus;
use holdfast_core::{BackupId, JobId, ServiceId, Timestamp};
use serde::de::DeserializeOwned;

use super::{AppError, services};
use crate::ControlPlane;
use crate::jobs::input;

/// Newest jobs that a list shows.
const LISTED: u32 = 500;

/// A job with what its input names.
#[derive(Debug, Clone)]
pub struct JobView {
    pub job: Job,
    pub backup_id: Option<BackupId>,
    pub source: Option<ServiceId>,
    pub restore_point: Option<Timestamp>,
}

/// The newest jobs, of one service or of all.
///
/// # Errors
/// The catalog failed. An unknown service has no jobs.
pub async fn list(cp: &ControlPlane, service: Option<ServiceId>) -> Result<Vec<JobView>, AppError> {
    let filter = JobFilter { service_id: service, ..JobFilter::default() };
    cp.catalog.jobs(LISTED, &filter).await?.into_iter().map(view).collect()
}

/// All jobs of a service, newest first.
///
/// # Errors
/// `NotFound`; a deleted service's jobs stay readable while its backups do.
pub async fn of_service(cp: &ControlPlane, service: ServiceId) -> Result<Vec<JobView>, AppError> {
    services::with_backups(cp, service).await?;
    cp.catalog.jobs_of(service).await?.into_iter().map(view).collect()
}

/// The restores that read from a service, newest first.
///
/// # Errors
/// `NotFound`.
pub async fn restores_from(cp: &ControlPlane, source: ServiceId) -> Result<Vec<JobView>, AppError> {
    services::with_backups(cp, source).await?;
    let filter = JobFilter { kind: Some(JobKind::Restore), ..JobFilter::default() };
    let all = cp.catalog.jobs(u32::MAX, &filter).await?.into_iter().map(view);
    all.filter(|job| job.as_ref().map_or(true, |job| job.source == Some(source))).collect()
}

/// One of [`restores_from`].
///
/// # Errors
/// `NotFound`, also for another service's restore.
pub async fn restore_from(cp: &ControlPlane, source: ServiceId, id: JobId) -> Result<JobView, AppError> {
    services::with_backups(cp, source).await?;
    let job = get(cp, id).await?;
    if job.source == Some(source) { Ok(job) } else { Err(AppError::NotFound("job")) }
}

/// # Errors
/// `NotFound`.
pub async fn get(cp: &ControlPlane, id: JobId) -> Result<JobView, AppError> {
    view(cp.catalog.job(id).await?.ok_or(AppError::NotFound("job"))?)
}

/// Ends a backup, a restore or the making of a service, within seconds and leaving nothing: the backup is failed, the new
/// service too. Again is fine until the job has ended.
///
/// # Errors
/// `NotFound`; `Conflict` for jobs of other kinds, which would leave a service half-changed, and for those that have ended.
pub async fn cancel(cp: &ControlPlane, id: JobId) -> Result<JobView, AppError> {
    let job = get(cp, id).await?.job;
    if !matches!(job.kind, JobKind::Backup | JobKind::Restore | JobKind::Provision) {
        let text = "only backups, restores and the creation of services can be cancelled";
        return Err(AppError::Conflict(text.to_owned()));
    }
    let cancelled = cp.catalog.cancel(id, Timestamp::now()).await?;
    if job.state.is_terminal() || (cancelled.state.is_terminal() && !cancelled.cancel_requested) {
        return Err(AppError::Conflict("the job has ended already; see its status".to_owned()));
    }
    view(cancelled)
}

/// Restores that have not ended: what they read must stay.
async fn open_restores(cp: &ControlPlane) -> Result<Vec<JobView>, AppError> {
    let states = vec![JobState::Queued, JobState::Running];
    let filter = JobFilter { kind: Some(JobKind::Restore), states, ..JobFilter::default() };
    cp.catalog.jobs(u32::MAX, &filter).await?.into_iter().map(view).collect()
}

/// The service that a restore is reading this backup for. One that runs has read it, a moment before its job is noted as completed.
pub(super) async fn reading(cp: &ControlPlane, backup: &BackupId) -> Result<Option<ServiceId>, AppError> {
    let restores = open_restores(cp).await?;
    for target in restores.iter().filter(|job| job.backup_id.as_ref() == Some(backup)) {
        let Some(id) = target.job.service_id else { continue };
        if cp.catalog.service(id).await?.is_some_and(|service| service.status != ServiceStatus::Running) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// All open jobs, for lists that show progress.
pub(super) async fn open(cp: &ControlPlane, service: Option<ServiceId>) -> Result<Vec<Job>, AppError> {
    let states = vec![JobState::Queued, JobState::Running];
    Ok(cp.catalog.jobs(u32::MAX, &JobFilter { service_id: service, states, ..JobFilter::default() }).await?)
}

/// How far a service on its way up is; `None` once it has arrived.
pub(super) fn of_service_on_its_way(open: &[Job], id: ServiceId, status: ServiceStatus) -> Option<Progress> {
    let brings_up =
        |job: &&Job| job.service_id == Some(id) && matches!(job.kind, JobKind::Provision | JobKind::Restore);
    if is_on_its_way(status) { open.iter().find(brings_up).map(progress) } else { None }
}

pub(super) fn is_on_its_way(status: ServiceStatus) -> bool {
    matches!(status, ServiceStatus::Pending | ServiceStatus::Provisioning)
}

/// How far a backup is that has not ended.
pub(super) fn of_backup(open: &[Job], id: &BackupId) -> Option<Progress> {
    let makes = |job: &&Job| {
        job.kind == JobKind::Backup
            && serde_json::from_value::<input::Backup>(job.input.clone())
                .is_ok_and(|input| input.backup_id == *id)
    };
    open.iter().find(makes).map(progress)
}

/// What the worker said last, or the step's name while it has not said anything.
#[must_use]
pub fn progress(job: &Job) -> Progress {
    job.progress.clone().unwrap_or_else(|| Progress {
        phase: match (job.state, job.step()) {
            (JobState::Queued, _) if job.step_index == 0 => "queued".to_owned(),
            (_, Some(step)) => phase(step).to_owned(),
            (_, None) => "done".to_owned(),
        },
        percent: None,
        bytes_done: None,
        bytes_total: None,
        eta_seconds: None,
    })
}

fn phase(step: Step) -> &'static str {
    match step {
        Step::CreateInstance => "creating the instance",
        Step::Activate => "activating",
        Step::PrepareKeys => "preparing keys",
        Step::RunBackup => "copying",
        Step::RecordBackup => "recording",
        Step::ShipLog => "shipping the log",
        Step::PlanRestore => "planning",
        Step::RestoreInstance => "restoring",
        Step::ApplySettings => "applying settings",
        Step::StopInstance => "stopping",
        Step::StartInstance => "starting",
        Step::SetPassword => "setting the password",
        Step::Finish => "finishing",
        Step::RemoveInstance => "removing the instance",
        Step::SelectExpired => "selecting what has expired",
        Step::RemoveExpired => "removing what has expired",
        Step::MakeKek => "making a key-encryption key",
        Step::RewrapKeys => "rewrapping keys",
        Step::RetireKeks => "retiring older key-encryption keys",
    }
}

pub(super) fn view(job: Job) -> Result<JobView, AppError> {
    let mut view = JobView { backup_id: None, source: None, restore_point: None, job };
    match view.job.kind {
        JobKind::Backup => view.backup_id = Some(read::<input::Backup>(&view.job)?.backup_id),
        JobKind::Restore => {
            let input: input::Restore = read(&view.job)?;
            view.source = Some(input.source);
            view.backup_id = input.backup_id;
            view.restore_point = input.point;
        }
        _ => {}
    }
    Ok(view)
}

fn read<T: DeserializeOwned>(job: &Job) -> Result<T, AppError> {
    serde_json::from_value(job.input.clone()).map_err(|source| AppError::JobInput { job: job.id, source })
}

/// A job's input as the catalog keeps it.
pub(super) fn written<T: serde::Serialize>(input: &T) -> serde_json::Value {
    serde_json::to_value(input).expect("inputs are plain structs with text keys")
}
