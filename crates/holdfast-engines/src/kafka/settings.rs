//! What somebody set for a topic or a consumer group, beside what the server does anyway.
//!
//! Source: Kafka 4.1, `ConfigResource.Type`, `DescribeConfigsResponse.ConfigSource`, `ListConfigResourcesRequest`.

use std::collections::BTreeMap;

use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::describe_configs_request::DescribeConfigsResource;
use holdfast_kafka::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use holdfast_kafka::protocol::messages::{
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};
use holdfast_kafka::{Client, accepted};

use super::client::{failed, is_gone, str};
use crate::Result;

/// How many of them one request names.
const AT_ONCE: usize = 200;

/// What something is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Topic,
    Group,
}

impl Kind {
    /// Its number as a resource, and that of settings of its own among all that hold for it.
    fn numbers(self) -> (i8, i8) {
        match self {
            Self::Topic => (2, 1),
            Self::Group => (32, 8),
        }
    }
}

pub(super) type Settings = BTreeMap<String, String>;

/// What is set for each of these. Those that are gone are left out.
pub(super) async fn read(
    client: &mut Client,
    kind: Kind,
    names: impl Iterator<Item = &str>,
) -> Result<BTreeMap<String, Settings>> {
    const DOING: &str = "ask for settings";
    let (resource, own) = kind.numbers();
    let names: Vec<&str> = names.collect();
    let mut all = BTreeMap::new();
    for names in names.chunks(AT_ONCE) {
        let resources = names.iter().map(|name| {
            DescribeConfigsResource::default()
                .with_resource_type(resource)
                .with_resource_name(str(name))
                .with_configuration_keys(None)
        });
        let request = DescribeConfigsRequest::default().with_resources(resources.collect());
        for result in client.ask(DOING, request, 4).await.map_err(failed(DOING))?.results {
            // Before 4.0 there is nothing that could be set for a group.
            let is_unknown = kind == Kind::Group && result.error_code == ResponseError::InvalidRequest.code();
            if is_gone(result.error_code) || is_unknown {
                continue;
            }
            accepted(DOING, result.error_code, result.error_message.as_deref()).map_err(failed(DOING))?;
            let set = result.configs.into_iter().filter(|config| config.config_source == own);
            let set = set.filter_map(|config| Some((config.name.to_string(), config.value?.to_string())));
            all.insert(result.resource_name.to_string(), set.collect());
        }
    }
    Ok(all)
}

/// What is set for consumer groups. Older servers do not name those that have settings: there it is what is set for `known`.
pub(super) async fn of_groups(
    client: &mut Client,
    known: impl Iterator<Item = &str>,
) -> Result<BTreeMap<String, Settings>> {
    const DOING: &str = "list what has settings";
    let mut set = if client.newest::<ListConfigResourcesRequest>() >= Some(1) {
        let request =
            ListConfigResourcesRequest::default().with_resource_types(vec![Kind::Group.numbers().0]);
        let told = client.ask(DOING, request, 1).await.map_err(failed(DOING))?;
        accepted(DOING, told.error_code, None).map_err(failed(DOING))?;
        let names: Vec<_> =
            told.config_resources.into_iter().map(|told| told.resource_name.to_string()).collect();
        read(client, Kind::Group, names.iter().map(String::as_str)).await?
    } else {
        read(client, Kind::Group, known).await?
    };
    set.retain(|_, settings| !settings.is_empty());
    Ok(set)
}

/// Sets or, without a value, unsets. Returns what the server does not know or take, in words.
pub(super) async fn set(
    client: &mut Client,
    kind: Kind,
    name: &str,
    settings: &BTreeMap<&str, Option<&str>>,
) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    if alter(client, kind, name, settings).await?.is_none() {
        return Ok(refused);
    }
    // Which of them: those that the server does take are set all the same.
    for (setting, value) in settings {
        if let Some(why) = alter(client, kind, name, &BTreeMap::from([(*setting, *value)])).await? {
            refused.push(format!("{name}: {setting}={}: {why}", value.unwrap_or_default()));
        }
    }
    Ok(refused)
}

/// All or none. Why not, where the server refuses.
async fn alter(
    client: &mut Client,
    kind: Kind,
    name: &str,
    settings: &BTreeMap<&str, Option<&str>>,
) -> Result<Option<String>> {
    const DOING: &str = "set up the copy";
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let configs = settings.iter().map(|(name, value)| {
        AlterableConfig::default()
            .with_name(str(name))
            .with_config_operation(if value.is_some() { SET } else { DELETE })
            .with_value(value.map(str))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind.numbers().0)
        .with_resource_name(str(name))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let told = client.ask(DOING, request, 1).await.map_err(failed(DOING))?;
    let refused = told.responses.into_iter().find(|told| told.error_code != 0);
    Ok(refused.map(|told| match accepted(DOING, told.error_code, told.error_message.as_deref()) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }))
}
