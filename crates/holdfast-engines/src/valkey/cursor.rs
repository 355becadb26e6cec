//! A position in the log.

use serde::{Deserialize, Serialize};

use crate::{EngineError, LogCursor, Result};

/// Bytes before the cursor whose digest tells one history from another.
pub(super) const TAIL: u64 = 4096;

/// Where reading goes on. Stored with the log: fields may be added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Which instance's log it is; file numbers begin anew in each.
    pub dataset: String,
    /// Number of the incremental file.
    pub seq: u64,
    /// The line that names the file has been handed over.
    pub begun: bool,
    /// Bytes of the file that have been.
    pub offset: u64,
    /// Where the command or transaction began in which `offset` lies; `offset` itself between two.
    pub unit: u64,
    /// Digest of the last [`TAIL`] bytes before `offset`.
    pub tail: String,
}

impl Cursor {
    pub(super) fn parse(cursor: &LogCursor) -> Result<Self> {
        serde_json::from_value(cursor.0.clone()).map_err(|error| EngineError::Unexpected {
            doing: "read a position in the log".to_owned(),
            what: error.to_string(),
        })
    }

    pub(super) fn public(&self) -> LogCursor {
        LogCursor(serde_json::to_value(self).expect("a cursor has only string keys"))
    }
}
