//! Consumer groups: how far each has read.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use holdfast_kafka::protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use holdfast_kafka::protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use holdfast_kafka::protocol::messages::{
    FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest, TopicName,
};
use holdfast_kafka::{Client, KafkaError, accepted};

use super::client::{failed, str};
use super::settings::{self, Kind, Settings};
use super::snapshot::{Committed, Group};
use crate::{EngineError, Result};

/// Kinds of groups that commit offsets (4.1; before 4.0 the server does not tell the kind).
const KINDS: [&str; 3] = ["", "classic", "consumer"];
/// How many groups one request names.
const AT_ONCE: usize = 100;
/// How often what a coordinator cannot do yet is asked again: it makes its own topic at the first group, and reads it after a start.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(250);

/// All groups that have committed anything, by name.
pub(super) async fn read(client: &mut Client) -> Result<Vec<Group>> {
    const DOING: &str = "list the consumer groups";
    let mut tries = 0;
    let listed = loop {
        let told = client.ask(DOING, ListGroupsRequest::default(), 5).await.map_err(failed(DOING))?;
        match accepted(DOING, told.error_code, None) {
            Ok(()) => break told.groups,
            Err(error) => wait(&mut tries, error, DOING).await?,
        }
    };
    let is_one = |kind: &str| KINDS.contains(&kind.to_lowercase().as_str());
    let ids: Vec<GroupId> =
        listed.into_iter().filter(|group| is_one(&group.group_type)).map(|group| group.group_id).collect();
    let mut groups = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        groups.extend(committed(client, ids).await?);
    }
    groups.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(groups)
}

/// What groups have committed, in order; a group that has committed nothing is left out. What a transaction commits that has not ended
/// does not count.
async fn committed(client: &mut Client, ids: &[GroupId]) -> Result<Vec<Group>> {
    const DOING: &str = "ask how far consumer groups have read";
    let mut tries = 0;
    loop {
        let asked =
            |id: &GroupId| OffsetFetchRequestGroup::default().with_group_id(id.clone()).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(ids.iter().map(asked).collect());
        let told = client.ask(DOING, request, 8).await.map_err(failed(DOING))?.groups;
        let code = told.iter().map(error_of).find(|code| *code != 0);
        match accepted(DOING, code.unwrap_or(0), None) {
            Ok(()) => return Ok(told.into_iter().filter_map(group).collect()),
            Err(error) => wait(&mut tries, error, DOING).await?,
        }
    }
}

/// Of a group or one of its partitions; a group that is gone meanwhile is no error.
fn error_of(told: &OffsetFetchResponseGroup) -> i16 {
    let partitions = told.topics.iter().flat_map(|topic| &topic.partitions);
    let mut codes = std::iter::once(told.error_code).chain(partitions.map(|found| found.error_code));
    codes.find(|code| ![0, ResponseError::GroupIdNotFound.code()].contains(code)).unwrap_or(0)
}

fn group(told: OffsetFetchResponseGroup) -> Option<Group> {
    let mut offsets = Vec::new();
    for topic in told.topics {
        offsets.extend(topic.partitions.into_iter().filter(|found| found.committed_offset >= 0).map(
            |found| Committed {
                topic: topic.name.to_string(),
                partition: found.partition_index,
                offset: found.committed_offset,
                metadata: found.metadata.map(|text| text.to_string()),
            },
        ));
    }
    offsets.sort();
    (!offsets.is_empty()).then(|| Group { id: told.group_id.to_string(), offsets })
}

/// Waits a while for what passes; anything else is an error.
async fn wait(tries: &mut u32, error: KafkaError, doing: &'static str) -> Result<()> {
    use ResponseError::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator, UnknownTopicOrPartition,
    };
    let passes =
        [CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator, UnknownTopicOrPartition];
    *tries += 1;
    if *tries > TRIES || !error.response().is_some_and(|code| passes.contains(&code)) {
        return Err(EngineError::client(doing)(error));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// Commits for groups that have no members, and reads back that it is so.
pub(super) async fn write(client: &mut Client, groups: &[Group]) -> Result<()> {
    const DOING: &str = "set how far consumer groups have read";
    for group in groups {
        let id = GroupId(str(&group.id));
        // The server makes its topic of groups when somebody first asks who sees to one.
        let asked = FindCoordinatorRequest::default().with_coordinator_keys(vec![str(&group.id)]);
        client.ask(DOING, asked, 4).await.map_err(failed(DOING))?;
        let mut tries = 0;
        loop {
            let told = client.ask(DOING, commit(&id, &group.offsets), 8).await.map_err(failed(DOING))?;
            let code = told.topics.iter().flat_map(|topic| &topic.partitions).map(|told| told.error_code);
            match accepted(DOING, code.max().unwrap_or(0), None) {
                Ok(()) => break,
                Err(error) => wait(&mut tries, error, DOING).await?,
            }
        }
        if committed(client, std::slice::from_ref(&id)).await?.first() != Some(group) {
            return Err(EngineError::Differs {
                doing: DOING.to_owned(),
                what: format!("the group {:?} has read to other offsets than its source", group.id),
            });
        }
    }
    Ok(())
}

/// Sets groups up as their sources are. Returns what the server does not know or take, in words.
pub(super) async fn set_up(client: &mut Client, groups: &BTreeMap<String, Settings>) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    for (name, wanted) in groups {
        let wanted = wanted.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))).collect();
        refused.extend(settings::set(client, Kind::Group, name, &wanted).await?);
    }
    Ok(refused)
}

fn commit(id: &GroupId, offsets: &[Committed]) -> OffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for committed in offsets {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(committed.partition)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(committed.metadata.as_deref().map(str));
        topics.entry(&committed.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        OffsetCommitRequestTopic::default().with_name(TopicName(str(name))).with_partitions(partitions)
    });
    OffsetCommitRequest::default()
        .with_group_id(id.clone())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics.collect())
}
