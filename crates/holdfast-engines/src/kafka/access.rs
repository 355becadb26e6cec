//! Who may do what and how much: ACLs, quotas, and users by name.

use holdfast_kafka::protocol::ResponseError;
use holdfast_kafka::protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use holdfast_kafka::protocol::messages::{
    AlterClientQuotasRequest, DescribeAclsRequest, DescribeClientQuotasRequest,
    DescribeUserScramCredentialsRequest,
};
use holdfast_kafka::{Client, accepted};

use super::client::{failed, str};
use super::disk;
use super::snapshot::{Quota, ScramUser};
use super::users::Acl;
use crate::Result;

/// Of a filter: whatever there is.
const ANY: i8 = 1;

/// All ACLs, in order, but the one that refuses writes on a full disk: that is the source's.
pub(super) async fn acls(client: &mut Client) -> Result<Vec<Acl>> {
    const DOING: &str = "list the rights";
    let request = DescribeAclsRequest::default()
        .with_resource_type_filter(ANY)
        .with_pattern_type_filter(ANY)
        .with_operation(ANY)
        .with_permission_type(ANY);
    let told = client.ask(DOING, request, 3).await.map_err(failed(DOING))?;
    accepted(DOING, told.error_code, told.error_message.as_deref()).map_err(failed(DOING))?;
    let mut acls = Vec::new();
    for resource in told.resources {
        acls.extend(resource.acls.into_iter().map(|acl| Acl {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.to_string(),
            pattern_type: resource.pattern_type,
            principal: acl.principal.to_string(),
            host: acl.host.to_string(),
            operation: acl.operation,
            permission_type: acl.permission_type,
        }));
    }
    let refusal = disk::refusal();
    acls.retain(|acl| *acl != refusal);
    acls.sort();
    Ok(acls)
}

pub(super) async fn quotas(client: &mut Client) -> Result<Vec<Quota>> {
    const DOING: &str = "list the quotas";
    let told = client.ask(DOING, DescribeClientQuotasRequest::default(), 1).await.map_err(failed(DOING))?;
    accepted(DOING, told.error_code, told.error_message.as_deref()).map_err(failed(DOING))?;
    let entries = told.entries.unwrap_or_default().into_iter();
    let mut quotas: Vec<Quota> = entries
        .map(|entry| Quota {
            entity: entry
                .entity
                .into_iter()
                .map(|part| (part.entity_type.to_string(), part.entity_name.map(|name| name.to_string())))
                .collect(),
            values: entry.values.into_iter().map(|value| (value.key.to_string(), value.value)).collect(),
        })
        .collect();
    quotas.sort_by(|one, other| one.entity.cmp(&other.entity));
    Ok(quotas)
}

pub(super) async fn set_quotas(client: &mut Client, quotas: &[Quota]) -> Result<()> {
    const DOING: &str = "set quotas";
    if quotas.is_empty() {
        return Ok(());
    }
    let entries = quotas.iter().map(|quota| {
        let part = |(kind, name): &(String, Option<String>)| {
            EntityData::default().with_entity_type(str(kind)).with_entity_name(name.as_deref().map(str))
        };
        let value = |(key, value): (&String, &f64)| OpData::default().with_key(str(key)).with_value(*value);
        EntryData::default()
            .with_entity(quota.entity.iter().map(part).collect())
            .with_ops(quota.values.iter().map(value).collect())
    });
    let request = AlterClientQuotasRequest::default().with_entries(entries.collect());
    let told = client.ask(DOING, request, 1).await.map_err(failed(DOING))?;
    for entry in told.entries {
        accepted(DOING, entry.error_code, entry.error_message.as_deref()).map_err(failed(DOING))?;
    }
    Ok(())
}

/// Users that have a password.
pub(super) async fn scram_users(client: &mut Client) -> Result<Vec<ScramUser>> {
    const DOING: &str = "list the users";
    let request = DescribeUserScramCredentialsRequest::default().with_users(None);
    let told = client.ask(DOING, request, 0).await.map_err(failed(DOING))?;
    if told.error_code != ResponseError::ResourceNotFound.code() {
        accepted(DOING, told.error_code, told.error_message.as_deref()).map_err(failed(DOING))?;
    }
    let users = told.results.into_iter().map(|user| ScramUser {
        name: user.user.to_string(),
        mechanisms: user.credential_infos.into_iter().map(|found| found.mechanism).collect(),
    });
    let mut users: Vec<_> = users.collect();
    users.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(users)
}
