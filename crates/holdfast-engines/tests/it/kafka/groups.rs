//! Settings of consumer groups, which the vendor's client for Python does not know.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use holdfast_kafka::protocol::messages::describe_configs_request::DescribeConfigsResource;
use holdfast_kafka::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use holdfast_kafka::protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use holdfast_kafka::protocol::protocol::StrBytes;
use holdfast_kafka::{Client, Login, Mechanism, Trust, accepted};

use crate::kafka::rig::{PASSWORD, Server};

const GROUP: i8 = 32;
/// What the group has of its own, among all that holds for it.
const OWN: i8 = 8;
/// One that has members or has read something, and one that has not yet.
pub(crate) const NAMES: [&str; 2] = ["half", "to come"];

async fn tenant(server: &Server) -> Result<Client> {
    let login = Login {
        host: server.instance.listen.to_string(),
        port: server.instance.port,
        trust: Trust::Any,
        mechanism: Mechanism::ScramSha512,
        username: "app_user".to_owned(),
        password: PASSWORD.to_owned(),
    };
    Ok(Client::connect(&login).await?)
}

pub(crate) async fn set(server: &Server) -> Result<()> {
    let mut client = tenant(server).await?;
    let text = StrBytes::from_static_str;
    let resources = NAMES.map(|name| {
        let setting = AlterableConfig::default()
            .with_name(text("consumer.session.timeout.ms"))
            .with_value(Some(text("46000")));
        AlterConfigsResource::default()
            .with_resource_type(GROUP)
            .with_resource_name(text(name))
            .with_configs(vec![setting])
    });
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources.to_vec());
    for told in client.ask("set up groups", request, 1).await?.responses {
        accepted("set up groups", told.error_code, told.error_message.as_deref())?;
    }
    ensure!(read(server).await?.values().all(|set| set.len() == 1), "nothing is set");
    Ok(())
}

pub(crate) async fn read(server: &Server) -> Result<BTreeMap<String, Vec<String>>> {
    let mut client = tenant(server).await?;
    let resources = NAMES.map(|name| {
        DescribeConfigsResource::default()
            .with_resource_type(GROUP)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_configuration_keys(None)
    });
    let request = DescribeConfigsRequest::default().with_resources(resources.to_vec());
    let mut found = BTreeMap::new();
    for told in client.ask("read groups", request, 4).await?.results {
        accepted("read groups", told.error_code, told.error_message.as_deref())?;
        let own = told.configs.into_iter().filter(|config| config.config_source == OWN);
        let own = own.map(|config| format!("{}={:?}", config.name.as_str(), config.value)).collect();
        found.insert(told.resource_name.to_string(), own);
    }
    Ok(found)
}
