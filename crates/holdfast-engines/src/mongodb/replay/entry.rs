//! One entry of the oplog.

use bson::raw::{RawBsonRef, RawDocument};
use bson::{RawDocumentBuf, Timestamp};
use serde::{Deserialize, Serialize};

use super::fields::{Fields, Value};
use super::{ReplayError, malformed};

/// An entry's place in the oplog: seconds, and a number in that second. Unique on mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    pub t: u32,
    pub i: u32,
}

impl From<Timestamp> for Stamp {
    fn from(timestamp: Timestamp) -> Self {
        Self { t: timestamp.time, i: timestamp.increment }
    }
}

impl From<Stamp> for Timestamp {
    fn from(stamp: Stamp) -> Self {
        Self { time: stamp.t, increment: stamp.i }
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timestamp({}, {})", self.t, self.i)
    }
}

/// An entry, whole, as the server sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    raw: RawDocumentBuf,
    stamp: Stamp,
    wall_ms: i64,
}

impl Entry {
    /// # Errors
    /// When it is no entry: no timestamp, no operation.
    pub fn new(raw: RawDocumentBuf) -> Result<Self, ReplayError> {
        let stamp = Stamp::from(raw.get_timestamp("ts").map_err(malformed)?);
        raw.get_str("op").map_err(malformed)?;
        let wall_ms = match raw.get("wall").map_err(malformed)? {
            Some(RawBsonRef::DateTime(wall)) => wall.timestamp_millis(),
            // Entries of 3.6 may have none: the second is all that is known.
            _ => i64::from(stamp.t) * 1000,
        };
        Ok(Self { raw, stamp, wall_ms })
    }

    #[must_use]
    pub fn raw(&self) -> &RawDocument {
        &self.raw
    }

    #[must_use]
    pub fn into_raw(self) -> RawDocumentBuf {
        self.raw
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_bytes()
    }

    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// When the server committed it, in milliseconds since 1970 by its own clock. Not always ascending.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        self.wall_ms
    }

    pub(super) fn op(&self) -> &str {
        self.raw.get_str("op").unwrap_or_default()
    }

    pub(super) fn object(&self) -> Result<&RawDocument, ReplayError> {
        self.raw.get_document("o").map_err(malformed)
    }

    /// `multiOpType` 1: several inserts of one statement in one entry (8.0), not a transaction.
    pub(super) fn is_vectored(&self) -> bool {
        matches!(
            self.raw.get("multiOpType"),
            Ok(Some(RawBsonRef::Int32(1) | RawBsonRef::Int64(1))) | Ok(Some(RawBsonRef::Double(1.0)))
        )
    }

    pub(super) fn transaction_id(&self) -> Option<(Vec<u8>, i64)> {
        let session = self.raw.get_document("lsid").ok()?.as_bytes().to_vec();
        let number = match self.raw.get("txnNumber").ok()?? {
            RawBsonRef::Int64(number) => number,
            RawBsonRef::Int32(number) => i64::from(number),
            _ => return None,
        };
        Some((session, number))
    }

    /// The collections that it makes, and those that it gives another name, by their UUIDs.
    ///
    /// # Errors
    /// An entry that is damaged.
    pub fn moves(&self) -> Result<Moves, ReplayError> {
        let mut moves = Moves::default();
        if self.op() == "c" {
            moves.add(&Fields::parse(self.bytes())?)?;
        }
        Ok(moves)
    }
}

/// UUIDs of collections; empty where an entry of an old server tells none.
#[derive(Debug, Default)]
pub struct Moves {
    pub made: Vec<Vec<u8>>,
    pub renamed: Vec<Vec<u8>>,
}

impl Moves {
    fn add(&mut self, entry: &Fields<'_>) -> Result<(), ReplayError> {
        let namespace = entry.get("ns").and_then(Value::as_str).unwrap_or_default();
        if ["config.", "local."].iter().any(|own| namespace.starts_with(own)) {
            return Ok(());
        }
        let Some(object) = entry.get("o").filter(|object| object.is_document()) else { return Ok(()) };
        let object = object.fields()?;
        let uuid = || entry.get("ui").and_then(Value::binary).unwrap_or_default().to_vec();
        match object.iter().next() {
            Some((b"create", _)) => self.made.push(uuid()),
            Some((b"renameCollection", _)) => self.renamed.push(uuid()),
            Some((b"applyOps", operations)) if operations.is_array() => {
                for (_, operation) in operations.fields()?.iter().filter(|(_, one)| one.is_document()) {
                    self.add(&operation.fields()?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
