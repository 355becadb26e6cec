//! A base into a new node: the repository is laid down beside it, and the server restores its one snapshot. Nobody but the agent can log in
//! before all is there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;

use super::client::Client;
use super::facts::{BLOBS, FILES, Facts};
use super::repository::{Repository, is_name};
use super::{OpenSearch, disk, probe, process, users};
use crate::{EngineError, Instance, ProgressSink, RestoreSource, Result, StreamRestore, StreamRestored};

const DOING: &str = "restore the snapshot";
/// The repository's name, and its folder's: another than that of the copy's own backups.
const NAME: &str = "holdfast-restore";
const AT_ONCE: usize = 8;
const POLL: Duration = Duration::from_millis(200);
/// A restore of which nothing more was done for so long is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(600);
const LONGEST_FILE: u64 = 1 << 30;

impl OpenSearch {
    pub(super) async fn restore_instance(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        let facts: Facts = serde_json::from_value(request.facts.clone()).map_err(|error| {
            EngineError::Unexpected { doing: "read the backup's facts".to_owned(), what: error.to_string() }
        })?;
        progress.phase("making the node");
        let client = self.create_empty(instance).await?;
        let engine_version = process::release(&client).await?;
        refuse_other(&engine_version, &facts)?;
        progress.phase("laying the snapshot");
        let repository = Repository::new(instance, NAME);
        repository.remove()?;
        lay(instance, &repository, source, facts.bytes, progress).await?;
        progress.phase("restoring the indices");
        let settings =
            json!({"location": repository.path(), "readonly": true, "max_restore_bytes_per_sec": "0"});
        let register = json!({"type": "fs", "settings": settings});
        client.put("register the repository", &format!("/_snapshot/{NAME}"), register).await?;
        restore(&client, &facts, progress).await?;
        progress.phase("setting up the node");
        disk::block(&client, Value::Null).await?; // the source's disk may have been full
        close(&client, &facts.closed).await?;
        client.delete("give the repository up", &format!("/_snapshot/{NAME}")).await?;
        repository.remove()?;
        users::put(&client, request.users).await?;
        let position = format!(
            "{} indices, {} data streams, {} shards",
            facts.indices.len(),
            facts.data_streams.len(),
            facts.shards
        );
        Ok(StreamRestored { engine_version, reached: facts.at, position, left_out: Vec::new() })
    }
}

/// A release reads snapshots of its own major and of the one before it, never of a newer one.
fn refuse_other(version: &str, facts: &Facts) -> Result<()> {
    let (copy, source) = (process::numbers(version), process::numbers(&facts.version));
    if copy >= source && copy.0 <= source.0 + 1 {
        return Ok(());
    }
    Err(EngineError::Unfit {
        doing: format!("restore into OpenSearch {version}"),
        what: format!(
            "the backup was made by {}; choose that release, or a newer one of that major or the next",
            facts.version
        ),
    })
}

async fn lay(
    instance: &Instance,
    repository: &Repository,
    source: &dyn RestoreSource,
    total: u64,
    progress: &ProgressSink,
) -> Result<()> {
    small_files(instance, repository, source).await?;
    let names = source.names();
    let blobs = names.into_iter().filter(|name| name.starts_with(BLOBS));
    let laid: Vec<_> = blobs.map(|name| lay_blob(instance, repository, name, source)).collect();
    let mut laid = stream::iter(laid).buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some(bytes) = laid.try_next().await? {
        done += bytes;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent((100.0 * done as f64 / total.max(1) as f64).min(100.0), Some(total));
    }
    Ok(())
}

async fn lay_blob(
    instance: &Instance,
    repository: &Repository,
    name: String,
    source: &dyn RestoreSource,
) -> Result<u64> {
    let path = name.strip_prefix(BLOBS).unwrap_or_default();
    if !is_name(path) {
        return Err(damaged(format!("a blob is called {path:?}")));
    }
    let mut data = source.read(&name).await?;
    let failed = |error| not_written(error, path);
    let file = repository.create(path, instance.run_as.as_ref()).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let bytes = tokio::io::copy(&mut data, &mut file).await.map_err(failed)?;
    tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)?;
    Ok(bytes)
}

async fn small_files(instance: &Instance, repository: &Repository, source: &dyn RestoreSource) -> Result<()> {
    let failed = |error: std::io::Error| EngineError::io("read the snapshot's files")(error);
    let mut data = source.read(FILES).await?;
    loop {
        let name_bytes = match data.read_u32().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            length => length.map_err(failed)?,
        };
        let bytes = data.read_u64().await.map_err(failed)?;
        if name_bytes > 4096 || bytes > LONGEST_FILE {
            return Err(damaged(format!("a file of {bytes} bytes with a name of {name_bytes}")));
        }
        let mut name = vec![0; name_bytes as usize];
        data.read_exact(&mut name).await.map_err(failed)?;
        let name = String::from_utf8(name).map_err(|error| damaged(error.to_string()))?;
        if !is_name(&name) {
            return Err(damaged(format!("a file is called {name:?}")));
        }
        let mut content = Vec::new();
        (&mut data).take(bytes).read_to_end(&mut content).await.map_err(failed)?;
        if content.len() as u64 != bytes {
            return Err(damaged(format!("{name} is cut off")));
        }
        let file = repository.create(&name, instance.run_as.as_ref());
        let write = file.and_then(|mut file| std::io::Write::write_all(&mut file, &content));
        write.map_err(|error| not_written(error, &name))?;
    }
}

fn damaged(what: String) -> EngineError {
    EngineError::Damaged { doing: "lay the snapshot".to_owned(), what }
}

fn not_written(error: std::io::Error, name: &str) -> EngineError {
    let doing = format!("write {name}");
    match error.kind() {
        std::io::ErrorKind::StorageFull => EngineError::DiskFull { doing, what: error.to_string() },
        _ => EngineError::io(doing)(error),
    }
}

/// Has the server restore, and holds what came against what the backup has.
async fn restore(client: &Client, facts: &Facts, progress: &ProgressSink) -> Result<()> {
    let path =
        format!("/_snapshot/{NAME}/{}/_restore?wait_for_completion=true", users::path_part(&facts.snapshot));
    let wanted =
        json!({"indices": "*", "include_global_state": true, "include_aliases": true, "partial": false});
    let restoring = client.send_for_long(Method::POST, &path, Some(wanted));
    tokio::pin!(restoring);
    let (mut moved_at, mut was) = (Instant::now(), 0);
    let told = loop {
        tokio::select! {
            told = &mut restoring => break told.map_err(EngineError::client(DOING))?,
            () = tokio::time::sleep(POLL) => {}
        }
        let done = probe::bytes(client).await?;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent((100.0 * done as f64 / facts.bytes.max(1) as f64).min(99.0), Some(facts.bytes));
        if done != was {
            (moved_at, was) = (Instant::now(), done);
        } else if moved_at.elapsed() > STALL_LIMIT {
            let what = format!("nothing was done of it for {} s", STALL_LIMIT.as_secs());
            return Err(EngineError::Unexpected { doing: DOING.to_owned(), what });
        }
    };
    let shards = &told["snapshot"]["shards"];
    let found: BTreeSet<&str> = texts(&told["snapshot"]["indices"]).collect();
    let expected: BTreeSet<&str> = facts.indices.iter().map(String::as_str).collect();
    if shards["failed"].as_u64() == Some(0)
        && shards["total"].as_u64() == Some(facts.shards)
        && found == expected
    {
        return Ok(());
    }
    let what = format!(
        "{} of {} shards came, of {} of {} indices",
        shards["successful"],
        facts.shards,
        found.len(),
        expected.len()
    );
    Err(EngineError::Differs { doing: DOING.to_owned(), what })
}

/// Closes the indices that were closed at the source. What is blocked on one keeps it from being closed, too, so that is lifted meanwhile.
async fn close(client: &Client, indices: &[String]) -> Result<()> {
    const DOING: &str = "close an index";
    let path =
        "/_cluster/state/metadata?expand_wildcards=all&filter_path=metadata.indices.*.settings.index.blocks";
    let told = client.get(DOING, path).await?;
    for index in indices {
        let blocks = told["metadata"]["indices"][index]["settings"]["index"]["blocks"].as_object();
        let blocks: Map<String, Value> = blocks
            .into_iter()
            .flatten()
            .map(|(name, value)| (format!("index.blocks.{name}"), value.clone()))
            .collect();
        let none: Map<String, Value> = blocks.keys().map(|name| (name.clone(), Value::Null)).collect();
        let path = users::path_part(index);
        let settings = format!("/{path}/_settings");
        if !blocks.is_empty() {
            client.put(DOING, &settings, none.into()).await?;
        }
        client.post(DOING, &format!("/{path}/_close"), json!({})).await?;
        if !blocks.is_empty() {
            client.put(DOING, &settings, blocks.into()).await?;
        }
    }
    Ok(())
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
