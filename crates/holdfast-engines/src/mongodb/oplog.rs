//! Reads the server's oplog: its newest entry, a range of it, and where an entry was.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use mongodb::{Client, Collection, Cursor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::client::admin;
use super::replay::{Entry, Stamp};
use crate::{EngineError, LogCursor, Result};

/// SHA-256 of an entry's bytes.
pub(super) type Hash = [u8; 32];

pub(super) fn hash(entry: &Entry) -> Hash {
    Sha256::digest(entry.bytes()).into()
}

/// An entry, told from all others, also from one of the same timestamp on another server or before a rollback. As JSON it is
/// a [`LogCursor`]: `{"ts":{"t":…,"i":…},"nth":1,"sha256":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub ts: Stamp,
    /// Which one of the entries with this timestamp it is, from 1. mongod gives each its own.
    pub nth: usize,
    #[serde(with = "hex_hash")]
    pub sha256: Hash,
}

mod hex_hash {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(serde::de::Error::custom)?;
        Ok(hash)
    }
}

impl Mark {
    /// The mark of `entry`, which follows this one.
    pub(super) fn next(&self, entry: &Entry) -> Self {
        let nth = if entry.stamp() == self.ts { self.nth + 1 } else { 1 };
        Self { ts: entry.stamp(), nth, sha256: hash(entry) }
    }

    pub(super) fn cursor(&self) -> LogCursor {
        LogCursor(serde_json::to_value(self).expect("numbers and text"))
    }

    pub(super) fn parse(cursor: &LogCursor) -> Result<Self> {
        serde_json::from_value(cursor.0.clone()).map_err(|error| EngineError::Unexpected {
            doing: "read where the oplog's archive ends".to_owned(),
            what: error.to_string(),
        })
    }

    /// Index of the entry that the mark names in entries read from its timestamp on; `None` if it is not where it was.
    pub(super) fn find_in(&self, entries: &[Entry]) -> Option<usize> {
        let at = self.nth.checked_sub(1)?;
        let there = entries.get(at)?;
        (there.stamp() == self.ts && hash(there) == self.sha256).then_some(at)
    }
}

/// The marks of consecutive entries, of which the first has its timestamp to itself so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Counter(Option<(Stamp, usize)>);

impl Counter {
    /// Goes on behind this entry.
    pub(super) fn set(&mut self, mark: &Mark) {
        self.0 = Some((mark.ts, mark.nth));
    }

    pub(super) fn mark(&mut self, entry: &Entry) -> Mark {
        let nth = match self.0 {
            Some((ts, nth)) if ts == entry.stamp() => nth + 1,
            _ => 1,
        };
        self.0 = Some((entry.stamp(), nth));
        Mark { ts: entry.stamp(), nth, sha256: hash(entry) }
    }
}

/// The oplog, as far as a majority has it.
pub(super) fn collection(client: &Client) -> Collection<RawDocumentBuf> {
    let options =
        mongodb::options::CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
    client.database("local").collection_with_options("oplog.rs", options)
}

/// The newest entry that the server has applied: at or behind all that was acknowledged, or seen, before this was asked.
pub(super) async fn applied(client: &Client) -> Result<Stamp> {
    let doing = "ask how far the server is";
    let hello = admin(client, doc! { "hello": 1 }, doing).await?;
    let newest = hello.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
    newest
        .and_then(|optime| optime.get_timestamp("ts"))
        .map(Stamp::from)
        .map_err(|error| EngineError::Unexpected { doing: doing.to_owned(), what: error.to_string() })
}

/// The newest entry, once a majority has all that was applied when this was called. None older comes any more.
pub(super) async fn tip(client: &Client) -> Result<Mark> {
    const ATTEMPTS: u32 = 300; // of a tenth of a second: a server that comes up writes its first entry at once
    let doing = "read the newest oplog entry";
    let applied = applied(client).await?;
    for _ in 0..ATTEMPTS {
        let newest = collection(client).find_one(doc! {}).sort(doc! { "$natural": -1 }).await;
        if let Some(newest) = newest.map_err(EngineError::client(doing))? {
            let entry = entry(newest)?;
            if entry.stamp() >= applied {
                return Ok(Counter::default().mark(&entry));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let what = format!("a majority does not reach {applied}");
    Err(EngineError::Unexpected { doing: doing.to_owned(), what })
}

/// A cursor over the entries from one timestamp to another, both included.
pub(super) async fn open(client: &Client, from: Stamp, to: Option<Stamp>) -> Result<Cursor<RawDocumentBuf>> {
    let mut bounds = doc! { "$gte": Bson::Timestamp(from.into()) };
    if let Some(to) = to {
        bounds.insert("$lte", Bson::Timestamp(to.into()));
    }
    let filter: Document = doc! { "ts": bounds };
    collection(client)
        .find(filter)
        .sort(doc! { "$natural": 1 })
        .batch_size(2000)
        .await
        .map_err(EngineError::client("read the oplog"))
}

pub(super) fn entry(document: RawDocumentBuf) -> Result<Entry> {
    Entry::new(document).map_err(|error| EngineError::Unexpected {
        doing: "read the oplog".to_owned(),
        what: error.to_string(),
    })
}
