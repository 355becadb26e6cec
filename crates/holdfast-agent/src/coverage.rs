//! Coverage and gaps as sealed objects in the bucket, so that the bucket describes itself: written a few
//! seconds after log was archived, and every half a minute while none is. The newest object counts; older ones are removed
//! once it is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::causes::chain;
use holdfast_core::position::{Coverage, Gap};
use holdfast_core::{LineageId, Timestamp};
use holdfast_store::documents::{CoverageDocument, DOCUMENT_FORMAT, remove_older};
use holdfast_store::manifest::write_document;
use holdfast_store::{ObjectName, ObjectPrefix};

use crate::Agent;
use crate::error::AgentError;
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

/// What a document written now says, and its number: higher than that of any before it, whatever the clock says.
fn numbered(lineage: &Lineage, now: Timestamp) -> (u64, Snapshot) {
    // One behind the other, so that the one with the higher number is the newer one.
    let archive = lineage.archive();
    let number = lineage.next_document(u64::try_from(now.as_millisecond()).unwrap_or(0));
    (number, (archive.coverage().to_vec(), archive.gaps().to_vec()))
}

/// Writes the coverage as it is now; nothing while it is not known, for the newest document is the one that counts.
pub(crate) async fn write(agent: &Agent, lineage: &Lineage) -> Result<(), AgentError> {
    let Some(key) = lineage.keys.coverage_key().filter(|_| lineage.is_listed()) else { return Ok(()) };
    let written_at = Timestamp::now();
    let (sequence, (coverage, gaps)) = numbered(lineage, written_at);
    let document = CoverageDocument { format: DOCUMENT_FORMAT, written_at, coverage, gaps };
    let plain = document.to_bytes();
    let name = ObjectName::Coverage { lineage: lineage.scope, sequence };
    write_document(&agent.prompt_store, &name, &key, &plain)
        .await
        .map_err(AgentError::store("store the coverage"))?;
    let prefix = ObjectPrefix::Coverage(lineage.scope);
    remove_older(&agent.prompt_store, &prefix, sequence)
        .await
        .map_err(AgentError::store("remove older coverage"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::tests::Bucket;

    #[tokio::test]
    async fn a_document_outranks_older_ones_whatever_the_clock_said() {
        let bucket = Bucket::new();
        let lineage = bucket.lineage();
        let now = Timestamp::now();
        let (first, _) = numbered(&lineage, now);
        assert_eq!(first, u64::try_from(now.as_millisecond()).expect("after 1970"));
        assert_eq!(numbered(&lineage, now).0, first + 1, "two in a millisecond");

        // A life of the agent's in which the clock was a year ahead.
        let ahead = first + 365 * 86_400_000;
        bucket.write_coverage(ahead, Vec::new(), Vec::new()).await;
        let lineage = bucket.lineage();
        lineage.load_archive(&bucket.store).await.expect("it is listed");
        assert_eq!(numbered(&lineage, Timestamp::now()).0, ahead + 1);
    }
}
