//! Topics of a copy: made so that nothing of them goes before they are whole, and then set up as their sources are.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_kafka::protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use holdfast_kafka::protocol::messages::{CreateTopicsRequest, TopicName};
use holdfast_kafka::{Client, accepted};

use super::client::{self, Bound, Topic, failed, str};
use super::settings::{self, Kind};
use super::snapshot::TopicCopy;
use crate::{EngineError, Result};

/// While a copy is made: old records would go at once, by the retention that they have long outlived.
const HELD: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
/// How many partitions one request makes at the most, but for a topic that has more.
const PARTITIONS_AT_ONCE: usize = 200;
const TIMEOUT_MS: i32 = 25_000;
/// How long the server may take from knowing of a topic to having it.
const MADE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Makes the topics, empty, and waits until they are there.
pub(super) async fn make(client: &mut Client, topics: &[TopicCopy]) -> Result<()> {
    const DOING: &str = "make the topics";
    let mut left = topics;
    while !left.is_empty() {
        let mut partitions = 0;
        let fit = |topic: &&TopicCopy| {
            partitions += topic.partitions.len();
            partitions <= PARTITIONS_AT_ONCE
        };
        let count = left.iter().take_while(fit).count().max(1);
        let (now, later) = left.split_at(count);
        let request = CreateTopicsRequest::default()
            .with_topics(now.iter().map(creatable).collect())
            .with_timeout_ms(TIMEOUT_MS);
        let told = client.ask(DOING, request, 7).await.map_err(failed(DOING))?;
        for topic in told.topics {
            accepted(DOING, topic.error_code, topic.error_message.as_deref()).map_err(failed(DOING))?;
        }
        left = later;
    }
    wait_until_there(client, topics).await
}

fn creatable(topic: &TopicCopy) -> CreatableTopic {
    let held = HELD.map(|(name, value)| {
        CreatableTopicConfig::default().with_name(str(name)).with_value(Some(str(value)))
    });
    CreatableTopic::default()
        .with_name(TopicName(str(&topic.name)))
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(held.to_vec())
}

async fn wait_until_there(client: &mut Client, topics: &[TopicCopy]) -> Result<()> {
    let wanted: Vec<Topic> = topics
        .iter()
        .map(|topic| Topic {
            name: topic.name.clone(),
            id: topic.id,
            partitions: topic.partitions.iter().map(|partition| partition.index).collect(),
        })
        .collect();
    let count: usize = wanted.iter().map(|topic| topic.partitions.len()).sum();
    let made = async {
        loop {
            let found = client::offsets(client, &wanted, Bound::End).await;
            if found.is_ok_and(|found| found.values().map(BTreeMap::len).sum::<usize>() == count) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(MADE_LIMIT, made).await.map_err(|_| EngineError::NotReady {
        seconds: MADE_LIMIT.as_secs(),
        last: "the topics are not there yet".to_owned(),
    })
}

/// Sets the topics up as their sources are: from then on retention and compaction take what their rules say. Returns what the server
/// does not know or take, in words.
pub(super) async fn set_up(client: &mut Client, topics: &[TopicCopy]) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    for topic in topics {
        let mut wanted: BTreeMap<&str, Option<&str>> = HELD.iter().map(|(name, _)| (*name, None)).collect();
        wanted.extend(topic.settings.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        refused.extend(settings::set(client, Kind::Topic, &topic.name, &wanted).await?);
    }
    Ok(refused)
}
