//! Database services: make, show, change, stop, start, delete.

use holdfast_api::service::{CreateService, PatchService};
use holdfast_catalog::NewJob;
use holdfast_core::job::{Job, JobKind, Progress};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{ServiceId, Timestamp};
use jiff::SignedDuration;

use super::{AppError, Caller, backups, jobs, now, organizations, pitr, platform, room, service_input};
use crate::ControlPlane;
use crate::jobs::input;

/// A service and how far it is on its way up.
#[derive(Debug, Clone)]
pub struct ServiceView {
    pub service: Service,
    pub progress: Option<Progress>,
}

/// Makes a service: its row, `pending`, and the job that provisions it.
///
/// # Errors
/// `Invalid`; `Conflict` when a living service of the organization has the name, or its quota is reached.
pub async fn create(
    cp: &ControlPlane,
    caller: &Caller,
    asked: CreateService,
) -> Result<ServiceView, AppError> {
    room::require(cp)?;
    let organization_id = organizations::home(cp, caller).await?;
    cp.live.versions_known().await;
    let now = now();
    let service =
        service_input::new_service(asked, organization_id, |engine| platform::offered(cp, engine), now)?;
    let job = NewJob::new(JobKind::Provision, service.id, jobs::written(&input::Provision {}), now);
    cp.catalog.create_service(&service, &job, cp.settings.max_services).await?;
    shown(cp, service).await
}

/// A page of the living services of the active organization or of all, oldest first, and how many there are in all.
///
/// # Errors
/// The catalog failed.
pub async fn list(
    cp: &ControlPlane,
    caller: &Caller,
    limit: Option<u32>,
    offset: u32,
) -> Result<(Vec<ServiceView>, u64), AppError> {
    let (services, total) = cp.catalog.living_services(caller.active, limit, offset).await?;
    // Only what is on its way up has progress: of ten thousand services that run, none is asked about.
    let open = match services.iter().any(|service| jobs::is_on_its_way(service.status)) {
        true => jobs::open(cp, None).await?,
        false => Vec::new(),
    };
    Ok((services.into_iter().map(|service| view(cp, service, &open)).collect(), total))
}

/// # Errors
/// `NotFound`, also once the service has been deleted.
pub async fn get(cp: &ControlPlane, id: ServiceId) -> Result<ServiceView, AppError> {
    let service = living(cp, id).await?;
    shown(cp, service).await
}

/// Changes what is given. What the instance has to know reaches it by a job.
///
/// # Errors
/// `Invalid`, `NotFound`, `Conflict` when the name is taken.
pub async fn patch(cp: &ControlPlane, id: ServiceId, asked: PatchService) -> Result<ServiceView, AppError> {
    let before = living(cp, id).await?;
    service_input::check_patch(before.engine, &asked)?;
    if asked == PatchService::default() {
        return shown(cp, before).await;
    }
    let now = now();
    let service = decide(cp, id, now, |service| {
        if let Some(size) = asked.storage_size_gb.filter(|size| *size < service.attributes.storage_size_gb) {
            let has = service.attributes.storage_size_gb;
            let text = format!("storage_size_gb may only grow: it is {has}, {size} was asked for");
            return Err(AppError::Invalid(text));
        }
        let before = service.clone();
        service_input::apply(service, &asked);
        let matters = service.allowed_cidrs != before.allowed_cidrs
            || service.plan_name != before.plan_name
            || service.attributes.storage_size_gb != before.attributes.storage_size_gb;
        // An instance that is not placed yet, or stopped, gets the settings when it comes up.
        let is_up = matches!(
            service.status,
            ServiceStatus::Provisioning | ServiceStatus::Running | ServiceStatus::Error
        );
        Ok(if matters && is_up { vec![bare_job(JobKind::Configure, id, now)] } else { Vec::new() })
    })
    .await?;
    shown(cp, service).await
}

/// Stops the instance by a job; the service is `stopped` once that is done.
///
/// # Errors
/// `NotFound`; `Conflict` unless the service runs.
pub async fn stop(cp: &ControlPlane, id: ServiceId) -> Result<ServiceView, AppError> {
    let service = living(cp, id).await?;
    if !matches!(service.status, ServiceStatus::Running | ServiceStatus::Error) {
        return Err(not_now(&service, "stopped", "running"));
    }
    switch(cp, service, &[JobKind::Stop]).await
}

/// Starts a stopped instance by a job, and then brings it to what was changed while it was stopped.
///
/// # Errors
/// `NotFound`; `Conflict` unless the service is stopped.
pub async fn start(cp: &ControlPlane, id: ServiceId) -> Result<ServiceView, AppError> {
    let service = living(cp, id).await?;
    if service.status != ServiceStatus::Stopped {
        return Err(not_now(&service, "started", "stopped"));
    }
    if service.host.is_none() {
        return Err(AppError::Conflict(crate::rebuild::LOST.to_owned()));
    }
    switch(cp, service, &[JobKind::Start, JobKind::Configure]).await
}

/// Deletes for good: unknown to its users at once, its name free; a job ships the last log and removes the instance. Its
/// backups stay restorable until they expire.
///
/// # Errors
/// `NotFound`, also the second time.
pub async fn delete(cp: &ControlPlane, id: ServiceId) -> Result<(), AppError> {
    living(cp, id).await?;
    let now = now();
    decide(cp, id, now, |service| {
        service.status = ServiceStatus::Deleting;
        service.status_message = None;
        Ok(vec![bare_job(JobKind::DeleteService, id, now)])
    })
    .await?;
    // What was still to be done for it is pointless; should this not happen, it runs before the deletion and is undone.
    for job in cp.catalog.open_jobs_of(id).await? {
        if !matches!(job.kind, JobKind::DeleteService | JobKind::Expire) {
            cp.catalog.cancel(job.id, now).await?;
        }
    }
    cp.live.forget(id);
    Ok(())
}

/// The service, unless it has been deleted.
pub(super) async fn living(cp: &ControlPlane, id: ServiceId) -> Result<Service, AppError> {
    cp.catalog.service(id).await?.filter(is_living).ok_or(AppError::NotFound("service"))
}

/// The service; a deleted one too, while it has a backup that is listed.
pub(super) async fn with_backups(cp: &ControlPlane, id: ServiceId) -> Result<Service, AppError> {
    let service = cp.catalog.service(id).await?.ok_or(AppError::NotFound("service"))?;
    if is_living(&service) || backups::any_listed(cp, id).await? {
        Ok(service)
    } else {
        Err(AppError::NotFound("service"))
    }
}

/// The service with its progress, as answers show it.
pub(super) async fn shown(cp: &ControlPlane, service: Service) -> Result<ServiceView, AppError> {
    let open = cp.catalog.open_jobs_of(service.id).await?;
    Ok(view(cp, service, &open))
}

/// A running service says what its agent warns of, as long as it does, before what its catalog knows.
fn view(cp: &ControlPlane, mut service: Service, open: &[Job]) -> ServiceView {
    if service.status == ServiceStatus::Running {
        let warning = pitr::fresh_report(cp, service.id, now()).and_then(|report| report.disk?.message);
        let told = [warning, service.status_message].into_iter().flatten().collect::<Vec<_>>().join("; ");
        service.status_message = Some(told).filter(|told| !told.is_empty());
    }
    ServiceView { progress: jobs::of_service_on_its_way(open, service.id, service.status), service }
}

fn is_living(service: &Service) -> bool {
    !matches!(service.status, ServiceStatus::Deleting | ServiceStatus::Deleted)
}

/// Changes a living service and queues what follows, in one transaction, or does neither. The decision sees the newest
/// state and may be asked again.
async fn decide(
    cp: &ControlPlane,
    id: ServiceId,
    now: Timestamp,
    mut decision: impl FnMut(&mut Service) -> Result<Vec<NewJob>, AppError> + Send,
) -> Result<Service, AppError> {
    let mut refusal = None;
    let service = cp
        .catalog
        .update_service_and_enqueue(id, now, |service| {
            if !is_living(service) {
                refusal = Some(AppError::NotFound("service"));
                return None;
            }
            match decision(service) {
                Ok(jobs) => {
                    refusal = None;
                    Some(jobs)
                }
                Err(error) => {
                    refusal = Some(error);
                    None
                }
            }
        })
        .await?;
    refusal.map_or(Ok(service), Err)
}

/// Queues jobs that change whether the instance runs, one such change at a time. One whose end the service's status tells already has
/// only to be noted as completed: whoever waited for the status goes on at once, and what is queued now runs behind it.
async fn switch(cp: &ControlPlane, service: Service, kinds: &[JobKind]) -> Result<ServiceView, AppError> {
    let open = cp.catalog.open_jobs_of(service.id).await?;
    let under_way = open.iter().find_map(|job| match job.kind {
        JobKind::Stop if service.status != ServiceStatus::Stopped => Some("stopped"),
        JobKind::Start if service.status != ServiceStatus::Running => Some("started"),
        _ => None,
    });
    if let Some(doing) = under_way {
        return Err(AppError::Conflict(format!("the service is just being {doing}; wait for that to end")));
    }
    let (id, status, now) = (service.id, service.status, now());
    let service = decide(cp, id, now, |service| {
        if service.status != status {
            return Err(AppError::conflict("the service's status just changed; look again"));
        }
        // Jobs of one instant have no order: each gets an instant of its own.
        let at = |n| now + SignedDuration::from_micros(n);
        Ok(kinds.iter().zip(0..).map(|(kind, n)| bare_job(*kind, id, at(n))).collect())
    })
    .await?;
    shown(cp, service).await
}

fn not_now(service: &Service, done: &str, needed: &str) -> AppError {
    let is = word(service.status);
    AppError::Conflict(format!("the service is {is}; only a {needed} one can be {done}"))
}

/// The status as users know it.
pub(super) fn word(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Pending => "pending",
        ServiceStatus::Provisioning => "provisioning",
        ServiceStatus::Running => "running",
        ServiceStatus::Failed => "failed",
        ServiceStatus::Stopped => "stopped",
        ServiceStatus::Error => "error",
        ServiceStatus::Deleting => "deleting",
        ServiceStatus::Deleted => "deleted",
    }
}

fn bare_job(kind: JobKind, id: ServiceId, now: Timestamp) -> NewJob {
    NewJob::new(kind, id, jobs::written(&input::Nothing {}), now)
}
