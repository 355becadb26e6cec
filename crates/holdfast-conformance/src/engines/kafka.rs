//! The ledger in Kafka: a topic of four partitions, a writer's writes all in one of them; one batch of records a write.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use holdfast_kafka::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use holdfast_kafka::protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use holdfast_kafka::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use holdfast_kafka::protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest, TopicName,
};
use holdfast_kafka::protocol::protocol::StrBytes;
use holdfast_kafka::protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use holdfast_kafka::{Client, KafkaError, Mechanism, Trust, accepted};
use jiff::Timestamp;
use rand::RngCore as _;

use super::{Login, Session, pad};
use crate::error::{ConformanceError, Result};
use crate::ledger::{Act, HISTORY, State, Write};

const PARTITIONS: i32 = 4;
const TIMEOUT_MS: i32 = 10_000;
/// A topic that was made takes writes a moment later.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
const FETCH_BYTES: i32 = 8 << 20;
/// Bytes of a record of [`Session::fill`].
const NOISE_BYTES: usize = 100_000;
const LATEST: i64 = -1;
const READ_COMMITTED: i8 = 1;

struct KafkaSession {
    client: Client,
    space: &'static str,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let as_told = holdfast_kafka::Login {
        host: login.host.clone(),
        port: login.port,
        trust: Trust::Any,
        mechanism: Mechanism::ScramSha512,
        username: login.username.clone(),
        password: login.password.clone(),
    };
    let failed = |source| ConformanceError::database(&format!("connect to kafka {login:?}"), source);
    let client = Client::connect(&as_told).await.map_err(failed)?;
    Ok(Box::new(KafkaSession { client, space }))
}

fn failed(doing: &str) -> impl Fn(KafkaError) -> ConformanceError + '_ {
    move |source| ConformanceError::database(doing, source)
}

/// What a write leaves in the log.
fn words(write: &Write) -> Vec<String> {
    let Write { number, act, writer } = *write;
    let row = |part| format!("row {number} {part} {}", pad(number, part));
    match act {
        Act::Insert => vec![row(1), row(2)],
        Act::Transfer { from, to, amount } => {
            vec![row(1), format!("move {from} {}", -amount), format!("move {to} {amount}"), row(2)]
        }
        Act::Update => vec![format!("set {writer} {number}")],
        Act::Delete { number } => vec![format!("gone {number} 0")],
    }
}

fn record(offset: usize, value: Bytes) -> Record {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: i32::try_from(offset).unwrap_or(i32::MAX) - 1, // the first has none
        timestamp: Timestamp::now().as_millisecond(),
        key: None,
        value: Some(value),
        headers: Default::default(),
    }
}

impl KafkaSession {
    fn topic(&self, name: &str) -> TopicName {
        TopicName(StrBytes::from_string(format!("{}.{name}", self.space)))
    }

    /// All or none: one batch.
    async fn produce(
        &mut self,
        doing: &'static str,
        topic: TopicName,
        index: i32,
        values: Vec<Bytes>,
    ) -> Result<()> {
        let records: Vec<Record> =
            values.into_iter().enumerate().map(|(at, value)| record(at, value)).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, &records, &options)
            .map_err(|error| ConformanceError::database(doing, std::io::Error::other(error)))?;
        let data = PartitionProduceData::default().with_index(index).with_records(Some(batch.freeze()));
        let data = TopicProduceData::default().with_name(topic).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
        let told = self.client.ask(doing, request, 9).await.map_err(failed(doing))?;
        for told in told.responses.iter().flat_map(|topic| &topic.partition_responses) {
            accepted(doing, told.error_code, told.error_message.as_deref()).map_err(failed(doing))?;
        }
        Ok(())
    }

    async fn make(
        &mut self,
        doing: &'static str,
        name: TopicName,
        partitions: i32,
        settings: &[(&'static str, &'static str)],
    ) -> Result<()> {
        let setting = |(name, value): &(&'static str, &'static str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_static_str(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(name)
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(settings.iter().map(setting).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let told = self.client.ask(doing, request, 7).await.map_err(failed(doing))?;
        for told in told.topics {
            if told.error_code != ResponseError::TopicAlreadyExists.code() {
                accepted(doing, told.error_code, told.error_message.as_deref()).map_err(failed(doing))?;
            }
        }
        Ok(())
    }

    /// The end of each partition; `None` where there is no such topic.
    async fn ends(&mut self, doing: &'static str) -> Result<Option<Vec<i64>>> {
        let partition =
            |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(LATEST);
        let topic = ListOffsetsTopic::default()
            .with_name(self.topic("ledger"))
            .with_partitions((0..PARTITIONS).map(partition).collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(READ_COMMITTED)
            .with_topics(vec![topic]);
        let told = self.client.ask(doing, request, 7).await.map_err(failed(doing))?;
        let mut ends = vec![0; usize::try_from(PARTITIONS).unwrap_or(0)];
        for told in told.topics.into_iter().flat_map(|topic| topic.partitions) {
            if told.error_code == ResponseError::UnknownTopicOrPartition.code() {
                return Ok(None);
            }
            accepted(doing, told.error_code, None).map_err(failed(doing))?;
            if let Some(end) =
                usize::try_from(told.partition_index).ok().and_then(|index| ends.get_mut(index))
            {
                *end = told.offset;
            }
        }
        Ok(Some(ends))
    }

    /// All that a partition holds before `end`, in order.
    async fn partition(&mut self, doing: &'static str, index: i32, end: i64) -> Result<Vec<Record>> {
        let (mut records, mut offset) = (Vec::new(), 0);
        while offset < end {
            let partition = FetchPartition::default()
                .with_partition(index)
                .with_fetch_offset(offset)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(FETCH_BYTES);
            let topic =
                FetchTopic::default().with_topic(self.topic("ledger")).with_partitions(vec![partition]);
            let request = FetchRequest::default()
                .with_max_wait_ms(500)
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_isolation_level(READ_COMMITTED)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let told = self.client.ask(doing, request, 12).await.map_err(failed(doing))?;
            let told =
                told.responses.into_iter().flat_map(|topic| topic.partitions).next().unwrap_or_default();
            accepted(doing, told.error_code, None).map_err(failed(doing))?;
            let mut bytes = told.records.unwrap_or_default();
            let sets = RecordBatchDecoder::decode_all(&mut bytes)
                .map_err(|error| ConformanceError::database(doing, std::io::Error::other(error)))?;
            let all = sets.into_iter().flat_map(|set| set.records);
            // A batch comes whole, with what lies before the offset that was asked for.
            let new: Vec<Record> = all.filter(|record| record.offset >= offset).collect();
            match new.last() {
                Some(last) => offset = last.offset + 1,
                // Behind it lies nothing that is shown.
                None => break,
            }
            records.extend(new);
        }
        Ok(records)
    }
}

/// Reads words in the order of the log.
#[derive(Default)]
struct Reader {
    state: State,
    rows: HashMap<i64, Vec<(i64, String)>>,
}

impl Reader {
    fn take(&mut self, text: &str) {
        let mut parts = text.split(' ');
        let word = parts.next().unwrap_or_default();
        let mut number = || parts.next().and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
        let (first, second) = (number(), number());
        let account = i32::try_from(first).unwrap_or(-1);
        match word {
            "row" => {
                let content = parts.next().unwrap_or_default().to_owned();
                self.rows.entry(first).or_default().push((second, content));
            }
            "move" => *self.state.balances.entry(account).or_default() += second,
            "set" => {
                self.state.registers.insert(account, second);
                let history = self.state.histories.entry(account).or_default();
                history.times += 1;
                history.last.push(second);
                if history.last.len() > HISTORY {
                    history.last.remove(0);
                }
            }
            "gone" => drop(self.rows.remove(&first)),
            _ => drop(self.state.changed.insert(first)),
        }
    }

    fn end(mut self) -> State {
        let is_whole = |number: i64, parts: &[(i64, String)]| {
            let found: BTreeSet<i64> = parts.iter().map(|(part, _)| *part).collect();
            found.len() == parts.len() && parts.iter().all(|(part, content)| *content == pad(number, *part))
        };
        for (number, parts) in self.rows {
            if !is_whole(number, &parts) {
                self.state.changed.insert(number);
            }
            self.state.rows.insert(number, i64::try_from(parts.len()).unwrap_or(i64::MAX));
        }
        self.state
    }
}

#[async_trait]
impl Session for KafkaSession {
    async fn prepare(&mut self) -> Result<()> {
        const DOING: &str = "make the ledger's topic";
        self.make(DOING, self.topic("ledger"), PARTITIONS, &[]).await?;
        for _ in 0..TRIES {
            if self.ends(DOING).await.is_ok_and(|ends| ends.is_some()) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(ConformanceError::database(DOING, std::io::Error::other("it does not take writes")))
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let values = words(write).into_iter().map(Bytes::from).collect();
        self.produce("write", self.topic("ledger"), write.writer.rem_euclid(PARTITIONS), values).await
    }

    async fn read(&mut self) -> Result<State> {
        const DOING: &str = "read the ledger";
        let Some(ends) = self.ends(DOING).await? else { return Ok(State::default()) };
        let mut reader = Reader::default();
        for (index, end) in (0..PARTITIONS).zip(ends) {
            for record in self.partition(DOING, index, end).await? {
                let value = record.value.unwrap_or_default();
                reader.take(&String::from_utf8_lossy(&value));
            }
        }
        Ok(reader.end())
    }

    /// A broker tells no time of its own; where there are no restores to an instant, nothing hangs on it.
    async fn clock(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        const DOING: &str = "fill";
        self.make(DOING, self.topic("noise"), 1, &[]).await?;
        for _ in 0..bytes.div_ceil(NOISE_BYTES as u64) {
            let mut noise = vec![0; NOISE_BYTES];
            rand::rng().fill_bytes(&mut noise);
            // So that a tool that goes by lines can be measured on it.
            noise.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
            let mut tries = 0;
            while let Err(error) =
                self.produce(DOING, self.topic("noise"), 0, vec![noise.clone().into()]).await
            {
                tries += 1;
                if tries > TRIES {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Topics beside the ledger's come and go.
    async fn change_schema(&mut self, round: u32) -> Result<()> {
        const DOING: &str = "make and delete topics";
        let name = |session: &Self, round: u32| session.topic(&format!("made.{round}"));
        let settings = [("cleanup.policy", "compact"), ("segment.ms", "60000")];
        self.make(DOING, name(self, round), 3, &settings).await?;
        let before = name(self, round.wrapping_sub(1));
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![before]).with_timeout_ms(TIMEOUT_MS);
        self.client.ask(DOING, request, 5).await.map_err(failed(DOING))?; // there may be none
        Ok(())
    }
}
