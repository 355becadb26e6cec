//! What is done before the disk is full: tenants may only read. The log is a ring of fixed size, so it is never what fills it.

use async_trait::async_trait;

use super::{Mongodb, access};
use crate::{DiskGuard, Instance, LogOnDisk, Result};

#[async_trait]
impl DiskGuard for Mongodb {
    /// The oplog is a ring of fixed size inside the database: nothing of it waits on the disk and grows.
    fn log_on_disk(&self, _: &Instance) -> Result<LogOnDisk> {
        Ok(LogOnDisk::default())
    }

    fn is_read_only(&self, instance: &Instance) -> bool {
        access::is_read_only(instance)
    }

    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()> {
        if read_only {
            access::hold(self, instance, true).await
        } else {
            access::release(self, instance).await
        }
    }

    async fn drop_waiting_log(&self, _: &Instance) -> Result<u64> {
        Ok(0)
    }
}
