//! Users of an instance: their passwords, which the server keeps as SCRAM verifiers, and their rights, as ACLs.
//!
//! Nobody but the agent may change users, ACLs or the server's configuration: whoever may alter the cluster could give himself the
//! agent's rights, and with its configuration have the server load classes and read files of his choice. Nor may a tenant write to
//! the server's own topics, which it reads back without suspicion.
//!
//! Sources: Kafka documentation, "Authorization and ACLs"; Kafka 3.9, `AclAuthorizer`, `ResourceType`, `AclOperation`.

use bytes::Bytes;
use holdfast_kafka::protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use holdfast_kafka::protocol::messages::create_acls_request::AclCreation;
use holdfast_kafka::protocol::messages::{AlterUserScramCredentialsRequest, CreateAclsRequest};
use holdfast_kafka::{Client, Hash, accepted, salted};
use serde::{Deserialize, Serialize};

use super::client::{failed, str};
use super::config::AGENT;
use crate::{EngineError, Result, UserSpec};

/// What the server keeps for itself, as topics; of the last it has the folder alone, which a topic of that name would share.
const SERVERS_TOPICS: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];
const ANY: &str = "*";

/// A right, or its denial, in the protocol's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Acl {
    pub resource_type: i8,
    pub resource_name: String,
    /// Literal or prefixed.
    pub pattern_type: i8,
    pub principal: String,
    pub host: String,
    pub operation: i8,
    pub permission_type: i8,
}

pub(super) mod resource {
    pub(in crate::kafka) const TOPIC: i8 = 2;
    pub(in crate::kafka) const GROUP: i8 = 3;
    pub(in crate::kafka) const CLUSTER: i8 = 4;
    pub(in crate::kafka) const TRANSACTIONAL_ID: i8 = 5;
}

pub(super) mod operation {
    pub(in crate::kafka) const ALL: i8 = 2;
    pub(in crate::kafka) const READ: i8 = 3;
    pub(in crate::kafka) const WRITE: i8 = 4;
    pub(in crate::kafka) const DESCRIBE: i8 = 8;
    pub(in crate::kafka) const DESCRIBE_CONFIGS: i8 = 10;
    pub(in crate::kafka) const IDEMPOTENT_WRITE: i8 = 12;
}

pub(super) mod permission {
    pub(in crate::kafka) const DENY: i8 = 2;
    pub(in crate::kafka) const ALLOW: i8 = 3;
}

pub(super) const LITERAL: i8 = 3;

impl Acl {
    pub(super) fn new(principal: &str, permission_type: i8, resource: (i8, &str), operation: i8) -> Self {
        Self {
            resource_type: resource.0,
            resource_name: resource.1.to_owned(),
            pattern_type: LITERAL,
            principal: principal.to_owned(),
            host: ANY.to_owned(),
            operation,
            permission_type,
        }
    }
}

/// Who only reads.
fn is_reader(role: &str) -> bool {
    let role = role.to_ascii_lowercase();
    role.starts_with("read") && !role.contains("write")
}

/// What a user of this role may do.
fn rights(user: &UserSpec) -> Vec<Acl> {
    let principal = format!("User:{}", user.username);
    let acl = |permission, resource, operation| Acl::new(&principal, permission, resource, operation);
    let (topics, groups) = ((resource::TOPIC, ANY), (resource::GROUP, ANY));
    let cluster = (resource::CLUSTER, "kafka-cluster");
    let mut allowed = vec![(cluster, operation::DESCRIBE)];
    if is_reader(&user.role) {
        let all = [topics, groups]
            .into_iter()
            .flat_map(|what| [(what, operation::READ), (what, operation::DESCRIBE)]);
        allowed.extend(all.chain([(topics, operation::DESCRIBE_CONFIGS)]));
    } else {
        let transactions = (resource::TRANSACTIONAL_ID, ANY);
        allowed.extend([topics, groups, transactions].map(|what| (what, operation::ALL)));
        // The right to create topics is each topic's: the cluster's would go before what is denied below.
        allowed.push((cluster, operation::IDEMPOTENT_WRITE));
    }
    let allowed = allowed.into_iter().map(|(what, operation)| acl(permission::ALLOW, what, operation));
    let denied = SERVERS_TOPICS.map(|topic| acl(permission::DENY, (resource::TOPIC, topic), operation::ALL));
    allowed.chain(denied).collect()
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name == AGENT || !name.chars().all(plain) {
        return Err(EngineError::Unexpected {
            doing: format!("make the user {name:?}"),
            what: format!("a name has letters, digits, - _ and . alone, and {AGENT} is taken"),
        });
    }
    Ok(())
}

/// Makes users, or gives those that are there new passwords and the rights of their roles.
pub(super) async fn put(client: &mut Client, users: &[UserSpec]) -> Result<()> {
    for user in users {
        check_name(&user.username)?;
        grant(client, &rights(user)).await?;
    }
    set_passwords(client, users).await
}

/// One request for each mechanism: of a user, a request takes one.
async fn set_passwords(client: &mut Client, users: &[UserSpec]) -> Result<()> {
    const DOING: &str = "set passwords";
    for (mechanism, hash) in [(1, Hash::Sha256), (2, Hash::Sha512)] {
        let upsertions = users.iter().map(|user| {
            let salted = salted(hash, &user.password);
            ScramCredentialUpsertion::default()
                .with_name(str(&user.username))
                .with_mechanism(mechanism)
                .with_iterations(i32::try_from(salted.iterations).unwrap_or(i32::MAX))
                .with_salt(Bytes::from(salted.salt))
                .with_salted_password(Bytes::from(salted.password))
        });
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(upsertions.collect());
        let told = client.ask(DOING, request, 0).await.map_err(failed(DOING))?;
        for result in &told.results {
            accepted(DOING, result.error_code, result.error_message.as_deref()).map_err(failed(DOING))?;
        }
        if told.results.len() < users.len() {
            let what = format!("the engine tells of {} of {} users", told.results.len(), users.len());
            return Err(EngineError::Unexpected { doing: DOING.to_owned(), what });
        }
    }
    Ok(())
}

/// Adds ACLs; those that are there stay.
pub(super) async fn grant(client: &mut Client, acls: &[Acl]) -> Result<()> {
    const DOING: &str = "grant rights";
    if acls.is_empty() {
        return Ok(());
    }
    let creations = acls.iter().map(|acl| {
        AclCreation::default()
            .with_resource_type(acl.resource_type)
            .with_resource_name(str(&acl.resource_name))
            .with_resource_pattern_type(acl.pattern_type)
            .with_principal(str(&acl.principal))
            .with_host(str(&acl.host))
            .with_operation(acl.operation)
            .with_permission_type(acl.permission_type)
    });
    let request = CreateAclsRequest::default().with_creations(creations.collect());
    let told = client.ask(DOING, request, 3).await.map_err(failed(DOING))?;
    for result in told.results {
        accepted(DOING, result.error_code, result.error_message.as_deref()).map_err(failed(DOING))?;
    }
    Ok(())
}
