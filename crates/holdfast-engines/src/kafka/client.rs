//! The agent's connection to an instance, and what it asks for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use holdfast_kafka::protocol::messages::{
    DescribeLogDirsRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use holdfast_kafka::protocol::protocol::StrBytes;
use holdfast_kafka::{Client, KafkaError, Login, Mechanism, Trust, accepted};
use uuid::Uuid;

use super::config::{AGENT, InnerPorts, Own};
use crate::certificate::Certificate;
use crate::{EngineError, Instance, Result};

/// Which records are handed out (`IsolationLevel`).
pub(super) mod isolation {
    /// All.
    pub(in crate::kafka) const READ_UNCOMMITTED: i8 = 0;
    /// None from the first record on of a transaction that has not ended.
    pub(in crate::kafka) const READ_COMMITTED: i8 = 1;
}

/// An offset of a partition that there is a name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Of the first record.
    Start,
    /// Before it no record is of a transaction that has not ended.
    Stable,
    /// Behind the last record.
    End,
}

impl Bound {
    /// As `ListOffsets` asks for it: a time that stands for it, and the isolation.
    fn asked(self) -> (i64, i8) {
        const EARLIEST: i64 = -2;
        const LATEST: i64 = -1;
        match self {
            Self::Start => (EARLIEST, isolation::READ_UNCOMMITTED),
            Self::Stable => (LATEST, isolation::READ_COMMITTED),
            Self::End => (LATEST, isolation::READ_UNCOMMITTED),
        }
    }
}

/// How many topics one request names.
const AT_ONCE: usize = 200;
/// How long a server may take from its start until it leads all partitions.
const LEADING_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn connect(instance: &Instance) -> Result<Client> {
    let doing = "connect to the engine";
    let certificate = Certificate::of(instance).certificate;
    let pem = std::fs::read(certificate).map_err(EngineError::io("read the service's certificate"))?;
    let ports = InnerPorts::of(instance).ok_or_else(|| EngineError::Unexpected {
        doing: doing.to_owned(),
        what: "its settings name no port for the agent".to_owned(),
    })?;
    let login = Login {
        host: Ipv4Addr::LOCALHOST.to_string(),
        port: ports.agent,
        trust: Trust::Only(pem),
        mechanism: Mechanism::Plain,
        username: AGENT.to_owned(),
        password: Own::read(instance)?.password,
    };
    Client::connect(&login).await.map_err(EngineError::client(doing))
}

/// What the broker's answer is an error of.
pub(super) fn failed(doing: &'static str) -> impl Fn(KafkaError) -> EngineError {
    move |error| EngineError::client(doing)(error)
}

pub(super) fn str(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A tenant's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub name: String,
    pub id: Uuid,
    /// Numbers of its partitions, ascending.
    pub partitions: Vec<i32>,
}

/// All topics but the server's own, by name.
pub(super) async fn topics(client: &mut Client) -> Result<Vec<Topic>> {
    const DOING: &str = "list the topics";
    let request = MetadataRequest::default().with_topics(None);
    let told = client.ask(DOING, request, 12).await.map_err(failed(DOING))?;
    let mut topics = Vec::new();
    for topic in told.topics.into_iter().filter(|topic| !topic.is_internal) {
        accepted(DOING, topic.error_code, None).map_err(failed(DOING))?;
        let Some(name) = topic.name else { continue };
        let mut partitions: Vec<i32> =
            topic.partitions.iter().map(|partition| partition.partition_index).collect();
        partitions.sort_unstable();
        topics.push(Topic { name: name.to_string(), id: topic.topic_id, partitions });
    }
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(topics)
}

/// Offsets by topic and partition. A topic that is gone is left out.
pub(super) type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// An offset of each partition of these topics. Waits for those that the server does not lead yet, as just after its start.
pub(super) async fn offsets(client: &mut Client, topics: &[Topic], bound: Bound) -> Result<Offsets> {
    let mut offsets = Offsets::new();
    for topics in topics.chunks(AT_ONCE) {
        let began = Instant::now();
        let found = loop {
            match some_offsets(client, topics, bound).await {
                Err(error) if error.response().is_some_and(passes) && began.elapsed() < LEADING_LIMIT => {
                    tokio::time::sleep(POLL).await;
                }
                told => break told.map_err(failed(OFFSETS))?,
            }
        };
        offsets.extend(found);
    }
    Ok(offsets)
}

const OFFSETS: &str = "ask for the topics' offsets";

async fn some_offsets(
    client: &mut Client,
    topics: &[Topic],
    bound: Bound,
) -> holdfast_kafka::Result<Offsets> {
    let (time, isolation) = bound.asked();
    let mut offsets = Offsets::new();
    let asked = topics.iter().map(|topic| {
        let partition =
            |index: &i32| ListOffsetsPartition::default().with_partition_index(*index).with_timestamp(time);
        ListOffsetsTopic::default()
            .with_name(TopicName(str(&topic.name)))
            .with_partitions(topic.partitions.iter().map(partition).collect())
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(isolation)
        .with_topics(asked.collect());
    for topic in client.ask(OFFSETS, request, 7).await?.topics {
        let found = offsets.entry(topic.name.to_string()).or_default();
        for partition in topic.partitions {
            if is_gone(partition.error_code) {
                continue;
            }
            accepted(OFFSETS, partition.error_code, None)?;
            found.insert(partition.partition_index, partition.offset);
        }
    }
    Ok(offsets)
}

/// What a server says of a partition that it is about to lead.
pub(super) fn passes(code: ResponseError) -> bool {
    use ResponseError::{
        FencedLeaderEpoch, LeaderNotAvailable, NotLeaderOrFollower, OffsetNotAvailable, UnknownLeaderEpoch,
    };
    [FencedLeaderEpoch, LeaderNotAvailable, NotLeaderOrFollower, OffsetNotAvailable, UnknownLeaderEpoch]
        .contains(&code)
}

/// Whether a code says that there is no such topic, or not any more.
pub(super) fn is_gone(code: i16) -> bool {
    use ResponseError::{UnknownTopicId, UnknownTopicOrPartition};
    [UnknownTopicOrPartition.code(), UnknownTopicId.code()].contains(&code)
}

/// Bytes on disk of each topic's partitions, the server's own among them.
pub(super) async fn sizes(client: &mut Client) -> Result<BTreeMap<String, BTreeMap<i32, u64>>> {
    const DOING: &str = "ask for the topics' sizes";
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let told = client.ask(DOING, request, 4).await.map_err(failed(DOING))?;
    accepted(DOING, told.error_code, None).map_err(failed(DOING))?;
    let mut sizes: BTreeMap<String, BTreeMap<i32, u64>> = BTreeMap::new();
    for folder in told.results {
        accepted(DOING, folder.error_code, None).map_err(failed(DOING))?;
        for topic in folder.topics {
            let found = sizes.entry(topic.name.to_string()).or_default();
            for partition in topic.partitions {
                found.insert(partition.partition_index, u64::try_from(partition.partition_size).unwrap_or(0));
            }
        }
    }
    Ok(sizes)
}
