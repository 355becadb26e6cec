//! What backups tell their restores.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;
use super::users;
use super::views::BrokenView;
use crate::EngineError;

/// Object of a backup that holds the dump.
pub(super) const DUMP: &str = "dump.sql";
/// The last bound of a dump of many terabytes.
pub(super) const DUMP_SECONDS: u64 = 24 * 3600;

/// What a backup's manifest keeps for its restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "base", rename_all = "lowercase")]
pub(super) enum Facts {
    Dump(DumpFacts),
    Clone(CloneFacts),
}

/// Of a base by `mysqldump`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DumpFacts {
    pub server_version: String,
    pub server_uuid: String,
    /// Transactions in the base, from the server's first on.
    pub gtids: GtidSet,
    pub file: String,
    pub position: u64,
    pub consistent_at: Timestamp,
    pub databases: Vec<String>,
    /// Views that the dump does not have; of bases of before 2026-12 only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken_views: Vec<BrokenView>,
    /// Whether there is an object with them.
    #[serde(default)]
    pub has_histograms: bool,
    /// Whether the texts of its routines, triggers and events were looked at ([`super::programs`]).
    #[serde(default)]
    pub has_plain_programs: bool,
    /// Before the time of every event that has one, in seconds since 1970: an event whose time has passed is not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_events: Option<i64>,
    pub fingerprint: String,
    pub dump_bytes: u64,
}

impl DumpFacts {
    /// What a load takes for now, in seconds since 1970.
    pub(super) fn load_at(&self) -> i64 {
        let now = self.consistent_at.as_second();
        self.before_events.map_or(now, |before| before.clamp(1, now))
    }
}

/// What the manifest keeps of a base by CLONE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CloneFacts {
    pub server_version: String,
    pub server_uuid: String,
    /// Transactions that are in the copy: executed before the statement began.
    pub at_least: GtidSet,
    /// No others are: executed when it had ended.
    pub at_most: GtidSet,
    pub consistent_at: Timestamp,
    /// Of the schema and the accounts ([`super::schema::fingerprint`]); pages have checksums of their own.
    pub fingerprint: String,
    /// What the fingerprint covers of the grant tables; of bases of before 2026-12 what the server says of accounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub account_columns: users::Columns,
    pub tar_bytes: u64,
}

/// A base that is in a running server.
pub(super) struct Loaded {
    /// Its transactions, neither more nor fewer.
    pub gtids: GtidSet,
    pub consistent_at: Timestamp,
}

pub(super) fn damaged(what: &str) -> EngineError {
    EngineError::Damaged { doing: "read the base backup".to_owned(), what: what.to_owned() }
}
