//! The base: a dump in `mongodump`'s directory format, with the oplog of the time it took, so that it is consistent by itself.
//!
//! `<database>/<collection>.bson` and `<collection>.metadata.json` for each collection, `oplog.bson` at the end. Collections are
//! read one after the other while the database goes on; replaying the oplog from before the first to behind the last makes
//! them one state.

use std::collections::BTreeMap;
use std::future::ready;

use bson::{Bson, Document, RawDocumentBuf, doc};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use mongodb::options::CollectionOptions;
use mongodb::results::{CollectionSpecification, CollectionType};
use mongodb::{Client, Cursor};
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;

use super::Mongodb;
use super::client::{NAMESPACE_NOT_FOUND, admin, is_code};
use super::config::Account;
use super::oplog::{self, Counter, Mark};
use super::replay::{Namespace, Stamp};
use super::verify::Fingerprint;
use crate::{BackupSink, EngineError, Instance, ProgressSink, Result, StreamBackup};

pub(super) const OPLOG: &str = "oplog.bson";
pub(super) const USERS: &str = "admin/system.users.bson";
pub(super) const ROLES: &str = "admin/system.roles.bson";
const PIECE_BYTES: usize = 256 << 10;

/// The driver's facts of a base, kept for ten years. Only ever add fields that may be missing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    pub engine_version: String,
    /// Where replaying begins, and the last entry of `oplog.bson`.
    pub start: Stamp,
    pub last: Mark,
    /// By object name; of what the dump holds, before its oplog is replayed.
    pub fingerprints: BTreeMap<String, Fingerprint>,
}

/// A collection's metadata as `mongodump` writes them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub options: Document,
    #[serde(default)]
    pub indexes: Vec<Document>,
    #[serde(default)]
    pub uuid: String,
    #[serde(rename = "collectionName", default)]
    pub collection_name: String,
    #[serde(rename = "type", default)]
    pub kind: String,
}

impl Mongodb {
    pub(super) async fn dump(
        &self,
        instance: &Instance,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        let client = self.clients.get(instance, Account::Reader)?;
        progress.phase("copying collections");
        let start = start_stamp(&client).await?;
        let database_bytes = self.size(instance).await?;
        let mut fingerprints = BTreeMap::new();
        let mut copied = 0;
        for namespace in collections(&client).await? {
            let (namespace, spec) = namespace;
            store_metadata(&client, sink, &namespace, &spec).await?;
            if !matches!(spec.collection_type, CollectionType::View | CollectionType::Timeseries) {
                let name = format!("{}.bson", object_name(&namespace));
                let fingerprint = store_documents(&client, sink, &namespace, &spec, &name).await?;
                copied += fingerprint.bytes;
                fingerprints.insert(name, fingerprint);
            }
            progress.percent(percent(copied, database_bytes), Some(database_bytes));
        }
        store_users(&client, sink).await?;
        progress.phase("copying the oplog");
        let copied_log = store_oplog(&client, sink, start).await?;
        let facts = Facts {
            engine_version: self.server_version(instance).await?,
            start,
            last: copied_log.last,
            fingerprints,
        };
        Ok(StreamBackup {
            // The first instant behind every entry of the base.
            consistent_at: super::instant(copied_log.newest_wall_ms + 1)?,
            database_bytes: copied.max(database_bytes),
            facts: serde_json::to_value(&facts).expect("plain data"),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn percent(done: u64, total: u64) -> f64 {
    if total == 0 { 99.0 } else { (done as f64 * 100.0 / total as f64).min(99.0) }
}

/// The newest entry, or the first one of the oldest transaction that is open: its operations may be committed later.
async fn start_stamp(client: &Client) -> Result<Stamp> {
    let newest = oplog::tip(client).await?.ts;
    let open = client
        .database("config")
        .collection::<Document>("transactions")
        .find(doc! { "state": { "$in": ["prepared", "inProgress"] } })
        .await
        .map_err(EngineError::mongo("look for open transactions"))?;
    let open: Vec<Document> =
        open.try_collect().await.map_err(EngineError::mongo("look for open transactions"))?;
    let started =
        open.iter().filter_map(|one| one.get_document("startOpTime").ok()?.get_timestamp("ts").ok());
    Ok(started.map(Stamp::from).chain([newest]).min().expect("the newest is there"))
}

/// All collections and views that a restore makes, in a fixed order.
async fn collections(client: &Client) -> Result<Vec<(Namespace, CollectionSpecification)>> {
    let doing = "list the collections";
    let list = admin(client, doc! { "listDatabases": 1, "nameOnly": true }, "list the databases").await?;
    let databases = list.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<&str> =
        databases.iter().filter_map(|database| database.as_document()?.get_str("name").ok()).collect();
    names.sort_unstable();
    let mut all = Vec::new();
    for database in names.into_iter().filter(|name| !matches!(*name, "local" | "config")) {
        let specs = client.database(database).list_collections().await.map_err(EngineError::mongo(doing))?;
        let specs: Vec<CollectionSpecification> =
            specs.try_collect().await.map_err(EngineError::mongo(doing))?;
        for spec in specs {
            let namespace = Namespace::new(database, &spec.name);
            // Views are described by what is listed.
            if !namespace.is_internal() && spec.name != "system.views" {
                all.push((namespace, spec));
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}

/// The name of a collection's objects, without their ending. Collections may have slashes in their names.
pub(super) fn object_name(namespace: &Namespace) -> String {
    let collection = namespace.collection.replace('%', "%25").replace('/', "%2F");
    format!("{}/{collection}", namespace.database)
}

async fn store_metadata(
    client: &Client,
    sink: &dyn BackupSink,
    namespace: &Namespace,
    spec: &CollectionSpecification,
) -> Result<()> {
    let is_bucket = namespace.collection.starts_with("system.buckets.");
    if is_bucket {
        return Ok(()); // described by its time-series collection
    }
    let view = spec.collection_type == CollectionType::View;
    let indexes = if view { Vec::new() } else { indexes(client, namespace).await? };
    let options = bson::serialize_to_document(&spec.options).unwrap_or_default();
    let options = raw_options(client, namespace).await?.unwrap_or(options);
    let kind = match spec.collection_type {
        CollectionType::View => "view",
        CollectionType::Timeseries => "timeseries",
        _ if options.contains_key("timeseries") => "timeseries",
        _ => "collection",
    };
    let uuid = spec.info.uuid.as_ref().map(|uuid| hex::encode(&uuid.bytes)).unwrap_or_default();
    let metadata = doc! {
        "options": options, "indexes": indexes, "uuid": uuid, "collectionName": &namespace.collection, "type": kind,
    };
    let mut text = String::new();
    write_extended(&mut text, metadata.into());
    sink.store(&format!("{}.metadata.json", object_name(namespace)), &mut text.as_bytes()).await.map(drop)
}

/// Canonical extended JSON, with fields in their order: that of an index's key means something, and `serde_json` sorts.
fn write_extended(text: &mut String, value: Bson) {
    let mut first = true;
    let mut separate = |text: &mut String| {
        if !std::mem::take(&mut first) {
            text.push(',');
        }
    };
    match value {
        Bson::Document(document) => {
            text.push('{');
            for (name, value) in document {
                separate(text);
                text.push_str(&serde_json::Value::from(name).to_string());
                text.push(':');
                write_extended(text, value);
            }
            text.push('}');
        }
        Bson::Array(values) => {
            text.push('[');
            for value in values {
                separate(text);
                write_extended(text, value);
            }
            text.push(']');
        }
        other => text.push_str(&other.into_canonical_extjson().to_string()),
    }
}

/// The options as the server has them, with those that the driver's types do not know.
async fn raw_options(client: &Client, namespace: &Namespace) -> Result<Option<Document>> {
    let command = doc! { "listCollections": 1, "filter": { "name": &namespace.collection } };
    let answer = client
        .database(&namespace.database)
        .run_command(command)
        .await
        .map_err(EngineError::mongo("list the collections"))?;
    let first = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let first = first.ok().and_then(|batch| batch.first()).and_then(Bson::as_document);
    Ok(first.and_then(|one| one.get_document("options").ok()).cloned())
}

async fn indexes(client: &Client, namespace: &Namespace) -> Result<Vec<Document>> {
    let doing = || format!("list the indexes of {namespace}");
    let command = doc! { "listIndexes": &namespace.collection, "cursor": { "batchSize": 1000 } };
    match client.database(&namespace.database).run_command(command).await {
        Ok(answer) => {
            let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
            let batch =
                batch.map_err(|error| EngineError::Unexpected { doing: doing(), what: error.to_string() })?;
            Ok(batch.iter().filter_map(Bson::as_document).cloned().collect())
        }
        // It is gone meanwhile, as the oplog will say.
        Err(error) if is_code(&error, &[NAMESPACE_NOT_FOUND]) => Ok(Vec::new()),
        Err(error) => Err(EngineError::mongo(doing())(error)),
    }
}

async fn store_documents(
    client: &Client,
    sink: &dyn BackupSink,
    namespace: &Namespace,
    spec: &CollectionSpecification,
    name: &str,
) -> Result<Fingerprint> {
    let doing = || format!("copy {namespace}");
    let cursor = open_collection(client, namespace, spec).await.map_err(EngineError::mongo(doing()))?;
    let mut fingerprint = Fingerprint::default();
    let mut failed = None;
    {
        let documents = cursor.take_while(|document| {
            failed = document.as_ref().err().cloned();
            ready(failed.is_none())
        });
        let documents = documents.filter_map(|document| ready(document.ok()));
        let mut reader = StreamReader::new(pieces(documents, |document| fingerprint.add(document)));
        sink.store(name, &mut reader).await?;
    }
    match failed {
        None => Ok(fingerprint),
        // A collection that was dropped meanwhile: the oplog says so, and a replay drops what was copied.
        Some(_) if was_dropped(client, namespace, spec).await? => Ok(fingerprint),
        Some(error) => Err(EngineError::mongo(doing())(error)),
    }
}

/// In the order of `_id` where there is an index for it: so no document comes twice, however it is deleted and made again.
/// Only what a majority has is read: the oplog is copied up to there afterwards, and must not end before what was read.
async fn open_collection(
    client: &Client,
    namespace: &Namespace,
    spec: &CollectionSpecification,
) -> mongodb::error::Result<Cursor<RawDocumentBuf>> {
    let majority =
        CollectionOptions::builder().read_concern(mongodb::options::ReadConcern::majority()).build();
    let database = client.database(&namespace.database);
    let collection = database.collection_with_options::<RawDocumentBuf>(&namespace.collection, majority);
    let natural = spec.options.capped == Some(true)
        || spec.options.clustered_index.is_some()
        || spec.id_index.is_none()
        || namespace.collection.starts_with("system.buckets.");
    let find = collection.find(doc! {}).no_cursor_timeout(true);
    if natural {
        find.sort(doc! { "$natural": 1 }).await
    } else {
        find.hint(mongodb::options::Hint::Name("_id_".to_owned())).await
    }
}

async fn was_dropped(client: &Client, namespace: &Namespace, spec: &CollectionSpecification) -> Result<bool> {
    let doing = "list the collections";
    let database = client.database(&namespace.database);
    let found: Vec<CollectionSpecification> = database
        .list_collections()
        .filter(doc! { "name": &namespace.collection })
        .await
        .map_err(EngineError::mongo(doing))?
        .try_collect()
        .await
        .map_err(EngineError::mongo(doing))?;
    Ok(found.first().is_none_or(|now| now.info.uuid != spec.info.uuid))
}

/// Documents as pieces of bytes; each passes `see`.
fn pieces(
    documents: impl Stream<Item = RawDocumentBuf>,
    mut see: impl FnMut(&[u8]),
) -> impl Stream<Item = std::io::Result<Bytes>> {
    let documents = Box::pin(documents.ready_chunks(512));
    documents.map(move |chunk| {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        for document in chunk {
            see(document.as_bytes());
            piece.extend_from_slice(document.as_bytes());
        }
        Ok(piece.freeze())
    })
}

/// Users and roles that tenants made; the agent's own are the instance's.
async fn store_users(client: &Client, sink: &dyn BackupSink) -> Result<()> {
    for (collection, name) in [("system.users", USERS), ("system.roles", ROLES)] {
        let doing = format!("copy the database's users ({collection})");
        let found = client.database("admin").collection::<RawDocumentBuf>(collection).find(doc! {}).await;
        let all: Vec<RawDocumentBuf> = found
            .map_err(EngineError::mongo(&doing))?
            .try_collect()
            .await
            .map_err(EngineError::mongo(&doing))?;
        let kept = all.iter().filter(|one| !one.get_str("user").is_ok_and(Account::is_ours));
        let bytes: Vec<u8> = kept.flat_map(|one| one.as_bytes().iter().copied()).collect();
        sink.store(name, &mut bytes.as_slice()).await?;
    }
    Ok(())
}

struct CopiedLog {
    last: Mark,
    newest_wall_ms: i64,
}

/// The oplog from `start` to behind everything that was copied.
async fn store_oplog(client: &Client, sink: &dyn BackupSink, start: Stamp) -> Result<CopiedLog> {
    let end = oplog::tip(client).await?.ts;
    let doing = "copy the oplog";
    let cursor = oplog::open(client, start, Some(end)).await?;
    let mut counter = Counter::default();
    let (mut first, mut last, mut newest_wall_ms, mut renamed, mut failed) =
        (None, None, i64::MIN, None, None);
    {
        let entries =
            cursor.map(|document| document.map_err(EngineError::mongo(doing)).and_then(oplog::entry));
        let entries = entries.filter_map(|entry| {
            let kept = match entry {
                Ok(entry) => {
                    first.get_or_insert(entry.stamp());
                    last = Some(counter.mark(&entry));
                    newest_wall_ms = newest_wall_ms.max(entry.wall_ms());
                    if entry.renames() {
                        renamed = Some(entry.stamp());
                    }
                    RawDocumentBuf::from_bytes(entry.bytes().to_vec()).ok()
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            };
            ready(kept)
        });
        sink.store(OPLOG, &mut StreamReader::new(pieces(entries, |_| {}))).await?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let again = |what: String| EngineError::Unexpected { doing: doing.to_owned(), what };
    if let Some(at) = renamed {
        return Err(again(format!(
            "a collection was renamed meanwhile (at {at}); the backup has to be made again"
        )));
    }
    match (first, last) {
        (Some(first), Some(last)) if first == start && last.ts == end => {
            Ok(CopiedLog { last, newest_wall_ms })
        }
        _ => Err(again(format!("the server's oplog does not reach from {start} to {end} any more"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keep_the_order_of_fields() {
        let index = doc! { "v": 2, "key": { "z": 1, "a": -1.5 }, "name": "n\"" };
        let mut text = String::new();
        write_extended(&mut text, doc! { "indexes": [index.clone(), 1_i64], "options": {} }.into());
        let expected = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"z":{"$numberInt":"1"},"a":{"$numberDouble":"-1.5"}},"name":"n\""},{"$numberLong":"1"}],"options":{}}"#;
        assert_eq!(text, expected);
        let back: Document = serde_json::from_str(&text).expect("extended JSON");
        assert_eq!(back.get_array("indexes").expect("an array")[0], Bson::Document(index));
    }
}
