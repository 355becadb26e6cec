//! Point-in-time recovery of a service: what can be reached, and whether the log archive keeps up.

use holdfast_core::backup::Backup;
use holdfast_core::position::{Coverage, Gap};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::window::{History, RecoveryWindow, recovery_window};
use holdfast_core::{ServiceId, Timestamp};

use super::{AppError, now, present, services};
use crate::ControlPlane;

/// What an agent said longer ago than this says nothing about now.
pub(super) const FRESH_MS: i128 = 30_000;
/// An archive that lags this far behind is not called active, whatever it reports.
const STALLED_LAG_SECONDS: f64 = 300.0;

/// The state of a service's log archive.
#[derive(Debug, Clone, Default)]
pub struct PitrView {
    /// The engine can do it.
    pub enabled: bool,
    pub archiving_active: bool,
    /// What is proven to be in the store.
    pub window: RecoveryWindow,
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<u64>,
    pub last_error: Option<String>,
    pub gaps: Vec<Gap>,
}

/// # Errors
/// `NotFound`; a deleted service answers while it has a listed backup.
pub async fn get(cp: &ControlPlane, id: ServiceId) -> Result<PitrView, AppError> {
    let service = services::with_backups(cp, id).await?;
    of(cp, &service).await
}

pub(super) async fn of(cp: &ControlPlane, service: &Service) -> Result<PitrView, AppError> {
    if !service.engine.capability().point_in_time {
        return Ok(PitrView::default());
    }
    let now = now();
    let known = Known::of(cp, service).await?;
    let report = fresh_report(cp, service.id, now);
    let archive = report.as_ref().and_then(|report| report.archive.as_ref());
    let archiving_active = report.as_ref().is_some_and(|report| report.healthy)
        && archive
            .is_some_and(|archive| archive.last_error.is_none() && archive.lag_seconds < STALLED_LAG_SECONDS);
    Ok(PitrView {
        enabled: true,
        archiving_active,
        window: recovery_window(&known.history(None), &cp.settings.policy, present(cp).await?),
        lag_seconds: archive.map(|archive| archive.lag_seconds),
        lag_bytes: archive.map(|archive| archive.lag_bytes),
        last_error: archive.and_then(|archive| archive.last_error.clone()),
        gaps: known.gaps,
    })
}

/// The instance's newest report, if it is new enough.
pub(super) fn fresh_report(
    cp: &ControlPlane,
    id: ServiceId,
    now: Timestamp,
) -> Option<holdfast_api::agent::InstanceReport> {
    let (at, report) = cp.live.of(id)?;
    let age_ms = now.duration_since(at).as_millis();
    (age_ms <= FRESH_MS).then_some(report)
}

/// What the catalog knows of a service's lineage.
pub(super) struct Known {
    pub backups: Vec<Backup>,
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
}

impl Known {
    pub(super) async fn of(cp: &ControlPlane, service: &Service) -> Result<Self, AppError> {
        let mut backups = cp.catalog.backups_of(service.id).await?;
        backups.retain(|backup| backup.lineage_id == service.lineage_id);
        for facts in backups.iter_mut().filter_map(|backup| backup.facts.as_mut()) {
            // Restore points are whole microseconds: the first one that is shown must be one that can be asked for.
            facts.consistent_at = whole_microseconds_after(facts.consistent_at);
        }
        let coverage = cp.catalog.coverage_of(service.lineage_id).await?;
        let gaps = cp.catalog.gaps_of(service.lineage_id).await?;
        Ok(Self { backups, coverage, gaps })
    }

    pub(super) fn history(&self, live_until: Option<Timestamp>) -> History<'_> {
        History { backups: &self.backups, coverage: &self.coverage, gaps: &self.gaps, live_until }
    }
}

/// The first whole microsecond not before an instant.
fn whole_microseconds_after(at: Timestamp) -> Timestamp {
    let nanoseconds = at.as_nanosecond();
    let up = (1000 - nanoseconds.rem_euclid(1000)) % 1000;
    Timestamp::from_nanosecond(nanoseconds + up).unwrap_or(at)
}

/// Until when the source can still ship its log: now, while it runs.
pub(super) fn live_until(service: &Service, now: Timestamp) -> Option<Timestamp> {
    (service.status == ServiceStatus::Running).then_some(now)
}
