//! What is done before the disk is full: nobody but the agent may write any more. Kafka has no log that waits for an archive.

use async_trait::async_trait;
use holdfast_kafka::accepted;
use holdfast_kafka::protocol::messages::DeleteAclsRequest;
use holdfast_kafka::protocol::messages::delete_acls_request::DeleteAclsFilter;

use super::client::{connect, failed, str};
use super::users::{self, Acl, operation, permission, resource};
use super::{Kafka, config};
use crate::{DiskGuard, EngineError, Instance, LogOnDisk, Result, files};

/// There from before the first write is refused until the last is let in again.
const READ_ONLY: &str = "read-only";
const EVERYBODY: &str = "User:*";
const DOING: &str = "let clients write again";

#[async_trait]
impl DiskGuard for Kafka {
    fn log_on_disk(&self, _instance: &Instance) -> Result<LogOnDisk> {
        Ok(LogOnDisk::default())
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        config::path(instance, READ_ONLY).exists()
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        let marker = config::path(instance, READ_ONLY);
        if read_only == marker.exists() && !read_only {
            return Ok(());
        }
        let mut client = connect(instance).await?;
        if read_only {
            if !marker.exists() {
                files::write_secret(&marker, b"")?;
            }
            return users::grant(&mut client, &[refusal()]).await;
        }
        let acl = refusal();
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(acl.resource_type)
            .with_resource_name_filter(Some(str(&acl.resource_name)))
            .with_pattern_type_filter(acl.pattern_type)
            .with_principal_filter(Some(str(&acl.principal)))
            .with_host_filter(Some(str(&acl.host)))
            .with_operation(acl.operation)
            .with_permission_type(acl.permission_type);
        let request = DeleteAclsRequest::default().with_filters(vec![filter]);
        let told = client.ask(DOING, request, 3).await.map_err(failed(DOING))?;
        for result in told.filter_results {
            accepted(DOING, result.error_code, result.error_message.as_deref()).map_err(failed(DOING))?;
        }
        std::fs::remove_file(&marker).map_err(EngineError::io(format!("remove {}", marker.display())))
    }

    async fn drop_waiting_log(&self, _instance: &Instance) -> Result<u64> {
        Ok(0)
    }
}

/// A denial goes before every right; the agent is above both.
pub(super) fn refusal() -> Acl {
    Acl::new(EVERYBODY, permission::DENY, (resource::TOPIC, "*"), operation::WRITE)
}
