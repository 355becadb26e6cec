//! What a base backup says of a cluster, beside the records themselves. Stored with the backup: fields may be added, never changed.

use std::collections::BTreeMap;

use holdfast_core::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pieces::Piece;
use super::settings::Settings;
use super::users::Acl;

/// The description's name in the backup.
pub(super) const DESCRIPTION: &str = "cluster.json";

/// What a restore needs to know before it reads anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The release that the source ran.
    pub version: String,
    /// When the partitions' ends were asked for.
    pub at: Timestamp,
    pub topics: u64,
    pub partitions: u64,
    pub batches: u64,
    pub groups: u64,
    /// No transaction was ending when the ends were asked for: each is there whole or not at all.
    pub between_transactions: bool,
}

/// All that there is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    pub topics: Vec<TopicCopy>,
    pub groups: Vec<Group>,
    /// What somebody set for a group, which may have no member and have read nothing yet.
    #[serde(default)]
    pub group_settings: BTreeMap<String, Settings>,
    /// Rights of users that are not the service's own.
    pub acls: Vec<Acl>,
    pub quotas: Vec<Quota>,
    pub users: Vec<ScramUser>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicCopy {
    pub name: String,
    /// The source's; a copy has one of its own.
    pub id: Uuid,
    /// What somebody set for it.
    pub settings: Settings,
    pub partitions: Vec<PartitionCopy>,
}

/// What is there of a partition: everything that was committed from `start` on and before `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartitionCopy {
    pub index: i32,
    pub start: i64,
    pub end: i64,
    /// In order. The first may begin before `start`.
    pub pieces: Vec<Piece>,
    /// Retention took records while they were copied: `start` is where it had come to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overtaken: bool,
}

impl PartitionCopy {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub id: String,
    pub offsets: Vec<Committed>,
}

/// How far a group has read. The leader's epoch is left out: the copy's leaders have others, and a client that finds an epoch of the
/// future waits for it for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Committed {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub metadata: Option<String>,
}

/// A limit for clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Quota {
    /// Kind and name, such as `client-id`; without a name it is what others have by default.
    pub entity: Vec<(String, Option<String>)>,
    pub values: BTreeMap<String, f64>,
}

/// A user, with the number of each mechanism he has a password for. The passwords themselves are told by nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScramUser {
    pub name: String,
    pub mechanisms: Vec<i8>,
}
