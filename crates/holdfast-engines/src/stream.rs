//! Base backups that Holdfast stores as streams, and logs that it reads itself.
//!
//! A driver hands plain bytes over and gets plain bytes back; compressing, sealing, uploading, confirming and counting
//! coverage are the log archive's and the backup step's.
//!
//! The log of a lineage is one stream of bytes. Where the engine stands in it is told by a [`LogCursor`], in the engine's own
//! coordinates; where a byte lies in the archive is its offset. A cursor is stored with each segment, so the object store
//! itself knows from where reading goes on after a restart: nothing is lost and nothing comes twice.

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast_core::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::sync::{Notify, mpsc};

use crate::{EngineError, Instance, ProgressSink, Result, UserSpec};

/// Where reading the engine's log goes on, in the engine's own coordinates (MySQL: file, position and GTID set; MongoDB: the
/// last entry; Valkey: file and offset). Only its driver understands it. It is stored with the log for ten years: a driver
/// must read what every release of it has written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogCursor(pub serde_json::Value);

impl LogCursor {
    /// Leads on from nowhere: what is read from it begins anew, behind a gap.
    #[must_use]
    pub fn unknown() -> Self {
        Self(serde_json::Value::Null)
    }
}

/// What a driver says while it follows the log, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedItem {
    /// What follows does not continue what was archived. `cause` says why not, in a sentence for people: a gap (R8, R26).
    /// Without a cause the archive was empty.
    Begin { cursor: LogCursor, cause: Option<String> },
    /// The next bytes. Behind them the log may be cut: reading goes on from `cursor`.
    Log { bytes: Bytes, cursor: LogCursor },
    /// Whatever was acknowledged at or before this instant has been handed over. To be sent several times a second, also
    /// when nothing is written (R17). Taken on the agent's clock *before* the engine was asked how far it is.
    CaughtUp { at: Timestamp },
}

/// The archive's end of a followed log. Sending waits while the archive is behind, so that memory stays bounded: the engine's
/// own log on disk is the spool.
#[derive(Debug, Clone)]
pub struct LogFeed {
    items: mpsc::Sender<FeedItem>,
    asked: Arc<Notify>,
}

impl LogFeed {
    /// A feed that holds at most `waiting` items, and its other end. Whoever cannot wait for the next
    /// [`FeedItem::CaughtUp`] notifies `asked`.
    #[must_use]
    pub fn new(waiting: usize, asked: Arc<Notify>) -> (Self, mpsc::Receiver<FeedItem>) {
        let (items, receiver) = mpsc::channel(waiting);
        (Self { items, asked }, receiver)
    }

    /// Waits until somebody wants to know how far the engine is. For a driver that would not say so by itself within a tenth of a second.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// # Errors
    /// When nobody takes the log any more.
    pub async fn send(&self, item: FeedItem) -> Result<()> {
        self.items.send(item).await.map_err(|_| EngineError::Unexpected {
            doing: "hand over log".to_owned(),
            what: "the archive is closed".to_owned(),
        })
    }
}

/// Takes the objects that a base backup consists of.
#[async_trait]
pub trait BackupSink: Send + Sync {
    /// Stores what `data` yields under a name of the driver's choice, unique in the backup, any UTF-8 with `/` between
    /// folders: compressed, sealed and confirmed by the store when this returns. Several may be stored at once. Returns the
    /// number of plain bytes. An error of `data` leaves nothing behind.
    async fn store(&self, name: &str, data: &mut (dyn AsyncRead + Send + Unpin)) -> Result<u64>;

    /// As [`Self::store`], for what later backups of the same service may have unchanged: they find it under this name, which must never
    /// stand for anything else. It stays until the last backup that names it is gone.
    async fn share(&self, name: &str, data: &mut (dyn AsyncRead + Send + Unpin)) -> Result<u64> {
        self.store(name, data).await
    }

    /// Gives what was shared under a name another one, which only its end could tell. Of anything else, nothing changes.
    fn rename(&self, _name: &str, _to: &str) -> Result<()> {
        Ok(())
    }

    /// Names of what the newest backup of this service shares, and the store still has.
    fn shared(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes one of [`Self::shared`] a part of this backup, too.
    fn reuse(&self, name: &str) -> Result<()> {
        Err(EngineError::Unexpected {
            doing: format!("take {name} over"),
            what: "no earlier backup has it".to_owned(),
        })
    }
}

/// How a base backup is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamBackupRequest<'a> {
    /// One of the engine's [`backup_methods`](holdfast_core::engine::Capability::backup_methods).
    pub method: &'a str,
}

/// What a driver says of a finished base backup.
#[derive(Debug, Clone)]
pub struct StreamBackup {
    /// No commit in the base is stamped later; every instant from here on can be reached from it. Engine's clock.
    pub consistent_at: Timestamp,
    /// Bytes of the database that it represents.
    pub database_bytes: u64,
    /// The driver's own facts, kept with the backup for its restore: versions, position, fingerprint (R24).
    pub facts: serde_json::Value,
    /// Where it was made by another method than the one that was asked for.
    pub instead: Option<Instead>,
}

/// Another method than was asked for, and why: what the asked one cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    pub method: &'static str,
    pub reason: String,
}

/// What is restored, to whom.
pub struct StreamRestore<'a> {
    pub users: &'a [UserSpec],
    /// [`StreamBackup::facts`] of the base.
    pub facts: &'a serde_json::Value,
    pub database_bytes: u64,
    /// `None`: the base's own point; the driver then compares the fingerprint (R24).
    pub target: Option<Timestamp>,
    /// Everything acknowledged until then is in the log that [`RestoreSource::log`] yields; with a target only.
    pub complete_until: Option<Timestamp>,
    /// `false` for a copy that stands alone: nobody will archive its log.
    pub archives: bool,
}

/// Where a restore reads from.
#[async_trait]
pub trait RestoreSource: Send + Sync {
    /// Names of the base's objects, in the order in which they were stored.
    fn names(&self) -> Vec<String>;
    /// Reads one of them. Every byte that comes has been authenticated; damage and truncation are errors.
    async fn read(&self, name: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>>;
    /// The log from before the base began to the end of what is archived, without a hole.
    async fn log(&self) -> Result<BoxStream<'static, Result<LogPart>>>;
}

/// A part of archived log.
#[derive(Debug, Clone, PartialEq)]
pub enum LogPart {
    /// A segment begins: where the engine was before its first byte and is behind its last. The next segment's `from` is this
    /// one's `to`.
    Segment { from: LogCursor, to: LogCursor },
    /// Some of the segment's bytes.
    Bytes(Bytes),
}

/// What a restore reached.
#[derive(Debug, Clone)]
pub struct StreamRestored {
    pub engine_version: String,
    /// The instant that the instance stands at: the target, the latest one before it that the engine's unit allows, or the
    /// base's own.
    pub reached: Timestamp,
    /// The position reached, asserted by the driver, in the engine's own words; for people.
    pub position: String,
    /// What of the source the instance does not have although the base does, a clause each; for people.
    pub left_out: Vec<String>,
}

/// What a driver does whose base Holdfast stores as streams.
#[async_trait]
pub trait StreamDriver: Send + Sync {
    /// Copies the running instance, whatever runs meanwhile. The base is consistent by itself (R20). A failure leaves
    /// nothing on the instance, nor does a method that is refused for what is in it ([`EngineError::Unfit`]).
    async fn backup(
        &self,
        instance: &Instance,
        request: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup>;

    /// Restores into the empty folder of `instance` and leaves it running, with credentials of its own and an empty log: what
    /// the restore itself did is never archived.
    async fn restore(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored>;
}

/// What a driver does whose log Holdfast reads itself.
#[async_trait]
pub trait LogDriver: Send + Sync {
    /// Reads the running instance's log and hands it over until something fails or the future is dropped; called again after
    /// a pause. Goes on behind `from` if the engine still has what follows it; otherwise begins anew with
    /// [`FeedItem::Begin`], with a cause; also from a cursor that it does not understand ([`LogCursor::unknown`]). `from` is
    /// `None` for an archive without any log.
    ///
    /// # Errors
    /// Whatever ends the reading: the engine stopped, a connection broke.
    async fn follow(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible>;

    /// The store has everything before `archived` for certain: the engine's disk may give it up. Called every few seconds;
    /// what was not released must stay on the instance's disk, over restarts too.
    async fn release_log(&self, instance: &Instance, archived: &LogCursor) -> Result<()>;

    /// Lets no client write any more until the next start, so that the log can be read to its end before a stop.
    async fn quiesce(&self, instance: &Instance) -> Result<()>;

    /// Takes [`LogDriver::quiesce`] back, for an instance that goes on running after all; nothing where there is nothing to
    /// take back. What is done against a full disk stays.
    async fn unquiesce(&self, instance: &Instance) -> Result<()>;
}
