//! A moment between the ends of transactions.
//!
//! A transaction over several partitions ends with a mark in each of them, written one after the other, and its client is told before
//! the first is. Ends of partitions that are asked for in between would have it in some and not in others. So the coordinator is asked
//! before and after: where no transaction was ending, nor has ended in between, all that was acknowledged is whole, and of the rest
//! nothing is there. How far groups have read is asked for in between too, for a transaction may commit that with what it wrote; and
//! before the ends, so that no group has read further than what there is.
//!
//! Source: Kafka 3.9, `TransactionCoordinator` (answers a commit when it has noted it), `TransactionState`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::{
    DescribeTransactionsRequest, ListTransactionsRequest, TransactionalId,
};
use holdfast_kafka::{Client, accepted};

use super::client::{self, Bound, Offsets, Topic, failed};
use super::groups;
use super::snapshot::Group;
use crate::Result;

const DOING: &str = "ask for transactions";
/// How long such a moment is waited for.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(3);
/// How many transactions one request names.
const AT_ONCE: usize = 500;
const ONGOING: &str = "Ongoing";

/// What a coordinator says of one: which of its producer's it is, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    state: String,
    started_ms: i64,
    epoch: i16,
}

impl Told {
    /// Its marks are being written, or about to be.
    fn is_ending(&self) -> bool {
        self.state.starts_with("Prepare")
    }

    fn is_open(&self) -> bool {
        self.state == ONGOING
    }
}

type All = BTreeMap<String, Told>;

/// How everything stands at one moment.
pub(super) struct Moment {
    pub topics: Vec<Topic>,
    pub groups: Vec<Group>,
    /// None lies behind its partition's end.
    pub stable: Offsets,
    pub end: Offsets,
    /// Whether no transaction ended at that moment.
    pub between: bool,
}

pub(super) async fn moment(client: &mut Client) -> Result<Moment> {
    let began = Instant::now();
    loop {
        let before = all(client).await?;
        let topics = client::topics(client).await?;
        let groups = groups::read(client).await?;
        let stable = client::offsets(client, &topics, Bound::Stable).await?;
        let end = client::offsets(client, &topics, Bound::End).await?;
        let after = all(client).await?;
        let between = is_between(&before, &after);
        if between || began.elapsed() > LIMIT {
            return Ok(Moment { topics, groups, stable, end, between });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether none was ending, at any time from the one to the other.
fn is_between(before: &All, after: &All) -> bool {
    let still = |(id, told): (&String, &Told)| match after.get(id) {
        _ if told.is_ending() => false,
        // Forgotten for its age; an open one ends first.
        None => !told.is_open(),
        Some(later) if later == told => true,
        // One began.
        Some(later) => !told.is_open() && later.is_open(),
    };
    let new = |(id, told): (&String, &Told)| before.contains_key(id) || told.is_open() || told.started_ms < 0;
    before.iter().all(still) && after.iter().all(new) && !after.values().any(Told::is_ending)
}

async fn all(client: &mut Client) -> Result<All> {
    let began = Instant::now();
    loop {
        match listed(client).await {
            Err(error) if error.response().is_some_and(passes) && began.elapsed() < LIMIT => {
                tokio::time::sleep(PAUSE).await;
            }
            told => return told.map_err(failed(DOING)),
        }
    }
}

/// What a coordinator says that has just begun to be one.
fn passes(code: ResponseError) -> bool {
    use ResponseError::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    [CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator].contains(&code)
}

async fn listed(client: &mut Client) -> holdfast_kafka::Result<All> {
    let request = ListTransactionsRequest::default();
    let told = client.ask(DOING, request, 0).await?;
    accepted(DOING, told.error_code, None)?;
    let ids: Vec<TransactionalId> =
        told.transaction_states.into_iter().map(|told| told.transactional_id).collect();
    let mut all = All::new();
    for ids in ids.chunks(AT_ONCE) {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(ids.to_vec());
        for told in client.ask(DOING, request, 0).await?.transaction_states {
            if told.error_code == ResponseError::TransactionalIdNotFound.code() {
                continue;
            }
            accepted(DOING, told.error_code, None)?;
            let state = told.transaction_state.to_string();
            let (started_ms, epoch) = (told.transaction_start_time_ms, told.producer_epoch);
            all.insert(told.transactional_id.to_string(), Told { state, started_ms, epoch });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_seen_wherever_it_falls() {
        let told = |state: &str, started_ms| Told { state: state.to_owned(), started_ms, epoch: 0 };
        let one = |told: Option<Told>| told.map(|told| ("id".to_owned(), told)).into_iter().collect::<All>();
        for (before, after, between) in [
            (None, None, true),
            (None, Some(told("Empty", -1)), true),
            (None, Some(told(ONGOING, 5)), true),
            (None, Some(told("CompleteCommit", 5)), false),
            (Some(told(ONGOING, 5)), Some(told(ONGOING, 5)), true),
            (Some(told(ONGOING, 5)), Some(told(ONGOING, 9)), false),
            (Some(told(ONGOING, 5)), Some(told("PrepareCommit", 5)), false),
            (Some(told(ONGOING, 5)), Some(told("CompleteAbort", 5)), false),
            (Some(told(ONGOING, 5)), None, false),
            (Some(told("PrepareCommit", 5)), Some(told("CompleteCommit", 5)), false),
            (Some(told("CompleteCommit", 5)), Some(told("CompleteCommit", 5)), true),
            (Some(told("CompleteCommit", 5)), Some(told("CompleteCommit", 9)), false),
            (Some(told("CompleteCommit", 5)), Some(told(ONGOING, 9)), true),
            (Some(told("CompleteCommit", 5)), Some(told("PrepareAbort", 9)), false),
            (Some(told("CompleteCommit", 5)), None, true),
            (Some(told("Empty", -1)), Some(told(ONGOING, 9)), true),
        ] {
            assert_eq!(
                is_between(&one(before.clone()), &one(after.clone())),
                between,
                "{before:?} {after:?}"
            );
        }
    }
}
