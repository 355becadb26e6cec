//! Coverage and gaps as sealed objects in the bucket, so that the bucket describes itself: written a few
//! seconds after log was archived, and every half a minute while none is. The newest object counts; older ones are removed
//! once it is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::position::{Coverage, Gap};
use holdfast_core::{LineageId, Timestamp};
use holdfast_store::documents::{CoverageDocument, DOCUMENT_FORMAT, newest_sequence, remove_older};
use holdfast_store::manifest::{read_document, write_document};
use holdfast_store::{ObjectName, ObjectPrefix};

use crate::Agent;
use crate::error::{AgentError, chain};
use crate::lineage::Lineage;

const LOOK: Duration = Duration::from_secs(5);
/// While the archive stands still only the instant grows up to which it is complete.
const STANDING_STILL: Duration = Duration::from_secs(30);

type Snapshot = (Vec<Coverage>, Vec<Gap>);

pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut written: HashMap<LineageId, (Instant, Snapshot)> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        for local in agent.instances.all() {
            let lineage = &local.lineage;
            let now = snapshot(lineage);
            let before = written.get(&lineage.scope.lineage);
            if !lineage.is_listed() || before.is_some_and(|(at, before)| !is_due(*at, before, &now)) {
                continue;
            }
            match write(agent, lineage).await {
                Ok(()) => {
                    written.insert(lineage.scope.lineage, (Instant::now(), now));
                }
                Err(error) => {
                    tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "coverage not stored yet")
                }
            }
        }
    }
}

/// New log is told at once: should this host be lost, what it holds can be restored by instants.
fn is_due(written_at: Instant, before: &Snapshot, now: &Snapshot) -> bool {
    let ends = |snapshot: &Snapshot| snapshot.0.iter().map(|c| (c.from, c.to)).collect::<Vec<_>>();
    let log_differs = ends(before) != ends(now) || before.1 != now.1;
    log_differs || (before != now && written_at.elapsed() >= STANDING_STILL)
}

fn snapshot(lineage: &Lineage) -> Snapshot {
    let archive = lineage.archive();
    (archive.coverage().to_vec(), archive.gaps().to_vec())
}

/// The newest document that the store holds of the lineage.
pub(crate) async fn newest(
    store: &holdfast_store::Store,
    lineage: &Lineage,
) -> Result<Option<CoverageDocument>, holdfast_store::StoreError> {
    let Some(key) = lineage.keys.coverage_key() else { return Ok(None) };
    let Some(sequence) = newest_sequence(store, &ObjectPrefix::Coverage(lineage.scope)).await? else {
        return Ok(None);
    };
    let name = ObjectName::Coverage { lineage: lineage.scope, sequence };
    let plain = read_document(store, &name, &key).await?;
    Ok(CoverageDocument::from_bytes(&name, &plain).ok())
}

/// Writes the coverage as it is now; nothing while it is not known, for the newest document is the one that counts.
pub(crate) async fn write(agent: &Agent, lineage: &Lineage) -> Result<(), AgentError> {
    let Some(key) = lineage.keys.coverage_key().filter(|_| lineage.is_listed()) else { return Ok(()) };
    let (coverage, gaps) = snapshot(lineage);
    let written_at = Timestamp::now();
    let document = CoverageDocument { format: DOCUMENT_FORMAT, written_at, coverage, gaps };
    let plain = document.to_bytes();
    // The wall clock in milliseconds orders them; one lineage has one writer.
    let sequence = u64::try_from(written_at.as_millisecond()).unwrap_or(0);
    let name = ObjectName::Coverage { lineage: lineage.scope, sequence };
    write_document(&agent.store, &name, &key, &plain)
        .await
        .map_err(AgentError::store("store the coverage"))?;
    let prefix = ObjectPrefix::Coverage(lineage.scope);
    remove_older(&agent.store, &prefix, sequence).await.map_err(AgentError::store("remove older coverage"))
}
