//! What a restore of an engine with streams reads: the objects of a base by its manifest, and the log behind it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use holdfast_api::agent::RepositoryGrant;
use holdfast_core::backup::BackupFacts;
use holdfast_core::causes::chain;
use holdfast_core::position::Position;
use holdfast_core::{BackupId, KeyId, Timestamp};
use holdfast_engines::{
    EngineError, Instance, LogCursor, LogPart, ProgressSink, RestoreSource, StreamDriver, StreamRestore,
    StreamRestored, UserSpec,
};
use holdfast_store::log::{LogItem, read_log};
use holdfast_store::manifest::{facts_of, read_manifest};
use holdfast_store::sealed::SealedReader;
use holdfast_store::{LineageScope, ObjectName, OwnedKey, Store, StoreError};
use tokio::io::AsyncRead;

use crate::error::AgentError;
use crate::keys::LineageKeys;
use crate::shared;

/// What is restored, and up to where.
pub(crate) struct StreamSource<'a> {
    pub grant: &'a RepositoryGrant,
    /// The base's id, which is its label.
    pub base: &'a str,
    /// The instant to reach, and where the archived log ends that vouches for it; `None`: the base's own point.
    pub target: Option<(Timestamp, Position)>,
    /// Whether the new instance archives its own log.
    pub archives: bool,
}

/// Restores into the empty folder of `instance` and leaves it running. Returns the base's facts, too.
pub(crate) async fn restore(
    store: &Store,
    driver: &dyn StreamDriver,
    instance: &Instance,
    from: &StreamSource<'_>,
    users: &[UserSpec],
    progress: &ProgressSink,
) -> Result<(StreamRestored, BackupFacts), AgentError> {
    let source = Source::open(store, from).await?;
    let request = StreamRestore {
        users,
        facts: &source.facts.engine,
        database_bytes: source.facts.database_bytes,
        target: from.target.map(|(point, _)| point),
        complete_until: from.target.map(|(point, _)| point),
        archives: from.archives,
    };
    let restored = driver.restore(instance, &request, &source, progress).await;
    let restored = restored.map_err(AgentError::engine("restore the instance"))?;
    Ok((restored, source.facts))
}

struct Source {
    store: Store,
    lineage: LineageScope,
    keys: Arc<LineageKeys>,
    /// Of blobs that other backups share.
    blob_keys: HashMap<KeyId, OwnedKey>,
    /// By the driver's own names, in the order in which they were stored.
    objects: Vec<(String, ObjectName)>,
    facts: BackupFacts,
    log_to: Option<Position>,
}

impl Source {
    async fn open(store: &Store, from: &StreamSource<'_>) -> Result<Self, AgentError> {
        let grant = from.grant;
        let lineage = LineageScope {
            organization: grant.organization_id,
            service: grant.service_id,
            lineage: grant.lineage_id,
        };
        let keys = LineageKeys::from_grant(grant).map_err(|e| AgentError::Unusable(e.to_string()))?;
        let base: BackupId = from
            .base
            .parse()
            .map_err(|_| AgentError::Unusable(format!("{} is no backup's id", from.base)))?;
        let key = grant.keys.iter().find(|key| key.owner == from.base).and_then(|key| keys.key(key.id));
        let key =
            key.ok_or_else(|| AgentError::Unusable(format!("the key of backup {base} was not granted")))?;
        let (manifest, sha256) = read_manifest(store, lineage, &base, &key)
            .await
            .map_err(AgentError::store("read the backup's manifest"))?;
        let (mut objects, mut blob_keys) = (Vec::new(), HashMap::new());
        for object in &manifest.objects {
            let name: ObjectName = format!("{lineage}/{}", object.name)
                .parse()
                .map_err(|_| AgentError::Unusable(format!("backup {base} names {}", object.name)))?;
            match (&name, &object.shared) {
                (ObjectName::BackupObject { path, .. }, None) => {
                    objects.push((path.as_str().to_owned(), name))
                }
                (ObjectName::Shared { key, .. }, Some(shared)) => {
                    blob_keys.insert(*key, shared::key_of(shared));
                    objects.push((shared.path.clone(), name));
                }
                _ => return Err(AgentError::Unusable(format!("backup {base} names {}", object.name))),
            }
        }
        Ok(Self {
            store: store.clone(),
            lineage,
            keys: Arc::new(keys),
            blob_keys,
            objects,
            facts: facts_of(&manifest, sha256).map_err(AgentError::store("read the backup's facts"))?,
            log_to: from.target.map(|(_, to)| to),
        })
    }
}

#[async_trait]
impl RestoreSource for Source {
    fn names(&self) -> Vec<String> {
        self.objects.iter().map(|(name, _)| name.clone()).collect()
    }

    async fn read(&self, name: &str) -> holdfast_engines::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let doing = format!("read {name} of the backup");
        let Some((_, object)) = self.objects.iter().find(|(known, _)| known == name) else {
            return Err(EngineError::Damaged { doing, what: "the manifest does not name it".to_owned() });
        };
        let find = |id| self.blob_keys.get(&id).cloned().or_else(|| self.keys.key(id));
        match SealedReader::open(&self.store, object, &find).await {
            Ok(reader) => Ok(reader.decompressed()),
            Err(source) => Err(of_store(doing, source)),
        }
    }

    async fn log(&self) -> holdfast_engines::Result<BoxStream<'static, holdfast_engines::Result<LogPart>>> {
        let start = self.facts.log.map(|log| log.start);
        let Some((start, to)) = start.zip(self.log_to).filter(|(start, to)| to.offset > start.offset) else {
            return Ok(futures::stream::empty().boxed());
        };
        let keys = Arc::clone(&self.keys);
        let items = read_log(&self.store, self.lineage, start.timeline, start.offset, to.offset, move |id| {
            keys.key(id)
        });
        Ok(items.map(|item| item.map(part).map_err(|e| of_store("read the log".to_owned(), e))).boxed())
    }
}

fn part(item: LogItem) -> LogPart {
    match item {
        LogItem::Segment(header) => {
            LogPart::Segment { from: LogCursor(header.from), to: LogCursor(header.to) }
        }
        LogItem::Bytes(bytes) => LogPart::Bytes(bytes),
    }
}

/// What does not open is damage; the rest may be a store that is away for a moment.
fn of_store(doing: String, source: StoreError) -> EngineError {
    match &source {
        StoreError::Seal { .. } | StoreError::Document { .. } => {
            EngineError::Damaged { doing, what: chain(&source) }
        }
        _ => EngineError::Store { doing, source: Box::new(source) },
    }
}
