//! The key-encryption keys and their rotation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::Job;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KekStatus {
    /// Wraps what is new.
    Current,
    /// Opens what it still wraps; a rotation removes it.
    Older,
    /// Something is wrapped by it and its file is not there: bring it back from a copy of the data folder.
    Missing,
    /// Removed for ever, after nothing was wrapped by it any more.
    Retired,
}

/// One version of the key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kek {
    pub version: u32,
    pub status: KekStatus,
    pub created_at: Option<Timestamp>,
    pub retired_at: Option<Timestamp>,
    /// Data keys that it wraps.
    pub wrapped_keys: u64,
    /// Passwords of database users that it wraps.
    pub wrapped_passwords: u64,
}

/// The key-encryption keys: they wrap every data key and password, and are replaced without touching any data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Keys {
    pub current_version: u32,
    /// When the current one was made.
    pub created_at: Option<Timestamp>,
    /// Age at which the current one is replaced by itself; null: only on command.
    pub rotate_after_days: Option<u32>,
    /// When that will be; null: only on command.
    pub next_rotation_at: Option<Timestamp>,
    /// The newest rotation, under way or ended; null: there was none yet.
    pub rotation: Option<Job>,
    /// Newest version first.
    pub versions: Vec<Kek>,
}

/// A rotation has been asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StartedRotation {
    pub job_id: uuid::Uuid,
    pub message: String,
    pub job: Job,
}
