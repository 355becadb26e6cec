//! A partition's log as it is handed to clients, from an offset to its end, without what nobody was told of.

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::FetchRequest;
use holdfast_kafka::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use holdfast_kafka::protocol::messages::fetch_response::PartitionData;
use holdfast_kafka::{Client, accepted};

use super::batches::{Aborted, Batch};
use super::client::{self, Bound, Topic, failed, is_gone, isolation};
use super::pieces::{Piece, Span};
use super::undecided::Endings;
use crate::{EngineError, Result};

const DOING: &str = "read a topic";
/// As much is asked for at once; a batch that is longer comes whole.
const FETCH_BYTES: i32 = 4 << 20;
/// How long the server waits for something to hand over.
const FETCH_WAIT_MS: i32 = 500;
/// Until a partition that its server does not lead yet is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// A partition that has nothing to hand over for so long, although its end is further on, is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// A piece that backups share is closed behind the batch that makes it as long.
const PIECE_BYTES: u64 = 64 << 20;

/// Reads a partition from its start to its end, in pieces.
pub(super) struct Reader<'a> {
    client: &'a mut Client,
    topic: &'a Topic,
    /// Its `start` moves with retention.
    pub span: Span,
    /// Retention took records while they were read: [`Self::span`] begins where it had come to.
    pub overtaken: bool,
    /// What is being read.
    pub piece: Piece,
    /// Later backups may share it.
    pub is_shared: bool,
    /// The piece ends there, or when it has so many bytes.
    limit: (i64, u64),
    /// The epoch of the leader that wrote what was read last.
    leader: Option<i32>,
    /// Told how long each batch is.
    read: &'a mut (dyn FnMut(usize) + Send),
    /// How those ended that had, behind `stable`; read when the reader comes there.
    endings: Option<Endings>,
    offset: i64,
    moved_at: Instant,
    ahead: Option<Bytes>,
    /// The topic was deleted.
    pub gone: bool,
}

/// What the engine handed over at once: nothing where it has to be asked again.
#[derive(Default)]
struct Handed {
    batches: Vec<Batch>,
    aborted: Vec<(i64, i64)>,
}

impl<'a> Reader<'a> {
    /// From `offset` on.
    pub(super) fn new(
        client: &'a mut Client,
        topic: &'a Topic,
        span: Span,
        offset: i64,
        read: &'a mut (dyn FnMut(usize) + Send),
    ) -> Self {
        Self {
            client,
            topic,
            span,
            overtaken: false,
            piece: Piece { from: offset, to: offset, batches: 0, bytes: 0, leader: None },
            is_shared: false,
            limit: (offset, 0),
            leader: None,
            read,
            endings: None,
            offset,
            moved_at: Instant::now(),
            ahead: None,
            gone: false,
        }
    }

    /// Begins the next piece in which there is something to see, if there is one. Where `shares` is set, later backups may share what lies
    /// before everything undecided.
    pub(super) async fn begin(&mut self, shares: bool) -> Result<bool> {
        while self.offset < self.span.end && !self.gone {
            self.is_shared = shares && self.offset < self.span.stable;
            self.limit =
                if self.is_shared { (self.span.stable, PIECE_BYTES) } else { (self.span.end, u64::MAX) };
            self.piece = Piece { from: self.offset, to: self.offset, batches: 0, bytes: 0, leader: None };
            self.ahead = self.next().await?;
            if self.ahead.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The piece, read to its end.
    pub(super) fn end(&mut self) -> Piece {
        self.piece.to = self.offset;
        self.piece.leader = self.leader.filter(|_| self.is_shared);
        self.piece.clone()
    }

    /// The piece's next batches; `None` at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let (until, most) = self.limit;
        while self.offset < until && self.piece.bytes < most && !self.gone {
            let shown = if self.offset < self.span.stable {
                self.committed().await?
            } else {
                self.acknowledged().await?
            };
            if !shown.is_empty() {
                return Ok(Some(shown));
            }
        }
        Ok(None)
    }

    /// What clients see of a stretch in which all transactions have ended: the engine tells which of them were given up.
    async fn committed(&mut self) -> Result<Bytes> {
        let handed = self.hand_over(isolation::READ_COMMITTED, self.span.stable).await?;
        let mut aborted = Aborted::new(handed.aborted);
        Ok(self.kept(handed.batches, |batch| aborted.shows(batch)))
    }

    /// What was acknowledged in a stretch in which some have not.
    async fn acknowledged(&mut self) -> Result<Bytes> {
        let Some(mut endings) = self.endings.take() else {
            self.endings = Some(self.read_endings().await?);
            return Ok(Bytes::new());
        };
        let handed = self.hand_over(isolation::READ_UNCOMMITTED, self.span.end).await?;
        let shown = self.kept(handed.batches, |batch| endings.shows(batch));
        self.endings = Some(endings);
        Ok(shown)
    }

    async fn read_endings(&mut self) -> Result<Endings> {
        let from = self.offset;
        let mut endings = Endings::default();
        while self.offset < self.span.end && !self.gone {
            let handed = self.hand_over(isolation::READ_UNCOMMITTED, self.span.end).await?;
            handed.batches.iter().for_each(|batch| endings.note(batch));
        }
        self.offset = from.max(self.span.start); // retention may have gone on meanwhile
        Ok(endings)
    }

    fn kept(&mut self, batches: Vec<Batch>, mut is_shown: impl FnMut(&Batch) -> bool) -> Bytes {
        let mut shown = Vec::new();
        for batch in batches {
            (self.read)(batch.len());
            if is_shown(&batch) {
                self.piece.batches += 1;
                self.piece.bytes += batch.len() as u64;
                shown.extend_from_slice(batch.bytes());
            }
        }
        Bytes::from(shown)
    }

    fn unlike(&self, what: impl std::fmt::Display) -> EngineError {
        let (name, index) = (&self.topic.name, self.span.index);
        EngineError::Unexpected {
            doing: DOING.to_owned(),
            what: format!("{name}, partition {index}: {what}"),
        }
    }

    /// What lies from here on and before `limit`. Goes on behind it.
    async fn hand_over(&mut self, isolation: i8, limit: i64) -> Result<Handed> {
        let before = self.offset;
        let told = self.fetch(isolation).await?;
        let handed = self.taken(told, isolation, limit).await?;
        if self.offset > before {
            self.moved_at = Instant::now();
        } else if self.moved_at.elapsed() > STALL_LIMIT {
            return Err(self.unlike(format!("nothing comes from offset {before} on")));
        }
        Ok(handed)
    }

    /// By the topic's number: one that was made anew under its name is another.
    async fn fetch(&mut self, isolation: i8) -> Result<PartitionData> {
        let partition = FetchPartition::default()
            .with_partition(self.span.index)
            .with_fetch_offset(self.offset)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(FETCH_BYTES);
        let topic = FetchTopic::default().with_topic_id(self.topic.id).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_isolation_level(isolation)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let told = self.client.ask(DOING, request, 13).await.map_err(failed(DOING))?;
        if is_gone(told.error_code) {
            return Ok(PartitionData::default().with_error_code(told.error_code));
        }
        accepted(DOING, told.error_code, None).map_err(failed(DOING))?;
        let partition = told.responses.into_iter().flat_map(|topic| topic.partitions).next();
        partition.ok_or_else(|| self.unlike("the engine tells nothing of it"))
    }

    async fn taken(&mut self, told: PartitionData, isolation: i8, limit: i64) -> Result<Handed> {
        if is_gone(told.error_code) {
            self.gone = true;
            return Ok(Handed::default());
        }
        if told.error_code == ResponseError::OffsetOutOfRange.code() {
            self.go_on_behind_retention().await?;
            return Ok(Handed::default());
        }
        if ResponseError::try_from_code(told.error_code).is_some_and(client::passes) {
            tokio::time::sleep(PAUSE).await;
            return Ok(Handed::default());
        }
        accepted(DOING, told.error_code, None).map_err(failed(DOING))?;
        let aborted = told.aborted_transactions.unwrap_or_default().into_iter();
        let aborted = aborted.map(|told| (told.first_offset, told.producer_id.0)).collect();
        let records = told.records.unwrap_or_default();
        let reached = if isolation == isolation::READ_COMMITTED {
            told.last_stable_offset
        } else {
            told.high_watermark
        };
        if records.is_empty() && reached >= limit {
            // Compaction has taken all that lay before it.
            self.offset = limit;
        }
        Ok(Handed { batches: self.batches(records, limit)?, aborted })
    }

    fn batches(&mut self, mut records: Bytes, limit: i64) -> Result<Vec<Batch>> {
        let mut batches = Vec::new();
        while let Some(batch) = Batch::take(&mut records).map_err(|error| self.unlike(error))? {
            if batch.base_offset() >= limit {
                self.offset = limit;
                break;
            }
            if batch.last_offset() >= self.offset {
                self.offset = batch.last_offset() + 1;
                self.leader = Some(batch.leader());
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    /// Records went before they were read: the copy begins where the source does now.
    async fn go_on_behind_retention(&mut self) -> Result<()> {
        let partition = Topic { partitions: vec![self.span.index], ..self.topic.clone() };
        let starts = client::offsets(self.client, std::slice::from_ref(&partition), Bound::Start).await?;
        let start = starts.get(&self.topic.name).and_then(|starts| starts.get(&self.span.index));
        let Some(start) = start else {
            self.gone = true;
            return Ok(());
        };
        if *start <= self.offset {
            return Err(self
                .unlike(format!("the engine has nothing at offset {}, and begins before it", self.offset)));
        }
        self.span.start = (*start).min(self.span.end);
        self.overtaken = true;
        self.offset = self.span.start;
        Ok(())
    }
}
