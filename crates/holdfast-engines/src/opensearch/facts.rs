//! What a base backup says of itself. Stored with the backup: fields may be added, never changed.

use holdfast_core::Timestamp;
use serde::{Deserialize, Serialize};

/// The object with all files of the repository that are no blobs: each as its name's and its content's length (4 and 8 bytes,
/// big-endian), name, content.
pub(super) const FILES: &str = "files";
/// Blobs are called so, followed by their name in the repository.
pub(super) const BLOBS: &str = "blobs/";

/// What a restore needs to know before it reads anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The release that the source ran.
    pub version: String,
    /// When the snapshot was finished: nothing that was sent later is in it.
    pub at: Timestamp,
    /// The snapshot's name in its repository.
    pub snapshot: String,
    /// Names of the indices, those behind data streams among them.
    pub indices: Vec<String>,
    pub data_streams: Vec<String>,
    /// Indices that are closed: the server restores them as open ones.
    pub closed: Vec<String>,
    pub shards: u64,
    /// Blobs, and their length.
    pub blobs: u64,
    pub bytes: u64,
}
