//! Who owns a data key.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{KeyId, LineageId, OrganizationId, ServiceId};

/// What a data key seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// One backup's objects and its manifest.
    Backup,
    /// The log archived after one base backup and before the next.
    Epoch,
    /// The few rewritten files of a pgBackRest repository; its cipher passphrase is wrapped beside it.
    Repository,
    /// Coverage and the time-to-position map of a lineage.
    Coverage,
}

impl KeyPurpose {
    /// The word in a key's identity; part of the stored format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Epoch => "epoch",
            Self::Repository => "repository",
            Self::Coverage => "coverage",
        }
    }
}

/// A key as the catalog holds it: only ever wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub id: KeyId,
    pub organization_id: OrganizationId,
    pub service_id: ServiceId,
    pub lineage_id: LineageId,
    pub purpose: KeyPurpose,
    /// Version of the KEK that `wrapped` is sealed by.
    pub kek_version: u32,
    /// The data key sealed by the KEK, with the key's identity as associated data.
    pub wrapped: Vec<u8>,
    /// The data key sealed to the recovery key's public half. It does not change when the KEK rotates.
    pub recovery_wrapped: Vec<u8>,
    pub created_at: Timestamp,
    pub destroyed_at: Option<Timestamp>,
}
