//! Tells the control plane how far the store's log reaches, as soon as it reaches further: the recovery window that people see
//! must not be older than what could be restored. Everything else of an instance is told once a second ([`crate::supervisor`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_api::agent::CoverageReport;
use holdfast_core::LineageId;
use holdfast_core::causes::chain;
use holdfast_core::position::{Coverage, Position};

use crate::Agent;

const LOOK: Duration = Duration::from_millis(100);
/// Nobody listens; the report of each second tells it too, once somebody does.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut told: HashMap<LineageId, Position> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let all = agent.instances.all().into_iter().filter(|local| local.lineage.is_listed());
        let newest = all.filter_map(|local| {
            let newest = local.lineage.archive().newest_coverage().cloned();
            newest.map(|newest| (local.lineage.scope.lineage, newest))
        });
        let newest = news(&told, newest);
        if newest.is_empty() {
            continue;
        }
        let ends: Vec<_> = newest.iter().map(|(lineage, newest)| (*lineage, newest.to)).collect();
        match agent.client.coverage(&CoverageReport { newest }).await {
            Ok(()) => told.extend(ends),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the control plane did not take the log's new end");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What ends elsewhere than it was told to. Stretches that only became complete until later can wait.
fn news(
    told: &HashMap<LineageId, Position>,
    newest: impl Iterator<Item = (LineageId, Coverage)>,
) -> Vec<(LineageId, Coverage)> {
    newest.filter(|(lineage, newest)| told.get(lineage) != Some(&newest.to)).collect()
}
