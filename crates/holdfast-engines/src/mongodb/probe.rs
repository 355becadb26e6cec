//! Looks at a running instance: its load and its size. How far its log is, the log's reader tells.

use std::time::Duration;

use bson::{Bson, Document, doc};

use super::Mongodb;
use super::client::admin;
use super::config::Account;
use crate::{EngineError, Instance, Probe, Result, Statistics};

/// How long an engine may take over its figures.
const STATISTICS_LIMIT: Duration = Duration::from_secs(3);

impl Mongodb {
    pub(super) async fn take_probe(&self, instance: &Instance) -> Result<Probe> {
        let client = self.clients.get(instance, Account::Reader)?;
        let status = admin(&client, doc! { "serverStatus": 1 }, "read the engine's statistics");
        match tokio::time::timeout(STATISTICS_LIMIT, status).await {
            Ok(status) => Ok(Probe { mark: None, statistics: Some(statistics_of(instance, &status?)) }),
            // Busy; one that is gone does not answer either.
            Err(_) if self.is_alive(instance) => Ok(Probe { mark: None, statistics: None }),
            Err(_) => Err(EngineError::NotReady {
                seconds: STATISTICS_LIMIT.as_secs(),
                last: "its process is not there".to_owned(),
            }),
        }
    }

    pub(super) async fn size(&self, instance: &Instance) -> Result<u64> {
        let client = self.clients.get(instance, Account::Reader)?;
        let list = admin(&client, doc! { "listDatabases": 1 }, "read the databases' size").await?;
        let databases = list.get_array("databases").map(Vec::as_slice).unwrap_or_default();
        let own = databases
            .iter()
            .filter_map(Bson::as_document)
            .filter(|database| !matches!(database.get_str("name"), Ok("local" | "config")));
        Ok(own.map(|database| number(database, "sizeOnDisk").unsigned_abs()).sum())
    }
}

fn statistics_of(instance: &Instance, status: &Document) -> Statistics {
    let part = |name: &str| status.get_document(name).cloned().unwrap_or_default();
    let operations = part("opcounters");
    Statistics {
        archiver_error: None,
        connections_active: number(&part("connections"), "current"),
        connections_max: i64::from(instance.max_connections),
        transactions_total: ["insert", "update", "delete"].iter().map(|kind| number(&operations, kind)).sum(),
        cache_hit_ratio: None,
        database: None,
    }
}

/// A number of any type.
pub(super) fn number(document: &Document, key: &str) -> i64 {
    match document.get(key) {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        #[expect(clippy::cast_possible_truncation, reason = "a count")]
        Some(Bson::Double(number)) => *number as i64,
        _ => 0,
    }
}
