//! The way to a running Holdfast: its public HTTP API and nothing else. Who runs the suite brings the client.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{BoxError, ConformanceError, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// An answer: status and JSON body (null when there is none).
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A client of the public API, with its address and credentials.
#[async_trait]
pub trait Control: Send + Sync {
    /// Sends one request; `path` as in `/managed-services/…`.
    ///
    /// # Errors
    /// When no answer comes. A refusal is an answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> std::result::Result<Answer, BoxError>;
}

/// Asks and reads the answer.
pub(crate) async fn ask<T: DeserializeOwned>(
    control: &dyn Control,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<T> {
    let asked = format!("{} {path}", method.as_str());
    let answer = control.send(method, path, body).await;
    let answer = answer.map_err(|source| ConformanceError::Control { doing: asked.clone(), source })?;
    if answer.status >= 300 {
        let text = answer.body["error"].as_str().unwrap_or_default().to_owned();
        return Err(ConformanceError::Refused { asked, status: answer.status, text });
    }
    serde_json::from_value(answer.body)
        .map_err(|error| ConformanceError::Strange { asked, because: error.to_string() })
}
