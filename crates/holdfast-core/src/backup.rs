//! What a backup is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{BackupId, KeyId, LineageId, ServiceId};
use crate::position::Position;

/// Who asked for it; decides its retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    Automated,
    Manual,
}

/// How it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMode {
    Full,
    Incremental,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupStatus {
    Pending,
    Running,
    Completed,
    Failed,
}

/// A backup as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    pub id: BackupId,
    pub service_id: ServiceId,
    pub lineage_id: LineageId,
    pub backup_type: BackupType,
    pub mode: BackupMode,
    /// One of the engine's methods that must be asked for; `None`: its usual one.
    #[serde(default)]
    pub method: Option<String>,
    pub status: BackupStatus,
    pub label: Option<String>,
    /// Days to keep a manual backup when the caller limits it; automated ones follow the policy.
    pub retention_days: Option<u32>,
    /// The backup's own data key.
    pub key_id: KeyId,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub error: Option<String>,
    /// Facts of a completed backup.
    pub facts: Option<BackupFacts>,
    /// No longer listed (deleted by its owner, or expired); kept while a shown restore point needs it.
    pub delisted_at: Option<Timestamp>,
    /// Key destroyed in the catalog: nobody can read it any more. Its objects, and the copies of its key in the store, are
    /// there until `removed_at`.
    pub shredded_at: Option<Timestamp>,
    /// Objects and copies of its key removed from the store.
    #[serde(default)]
    pub removed_at: Option<Timestamp>,
}

/// What the engine's tool and the store said of a completed backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// The tool's own name for it (pgBackRest: the label). Restores always name it.
    pub tool_label: String,
    /// The backup that this one builds on directly, if incremental.
    pub parent: Option<BackupId>,
    /// Where it lies in the engine's log; `None` where the engine has none.
    #[serde(flatten)]
    pub log: Option<LogSpan>,
    /// Every instant after this one can be reached from this base: commits stamped later lie behind `stop`.
    pub consistent_at: Timestamp,
    /// Bytes of this backup's own sealed objects in the store.
    pub stored_bytes: u64,
    /// Bytes of the database that it represents.
    pub database_bytes: u64,
    /// SHA-256 of the sealed manifest's plaintext, hex.
    pub manifest_sha256: String,
    /// What the engine's driver needs to restore it, and its fingerprint; null where the tool's repository knows.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub engine: serde_json::Value,
    /// The method by which it was made, where that is not the one that was asked for, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<MethodInstead>,
}

/// Log that makes a base consistent: what follows it is replayed on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpan {
    /// Where the backup began.
    pub start: Position,
    /// From where on it is consistent.
    pub stop: Position,
}

/// Another method than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodInstead {
    pub method: String,
    /// What the asked one cannot hold.
    pub reason: String,
}

impl Backup {
    /// Whether the owner sees it in the list.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.delisted_at.is_none() && self.shredded_at.is_none()
    }

    /// Whether a restore may read it: its data and key are there.
    #[must_use]
    pub fn is_restorable(&self) -> bool {
        self.status == BackupStatus::Completed && self.facts.is_some() && self.shredded_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_every_release_are_read_with_a_log_and_without() {
        let text = |log: &str| {
            format!(
                r#"{{"tool_label":"20261122-101500F","parent":null,{log}"consistent_at":"2026-11-22T10:15:09Z",
                    "stored_bytes":1,"database_bytes":2,"manifest_sha256":"ab"}}"#
            )
        };
        let with = r#""start":{"timeline":1,"offset":33554472},"stop":{"timeline":1,"offset":33554728},"#;
        for (log, expected) in [(with, Some((33_554_472, 33_554_728))), ("", None)] {
            let facts: BackupFacts = serde_json::from_str(&text(log)).expect("facts");
            assert_eq!(facts.log.map(|log| (log.start.offset, log.stop.offset)), expected);
            let value = serde_json::to_value(&facts).expect("facts");
            assert_eq!(value.get("start").is_some(), expected.is_some(), "{value}");
            assert!(value.get("log").is_none(), "{value}");
            assert_eq!(serde_json::from_value::<BackupFacts>(value).expect("the same"), facts);
        }
    }
}
