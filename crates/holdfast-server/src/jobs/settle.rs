//! What follows when a job has ended badly: the status of its service or backup, with the reason. Done once a job, and
//! again after a crash, until the catalog says that it is settled.

use holdfast_catalog::NewJob;
use holdfast_core::backup::BackupStatus;
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobKind, JobState};
use holdfast_core::service::ServiceStatus;
use holdfast_core::{ServiceId, Timestamp};
use holdfast_fault::Moment;

use super::grant::service_id;
use super::{StepError, input, input_of};
use crate::ControlPlane;

const MANY: u32 = 100;

/// Settles every job that has ended.
pub async fn all(cp: &ControlPlane) {
    let jobs = match cp.catalog.unsettled_jobs(MANY).await {
        Ok(jobs) => jobs,
        Err(error) => {
            tracing::error!(error = %chain(&error), "ended jobs could not be read");
            return;
        }
    };
    for job in jobs {
        if let Err(error) = one(cp, &job).await {
            tracing::error!(job = %job.id, error = %chain(&error), "what follows from a job's end is not recorded yet");
        }
    }
}

async fn one(cp: &ControlPlane, job: &Job) -> Result<(), StepError> {
    cp.settings.faults.reached(job.service_id, job.kind, None, Moment::Before).await?;
    if job.state != JobState::Completed {
        let why = reason(job);
        let service = job.service_id.map(|id| id.to_string());
        if job.state == JobState::Cancelled {
            tracing::info!(job = %job.id, kind = ?job.kind, service, "a job was cancelled");
        } else {
            tracing::warn!(job = %job.id, kind = ?job.kind, service, why, "a job has ended badly");
        }
        match job.kind {
            JobKind::Provision | JobKind::Restore => service_failed(cp, job, &why).await?,
            JobKind::Backup => backup_failed(cp, job, &why).await?,
            JobKind::Configure | JobKind::Stop | JobKind::Start => note(cp, job, &why).await?,
            JobKind::ResetPassword | JobKind::DeleteService | JobKind::Expire | JobKind::RotateKeys => {}
        }
    }
    cp.settings.faults.reached(job.service_id, job.kind, None, Moment::After).await?;
    Ok(cp.catalog.settle_job(job.id).await?)
}

fn reason(job: &Job) -> String {
    match (&job.state, &job.error) {
        (JobState::Cancelled, _) => "cancelled".to_owned(),
        (_, Some(error)) => error.message.clone(),
        (_, None) => "the job failed without a word; see the log".to_owned(),
    }
}

async fn service_failed(cp: &ControlPlane, job: &Job, why: &str) -> Result<(), StepError> {
    let from = [ServiceStatus::Pending, ServiceStatus::Provisioning];
    let now = Timestamp::now();
    let service = service_id(job)?;
    cp.catalog.set_service_status(service, &from, ServiceStatus::Failed, Some(why), now).await?;
    let found = cp.catalog.service(service).await?;
    if found.is_none_or(|found| found.status != ServiceStatus::Failed) {
        return Ok(()); // it runs, or is being deleted
    }
    clear_away(cp, service, now).await
}

/// A service that never came to be leaves its record and the reason: an instance that was whole already goes, and then
/// what it stored ([`JobKind::DeleteService`] ends with an expiry).
async fn clear_away(cp: &ControlPlane, service: ServiceId, now: Timestamp) -> Result<(), StepError> {
    for open in cp.catalog.open_jobs_of(service).await? {
        if !matches!(open.kind, JobKind::DeleteService | JobKind::Expire) {
            cp.catalog.cancel(open.id, now).await?;
        }
    }
    if cp.catalog.last_job(service, JobKind::DeleteService).await?.is_none() {
        let nothing = serde_json::json!({});
        cp.catalog.enqueue(&NewJob::new(JobKind::DeleteService, service, nothing, now)).await?;
    }
    Ok(())
}

async fn backup_failed(cp: &ControlPlane, job: &Job, why: &str) -> Result<(), StepError> {
    let asked: input::Backup = input_of(job)?;
    cp.catalog
        .update_backup(&asked.backup_id, |backup| {
            if backup.status != BackupStatus::Completed {
                backup.status = BackupStatus::Failed;
                backup.error = Some(why.to_owned());
                backup.completed_at = None;
            }
        })
        .await?;
    Ok(())
}

/// The service goes on as it is; its message says what did not work.
async fn note(cp: &ControlPlane, job: &Job, why: &str) -> Result<(), StepError> {
    cp.catalog
        .update_service(service_id(job)?, Timestamp::now(), |service| {
            service.status_message = Some(why.to_owned())
        })
        .await?;
    Ok(())
}
