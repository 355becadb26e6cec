//! What agents said last: held in memory only, for metrics and for the lag. The catalog has what must last.

use std::collections::HashMap;
use std::sync::RwLock;

use holdfast_api::agent::InstanceReport;
use holdfast_core::{ServiceId, Timestamp};

/// The newest report of each instance.
#[derive(Debug, Default)]
pub struct Live {
    reports: RwLock<HashMap<ServiceId, (Timestamp, InstanceReport)>>,
}

impl Live {
    pub fn put(&self, at: Timestamp, report: InstanceReport) {
        self.reports.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(report.service_id, (at, report));
    }

    pub fn forget(&self, service: ServiceId) {
        self.reports.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&service);
    }

    /// The newest report and when it came.
    #[must_use]
    pub fn of(&self, service: ServiceId) -> Option<(Timestamp, InstanceReport)> {
        self.reports.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&service).cloned()
    }
}
