//! A base backup whose driver hands over streams: stored object by object, counted as consistent once the log that goes with
//! it is archived.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use holdfast_api::agent::RunBackup;
use holdfast_core::Timestamp;
use holdfast_core::backup::{BackupFacts, LogSpan, MethodInstead};
use holdfast_core::position::Coverage;
use holdfast_engines::{BackupSink, EngineError, ProgressSink, StreamBackupRequest, StreamDriver};
use holdfast_seal::ManifestObject;
use holdfast_store::sealed::{CopyError, store_compressed};
use holdfast_store::{LineageScope, ObjectName, ObjectPrefix, OwnedKey, RepositoryPath, Store};
use tokio::io::AsyncRead;

use crate::error::AgentError;
use crate::instances::Local;
use crate::{Agent, disk};

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
    let record = local.record();
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
        objects: Mutex::default(),
    };
    progress.phase("copying");
    let request = StreamBackupRequest { method: &input.method };
    let made = driver.backup(&record.instance, &request, &sink, progress).await;
    let made = made.map_err(|error| local.lineage.explained("back up the instance", error))?;
    let objects = sink.objects.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);

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
    confirm(agent, local, input, &objects).await?;
    let facts = BackupFacts {
        tool_label: input.backup_id.to_string(),
        parent: None,
        log,
        consistent_at: made.consistent_at,
        stored_bytes: objects.iter().map(|object| object.sealed_bytes).sum(),
        database_bytes: made.database_bytes,
        manifest_sha256: String::new(),
        engine: made.facts,
        instead: made
            .instead
            .map(|instead| MethodInstead { method: instead.method.to_owned(), reason: instead.reason }),
    };
    Ok((facts, objects))
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
    let prefix =
        ObjectPrefix::BackupObjects { lineage: local.lineage.scope, backup: Some(input.backup_id.clone()) };
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
    objects: Mutex<Vec<ManifestObject>>,
}

#[async_trait]
impl BackupSink for Sink<'_> {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let doing = || format!("store {name} of the backup");
        let path = RepositoryPath::new(name)
            .map_err(|error| EngineError::Unexpected { doing: doing(), what: error.to_string() })?;
        let object = ObjectName::BackupObject {
            lineage: self.lineage,
            backup: self.input.backup_id.clone(),
            attempt: self.attempt,
            path,
        };
        let (read, stored) =
            store_compressed(self.store, &object, self.key, data).await.map_err(|error| match error {
                CopyError::Source(source) => EngineError::Io { doing: doing(), source },
                CopyError::Store(source) => EngineError::Store { doing: doing(), source: Box::new(source) },
            })?;
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(stored);
        Ok(read)
    }
}
