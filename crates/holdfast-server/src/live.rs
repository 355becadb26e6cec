//! What agents said last: held in memory only, for metrics and for the lag. The catalog has what must last.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_api::agent::InstanceReport;
use holdfast_core::engine::EngineKind;
use holdfast_core::{AgentId, ServiceId, Timestamp};

/// The newest report of each instance.
#[derive(Debug, Default)]
pub struct Live(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    reports: HashMap<ServiceId, (Timestamp, InstanceReport)>,
    unhealthy_since: HashMap<ServiceId, Timestamp>,
    in_error: HashSet<ServiceId>,
    versions: HashMap<AgentId, Vec<(EngineKind, Vec<String>)>>,
}

impl Live {
    pub fn put(&self, at: Timestamp, report: InstanceReport) {
        self.lock().reports.insert(report.service_id, (at, report));
    }

    pub fn forget(&self, service: ServiceId) {
        let mut state = self.lock();
        state.reports.remove(&service);
        state.unhealthy_since.remove(&service);
        state.in_error.remove(&service);
    }

    /// The newest report and when it came.
    #[must_use]
    pub fn of(&self, service: ServiceId) -> Option<(Timestamp, InstanceReport)> {
        self.lock().reports.get(&service).cloned()
    }

    /// Since when the instance has not answered; `now` when it does.
    pub fn unhealthy_since(&self, service: ServiceId, now: Timestamp, healthy: bool) -> Timestamp {
        let mut state = self.lock();
        if healthy {
            state.unhealthy_since.remove(&service);
            return now;
        }
        *state.unhealthy_since.entry(service).or_insert(now)
    }

    pub fn set_in_error(&self, service: ServiceId, in_error: bool) {
        let mut state = self.lock();
        if in_error {
            state.in_error.insert(service)
        } else {
            state.in_error.remove(&service)
        };
    }

    #[must_use]
    pub fn was_in_error(&self, service: ServiceId) -> bool {
        // After a restart of the control plane nothing is known: the status in the catalog decides, once.
        let mut state = self.lock();
        let first_look = !state.reports.contains_key(&service);
        first_look || state.in_error.remove(&service)
    }

    pub fn put_versions(&self, agent: AgentId, versions: Vec<(EngineKind, Vec<String>)>) {
        self.lock().versions.insert(agent, versions);
    }

    /// Versions of the engine that the agents can run; `None` until one has said so.
    #[must_use]
    pub fn versions(&self, engine: EngineKind) -> Option<Vec<String>> {
        let state = self.lock();
        let mut all: Option<Vec<String>> = None;
        for (kind, versions) in state.versions.values().flatten() {
            if *kind == engine {
                all.get_or_insert_default().extend(versions.iter().cloned());
            }
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
