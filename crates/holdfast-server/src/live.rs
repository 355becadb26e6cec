//! What agents said last: held in memory only, for metrics and for the lag. The catalog has what must last.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_api::agent::InstanceReport;
use holdfast_core::engine::EngineKind;
use holdfast_core::{AgentId, ServiceId, Timestamp};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The newest report of each instance.
#[derive(Debug, Default)]
pub struct Live {
    state: Mutex<State>,
    versions_came: Notify,
}

#[derive(Debug, Default)]
struct State {
    reports: HashMap<ServiceId, (Timestamp, InstanceReport)>,
    unhealthy_since: HashMap<ServiceId, Timestamp>,
    in_error: HashSet<ServiceId>,
    versions: HashMap<AgentId, Vec<(EngineKind, Vec<String>)>>,
    versions_awaited_until: Option<Instant>,
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
        self.versions_came.notify_waiters();
    }

    /// An agent is about to come: for so long, whoever needs to know what the hosts can run waits for it.
    pub fn await_versions(&self, at_most: Duration) {
        self.lock().versions_awaited_until = Some(Instant::now() + at_most);
    }

    /// Returns once an agent has said what it can run, or none is about to.
    pub async fn versions_known(&self) {
        let came = self.versions_came.notified();
        let awaited = {
            let state = self.lock();
            state.versions_awaited_until.filter(|_| state.versions.is_empty())
        };
        if let Some(until) = awaited {
            let _ = timeout_at(until, came).await; // then what the release knows has to do
        }
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_asks_what_hosts_can_run_waits_for_the_first_that_is_about_to_come() {
        let (live, began) = (Live::default(), Instant::now());
        live.versions_known().await;
        assert!(began.elapsed().is_zero(), "nobody is about to come");
        live.await_versions(LIMIT);
        let comes = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            live.put_versions(AgentId::random(), vec![(EngineKind::Valkey, vec!["9.1".to_owned()])]);
        };
        tokio::join!(live.versions_known(), comes);
        assert_eq!(began.elapsed().as_secs(), 1);
        assert_eq!(live.versions(EngineKind::Valkey), Some(vec!["9.1".to_owned()]));
        live.versions_known().await;
        assert_eq!(began.elapsed().as_secs(), 1, "one has come");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_come_holds_nobody_up_for_long() {
        let (live, began) = (Live::default(), Instant::now());
        live.await_versions(LIMIT);
        live.versions_known().await;
        live.versions_known().await;
        assert_eq!(began.elapsed(), LIMIT);
    }
}
