//! Data keys of one lineage, as the agent holds them: in memory, and the few that archiving needs on disk, sealed under
//! the host's own key, so that archiving goes on while the control plane is away.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
use holdfast_core::KeyId;
use holdfast_core::key::KeyPurpose;
use holdfast_seal::DataKey;
use holdfast_store::gateway::{KeyRefused, ObjectClass, OwnedKey, RepositoryKeys};
use serde::{Deserialize, Serialize};

/// Which key seals what, and which open what.
pub(crate) struct LineageKeys(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    keys: HashMap<KeyId, OwnedKey>,
    repository: Option<KeyId>,
    coverage: Option<KeyId>,
    active_epoch: Option<KeyId>,
    backup: Option<RunningBackup>,
}

/// The backup that the tool is writing now; its label is learnt from the first file that it stores.
struct RunningBackup {
    key: KeyId,
    label: Option<String>,
    known_labels: Vec<String>,
}

/// The keys that an agent needs to go on without its control plane.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptKeys {
    pub keys: Vec<KeyGrant>,
    pub active_epoch: Option<KeyId>,
}

/// A key grant that is no key.
#[derive(Debug, thiserror::Error)]
#[error("the control plane granted something that is no data key for {0}")]
pub(crate) struct BadGrant(pub KeyId);

impl LineageKeys {
    /// # Errors
    /// [`BadGrant`] when a grant is not 64 hex digits.
    pub(crate) fn from_grant(grant: &RepositoryGrant) -> Result<Self, BadGrant> {
        let ring = Self(Mutex::default());
        ring.add(&grant.keys)?;
        ring.lock().active_epoch = grant.active_epoch;
        Ok(ring)
    }

    /// # Errors
    /// As [`Self::from_grant`].
    pub(crate) fn from_kept(kept: &KeptKeys) -> Result<Self, BadGrant> {
        let ring = Self(Mutex::default());
        ring.add(&kept.keys)?;
        ring.lock().active_epoch = kept.active_epoch;
        Ok(ring)
    }

    /// # Errors
    /// As [`Self::from_grant`].
    pub(crate) fn add(&self, grants: &[KeyGrant]) -> Result<(), BadGrant> {
        let mut ring = self.lock();
        for grant in grants {
            let mut bytes = [0_u8; 32];
            hex::decode_to_slice(&grant.key_hex.0, &mut bytes).map_err(|_| BadGrant(grant.id))?;
            let key = DataKey::from_bytes(bytes);
            ring.keys.insert(grant.id, OwnedKey { key_id: grant.id, owner: grant.owner.clone(), key });
            match grant.purpose {
                KeyPurpose::Repository => ring.repository = Some(grant.id),
                KeyPurpose::Coverage => ring.coverage = Some(grant.id),
                KeyPurpose::Backup | KeyPurpose::Epoch => {}
            }
        }
        Ok(())
    }

    /// From now on the tool's files of a label not in `known_labels` are this backup's.
    pub(crate) fn begin_backup(&self, key: KeyId, known_labels: Vec<String>) {
        self.lock().backup = Some(RunningBackup { key, label: None, known_labels });
    }

    pub(crate) fn end_backup(&self) {
        self.lock().backup = None;
    }

    pub(crate) fn activate_epoch(&self, epoch: KeyId) {
        self.lock().active_epoch = Some(epoch);
    }

    /// The key of the backup itself, for its manifest.
    #[must_use]
    pub(crate) fn key(&self, id: KeyId) -> Option<OwnedKey> {
        self.lock().keys.get(&id).cloned()
    }

    #[must_use]
    pub(crate) fn coverage_key(&self) -> Option<OwnedKey> {
        let ring = self.lock();
        ring.coverage.and_then(|id| ring.keys.get(&id).cloned())
    }

    /// What is to be kept on disk: all but the backups' keys.
    #[must_use]
    pub(crate) fn kept(&self) -> KeptKeys {
        let ring = self.lock();
        let purpose = |id: KeyId| {
            if ring.repository == Some(id) {
                Some(KeyPurpose::Repository)
            } else if ring.coverage == Some(id) {
                Some(KeyPurpose::Coverage)
            } else if ring.active_epoch == Some(id) {
                Some(KeyPurpose::Epoch)
            } else {
                None
            }
        };
        let keys = ring
            .keys
            .values()
            .filter_map(|owned| {
                Some(KeyGrant {
                    id: owned.key_id,
                    purpose: purpose(owned.key_id)?,
                    owner: owned.owner.clone(),
                    key_hex: Secret(hex::encode(owned.key.expose())),
                })
            })
            .collect();
        KeptKeys { keys, active_epoch: ring.active_epoch }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn named(&self, id: Option<KeyId>, what: &str) -> Result<OwnedKey, KeyRefused> {
        id.and_then(|id| self.keys.get(&id).cloned())
            .ok_or_else(|| KeyRefused { reason: format!("no {what} key is held here") })
    }

    fn backup_key(&mut self, label: &str) -> Result<OwnedKey, KeyRefused> {
        let Some(running) = self.backup.as_mut() else {
            return Err(KeyRefused {
                reason: format!("no backup is running, files of {label} are not expected"),
            });
        };
        let ours = match &running.label {
            Some(bound) => bound == label,
            None => !running.known_labels.iter().any(|known| known == label),
        };
        if !ours {
            return Err(KeyRefused { reason: format!("{label} is not the running backup") });
        }
        running.label = Some(label.to_owned());
        let key = running.key;
        self.named(Some(key), "backup")
    }
}

impl RepositoryKeys for LineageKeys {
    fn sealing_key(&self, class: &ObjectClass) -> Result<OwnedKey, KeyRefused> {
        let mut ring = self.lock();
        match class {
            ObjectClass::BackupFile { label } => ring.backup_key(label),
            ObjectClass::Wal { .. }
            | ObjectClass::PartialWal { .. }
            | ObjectClass::TimelineHistory { .. } => ring.named(ring.active_epoch, "epoch"),
            ObjectClass::BackupHistory | ObjectClass::Info | ObjectClass::Other => {
                ring.named(ring.repository, "repository")
            }
        }
    }

    fn opening_key(&self, key_id: KeyId) -> Result<OwnedKey, KeyRefused> {
        self.lock().named(Some(key_id), "fitting")
    }
}
