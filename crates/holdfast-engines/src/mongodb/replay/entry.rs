//! One entry of the oplog.

use bson::raw::{RawBsonRef, RawDocument};
use bson::{RawDocumentBuf, Timestamp};
use serde::{Deserialize, Serialize};

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

    /// Whether a collection changes its name in it. A copy that runs meanwhile may miss the collection.
    #[must_use]
    pub fn renames(&self) -> bool {
        let is_rename = |raw: &RawDocument| {
            raw.get_document("o").is_ok_and(|o| matches!(o.get("renameCollection"), Ok(Some(_))))
                && raw.get_str("ns").is_ok_and(|ns| !ns.starts_with("config.") && !ns.starts_with("local."))
        };
        let inner = || {
            let operations = self.object().ok()?.get_array("applyOps").ok()?;
            let mut all = operations.into_iter().flatten();
            Some(all.any(|operation| operation.as_document().is_some_and(is_rename)))
        };
        self.op() == "c" && (is_rename(&self.raw) || inner().unwrap_or(false))
    }
}
