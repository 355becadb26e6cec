//! A base backup whose driver hands over streams: stored object by object, counted as consistent once the log that goes with
//! it is archived.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use holdfast_api::agent::RunBackup;
use holdfast_core::Timestamp;
use holdfast_core::backup::{BackupFacts, LogSpan, MethodInstead};
use holdfast_core::causes::chain;
use holdfast_core::position::Coverage;
use holdfast_engines::{BackupSink, EngineError, ProgressSink, StreamBackupRequest, StreamDriver};
use holdfast_seal::{ManifestObject, SharedKey};
use holdfast_store::sealed::{CopyError, store_compressed};
use holdfast_store::{LineageScope, ObjectName, ObjectPrefix, OwnedKey, RepositoryPath, Store};
use tokio::io::AsyncRead;

use crate::error::AgentError;
use crate::instances::Local;
use crate::{Agent, disk, shared};

/// Longest wait for the log to begin, and to be archived up to the backup's end.
const LOG_LIMIT: Duration = Duration::from_secs(120);

/// Makes the backup and says what it consists of.
pub(super) async fn copy(
    agent: &Agent,
    local: &Local,
    driver: &dyn StreamDriver,
    has_log: bool,
    input: &RunBackup,
    key: &OwnedKey,
    progress: &ProgressSink,
) -> Result<(BackupFacts, Vec<ManifestObject>), AgentError> {
    remove_earlier_tries(agent, local, input).await?;
    disk::require_store_room(agent, input.expected_bytes.unwrap_or(0))?;
    let before = match has_log {
        true => {
            progress.phase("waiting for the log");
            Some(archived_until(local, Timestamp::now()).await?)
        }
        false => None,
    };
    let sink = Sink {
        store: &agent.store,
        lineage: local.lineage.scope,
        input,
        key,
        attempt: rand::random(),
        earlier: shared::of_newest(&agent.store, &local.lineage, &input.known_labels).await?,
        objects: Mutex::default(),
    };
    match with_log(agent, local, driver, before, &sink, progress).await {
        Ok(facts) => Ok((facts, sink.objects.into_inner().unwrap_or_else(PoisonError::into_inner))),
        Err(error) => {
            sink.remove_new_blobs().await;
            Err(error)
        }
    }
}

/// Has the driver make the backup, and waits for the log from `before` on.
async fn with_log(
    agent: &Agent,
    local: &Local,
    driver: &dyn StreamDriver,
    before: Option<Coverage>,
    sink: &Sink<'_>,
    progress: &ProgressSink,
) -> Result<BackupFacts, AgentError> {
    let input = sink.input;
    progress.phase("copying");
    let request = StreamBackupRequest { method: &input.method };
    let made = driver.backup(&local.record().instance, &request, sink, progress).await;
    let made = made.map_err(|error| local.lineage.explained("back up the instance", error))?;

    let log = match before {
        Some(before) => {
            // The log that goes with it, at least to here: from `before.to` on, without a hole.
            progress.phase("archiving its log");
            let after = archived_until(local, Timestamp::now()).await?;
            if after.from.offset > before.to.offset {
                return Err(AgentError::GapInBackup);
            }
            Some(LogSpan { start: before.to, stop: after.to })
        }
        None => None,
    };
    let objects = sink.objects().clone();
    confirm(agent, local, input, &objects).await?;
    Ok(BackupFacts {
        tool_label: input.backup_id.to_string(),
        parent: None,
        log,
        consistent_at: made.consistent_at,
        // Shared blobs count where they were stored.
        stored_bytes: sink.new_objects().map(|object| object.sealed_bytes).sum(),
        database_bytes: made.database_bytes,
        manifest_sha256: String::new(),
        engine: made.facts,
        instead: made
            .instead
            .map(|instead| MethodInstead { method: instead.method.to_owned(), reason: instead.reason }),
    })
}

async fn archived_until(local: &Local, at: Timestamp) -> Result<Coverage, AgentError> {
    tokio::time::timeout(LOG_LIMIT, local.lineage.wait_complete(at)).await.map_err(|_| {
        match local.lineage.log_error() {
            Some(what) => AgentError::LogNotArchived { what },
            None => AgentError::TooLong { doing: "archiving the backup's log", seconds: LOG_LIMIT.as_secs() },
        }
    })
}

/// What a try left that was cut off, or backups that failed for good: without a manifest nobody reads it.
async fn remove_earlier_tries(agent: &Agent, local: &Local, input: &RunBackup) -> Result<(), AgentError> {
    for backup in input.failed.iter().chain([&input.backup_id]) {
        let manifest = ObjectName::BackupManifest { lineage: local.lineage.scope, backup: backup.clone() };
        if backup != &input.backup_id && agent.store.head(&manifest).await.is_ok() {
            agent.store.delete(&manifest).await.map_err(AgentError::store("remove a failed backup"))?;
        }
        remove_objects(agent, local.lineage.scope, backup).await?;
    }
    Ok(())
}

/// Removes all streams of a backup.
pub(super) async fn remove_objects(
    agent: &Agent,
    lineage: LineageScope,
    backup: &holdfast_core::BackupId,
) -> Result<(), AgentError> {
    let prefix = ObjectPrefix::BackupObjects { lineage, backup: Some(backup.clone()) };
    let mut objects = agent.store.list(&prefix);
    while let Some(object) = objects.try_next().await.map_err(AgentError::store("list a backup's objects"))? {
        agent.store.delete(&object.name).await.map_err(AgentError::store("remove a backup's object"))?;
    }
    Ok(())
}

/// What the store lists is what it confirmed, no more and no less (R1, R14).
async fn confirm(
    agent: &Agent,
    local: &Local,
    input: &RunBackup,
    objects: &[ManifestObject],
) -> Result<(), AgentError> {
    let mut written: std::collections::HashMap<&str, u64> =
        objects.iter().map(|object| (object.name.as_str(), object.sealed_bytes)).collect();
    let lineage = local.lineage.scope;
    if objects.iter().any(|object| object.shared.is_some()) {
        // Blobs of other backups are there, too.
        let there = shared::listed(&agent.store, lineage).await?;
        written.retain(|name, bytes| there.get(*name) != Some(bytes));
    }
    let prefix = ObjectPrefix::BackupObjects { lineage, backup: Some(input.backup_id.clone()) };
    let mut listed = agent.store.list(&prefix);
    while let Some(object) =
        listed.try_next().await.map_err(AgentError::store("list the backup's objects"))?
    {
        let name = object.name.relative();
        if written.remove(name.as_str()) != Some(object.info.sealed_bytes) {
            return Err(AgentError::StoreDiffers(format!("holds {name} otherwise than it was written")));
        }
    }
    match written.keys().next() {
        Some(missing) => Err(AgentError::StoreDiffers(format!("has lost {missing}"))),
        None => Ok(()),
    }
}

/// Seals a backup's streams and remembers what the store has confirmed.
struct Sink<'a> {
    store: &'a Store,
    lineage: LineageScope,
    input: &'a RunBackup,
    key: &'a OwnedKey,
    attempt: u64,
    /// What the newest backup shares, by the driver's names.
    earlier: HashMap<String, ManifestObject>,
    objects: Mutex<Vec<ManifestObject>>,
}

impl Sink<'_> {
    fn objects(&self) -> MutexGuard<'_, Vec<ManifestObject>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that this backup stored.
    fn new_objects(&self) -> impl Iterator<Item = ManifestObject> {
        let is_old = |object: &ManifestObject| {
            let path = object.shared.as_ref().map(|shared| &shared.path);
            path.and_then(|path| self.earlier.get(path)).is_some_and(|earlier| earlier.name == object.name)
        };
        let mut objects = self.objects().clone();
        objects.retain(|object| !is_old(object));
        objects.into_iter()
    }

    /// No manifest will ever name them. What cannot be removed now goes with the next backup that expires.
    async fn remove_new_blobs(&self) {
        let blobs = self.new_objects().filter(|object| object.shared.is_some()).map(|object| object.name);
        if let Err(error) = shared::remove(self.store, self.lineage, blobs).await {
            tracing::warn!(service = %self.lineage.service, error = %chain(&error), "blobs of a failed backup stay for now");
        }
    }

    async fn put(
        &self,
        name: &str,
        object: &ObjectName,
        key: &OwnedKey,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<(u64, ManifestObject)> {
        let doing = || format!("store {name} of the backup");
        store_compressed(self.store, object, key, data).await.map_err(|error| match error {
            CopyError::Source(source) => EngineError::Io { doing: doing(), source },
            CopyError::Store(source) => EngineError::Store { doing: doing(), source: Box::new(source) },
        })
    }
}

#[async_trait]
impl BackupSink for Sink<'_> {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let path = RepositoryPath::new(name).map_err(|error| EngineError::Unexpected {
            doing: format!("store {name} of the backup"),
            what: error.to_string(),
        })?;
        let object = ObjectName::BackupObject {
            lineage: self.lineage,
            backup: self.input.backup_id.clone(),
            attempt: self.attempt,
            path,
        };
        let (read, stored) = self.put(name, &object, self.key, data).await?;
        self.objects().push(stored);
        Ok(read)
    }

    async fn share(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let (object, key) = shared::new_blob(self.lineage);
        let (read, stored) = self.put(name, &object, &key, data).await?;
        let shared = SharedKey { key_id: key.key_id.0, key: key.key, path: name.to_owned() };
        self.objects().push(ManifestObject { shared: Some(shared), ..stored });
        Ok(read)
    }

    fn rename(&self, name: &str, to: &str) -> holdfast_engines::Result<()> {
        for object in self.objects().iter_mut() {
            if let Some(shared) = object.shared.as_mut().filter(|shared| shared.path == name) {
                to.clone_into(&mut shared.path);
            }
        }
        Ok(())
    }

    fn shared(&self) -> Vec<String> {
        self.earlier.keys().cloned().collect()
    }

    fn reuse(&self, name: &str) -> holdfast_engines::Result<()> {
        let earlier = self.earlier.get(name).cloned().ok_or_else(|| EngineError::Unexpected {
            doing: format!("take {name} over"),
            what: "no earlier backup shares it".to_owned(),
        })?;
        self.objects().push(earlier);
        Ok(())
    }
}
