//! A base backup: a snapshot of all indices and of how the cluster is set up, made by the server into a repository on its own disk.
//!
//! The repository holds one snapshot, the newest: the one before it is removed as soon as there is another, and what stays is all that
//! the new one needs. Blobs go to the object store once, and later backups name them again; then their files are emptied
//! ([`super::repository`]).
//!
//! Source: OpenSearch 2.19 documentation, "Snapshot APIs".

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use holdfast_core::Timestamp;
use serde_json::{Value, json};

use super::client::Client;
use super::facts::{BLOBS, FILES, Facts};
use super::repository::{Found, Repository};
use super::{OpenSearch, disk, probe, process, users};
use crate::{BackupSink, EngineError, Instance, ProgressSink, Result, StreamBackup};

const DOING: &str = "make a snapshot";
/// The repository's name, and its folder's.
const NAME: &str = "holdfast";
/// The server's own: users and roles, which a copy has others of.
const OWN_INDEX: &str = ".opendistro_security";
/// How often a snapshot is begun anew that indices were deleted under.
const TRIES: u32 = 5;
const POLL: Duration = Duration::from_millis(200);
/// A snapshot of which nothing more was done for so long is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(600);
/// So many blobs are stored at once.
const AT_ONCE: usize = 8;
/// All files of a repository that are no blobs, together; more is a sign of something else.
const MOST_FILES_BYTES: u64 = 1 << 30;

impl OpenSearch {
    pub(super) async fn snapshot(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        progress.phase("preparing");
        let client = Client::new(instance)?;
        let repository = Repository::new(instance, NAME);
        let shared: BTreeSet<String> = sink.shared().into_iter().collect();
        let database_bytes = probe::bytes(&client).await?;
        prepare(instance, &client, &repository, &shared, database_bytes).await?;
        progress.phase("making a snapshot");
        let made = made(&client, progress).await?;
        let consistent_at = Timestamp::now();
        let closed = closed(&client, &made.indices).await?;
        keep_only(&client, &made.name).await?;
        progress.phase("storing the snapshot");
        let files = repository.files()?;
        let blobs: Vec<&Found> = files.iter().filter(|file| file.is_blob()).collect();
        store_blobs(&repository, &blobs, &shared, sink, progress).await?;
        let small = small_files(&repository, &files)?;
        sink.store(FILES, &mut small.as_slice()).await?;
        for blob in &blobs {
            repository.empty(&blob.name).map_err(EngineError::io(format!("empty {}", blob.name)))?;
        }
        let facts = Facts {
            version: process::release(&client).await?,
            at: consistent_at,
            snapshot: made.name,
            indices: made.indices,
            data_streams: made.data_streams,
            closed,
            shards: made.shards,
            blobs: blobs.len() as u64,
            bytes: database_bytes,
        };
        let facts = serde_json::to_value(facts).expect("facts have only string keys");
        Ok(StreamBackup { consistent_at, database_bytes, facts, instead: None })
    }
}

/// Sees to it that the repository is registered; an empty one where what it lacks is not in the object store, as after a backup that
/// failed.
async fn prepare(
    instance: &Instance,
    client: &Client,
    repository: &Repository,
    shared: &BTreeSet<String>,
    database_bytes: u64,
) -> Result<()> {
    const DOING: &str = "register the repository";
    let path = format!("/_snapshot/{NAME}");
    let is_missing = |file: &Found| file.is_blob() && file.bytes == 0 && !shared.contains(&blob_name(file));
    let files = repository.files()?;
    let anew = files.is_empty() || files.iter().any(is_missing);
    let wanted = json!({
        "location": repository.path(),
        "compress": "true",
        "max_snapshot_bytes_per_sec": "0",
        "max_restore_bytes_per_sec": "0",
    });
    let known = client.get(DOING, "/_snapshot").await?;
    if !anew && known[NAME]["settings"] == wanted {
        return Ok(());
    }
    disk::past_block(instance, client, async {
        if anew {
            client.delete("give the repository up", &path).await?;
            repository.remove()?;
            require_room(instance, database_bytes)?;
        }
        client.put(DOING, &path, json!({"type": "fs", "settings": wanted})).await.map(drop)
    })
    .await
}

/// A first snapshot lies on the disk as a whole, beside the indices.
fn require_room(instance: &Instance, needed: u64) -> Result<()> {
    let space =
        holdfast_store::space_of(&instance.folder).map_err(EngineError::io("look at the instance's disk"))?;
    let room = space.room_bytes();
    if room >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(EngineError::Unfit {
        doing: DOING.to_owned(),
        what: format!(
            "a first one needs {} MiB beside the indices, and the instance's disk has room for {} MiB; make room",
            mib(needed),
            mib(room)
        ),
    })
}

fn blob_name(file: &Found) -> String {
    format!("{BLOBS}{}", file.name)
}

/// A finished snapshot.
struct Made {
    name: String,
    indices: Vec<String>,
    data_streams: Vec<String>,
    shards: u64,
}

async fn made(client: &Client, progress: &ProgressSink) -> Result<Made> {
    for tried in 1.. {
        let name = format!("s-{}", uuid::Uuid::new_v4());
        match one(client, &name, progress).await? {
            Ok(made) => return Ok(made),
            Err(why) if tried < TRIES => tracing::info!(why, tried, "the snapshot is made anew"),
            Err(why) => return Err(unexpected(why)),
        }
        client.delete("remove a snapshot that is not whole", &format!("/_snapshot/{NAME}/{name}")).await?;
    }
    unreachable!("the last try returns")
}

/// A whole snapshot, or why it is none.
async fn one(
    client: &Client,
    name: &str,
    progress: &ProgressSink,
) -> Result<std::result::Result<Made, String>> {
    let path = format!("/_snapshot/{NAME}/{name}");
    let wanted = json!({
        "indices": format!("*,-{OWN_INDEX}"),
        "include_global_state": true,
        "expand_wildcards": "all",
        "ignore_unavailable": false,
        "partial": false,
    });
    client.put(DOING, &path, wanted).await?;
    let (mut moved_at, mut was) = (std::time::Instant::now(), 0);
    let told = loop {
        let told = client.get(DOING, &path).await?;
        let told = told["snapshots"][0].clone();
        if told["state"] != "IN_PROGRESS" {
            break told;
        }
        let status = client.get(DOING, &format!("{path}/_status")).await?;
        let stats = &status["snapshots"][0]["stats"];
        let number = |of: &str| stats[of]["size_in_bytes"].as_u64().unwrap_or(0);
        let (done, total) = (number("processed"), number("incremental"));
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent(100.0 * done as f64 / total.max(1) as f64, Some(total));
        if done != was {
            (moved_at, was) = (std::time::Instant::now(), done);
        } else if moved_at.elapsed() > STALL_LIMIT {
            return Err(unexpected(format!("nothing was done of it for {} s", STALL_LIMIT.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    };
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    if told["state"] != "SUCCESS" || told["shards"]["failed"].as_u64() != Some(0) {
        return Ok(Err(format!("its state is {}: {} {}", told["state"], told["reason"], told["failures"])));
    }
    Ok(Ok(Made {
        name: name.to_owned(),
        indices: texts(&told["indices"]),
        data_streams: texts(&told["data_streams"]),
        shards: told["shards"]["total"].as_u64().unwrap_or(0),
    }))
}

/// Which of these indices are closed. By the cluster's state, for an index may be blocked against being looked at.
async fn closed(client: &Client, indices: &[String]) -> Result<Vec<String>> {
    let path = "/_cluster/state/metadata?expand_wildcards=all&filter_path=metadata.indices.*.state";
    let told = client.get("list the indices", path).await?;
    let is_closed = |name: &&String| told["metadata"]["indices"][name.as_str()]["state"] == "close";
    Ok(indices.iter().filter(is_closed).cloned().collect())
}

fn unexpected(what: String) -> EngineError {
    EngineError::Unexpected { doing: DOING.to_owned(), what }
}

/// Removes all other snapshots, also those that were cut off, and what belongs to none.
async fn keep_only(client: &Client, name: &str) -> Result<()> {
    const DOING: &str = "remove the snapshots before it";
    let told = client.get(DOING, &format!("/_snapshot/{NAME}/_all")).await?;
    for other in told["snapshots"].as_array().into_iter().flatten() {
        if let Some(other) = other["snapshot"].as_str().filter(|other| *other != name) {
            client.delete(DOING, &format!("/_snapshot/{NAME}/{}", users::path_part(other))).await?;
        }
    }
    client.post(DOING, &format!("/_snapshot/{NAME}/_cleanup"), json!({})).await.map(drop)
}

async fn store_blobs(
    repository: &Repository,
    blobs: &[&Found],
    shared: &BTreeSet<String>,
    sink: &dyn BackupSink,
    progress: &ProgressSink,
) -> Result<()> {
    let mut new = Vec::new();
    for blob in blobs {
        let name = blob_name(blob);
        match shared.contains(&name) {
            true => sink.reuse(&name)?,
            false if blob.bytes == 0 => return Err(unexpected(format!("{name} is in no backup any more"))),
            false => new.push((*blob).clone()),
        }
    }
    let total: u64 = new.iter().map(|blob| blob.bytes).sum();
    let mut done = 0;
    let stored: Vec<_> = new.into_iter().map(|blob| store_blob(repository, blob, sink)).collect();
    let mut stored = stream::iter(stored).buffer_unordered(AT_ONCE);
    while let Some(bytes) = stored.try_next().await? {
        done += bytes;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent(100.0 * done as f64 / total.max(1) as f64, Some(total));
    }
    Ok(())
}

async fn store_blob(repository: &Repository, blob: Found, sink: &dyn BackupSink) -> Result<u64> {
    let name = blob_name(&blob);
    let file = repository.read(&blob.name).map_err(EngineError::io(format!("read {name}")))?;
    sink.share(&name, &mut tokio::fs::File::from_std(file)).await
}

fn small_files(repository: &Repository, files: &[Found]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for file in files.iter().filter(|file| !file.is_blob()) {
        let mut content = Vec::new();
        let mut read = || repository.read(&file.name)?.take(MOST_FILES_BYTES).read_to_end(&mut content);
        read().map_err(EngineError::io(format!("read {}", file.name)))?;
        if all.len() as u64 + content.len() as u64 > MOST_FILES_BYTES {
            return Err(unexpected("the repository's own files are too long".to_owned()));
        }
        let name = u32::try_from(file.name.len()).unwrap_or(u32::MAX);
        all.extend_from_slice(&name.to_be_bytes());
        all.extend_from_slice(&(content.len() as u64).to_be_bytes());
        all.extend_from_slice(file.name.as_bytes());
        all.extend_from_slice(&content);
    }
    Ok(all)
}
