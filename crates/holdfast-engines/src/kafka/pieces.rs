//! Pieces of partitions' logs. What lies in a log at an offset stays as it is, so a piece that an earlier backup has is taken over as
//! it is, with these exceptions:
//!
//! - Compaction takes records from anywhere. What may be compacted, or ever was, is read whole, or records that were deleted would
//!   come back.
//! - A server that ends uncleanly may lose the end of a log and write others there, under a new leader. It tells where the log of each
//!   leader ends.
//! - A topic that is made anew under its name has another number.
//!
//! Source: Kafka 3.9, `LogCleanerManager` (notes each log that it has cleaned), `LeaderEpochFileCache`.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_kafka::Client;
use holdfast_kafka::protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use holdfast_kafka::protocol::messages::{OffsetForLeaderEpochRequest, TopicName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::{Topic, failed, str};
use super::settings::Settings;
use crate::{EngineError, Instance, Paths, Result};

const DOING: &str = "ask where leaders' logs end";
/// Which logs the server has compacted, and how far: a line each, behind a version and their number.
const CLEANED: &str = "cleaner-offset-checkpoint";
/// A piece that is shorter is read again with what has come behind it, so that pieces stay few however often backups are made.
const WORTH_SHARING: u64 = 8 << 20;

/// What is stored of `[from, to)`, in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub from: i64,
    pub to: i64,
    pub batches: u64,
    pub bytes: u64,
    /// The epoch of the leader that wrote the last batch before `to`. `None`: the piece is this backup's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<i32>,
}

impl Piece {
    /// The object's name while the piece is being written, and for good where it is not shared.
    pub(super) fn name_at(topic: Uuid, index: i32, from: i64) -> String {
        format!("records/{topic}/{index}/{from}")
    }

    /// The object's name in the backup. That of a shared one tells all that there is to know of it.
    pub(super) fn name(&self, topic: Uuid, index: i32) -> String {
        let Self { from, to, batches, bytes, leader } = self;
        let name = Self::name_at(topic, index, *from);
        match leader {
            Some(leader) => format!("{name}-{to}-{leader}-{batches}-{bytes}"),
            None => name,
        }
    }

    /// Whose piece a name of a shared one is.
    fn parse(name: &str) -> Option<((Uuid, i32), Self)> {
        let mut folders = name.strip_prefix("records/")?.splitn(3, '/');
        let of = (folders.next()?.parse().ok()?, folders.next()?.parse().ok()?);
        let mut numbers = folders.next()?.split('-');
        let piece = Self {
            from: numbers.next()?.parse().ok()?,
            to: numbers.next()?.parse().ok()?,
            leader: Some(numbers.next()?.parse().ok()?),
            batches: numbers.next()?.parse().ok()?,
            bytes: numbers.next()?.parse().ok()?,
        };
        (piece.name(of.0, of.1) == name).then_some((of, piece))
    }
}

/// What of a partition is to be copied: what clients see before `stable`, and what was acknowledged behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub index: i32,
    pub start: i64,
    pub stable: i64,
    pub end: i64,
}

/// The pieces that the newest backup shares.
pub(super) struct Earlier {
    pieces: BTreeMap<(Uuid, i32), Vec<Piece>>,
    /// Partitions that were ever compacted.
    compacted: BTreeSet<(String, i32)>,
}

impl Earlier {
    pub(super) fn new(instance: &Instance, shared: &[String]) -> Result<Self> {
        let mut pieces = BTreeMap::<_, Vec<Piece>>::new();
        for (of, piece) in shared.iter().filter_map(|name| Piece::parse(name)) {
            pieces.entry(of).or_default().push(piece);
        }
        pieces.values_mut().for_each(|pieces| pieces.sort_by_key(|piece| piece.from));
        Ok(Self { pieces, compacted: compacted(instance)? })
    }

    /// Whether pieces of this partition may be shared with later backups.
    pub(super) fn may_share(&self, topic: &Topic, index: i32, settings: &Settings) -> bool {
        settings.get("cleanup.policy").is_none_or(|policy| policy == "delete")
            && !self.compacted.contains(&(topic.name.clone(), index))
    }

    /// Those that these partitions still have as they are.
    pub(super) async fn unchanged(
        &self,
        client: &mut Client,
        topic: &Topic,
        spans: &[Span],
    ) -> Result<BTreeMap<i32, Vec<Piece>>> {
        let candidates = spans.iter().filter_map(|span| {
            let pieces = self.pieces.get(&(topic.id, span.index))?;
            Some((span.index, leading(pieces, *span)))
        });
        let mut candidates: BTreeMap<i32, Vec<Piece>> =
            candidates.filter(|(_, pieces)| !pieces.is_empty()).collect();
        // Where the last one is as it was, so are those before it.
        let mut in_doubt = candidates.clone();
        while !in_doubt.is_empty() {
            let lasts = in_doubt.iter().filter_map(|(index, pieces)| Some((*index, pieces.last()?.leader?)));
            let ends = ends_of_leaders(client, topic, lasts.collect()).await?;
            for (index, pieces) in std::mem::take(&mut in_doubt) {
                let Some(last) = pieces.last() else { continue };
                if ends
                    .get(&index)
                    .is_some_and(|end| Some(end.leader) == last.leader && end.offset >= last.to)
                {
                    continue;
                }
                let fewer = pieces[..pieces.len() - 1].to_vec();
                candidates.insert(index, fewer.clone());
                in_doubt.extend((!fewer.is_empty()).then_some((index, fewer)));
            }
        }
        Ok(candidates)
    }
}

/// The pieces that begin a partition's log without a hole, and are worth it.
fn leading(pieces: &[Piece], span: Span) -> Vec<Piece> {
    let mut leading: Vec<Piece> = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.to > span.start && piece.to <= span.stable) {
        let follows = match leading.last() {
            Some(last) => piece.from == last.to,
            None => piece.from <= span.start,
        };
        if !follows || (piece.bytes < WORTH_SHARING && piece.to < span.stable) {
            break;
        }
        leading.push(piece.clone());
    }
    leading
}

fn compacted(instance: &Instance) -> Result<BTreeSet<(String, i32)>> {
    let path = Paths(&instance.folder).data().join(CLEANED);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        text => text.map_err(EngineError::io(format!("read {}", path.display())))?,
    };
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    Ok(text.lines().skip(2).filter_map(of_line).collect())
}

/// Where the log of a leader ends.
struct LeaderEnd {
    leader: i32,
    offset: i64,
}

async fn ends_of_leaders(
    client: &mut Client,
    topic: &Topic,
    leaders: Vec<(i32, i32)>,
) -> Result<BTreeMap<i32, LeaderEnd>> {
    let partitions = leaders.into_iter().map(|(index, leader)| {
        OffsetForLeaderPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(-1)
            .with_leader_epoch(leader)
    });
    let of_topic = OffsetForLeaderTopic::default()
        .with_topic(TopicName(str(&topic.name)))
        .with_partitions(partitions.collect());
    let request =
        OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![of_topic]);
    let told = client.ask(DOING, request, 4).await.map_err(failed(DOING))?;
    let mut ends = BTreeMap::new();
    for partition in told.topics.into_iter().flat_map(|topic| topic.partitions) {
        // Whatever is wrong with it, it is read anew.
        if partition.error_code != 0 {
            continue;
        }
        let end = LeaderEnd { leader: partition.leader_epoch, offset: partition.end_offset };
        ends.insert(partition.partition, end);
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: i64, to: i64, bytes: u64) -> Piece {
        Piece { from, to, batches: 1, bytes, leader: Some(3) }
    }

    #[test]
    fn a_shared_pieces_name_tells_all_of_it() {
        let (topic, piece) = (Uuid::from_u128(7), piece(5, 99, 1234));
        assert_eq!(Piece::parse(&piece.name(topic, 2)), Some(((topic, 2), piece.clone())));
        for name in [
            Piece { leader: None, ..piece.clone() }.name(topic, 2),
            "cluster.json".to_owned(),
            "records/7/2/5-99-3-1-1234".to_owned(),
            format!("{}-1", piece.name(topic, 2)),
        ] {
            assert_eq!(Piece::parse(&name), None, "{name}");
        }
    }

    #[test]
    fn pieces_are_taken_over_from_the_start_on_without_a_hole() {
        let long = WORTH_SHARING;
        let pieces = [piece(0, 10, long), piece(10, 20, long), piece(20, 25, long - 1), piece(30, 40, long)];
        for (start, stable, expected) in [
            (0, 100, 2),
            (0, 25, 3),  // nothing came behind the short one
            (5, 100, 2), // retention took a part of the first
            (10, 100, 1),
            (20, 25, 1),
            (25, 100, 0),
            (0, 19, 1), // the log is shorter than it was
            (0, 9, 0),
        ] {
            let span = Span { index: 0, start, stable, end: stable };
            assert_eq!(leading(&pieces, span).len(), expected, "[{start}, {stable})");
        }
        let span = Span { index: 0, start: 0, stable: 100, end: 100 };
        assert!(leading(&pieces[1..], span).is_empty(), "the first is not there any more");
    }
}
