//! A plain HTTP client of the contract.

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use holdfast_conformance::error::BoxError;
use holdfast_conformance::{Control, Method};
use serde_json::{Value, json};

use crate::wait_for;

pub use holdfast_conformance::Answer;

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    password: String,
}

impl Client {
    #[must_use]
    pub fn new(base: &str, password: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(std::time::Duration::from_secs(35))
            .build()
            .expect("the client has no unusual settings");
        Self { http, base: base.to_owned(), password: password.to_owned() }
    }

    /// # Errors
    /// When no answer comes, or one that is no JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        let method: reqwest::Method = method.parse()?;
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base))
            .basic_auth("admin", Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
        Ok(Answer { status, body })
    }

    async fn ok(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let answer = self.send(method, path, body).await?;
        if answer.status >= 300 {
            bail!("{method} {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// What an agent with this token is told at `/agent/v1/…`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn as_agent(&self, token: &str, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}/agent/v1/{path}", self.base)).bearer_auth(token).json(body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// # Errors
    /// Any status but 2xx, as for the next ones.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ok("GET", path, None).await
    }

    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ok("POST", path, Some(body)).await
    }

    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.ok("DELETE", path, None).await.map(drop)
    }

    /// Creates a PostgreSQL service and waits until it runs; returns its id.
    ///
    /// # Errors
    /// When it fails or takes over two minutes.
    pub async fn create(&self, name: &str) -> Result<String> {
        let body = json!({"name": name, "database_type": "postgresql", "plan_name": "tier-1"});
        let id = text(&self.post("/managed-services", body).await?, "id")?;
        self.wait_running(&id, 120).await?;
        Ok(id)
    }

    /// # Errors
    /// When the service fails, with its message, or takes longer.
    pub async fn wait_running(&self, id: &str, seconds: u64) -> Result<Value> {
        wait_for(&format!("service {id} runs"), seconds, || async {
            let service = self.get(&format!("/managed-services/{id}")).await?;
            match service["status"].as_str() {
                Some("running") => Ok(Some(service)),
                Some("failed") => bail!("service {id} failed: {}", service["status_message"]),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Waits until the service's newest backup of `kind` has ended well; returns it.
    ///
    /// # Errors
    /// When it fails or takes longer.
    pub async fn wait_backup(&self, id: &str, backup: &str, seconds: u64) -> Result<Value> {
        wait_for(&format!("backup {backup} is completed"), seconds, || async {
            let found = self.get(&format!("/managed-services/{id}/backups/{backup}")).await?;
            match found["status"].as_str() {
                Some("completed") => Ok(Some(found)),
                Some("failed") => bail!("backup {backup} failed: {}", found["error_message"]),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Waits for the first backup that provisioning asks for.
    ///
    /// # Errors
    /// As [`Self::wait_backup`].
    pub async fn wait_first_backup(&self, id: &str) -> Result<Value> {
        let first = wait_for("the first backup is listed", 30, || async {
            let list = self.get(&format!("/managed-services/{id}/backups")).await?;
            Ok(list["backups"].as_array().and_then(|all| all.last().cloned()))
        })
        .await?;
        self.wait_backup(id, &text(&first, "id")?, 120).await
    }

    /// Asks for a backup on demand; returns its id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn trigger(&self, id: &str) -> Result<String> {
        let answer =
            self.post(&format!("/managed-services/{id}/backups"), json!({"backup_type": "manual"})).await?;
        text(&answer, "backup_id")
    }

    /// Asks for a restore to a point; returns the new service's id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn restore_to(&self, id: &str, point: &str, name: &str) -> Result<String> {
        let body = json!({"restore_point": point, "target_service_name": name});
        text(&self.post(&format!("/managed-services/{id}/backups/restore"), body).await?, "service_id")
    }

    /// The tenant's connection string.
    ///
    /// # Errors
    /// When it cannot be revealed.
    pub async fn connection_string(&self, id: &str) -> Result<String> {
        let path = format!("/managed-services/{id}/database-users/app_user/reveal-password");
        text(&self.post(&path, json!({})).await?, "connection_string")
    }
}

/// For the conformance suite.
#[async_trait]
impl Control for Client {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, BoxError> {
        Ok(Self::send(self, method.as_str(), path, body).await?)
    }
}

/// A text field of a JSON object.
///
/// # Errors
/// When it is not there.
pub fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {value}"))
}
