//! What an object is. It is not stored in the object but must be known to open it, so an object that was moved,
//! renamed or replayed elsewhere does not open.

use std::fmt;

use crate::encoding::length_prefixed;
use crate::layout::HEADER_LEN;

/// What an object holds. The names are part of the format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A file or stream of one backup; the owner is the backup's id.
    BackupFile,
    /// A piece of the log archive; the owner is its epoch's key id.
    Log,
    /// A rewritten index file of a pgBackRest repository; the owner is the repository's key id.
    RepositoryInfo,
    /// A backup's manifest; the owner is the backup's id.
    Manifest,
    /// What a deleted backup leaves; the owner is the coverage key's id, for the backup's own key is gone.
    Tombstone,
    /// Coverage and gaps of a lineage; the owner is the coverage key's id.
    Coverage,
    /// The map from time to position; the owner is the coverage key's id.
    TimeMap,
    /// A blob that several backups share, sealed with a key of its own; the owner is that key's id.
    Shared,
    /// What a service is, for rebuilding the catalog; the owner is the coverage key's id.
    Service,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::BackupFile,
        Self::Log,
        Self::RepositoryInfo,
        Self::Manifest,
        Self::Tombstone,
        Self::Coverage,
        Self::TimeMap,
        Self::Shared,
        Self::Service,
    ];

    /// The name in the encoding.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupFile => "backup-file",
            Self::Log => "log",
            Self::RepositoryInfo => "repository-info",
            Self::Manifest => "manifest",
            Self::Tombstone => "tombstone",
            Self::Coverage => "coverage",
            Self::TimeMap => "time-map",
            Self::Shared => "shared",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an object is, independent of the key that seals it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectContext {
    pub organization: String,
    pub service: String,
    pub lineage: String,
    /// Who the object belongs to: a backup's id, or the id of an epoch's, repository's or coverage key.
    pub owner: String,
    pub kind: ObjectKind,
    /// The object's name within its owner. A rewritten object carries its generation in it.
    pub name: String,
}

impl ObjectContext {
    /// The canonical encoding: header, organization, service, lineage, owner, kind and name, each behind its length
    /// (u32, big-endian).
    #[must_use]
    pub fn encode(&self, header: &[u8; HEADER_LEN]) -> Vec<u8> {
        length_prefixed([
            header.as_slice(),
            self.organization.as_bytes(),
            self.service.as_bytes(),
            self.lineage.as_bytes(),
            self.owner.as_bytes(),
            self.kind.as_str().as_bytes(),
            self.name.as_bytes(),
        ])
    }
}

impl fmt::Display for ObjectContext {
    /// For error texts: `manifest manifest.json of bkp_…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.kind, self.name, self.owner)
    }
}
