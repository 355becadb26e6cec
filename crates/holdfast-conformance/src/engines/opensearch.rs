//! The ledger in OpenSearch: an index of one shard, for each shard of a snapshot is of its own moment; one document a write.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rand::RngCore as _;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Login, Session, pad};
use crate::error::{ConformanceError, Result};
use crate::ledger::{Act, HISTORY, History, State, Write};

const PATIENCE: Duration = Duration::from_secs(30);
/// Documents that are read at once.
const PAGE: usize = 5000;
/// Bytes of a document of [`Session::fill`], and how many go at once.
const NOISE_BYTES: usize = 75_000;
const NOISE_AT_ONCE: u64 = 40;

struct OpenSearchSession {
    http: reqwest::Client,
    base: String,
    login: Login,
    space: &'static str,
}

/// What a write leaves.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Left {
    number: i64,
    parts: Vec<(i64, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<(i32, i32, i64)>,
}

/// A writer's register.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Register {
    writer: i32,
    value: i64,
    times: i64,
    last: Vec<i64>,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let failed = |source| ConformanceError::database(&format!("connect to opensearch {login:?}"), source);
    let http = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true) // each service's certificate is its own
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(failed)?;
    let scheme = if login.tls { "https" } else { "http" };
    let base = format!("{scheme}://{}:{}", login.host, login.port);
    Ok(Box::new(OpenSearchSession { http, base, login: login.clone(), space }))
}

impl OpenSearchSession {
    fn index(&self, name: &str) -> String {
        format!("{}-{name}", self.space)
    }

    /// The answer, and whether it is one of success.
    async fn send(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = request.basic_auth(&self.login.username, Some(&self.login.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let failed = |source| ConformanceError::database(doing, source);
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.map_err(failed)?))
    }

    async fn ask(&self, doing: &str, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        match self.send(doing, method, path, body).await? {
            (200..300, told) => Ok(told),
            (status, told) => {
                let what = std::io::Error::other(format!("{status}: {}", told["error"]));
                Err(ConformanceError::database(doing, what))
            }
        }
    }

    async fn put(&self, document: &str, content: Value) -> Result<()> {
        let path = format!("/{}/_doc/{document}", self.index("ledger"));
        self.ask("write", Method::PUT, &path, Some(content)).await.map(drop)
    }

    /// Nobody but its writer changes it.
    async fn register(&self, writer: i32) -> Result<Register> {
        const DOING: &str = "read a register";
        let path = format!("/{}/_doc/register-{writer}", self.index("ledger"));
        let (status, told) = self.send(DOING, Method::GET, &path, None).await?;
        if status == 404 {
            return Ok(Register { writer, ..Register::default() });
        }
        serde_json::from_value(told["_source"].clone())
            .map_err(|error| ConformanceError::database(DOING, error))
    }

    async fn documents(&self, doing: &str) -> Result<Vec<Value>> {
        let path = format!("/{}/_search?scroll=2m", self.index("ledger"));
        let query = json!({"size": PAGE, "sort": ["_doc"]});
        let (mut told, mut all) = (self.ask(doing, Method::POST, &path, Some(query)).await?, Vec::new());
        loop {
            let hits = told["hits"]["hits"].as_array().cloned().unwrap_or_default();
            let scroll = json!({"scroll": "2m", "scroll_id": told["_scroll_id"]});
            if hits.is_empty() {
                let end = json!({"scroll_id": told["_scroll_id"]});
                self.ask(doing, Method::DELETE, "/_search/scroll", Some(end)).await?;
                return Ok(all);
            }
            all.extend(hits.into_iter().map(|mut hit| hit["_source"].take()));
            told = self.ask(doing, Method::POST, "/_search/scroll", Some(scroll)).await?;
        }
    }
}

/// The state that documents make.
fn state(documents: Vec<Value>) -> std::result::Result<State, serde_json::Error> {
    let mut state = State::default();
    for document in documents {
        if document.get("writer").is_some() {
            let register: Register = serde_json::from_value(document)?;
            state.registers.insert(register.writer, register.value);
            let history = History { times: register.times, last: register.last };
            state.histories.insert(register.writer, history);
            continue;
        }
        let left: Left = serde_json::from_value(document)?;
        if let Some((from, to, amount)) = left.moved {
            *state.balances.entry(from).or_default() -= amount;
            *state.balances.entry(to).or_default() += amount;
        }
        let parts: BTreeSet<i64> = left.parts.iter().map(|(part, _)| *part).collect();
        let is_whole = |(part, content): &(i64, String)| *content == pad(left.number, *part);
        if parts.len() != left.parts.len() || !left.parts.iter().all(is_whole) {
            state.changed.insert(left.number);
        }
        state.rows.insert(left.number, i64::try_from(left.parts.len()).unwrap_or(i64::MAX));
    }
    Ok(state)
}

#[async_trait]
impl Session for OpenSearchSession {
    async fn prepare(&mut self) -> Result<()> {
        const DOING: &str = "make the ledger's index";
        let settings = json!({"number_of_shards": 1, "number_of_replicas": 0});
        let mappings = json!({"dynamic": false});
        let path = format!("/{}", self.index("ledger"));
        let body = json!({"settings": settings, "mappings": mappings});
        match self.send(DOING, Method::PUT, &path, Some(body)).await? {
            (200..300, _) => Ok(()),
            (_, told) if told["error"]["type"] == "resource_already_exists_exception" => Ok(()),
            (status, told) => {
                let what = std::io::Error::other(format!("{status}: {}", told["error"]));
                Err(ConformanceError::database(DOING, what))
            }
        }
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let Write { number, writer, act } = *write;
        let parts = vec![(1, pad(number, 1)), (2, pad(number, 2))];
        let moved = match act {
            Act::Transfer { from, to, amount } => Some((from, to, amount)),
            _ => None,
        };
        match act {
            Act::Insert | Act::Transfer { .. } => {
                self.put(&number.to_string(), json!(Left { number, parts, moved })).await
            }
            Act::Update => {
                let mut register = self.register(writer).await?;
                register.value = number;
                register.times += 1;
                register.last.push(number);
                if register.last.len() > HISTORY {
                    register.last.remove(0);
                }
                self.put(&format!("register-{writer}"), json!(register)).await
            }
            Act::Delete { number } => {
                let path = format!("/{}/_doc/{number}", self.index("ledger"));
                self.ask("write", Method::DELETE, &path, None).await.map(drop)
            }
        }
    }

    async fn read(&mut self) -> Result<State> {
        const DOING: &str = "read the ledger";
        let (status, _) =
            self.send(DOING, Method::POST, &format!("/{}/_refresh", self.index("ledger")), None).await?;
        if status == 404 {
            return Ok(State::default());
        }
        state(self.documents(DOING).await?).map_err(|error| ConformanceError::database(DOING, error))
    }

    /// A node tells no time of its own; where there are no restores to an instant, nothing hangs on it.
    async fn clock(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        const DOING: &str = "fill";
        let index = self.index("noise");
        let settings = json!({"number_of_shards": 1, "number_of_replicas": 0});
        let body = json!({"settings": settings, "mappings": {"enabled": false}});
        self.send(DOING, Method::PUT, &format!("/{index}"), Some(body)).await?; // it may be there
        let mut left = bytes.div_ceil(NOISE_BYTES as u64);
        while left > 0 {
            let now = left.min(NOISE_AT_ONCE);
            let mut lines = String::new();
            for _ in 0..now {
                let mut noise = vec![0; NOISE_BYTES];
                rand::rng().fill_bytes(&mut noise);
                let _ = write!(lines, "{{\"index\":{{}}}}\n{{\"noise\":\"{}\"}}\n", STANDARD.encode(noise));
            }
            let request = self
                .http
                .post(format!("{}/{index}/_bulk", self.base))
                .basic_auth(&self.login.username, Some(&self.login.password))
                .header("content-type", "application/x-ndjson")
                .body(lines);
            let failed = |source| ConformanceError::database(DOING, source);
            let told: Value = request.send().await.map_err(failed)?.json().await.map_err(failed)?;
            if told["errors"] != false {
                let what = std::io::Error::other(told["error"].to_string());
                return Err(ConformanceError::database(DOING, what));
            }
            left -= now;
        }
        Ok(())
    }

    /// Indices, aliases and templates beside the ledger's come and go.
    async fn change_schema(&mut self, round: u32) -> Result<()> {
        const DOING: &str = "make and delete indices";
        let name = |round: u32| self.index(&format!("made-{round}"));
        let (now, before) = (name(round), name(round.wrapping_sub(1)));
        let body = json!({"settings": {"number_of_replicas": 0}, "aliases": {self.index("alias"): {}}});
        self.ask(DOING, Method::PUT, &format!("/{now}"), Some(body)).await?;
        let template = json!({"index_patterns": [format!("{now}-*")]});
        self.ask(DOING, Method::PUT, &format!("/_index_template/{now}"), Some(template)).await?;
        self.send(DOING, Method::DELETE, &format!("/{before}"), None).await?; // there may be none
        Ok(())
    }
}
