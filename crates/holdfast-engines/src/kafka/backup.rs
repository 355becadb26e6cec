//! A base backup: what is committed in each partition at one moment, byte for byte as clients are handed it, and how the cluster is
//! set up.
//!
//! Groups are asked first and ends of partitions later, between the ends of transactions ([`transactions`]), so no group has read further
//! than what is copied, and no transaction is torn, with the offsets that it committed. Batches of transactions that were given up or have not ended, and the marks that end
//! transactions, stay behind: nobody was told that they are there.

use std::collections::BTreeMap;

use futures::stream::try_unfold;
use holdfast_core::Timestamp;
use holdfast_kafka::Client;
use tokio_util::io::StreamReader;

use super::client::{self, Bound, Offsets, Topic, connect};
use super::pieces::{Earlier, Piece, Span};
use super::reader::Reader;
use super::settings::{self, Kind};
use super::snapshot::{DESCRIPTION, Description, Facts, PartitionCopy, TopicCopy};
use super::transactions::{self, Moment};
use super::{Kafka, access};
use crate::{BackupSink, Instance, ProgressSink, Result, StreamBackup};

impl Kafka {
    pub(super) async fn copy(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        progress.phase("reading the cluster's description");
        let mut client = connect(instance).await?;
        let (acls, quotas) = (access::acls(&mut client).await?, access::quotas(&mut client).await?);
        let users = access::scram_users(&mut client).await?;
        let Moment { topics, groups, stable, end: ends, between } = transactions::moment(&mut client).await?;
        let consistent_at = Timestamp::now();
        let names = topics.iter().map(|topic| topic.name.as_str());
        let set_for = settings::read(&mut client, Kind::Topic, names).await?;
        let names = groups.iter().map(|group| group.id.as_str());
        let group_settings = settings::of_groups(&mut client, names).await?;
        let sizes = client::sizes(&mut client).await?;
        let starts = client::offsets(&mut client, &topics, Bound::Start).await?;
        if !between {
            tracing::warn!(instance = %instance.stanza, "transactions ended all the time: one over several partitions may be in some of them alone");
        }

        progress.phase("storing the topics");
        let database_bytes =
            topics.iter().filter_map(|topic| sizes.get(&topic.name)).flat_map(BTreeMap::values).sum();
        let earlier = Earlier::new(instance, &sink.shared())?;
        let mut copied = Copied { progress, done: 0, total: database_bytes };
        let mut copies = Vec::new();
        for topic in &topics {
            let of = |offsets: &Offsets, index| offsets.get(&topic.name)?.get(index).copied();
            let Some(settings) = set_for.get(&topic.name) else { continue }; // gone meanwhile
            let spans = topic.partitions.iter().filter_map(|index| {
                let (start, stable, end) = (of(&starts, index)?, of(&stable, index)?, of(&ends, index)?);
                Some(Span { index: *index, start: start.min(end), stable: stable.min(end), end })
            });
            let spans: Vec<Span> = spans.collect();
            if spans.len() < topic.partitions.len() {
                continue; // likewise: a topic goes as a whole
            }
            let unchanged = earlier.unchanged(&mut client, topic, &spans).await?;
            let may_share = |index| earlier.may_share(topic, index, settings);
            let mut copying = Copying { client: &mut client, topic, unchanged, sink, copied: &mut copied };
            let Some(partitions) = copying.all(&spans, may_share).await? else { continue };
            let (name, id) = (topic.name.clone(), topic.id);
            copies.push(TopicCopy { name, id, settings: settings.clone(), partitions });
        }
        let mut description = Description { topics: copies, groups, group_settings, acls, quotas, users };
        description.forget_what_is_gone();
        let text = serde_json::to_vec(&description).expect("it has only string keys");
        sink.store(DESCRIPTION, &mut text.as_slice()).await?;
        let version = self.release(instance)?;
        let facts = Facts { between_transactions: between, ..facts(&description, version, consistent_at) };
        let facts = serde_json::to_value(facts).expect("facts have only string keys");
        Ok(StreamBackup { consistent_at, database_bytes, facts, instead: None })
    }
}

fn facts(description: &Description, version: String, at: Timestamp) -> Facts {
    let partitions = || description.topics.iter().flat_map(|topic| &topic.partitions);
    Facts {
        version,
        at,
        topics: description.topics.len() as u64,
        partitions: partitions().count() as u64,
        batches: partitions().flat_map(|partition| &partition.pieces).map(|piece| piece.batches).sum(),
        groups: description.groups.len() as u64,
        between_transactions: true,
    }
}

impl Description {
    /// Groups outlive the topics that they have read; and what retention took since they were asked moved no end.
    fn forget_what_is_gone(&mut self) {
        let partitions = |topic: &TopicCopy| {
            let name = topic.name.clone();
            topic.partitions.iter().map(move |partition| (name.clone(), partition.index)).collect::<Vec<_>>()
        };
        let there: std::collections::BTreeSet<_> = self.topics.iter().flat_map(partitions).collect();
        for group in &mut self.groups {
            group.offsets.retain(|offset| there.contains(&(offset.topic.clone(), offset.partition)));
        }
        self.groups.retain(|group| !group.offsets.is_empty());
    }
}

/// How far the whole is.
struct Copied<'a> {
    progress: &'a ProgressSink,
    done: u64,
    total: u64,
}

impl Copied<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
        self.progress.percent(percent.min(100.0), Some(self.total));
    }
}

/// A topic on its way into the backup.
struct Copying<'a, 'b> {
    client: &'a mut Client,
    topic: &'a Topic,
    /// What an earlier backup has of its partitions.
    unchanged: BTreeMap<i32, Vec<Piece>>,
    sink: &'a dyn BackupSink,
    copied: &'a mut Copied<'b>,
}

impl Copying<'_, '_> {
    /// Stores its partitions. `None` for a topic that was deleted meanwhile: what is stored of it, nobody reads.
    async fn all(
        &mut self,
        spans: &[Span],
        may_share: impl Fn(i32) -> bool,
    ) -> Result<Option<Vec<PartitionCopy>>> {
        let mut partitions = Vec::with_capacity(spans.len());
        for span in spans {
            let Some(copy) = self.partition(*span, may_share(span.index)).await? else { return Ok(None) };
            partitions.push(copy);
        }
        Ok(Some(partitions))
    }

    async fn partition(&mut self, span: Span, shares: bool) -> Result<Option<PartitionCopy>> {
        let (id, index) = (self.topic.id, span.index);
        let mut pieces = match shares {
            true => self.unchanged.remove(&index).unwrap_or_default(),
            false => Vec::new(),
        };
        for piece in &pieces {
            self.sink.reuse(&piece.name(id, index))?;
            self.copied.add(piece.bytes);
        }
        let from = pieces.last().map_or(span.start, |piece| piece.to);
        let mut read = |bytes: usize| self.copied.add(bytes as u64);
        let mut reader = Reader::new(self.client, self.topic, span, from, &mut read);
        while reader.begin(shares).await? {
            let (is_shared, name) = (reader.is_shared, Piece::name_at(id, index, reader.piece.from));
            let batches = try_unfold(&mut reader, |reader| async move {
                let next = reader.next().await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(next.map(|bytes| (bytes, reader)))
            });
            let mut data = StreamReader::new(Box::pin(batches));
            let stored = match is_shared {
                true => self.sink.share(&name, &mut data).await,
                false => self.sink.store(&name, &mut data).await,
            };
            drop(data);
            if reader.gone {
                break;
            }
            stored?;
            let piece = reader.end();
            self.sink.rename(&name, &piece.name(id, index))?;
            pieces.push(piece);
        }
        if reader.gone {
            return Ok(None);
        }
        let (Span { start, end, .. }, overtaken) = (reader.span, reader.overtaken);
        pieces.retain(|piece| piece.to > start);
        Ok(Some(PartitionCopy { index, start, end, pieces, overtaken }))
    }
}
