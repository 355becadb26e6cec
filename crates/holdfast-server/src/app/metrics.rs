//! Metrics of a service, from what its agent said last.

use holdfast_api::agent::{DiskReport, InstanceMetrics};
use holdfast_core::service::Service;
use holdfast_core::{ServiceId, Timestamp};

use super::pitr::{self, PitrView};
use super::{AppError, now, services};
use crate::ControlPlane;

/// A service's metrics; `None` where nothing is known, or nothing new enough.
#[derive(Debug, Clone)]
pub struct MetricsView {
    pub service: Service,
    pub at: Timestamp,
    pub instance: Option<InstanceMetrics>,
    pub disk: Option<DiskReport>,
    pub pitr: PitrView,
}

/// # Errors
/// `NotFound`.
pub async fn current(cp: &ControlPlane, id: ServiceId) -> Result<MetricsView, AppError> {
    let service = services::living(cp, id).await?;
    let pitr = pitr::of(cp, &service).await?;
    let now = now();
    let (instance, disk) =
        pitr::fresh_report(cp, id, now).map(|report| (report.metrics, report.disk)).unwrap_or_default();
    Ok(MetricsView { service, at: now, instance, disk, pitr })
}

/// `part` of `whole` in percent; nothing of nothing is unknown.
#[must_use]
#[allow(clippy::cast_precision_loss)] // a percentage needs no 64 bits
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 100.0).clamp(0.0, 100.0))
}
