//! Coverage and gaps as sealed objects in the bucket, so that the bucket describes itself: written whenever they changed,
//! at most every half a minute a lineage. The newest object counts; older ones are removed once it is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use holdfast_core::position::{Coverage, Gap};
use holdfast_core::{LineageId, Timestamp};
use holdfast_store::manifest::{read_document, write_document};
use holdfast_store::{ObjectName, ObjectPrefix};
use serde::{Deserialize, Serialize};

use crate::Agent;
use crate::error::{AgentError, chain};
use crate::lineage::Lineage;

const INTERVAL: Duration = Duration::from_secs(30);

/// The sealed document (`docs/format.md`, "Coverage").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CoverageDocument {
    pub format: u32,
    pub written_at: Timestamp,
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
}

pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut written: HashMap<LineageId, (Vec<Coverage>, Vec<Gap>)> = HashMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        for local in agent.instances.all() {
            let lineage = &local.lineage;
            if !lineage.is_listed() {
                continue;
            }
            let now = snapshot(lineage);
            if written.get(&lineage.scope.lineage) == Some(&now) {
                continue;
            }
            match write(agent, lineage).await {
                Ok(()) => {
                    written.insert(lineage.scope.lineage, now);
                }
                Err(error) => {
                    tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "coverage not stored yet")
                }
            }
        }
    }
}

fn snapshot(lineage: &Lineage) -> (Vec<Coverage>, Vec<Gap>) {
    let archive = lineage.archive();
    (archive.coverage().to_vec(), archive.gaps().to_vec())
}

/// The newest document that the store holds of the lineage.
pub(crate) async fn newest(
    store: &holdfast_store::Store,
    lineage: &Lineage,
) -> Result<Option<CoverageDocument>, holdfast_store::StoreError> {
    let Some(key) = lineage.keys.coverage_key() else { return Ok(None) };
    let mut newest: Option<u64> = None;
    let mut listed = store.list(&ObjectPrefix::Coverage(lineage.scope));
    while let Some(object) = listed.try_next().await? {
        if let ObjectName::Coverage { sequence, .. } = object.name {
            newest = newest.max(Some(sequence));
        }
    }
    let Some(sequence) = newest else { return Ok(None) };
    let name = ObjectName::Coverage { lineage: lineage.scope, sequence };
    let plain = read_document(store, &name, &key).await?;
    Ok(serde_json::from_slice(&plain).ok())
}

/// Writes the coverage as it is now; nothing while it is not known, for the newest document is the one that counts.
pub(crate) async fn write(agent: &Agent, lineage: &Lineage) -> Result<(), AgentError> {
    let Some(key) = lineage.keys.coverage_key().filter(|_| lineage.is_listed()) else { return Ok(()) };
    let (coverage, gaps) = snapshot(lineage);
    let written_at = Timestamp::now();
    let document = CoverageDocument { format: 1, written_at, coverage, gaps };
    let plain = serde_json::to_vec(&document).expect("a coverage document has only string keys");
    // The wall clock in milliseconds orders them; one lineage has one writer.
    let sequence = u64::try_from(written_at.as_millisecond()).unwrap_or(0);
    let name = ObjectName::Coverage { lineage: lineage.scope, sequence };
    write_document(&agent.store, &name, &key, &plain)
        .await
        .map_err(AgentError::store("store the coverage"))?;
    let mut older = agent.store.list(&ObjectPrefix::Coverage(lineage.scope));
    while let Some(object) = older.try_next().await.map_err(AgentError::store("list coverage objects"))? {
        if matches!(object.name, ObjectName::Coverage { sequence: other, .. } if other < sequence) {
            agent.store.delete(&object.name).await.map_err(AgentError::store("remove older coverage"))?;
        }
    }
    Ok(())
}
