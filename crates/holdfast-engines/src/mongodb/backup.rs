//! The base: a dump in `mongodump`'s directory format, with the oplog of the time it took, so that it is consistent by itself.
//!
//! `<database>/<collection>.bson` and `<collection>.metadata.json` for each collection, `oplog.bson` at the end. Collections are
//! read one after the other while the database goes on; replaying the oplog from before the first to behind the last makes
//! them one state.

use std::collections::BTreeMap;
use std::future::ready;

use bson::{Document, RawDocument, RawDocumentBuf, doc};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mongodb::Client;
use mongodb::options::CollectionOptions;
use mongodb::raw_batch_cursor::RawBatchCursor;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::Mongodb;
use super::config::Account;
use super::listing::{self, Listed};
use super::oplog::{self, Counter, Mark};
use super::renames::{self, Copies};
use super::replay::{Stamp, Value};
use super::verify::Fingerprint;
use crate::{BackupSink, EngineError, Instance, ProgressSink, Result, StreamBackup};

/// What each collection is, in its own bytes (`docs/engines/mongodb.md`); bases of before 2026-12 have it as JSON alone.
pub(super) const CATALOG: &str = "catalog.bson";
pub(super) const OPLOG: &str = "oplog.bson";
pub(super) const USERS: &str = "admin/system.users.bson";
pub(super) const ROLES: &str = "admin/system.roles.bson";
const PIECE_BYTES: usize = 256 << 10;
/// As much as one answer of the server's (16 MiB), so that it can send the next one meanwhile.
const PIECES_AHEAD: usize = 64;

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
        let (mut catalog, mut copies) = (Vec::new(), Copies::new());
        for listed in listing::all(&client).await? {
            let indexes = listed.indexes(&client).await?;
            catalog.extend_from_slice(listed.record(&indexes)?.as_bytes());
            if let Some(text) = listed.metadata_json(&indexes) {
                let name = format!("{}.metadata.json", listed.object);
                sink.store(&name, &mut text.as_bytes()).await?;
            }
            if listed.has_documents() {
                let name = format!("{}.bson", listed.object);
                let fingerprint = store_documents(&client, sink, &listed, &name).await?;
                copied += fingerprint.bytes;
                fingerprints.insert(name, fingerprint);
                if let Some(uuid) = listed.uuid.as_ref().and_then(Value::binary) {
                    copies.insert(uuid.to_vec(), oplog::applied(&client).await?);
                }
            }
            progress.percent(percent(copied, database_bytes), Some(database_bytes));
        }
        sink.store(CATALOG, &mut catalog.as_slice()).await?;
        store_users(&client, sink).await?;
        progress.phase("copying the oplog");
        let copied_log = store_oplog(&client, sink, start, &copies).await?;
        let facts = Facts {
            engine_version: self.server_version(instance).await?,
            start: copied_log.start,
            last: copied_log.last,
            fingerprints,
        };
        Ok(StreamBackup {
            // The first instant behind every entry of the base.
            consistent_at: super::instant(copied_log.newest_wall_ms + 1)?,
            database_bytes: copied.max(database_bytes),
            facts: serde_json::to_value(&facts).expect("plain data"),
            instead: None,
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
        .map_err(EngineError::client("look for open transactions"))?;
    let open: Vec<Document> =
        open.try_collect().await.map_err(EngineError::client("look for open transactions"))?;
    let started =
        open.iter().filter_map(|one| one.get_document("startOpTime").ok()?.get_timestamp("ts").ok());
    Ok(started.map(Stamp::from).chain([newest]).min().expect("the newest is there"))
}

/// The server sends the next documents while those before are compressed and sealed.
async fn store_documents(
    client: &Client,
    sink: &dyn BackupSink,
    listed: &Listed,
    name: &str,
) -> Result<Fingerprint> {
    let doing = || format!("copy {}", listed.namespace);
    let cursor = open_collection(client, listed).await.map_err(EngineError::client(doing()))?;
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let reading = AbortOnDropHandle::new(tokio::spawn(read_ahead(cursor, sender)));
    let pieces = stream::unfold(pieces, async |mut pieces| {
        let piece: Bytes = pieces.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), pieces))
    });
    sink.store(name, &mut StreamReader::new(Box::pin(pieces))).await?;
    let (fingerprint, read) =
        reading.await.map_err(|error| EngineError::Unexpected { doing: doing(), what: error.to_string() })?;
    match read {
        Ok(()) => Ok(fingerprint),
        // A collection that was dropped meanwhile: the oplog says so, and a replay drops what was copied.
        Err(_) if listed.was_dropped(client).await? => Ok(fingerprint),
        Err(error) => Err(EngineError::client(doing())(error)),
    }
}

/// Hands over all documents, or those before an error, in pieces.
async fn read_ahead(
    mut cursor: RawBatchCursor,
    pieces: mpsc::Sender<Bytes>,
) -> (Fingerprint, mongodb::error::Result<()>) {
    let mut fingerprint = Fingerprint::default();
    let read = async {
        while let Some(batch) = cursor.try_next().await? {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            for document in batch.doc_slices()? {
                let document = document.map_err(mongodb::error::Error::custom)?;
                let bytes = document
                    .as_document()
                    .map(RawDocument::as_bytes)
                    .ok_or_else(|| mongodb::error::Error::custom("it is no document"))?;
                fingerprint.add(bytes);
                piece.extend_from_slice(bytes);
                if piece.len() >= PIECE_BYTES && pieces.send(piece.split().freeze()).await.is_err() {
                    return Ok(()); // nobody wants them any more
                }
            }
            if !piece.is_empty() && pieces.send(piece.freeze()).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let read = read.await;
    (fingerprint, read)
}

/// In the order of `_id` where there is an index for it: so no document comes twice, however it is deleted and made again.
/// Only what a majority has is read: the oplog is copied up to there afterwards, and must not end before what was read.
///
/// A tenant can make the server overlook the hint for queries of a shape (`planCacheSetFilter`; manual, "Index Filters"), so the
/// shape is one that nobody knows: a field that no document has is asked for.
async fn open_collection(client: &Client, listed: &Listed) -> mongodb::error::Result<RawBatchCursor> {
    let majority =
        CollectionOptions::builder().read_concern(mongodb::options::ReadConcern::majority()).build();
    let namespace = &listed.namespace;
    let database = client.database(&namespace.database);
    let collection = database.collection_with_options::<RawDocumentBuf>(&namespace.collection, majority);
    if listed.has_id_index {
        let unknown = format!("holdfast {}", hex::encode(rand::random::<[u8; 12]>()));
        let find = collection.find(doc! { unknown: { "$exists": false } }).no_cursor_timeout(true);
        find.hint(mongodb::options::Hint::Name("_id_".to_owned())).batch().await
    } else {
        collection.find(doc! {}).no_cursor_timeout(true).sort(doc! { "$natural": 1 }).batch().await
    }
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
            .map_err(EngineError::client(&doing))?
            .try_collect()
            .await
            .map_err(EngineError::client(&doing))?;
        let is_ours = |one: &RawDocumentBuf| {
            one.get_str("user").is_ok_and(Account::is_ours) && one.get_str("db").is_ok_and(|db| db == "admin")
        };
        let kept = all.iter().filter(|one| !is_ours(one));
        let bytes: Vec<u8> = kept.flat_map(|one| one.as_bytes().iter().copied()).collect();
        sink.store(name, &mut bytes.as_slice()).await?;
    }
    Ok(())
}

struct CopiedLog {
    start: Stamp,
    last: Mark,
    newest_wall_ms: i64,
}

/// The oplog from `start` to behind everything that was copied.
async fn store_oplog(
    client: &Client,
    sink: &dyn BackupSink,
    start: Stamp,
    copies: &Copies,
) -> Result<CopiedLog> {
    let end = oplog::tip(client).await?.ts;
    let start = renames::start_of_whole(client, start, end, copies).await?;
    let doing = "copy the oplog";
    let cursor = oplog::open(client, start, Some(end)).await?;
    let mut counter = Counter::default();
    let (mut first, mut last, mut newest_wall_ms, mut failed) = (None, None, i64::MIN, None);
    {
        let entries =
            cursor.map(|document| document.map_err(EngineError::client(doing)).and_then(oplog::entry));
        let entries = entries.filter_map(|entry| {
            let kept = match entry {
                Ok(entry) => {
                    first.get_or_insert(entry.stamp());
                    last = Some(counter.mark(&entry));
                    newest_wall_ms = newest_wall_ms.max(entry.wall_ms());
                    Some(entry.into_raw())
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
    match (first, last) {
        (Some(first), Some(last)) if first == start && last.ts == end => {
            Ok(CopiedLog { start, last, newest_wall_ms })
        }
        _ => Err(EngineError::Unexpected {
            doing: doing.to_owned(),
            what: format!("the server's oplog does not reach from {start} to {end} any more"),
        }),
    }
}
