//! What an engine does before its log fills the disk: `disk.rs` in each engine's folder.

use async_trait::async_trait;

use crate::{Instance, Result};

/// The engine's log on the instance's own disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOnDisk {
    pub total_bytes: u64,
    /// Finished pieces that the archive does not have yet.
    pub waiting_bytes: u64,
}

/// Looks at the log on the disk, and acts before it is full. What is refused stays refused over restarts of engine and agent.
#[async_trait]
pub trait DiskGuard: Send + Sync {
    /// What the log takes of the disk; also of an engine that is down.
    fn log_on_disk(&self, instance: &Instance) -> Result<LogOnDisk>;
    /// Whether [`DiskGuard::set_read_only`] refuses writes.
    fn is_read_only(&self, instance: &Instance) -> bool;
    /// Whether anything is done against a full disk, until [`DiskGuard::set_read_only`] ends it.
    fn is_guarded(&self, instance: &Instance) -> bool {
        self.is_read_only(instance)
    }
    /// Refuses writes of everybody but the agent, or ends all that is done against a full disk. While writes are refused, to
    /// be repeated: it ends sessions that write nevertheless, and removes log that the archive has.
    async fn set_read_only(&self, instance: &Instance, read_only: bool) -> Result<()>;
    /// Gives up finished log that waits for the archive, for good, and frees its disk. Returns how many bytes.
    async fn drop_waiting_log(&self, instance: &Instance) -> Result<u64>;
}
