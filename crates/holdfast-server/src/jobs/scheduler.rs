//! Asks for what is due: automated backups, expiry, rotation of the KEK. It decides nothing itself;
//! `holdfast_core::schedule`, `retention` and `rotation` do.

use std::time::Duration;

use holdfast_catalog::{CatalogError, ErrorKind, JobFilter, NewJob};
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobKind};
use holdfast_core::retention::{ClockJudgement, ClockReading, Now, trusted_now};
use holdfast_core::rotation::{self, Due, KekState};
use holdfast_core::schedule::{LastRuns, due};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{ServiceId, Timestamp};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::StepError;
use super::steps::enqueue_automated;
use crate::ControlPlane;

const SCAN: Duration = Duration::from_secs(20);
/// How often a lineage is looked over for what may go.
const EXPIRE_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// How long an ended job is remembered: an expiry an hour and service would fill the catalog.
const JOBS_KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
const CLOCK: &str = "clock_reading";

/// Runs until told to stop.
pub async fn run(cp: ControlPlane, stop: CancellationToken) {
    loop {
        if let Err(error) = scan(&cp).await {
            tracing::error!(error = %chain(&error), "the scheduler could not look");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}

async fn scan(cp: &ControlPlane) -> Result<(), StepError> {
    let long_ago = Timestamp::now().checked_sub(JOBS_KEPT).unwrap_or(Timestamp::MIN);
    cp.catalog.prune_jobs(long_ago).await?;
    let trusted = read_clock(cp).await?;
    rotate_if_due(cp, trusted).await?;
    for service in cp.catalog.services_with_data().await? {
        let open = cp.catalog.open_jobs_of(service.id).await?;
        if service.status == ServiceStatus::Running {
            back_up_if_due(cp, &service, &open).await?;
        }
        expire_if_due(cp, &service, &open).await?;
    }
    Ok(())
}

async fn rotate_if_due(cp: &ControlPlane, trusted: Option<Timestamp>) -> Result<(), StepError> {
    let filter = JobFilter { kind: Some(JobKind::RotateKeys), ..JobFilter::default() };
    let last = cp.catalog.jobs(1, &filter).await?.pop();
    if last.as_ref().is_some_and(|job| !job.state.is_terminal()) {
        return Ok(());
    }
    let current = cp.vault.current_kek_version();
    let Some(kek) = cp.catalog.keks().await?.into_iter().find(|kek| kek.version == current) else {
        return Ok(());
    };
    let state = KekState {
        created_at: kek.created_at,
        older_ones: cp.vault.kek_versions().len() > 1,
        last_ended_at: last.and_then(|job| job.finished_at),
    };
    let new_kek = match rotation::due(&state, cp.settings.kek_rotation(), trusted, Timestamp::now()) {
        None => return Ok(()),
        Some(Due::Stamp) => {
            return Ok(cp.catalog.stamp_kek(current, trusted.unwrap_or(kek.created_at)).await?);
        }
        Some(due) => due == Due::NewKek,
    };
    match cp.catalog.enqueue(&super::rotation::new_job(cp, new_kek, Timestamp::now())).await {
        // Somebody was quicker.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        done => Ok(done?),
    }
}

async fn back_up_if_due(cp: &ControlPlane, service: &Service, open: &[Job]) -> Result<(), StepError> {
    if open.iter().any(|job| job.kind == JobKind::Backup) {
        return Ok(());
    }
    let backups = cp.catalog.backups_of(service.id).await?;
    let now = Timestamp::now();
    if let Some(mode) = due(service.id, service.created_at, &LastRuns::of(&backups, now), now) {
        enqueue_automated(cp, service.id, mode).await?;
    }
    Ok(())
}

async fn expire_if_due(cp: &ControlPlane, service: &Service, open: &[Job]) -> Result<(), StepError> {
    if open
        .iter()
        .any(|job| matches!(job.kind, JobKind::Expire | JobKind::DeleteService | JobKind::Provision))
    {
        return Ok(());
    }
    let last = cp.catalog.last_job(service.id, JobKind::Expire).await?.map(|job| job.created_at);
    let now = Timestamp::now();
    if last.is_none_or(|last| now.duration_since(last) >= EXPIRE_EVERY || last > now) {
        enqueue_expiry(cp, service.id).await?;
    }
    Ok(())
}

/// Asks for a look at what may go.
///
/// # Errors
/// Whatever the catalog says.
pub async fn enqueue_expiry(cp: &ControlPlane, service: ServiceId) -> Result<(), StepError> {
    let nothing = serde_json::json!({});
    cp.catalog.enqueue(&NewJob::new(JobKind::Expire, service, nothing, Timestamp::now())).await?;
    Ok(())
}

/// The clock's reading with the moment of the boot clock at which it was taken, so that time spent between two readings
/// is measured by a clock that nobody sets.
#[derive(Serialize, Deserialize)]
struct KeptReading {
    reading: ClockReading,
    boot_id: String,
    boot_seconds: i64,
}

/// Reads wall and boot clock and keeps what was read.
async fn read_clock(cp: &ControlPlane) -> Result<Option<Timestamp>, StepError> {
    let (read, judgement) = judge_clock(cp, Timestamp::now()).await?;
    let text = serde_json::to_string(&read).expect("only string keys");
    cp.catalog.put_setting(CLOCK, &text).await?;
    Ok(judgement.expiry_now())
}

async fn judge_clock(
    cp: &ControlPlane,
    wall: Timestamp,
) -> Result<(KeptReading, ClockJudgement), CatalogError> {
    let kept: Option<KeptReading> =
        cp.catalog.setting(CLOCK).await?.and_then(|text| serde_json::from_str(&text).ok());
    let (boot_id, boot_seconds) = boot_clock();
    let elapsed = kept
        .as_ref()
        .filter(|kept| kept.boot_id == boot_id)
        .map(|kept| SignedDuration::from_secs(boot_seconds - kept.boot_seconds));
    let (reading, judgement) = trusted_now(kept.map(|kept| kept.reading), wall, elapsed);
    Ok((KeptReading { reading, boot_id, boot_seconds }, judgement))
}

/// The present as recovery windows and lists show it: what expiry would not remove yet is still there.
///
/// # Errors
/// Whatever the catalog says.
pub async fn present(cp: &ControlPlane, wall: Timestamp) -> Result<Now, CatalogError> {
    let (_, judgement) = judge_clock(cp, wall).await?;
    Ok(Now::judged(wall, judgement))
}

/// The time at which expiry may run; `None` while the wall clock is not to be trusted.
///
/// # Errors
/// Whatever the catalog says.
pub async fn expiry_now(cp: &ControlPlane) -> Result<Option<Timestamp>, StepError> {
    read_clock(cp).await
}

/// Which boot this is, and the whole seconds since (`proc(5)`: uptime counts time asleep too).
fn boot_clock() -> (String, i64) {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(['.', ' ']).next().and_then(|text| text.parse().ok()).unwrap_or(0);
    (boot_id.trim().to_owned(), seconds)
}
