//! Database users and their passwords.

use std::time::Duration;

use holdfast_catalog::{Credential, NewJob};
use holdfast_core::engine::Endpoint;
use holdfast_core::job::{Job, JobKind, JobState};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{JobId, ServiceId};
use zeroize::Zeroizing;

use super::{AppError, jobs, now, services};
use crate::ControlPlane;
use crate::jobs::grant::user_secret;
use crate::jobs::input;
use crate::vault::new_password;

/// How long a reset may take before the caller is told to look again later; requests answer within 30 s.
pub const RESET_PATIENCE: Duration = Duration::from_secs(25);
/// Signals only make the wait shorter: the catalog is looked at this often anyway.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Everything that a client needs to connect.
pub struct Revealed {
    pub username: String,
    pub password: Zeroizing<String>,
    pub host: String,
    pub port: u16,
    /// The default one, or the tenant's first where that was renamed.
    pub database: String,
    pub connection_string: Zeroizing<String>,
}

/// The users of a service, the tenant's own first; none before it has been provisioned.
///
/// # Errors
/// `NotFound`.
pub async fn list(cp: &ControlPlane, service: ServiceId) -> Result<Vec<Credential>, AppError> {
    let service = services::living(cp, service).await?;
    Ok(cp.catalog.credentials_of(service.id).await?)
}

/// # Errors
/// `NotFound` for service or user; `Conflict` while the service is not up yet.
pub async fn reveal(cp: &ControlPlane, service: ServiceId, username: &str) -> Result<Revealed, AppError> {
    let service = services::living(cp, service).await?;
    let (Some(host), Some(port)) = (service.host.clone(), service.port) else {
        return Err(not_up(&service, "it has no address"));
    };
    let credential = cp.catalog.credential(service.id, username).await?;
    let credential = credential.ok_or(AppError::NotFound("database user"))?;
    let password = cp.vault.unwrap_secret(&service, &user_secret(username), &credential.wrapped)?;
    let capability = service.engine.capability();
    let reported = cp.live.of(service.id).and_then(|(_, report)| report.metrics?.database);
    let database = reported.unwrap_or_else(|| capability.default_database.to_owned());
    let tls = capability.tls;
    let at = Endpoint { host: &host, port, username, password: &password, database: &database, tls };
    let connection_string = Zeroizing::new(service.engine.connection_string(at));
    Ok(Revealed { username: username.to_owned(), password, host, port, database, connection_string })
}

/// Gives the user a new random password and answers once it works, or once `patience` ([`RESET_PATIENCE`]) has run out.
///
/// # Errors
/// `NotFound`; `Conflict` unless the service runs; `Unavailable` when it took too long (the job goes on) or failed.
pub async fn reset_password(
    cp: &ControlPlane,
    service: ServiceId,
    username: &str,
    patience: Duration,
) -> Result<Revealed, AppError> {
    let service = services::living(cp, service).await?;
    if service.status != ServiceStatus::Running {
        return Err(not_up(&service, "it does not run"));
    }
    cp.catalog.credential(service.id, username).await?.ok_or(AppError::NotFound("database user"))?;
    let password = new_password();
    let wrapped = cp.vault.wrap_secret(&service, &user_secret(username), &password);
    let input =
        input::ResetPassword { username: username.to_owned(), wrapped_hex: hex::encode(&wrapped.bytes) };
    let job = NewJob {
        kek_version: Some(wrapped.kek_version),
        ..NewJob::new(JobKind::ResetPassword, service.id, jobs::written(&input), now())
    };
    cp.catalog.enqueue(&job).await?;
    let ended = tokio::time::timeout(patience, ended(cp, job.id)).await;
    let Ok(ended) = ended else {
        let text = format!("the password is still being changed; see job {}, then reveal it", job.id);
        return Err(AppError::Unavailable(text));
    };
    let ended = ended?;
    match ended.state {
        JobState::Completed => reveal(cp, service.id, username).await,
        _ => {
            let why = ended.error.map_or_else(|| "the job was cancelled".to_owned(), |error| error.message);
            Err(AppError::Unavailable(format!("the password was not changed: {why}")))
        }
    }
}

async fn ended(cp: &ControlPlane, id: JobId) -> Result<Job, AppError> {
    let mut changed = cp.catalog.changed();
    loop {
        let job = cp.catalog.job(id).await?.ok_or(AppError::NotFound("job"))?;
        if job.state.is_terminal() {
            return Ok(job);
        }
        // Either way the catalog is looked at next.
        let _ = tokio::time::timeout(LOOK_AGAIN, changed.changed()).await;
    }
}

fn not_up(service: &Service, why: &str) -> AppError {
    let is = services::word(service.status);
    AppError::Conflict(format!("the service is {is}: {why}; wait until it is running"))
}
