//! A base into a new cluster, with the same offsets: its topics are made by the server, which is then stopped, and what they hold is
//! laid where the server looks for it. Nobody but the agent can log in before all is there and compared.

use std::collections::BTreeMap;

use holdfast_kafka::Client;
use tokio::io::AsyncReadExt as _;

use super::client::{self, Bound, Topic, connect};
use super::segments::{self, Layer};
use super::snapshot::{DESCRIPTION, Description, Facts, PartitionCopy, TopicCopy};
use super::{Kafka, access, groups, process, topics, users};
use crate::{EngineError, Instance, ProgressSink, RestoreSource, Result, StreamRestore, StreamRestored};

const STOP_SECONDS: u64 = 120;
/// A description is longer than this only where something is wrong.
const LONGEST_DESCRIPTION: u64 = 1 << 30;

impl Kafka {
    pub(super) async fn restore_instance(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        let facts: Facts = parsed("read the backup's facts", request.facts.clone())?;
        refuse_older(instance, &facts)?;
        let description = description(source).await?;

        progress.phase("making the cluster");
        self.create_empty(instance).await?;
        let mut client = connect(instance).await?;
        topics::make(&mut client, &description.topics).await?;
        drop(client);
        self.stop_instance(instance, STOP_SECONDS).await?;

        progress.phase("laying the topics");
        lay(instance, &description, source, progress).await?;
        progress.phase("checking the topics");
        self.start_instance(instance).await?;
        let mut client = connect(instance).await?;
        compare(&mut client, &description.topics).await?;

        progress.phase("setting up the cluster");
        groups::write(&mut client, &description.groups).await?;
        users::grant(&mut client, &description.acls).await?;
        access::set_quotas(&mut client, &description.quotas).await?;
        let mut refused = topics::set_up(&mut client, &description.topics).await?;
        refused.extend(groups::set_up(&mut client, &description.group_settings).await?);
        let left_out = refused.into_iter().map(|refused| format!("the setting {refused}")).collect();
        users::put(&mut client, request.users).await?;
        let position = format!(
            "{} topics with {} partitions, {} batches of records; {} consumer groups",
            facts.topics, facts.partitions, facts.batches, facts.groups
        );
        Ok(StreamRestored { engine_version: self.release(instance)?, reached: facts.at, position, left_out })
    }
}

fn parsed<T: serde::de::DeserializeOwned>(doing: &str, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|error| EngineError::Unexpected { doing: doing.to_owned(), what: error.to_string() })
}

/// What a newer release lets a topic be set to, an older one does not know.
fn refuse_older(instance: &Instance, facts: &Facts) -> Result<()> {
    if process::numbers(&instance.version) >= process::numbers(&facts.version) {
        return Ok(());
    }
    Err(EngineError::Unfit {
        doing: format!("restore into Kafka {}", instance.version),
        what: format!("the backup was made by {}; choose that release or a newer one", facts.version),
    })
}

async fn description(source: &dyn RestoreSource) -> Result<Description> {
    let doing = "read the cluster's description";
    let mut text = Vec::new();
    let reader = source.read(DESCRIPTION).await?;
    reader.take(LONGEST_DESCRIPTION).read_to_end(&mut text).await.map_err(EngineError::io(doing))?;
    let value = serde_json::from_slice(&text)
        .map_err(|error| EngineError::Damaged { doing: doing.to_owned(), what: error.to_string() })?;
    parsed(doing, value)
}

async fn lay(
    instance: &Instance,
    description: &Description,
    source: &dyn RestoreSource,
    progress: &ProgressSink,
) -> Result<()> {
    let partitions = || description.topics.iter().flat_map(|topic| &topic.partitions);
    let total: u64 = partitions().map(PartitionCopy::bytes).sum();
    let mut done = 0;
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let mut laid = |bytes| {
        done += bytes;
        progress.percent(100.0 * done as f64 / total.max(1) as f64, Some(total));
    };
    for topic in &description.topics {
        let segment_bytes = topic.settings.get("segment.bytes").and_then(|text| text.parse().ok());
        for partition in &topic.partitions {
            let folder = segments::folder(instance, &topic.name, partition.index);
            segments::clear(&folder)?;
            let mut layer = Layer::new(instance, folder, partition, segment_bytes);
            for piece in &partition.pieces {
                let data = source.read(&piece.name(topic.id, partition.index)).await?;
                layer.lay(piece, data, &mut laid).await?;
            }
            layer.end().await?;
        }
    }
    segments::forget(instance, description)
}

/// Having checked each batch, the server begins and ends every partition where its source does.
async fn compare(client: &mut Client, copies: &[TopicCopy]) -> Result<()> {
    let topics: Vec<Topic> = client::topics(client).await?;
    for (bound, of) in [
        (Bound::Start, (|partition| partition.start) as fn(&PartitionCopy) -> i64),
        (Bound::End, |partition| partition.end),
    ] {
        let found = client::offsets(client, &topics, bound).await?;
        for copy in copies {
            let expected: BTreeMap<i32, i64> =
                copy.partitions.iter().map(|partition| (partition.index, of(partition))).collect();
            if found.get(&copy.name) != Some(&expected) {
                let what = format!("partitions of {:?} do not begin or end where they did", copy.name);
                return Err(EngineError::Differs { doing: "compare the topics".to_owned(), what });
            }
        }
    }
    Ok(())
}
