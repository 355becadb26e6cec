//! Looks at a running instance: its load and its size.

use serde_json::Value;

use super::client::Client;
use crate::{Instance, Probe, Result, Statistics};

/// There is no log to be archived, so there is no mark.
pub(super) async fn probe(instance: &Instance) -> Result<Probe> {
    const DOING: &str = "ask for the engine's figures";
    let client = Client::new(instance)?;
    let node = node(&client, DOING, "indices,http").await?;
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let indexing = &node["indices"]["indexing"];
    Ok(Probe {
        mark: None,
        statistics: Some(Statistics {
            archiver_error: None,
            connections_active: number(&node["http"]["current_open"]),
            connections_max: instance.max_connections.into(),
            transactions_total: number(&indexing["index_total"]) + number(&indexing["delete_total"]),
            cache_hit_ratio: None,
            database: None,
        }),
    })
}

/// Of all indices, with the few bytes of the server's own.
pub(super) async fn database_bytes(instance: &Instance) -> Result<u64> {
    bytes(&Client::new(instance)?).await
}

/// By the node, for an index may be blocked against being looked at.
pub(super) async fn bytes(client: &Client) -> Result<u64> {
    let node = node(client, "ask for the indices' size", "indices/store").await?;
    Ok(node["indices"]["store"]["size_in_bytes"].as_u64().unwrap_or(0))
}

/// Some figures of the one node.
async fn node(client: &Client, doing: &str, figures: &str) -> Result<Value> {
    let told = client.get(doing, &format!("/_nodes/_local/stats/{figures}")).await?;
    let mut nodes = told["nodes"].as_object().into_iter().flat_map(serde_json::Map::values);
    Ok(nodes.next().cloned().unwrap_or_default())
}
