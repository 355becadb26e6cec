//! The agent's way in: HTTP over TLS, with a certificate of its own that stands above all rights.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Certificate as Trusted, Identity, Method};
use serde_json::Value;

use super::config::Agent;
use crate::certificate::Certificate;
use crate::{EngineError, Instance, Result};

/// A request without anything said for so long has failed; those that take their time are told so.
const LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A server that answered, or why it did not.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("it cannot be reached")]
    Http(#[from] reqwest::Error),
    #[error("it does not answer")]
    Silent,
    #[error("{status}: {kind}: {reason}")]
    Refused { status: u16, kind: String, reason: String },
}

/// A connection to an instance's server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    pub(super) fn new(instance: &Instance) -> Result<Self> {
        const DOING: &str = "make a client of the engine";
        let read = |path: &std::path::Path| std::fs::read(path).map_err(EngineError::io(DOING));
        let trusted = Trusted::from_pem(&read(&Certificate::of(instance).certificate)?);
        let agent = Identity::from_pem(&read(&Agent::of(instance).together)?);
        let http = reqwest::Client::builder()
            .tls_certs_only([trusted.map_err(EngineError::client(DOING))?])
            .identity(agent.map_err(EngineError::client(DOING))?)
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .http1_only()
            .build()
            .map_err(EngineError::client(DOING))?;
        let host = match instance.reached_at() {
            IpAddr::V6(address) => format!("[{address}]"),
            IpAddr::V4(address) => address.to_string(),
        };
        Ok(Self { http, base: format!("https://{host}:{}", instance.port) })
    }

    pub(super) async fn get(&self, doing: &str, path: &str) -> Result<Value> {
        self.ask(doing, Method::GET, path, None).await
    }

    pub(super) async fn put(&self, doing: &str, path: &str, body: Value) -> Result<Value> {
        self.ask(doing, Method::PUT, path, Some(body)).await
    }

    pub(super) async fn post(&self, doing: &str, path: &str, body: Value) -> Result<Value> {
        self.ask(doing, Method::POST, path, Some(body)).await
    }

    /// What is not there is gone.
    pub(super) async fn delete(&self, doing: &str, path: &str) -> Result<()> {
        match self.send(Method::DELETE, path, None).await {
            Err(ApiError::Refused { status: 404, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(EngineError::client(doing)(error)),
        }
    }

    async fn ask(&self, doing: &str, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        self.send(method, path, body).await.map_err(EngineError::client(doing))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> std::result::Result<Value, ApiError> {
        tokio::time::timeout(LIMIT, self.send_for_long(method, path, body))
            .await
            .unwrap_or(Err(ApiError::Silent))
    }

    /// Without a limit: whoever waits looks whether anything is done.
    pub(super) async fn send_for_long(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> std::result::Result<Value, ApiError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let told: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        if status.is_success() {
            return Ok(told);
        }
        let said = |field: &str| told["error"][field].as_str().or_else(|| told["message"].as_str());
        Err(ApiError::Refused {
            status: status.as_u16(),
            kind: said("type").unwrap_or_default().to_owned(),
            reason: said("reason").unwrap_or_default().to_owned(),
        })
    }
}
