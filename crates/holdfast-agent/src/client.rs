//! The agent's side of its protocol with the control plane.

use std::time::Duration;

use holdfast_api::agent::{
    AgentReport, CoverageReport, LeaseRequest, LeasedStep, ProgressAnswer, ProgressReport, Secret, StepResult,
};
use holdfast_core::{AgentId, JobId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::AgentError;

const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
/// A step that is handed out may wait 30 s for the store to take its keys, after up to [`LEASE_WAIT_MS`].
const TIMEOUT: Duration = Duration::from_secs(70);
/// How long the control plane may hold back an answer when there is nothing to do.
const LEASE_WAIT_MS: u64 = 20_000;
pub(crate) const CONFLICT: u16 = 409;

pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Secret,
    id: AgentId,
}

/// Whether plain HTTP to this address stays on the host.
fn is_loopback(url: &str) -> bool {
    let host =
        reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

impl Client {
    pub(crate) fn new(control_url: &str, token: &Secret, id: AgentId) -> Result<Self, AgentError> {
        if !control_url.starts_with("https://") && !is_loopback(control_url) {
            return Err(AgentError::Unusable(format!(
                "{control_url} is neither https nor on this host: steps carry keys and passwords"
            )));
        }
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .map_err(AgentError::ControlPlane)?;
        Ok(Self {
            http,
            base: format!("{}/agent/v1", control_url.trim_end_matches('/')),
            token: token.clone(),
            id,
        })
    }

    /// Waits for a step to do. `fresh`: this process holds nothing yet.
    pub(crate) async fn lease(&self, fresh: bool) -> Result<Option<LeasedStep>, AgentError> {
        self.post("lease", &LeaseRequest { agent_id: self.id, wait_ms: LEASE_WAIT_MS, fresh }).await
    }

    pub(crate) async fn progress(
        &self,
        job: JobId,
        report: &ProgressReport,
    ) -> Result<ProgressAnswer, AgentError> {
        // A hanging heartbeat must not let the lease lapse unnoticed.
        let path = format!("jobs/{job}/progress");
        let answer = self.post(&path, report);
        match tokio::time::timeout(HEARTBEAT_LIMIT, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(AgentError::TooLong { doing: "a heartbeat", seconds: HEARTBEAT_LIMIT.as_secs() }),
        }
    }

    pub(crate) async fn result(&self, job: JobId, result: &StepResult) -> Result<(), AgentError> {
        self.post(&format!("jobs/{job}/result"), result).await
    }

    pub(crate) async fn report(&self, report: &AgentReport) -> Result<(), AgentError> {
        self.post("report", report).await
    }

    pub(crate) async fn coverage(&self, report: &CoverageReport) -> Result<(), AgentError> {
        self.post("coverage", report).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, AgentError> {
        let url = format!("{}/{path}", self.base);
        let answer = self
            .http
            .post(url)
            .bearer_auth(&self.token.0)
            .json(body)
            .send()
            .await
            .map_err(|error| AgentError::ControlPlane(error.without_url()))?;
        if !answer.status().is_success() {
            return Err(AgentError::Refused { path: path.to_owned(), status: answer.status().as_u16() });
        }
        answer.json().await.map_err(|error| AgentError::ControlPlane(error.without_url()))
    }
}
