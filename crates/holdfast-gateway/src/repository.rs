//! What the gateway has to know of a repository, and whom it asks and tells.

use std::fmt;
use std::sync::Arc;

use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId};
#[cfg(doc)]
use holdfast_store::StoreError;
use holdfast_store::repository::ObjectClass;
use holdfast_store::{KeyRefused, LineageScope, ObjectName, OwnedKey};

/// What a credential may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    /// A restored cluster reading its source: every write is refused, for it has the same system identifier and its
    /// pushes would otherwise be accepted.
    ReadOnly,
}

/// One credential's view: exactly one repository, that of one lineage.
#[derive(Clone)]
pub struct Repository {
    pub access_key: String,
    pub secret_key: String,
    pub organization: OrganizationId,
    pub service: ServiceId,
    pub lineage: LineageId,
    pub access: Access,
    pub keys: Arc<dyn RepositoryKeys>,
    pub events: Arc<dyn RepositoryEvents>,
}

impl Repository {
    pub(crate) fn scope(&self) -> LineageScope {
        LineageScope { organization: self.organization, service: self.service, lineage: self.lineage }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("access_key", &self.access_key)
            .field("secret_key", &"redacted")
            .field("service", &self.service)
            .field("lineage", &self.lineage)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// Holds the keys of one repository. Called for each object; must not block.
pub trait RepositoryKeys: Send + Sync {
    /// The key that seals a new object of this class.
    fn sealing_key(&self, class: &ObjectClass) -> Result<OwnedKey, KeyRefused>;
    /// The key that an object's header names.
    fn opening_key(&self, key_id: KeyId) -> Result<OwnedKey, KeyRefused>;
    /// Whether the tool may remove objects of this class now. Its credential lies where the engine's user can read it, so
    /// whoever is superuser inside the database must not be able to remove finished backups and log with it.
    fn may_delete(&self, _class: &ObjectClass) -> bool {
        true
    }
}

/// Is told what happened, after the store has confirmed it (R1) and before the tool gets its answer. So who crashes
/// in between must look into the store: an event may be lost, but none is false. Must not block.
pub trait RepositoryEvents: Send + Sync {
    /// The object lies in the store. Told again when the tool sends the same object once more.
    fn stored(&self, object: &StoredObject);
    /// The object is gone.
    fn deleted(&self, path: &str);
    /// So many bytes were read out of the repository: restore progress.
    fn served(&self, plain_bytes: u64);
    /// An object does not open, however often it was read.
    fn damaged(&self, _damage: &Damage<'_>) {}
    /// The object store failed a request.
    fn troubled(&self, _class: &ObjectClass, _trouble: &Trouble) {}
}

/// Why the object store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// For programs, as [`StoreError::cause`].
    pub cause: &'static str,
    /// The whole chain of causes.
    pub text: String,
    /// What a person does next, where that can be said.
    pub hint: Option<&'static str>,
}

/// An object that does not open: changed, cut, or not the one that was stored.
#[derive(Debug)]
pub struct Damage<'a> {
    /// The tool's own path.
    pub path: &'a str,
    pub class: ObjectClass,
    /// The object's name in the store.
    pub object: &'a str,
    /// The whole chain of causes.
    pub what: &'a str,
}

/// An object that the store has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Where it lies; [`ObjectName::relative`] is its name in a backup's manifest.
    pub name: ObjectName,
    /// The tool's own path.
    pub path: String,
    pub class: ObjectClass,
    pub key_id: KeyId,
    /// Length of what the tool sent.
    pub plain_bytes: u64,
    /// Length of what lies in the store.
    pub sealed_bytes: u64,
    /// SHA-256 of what lies in the store, hex.
    pub sha256: String,
}
