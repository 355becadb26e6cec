//! Data keys of one lineage, as the agent holds them: in memory, and the few that archiving needs on disk, sealed under
//! the host's own key, so that archiving goes on while the control plane is away.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
use holdfast_core::KeyId;
use holdfast_core::key::KeyPurpose;
use holdfast_gateway::RepositoryKeys;
use holdfast_seal::DataKey;
use holdfast_store::repository::{ObjectClass, began};
use holdfast_store::{KeyRefused, OwnedKey};
use serde::{Deserialize, Serialize};

/// Which key seals what, and which open what.
#[derive(Default)]
pub(crate) struct LineageKeys {
    ring: Mutex<Ring>,
    /// Held while the keys are brought to disk, from looking at them on.
    keeping: Mutex<()>,
}

#[derive(Default)]
struct Ring {
    keys: HashMap<KeyId, OwnedKey>,
    repository: Option<KeyId>,
    coverage: Option<KeyId>,
    active_epoch: Option<KeyId>,
    /// Opens what was sealed just before the last switch: a segment that is pushed again after it is compared with what lies
    /// in the store.
    previous_epoch: Option<KeyId>,
    /// Sealed the newest segment of a log that is followed: a next life of the agent reads on from there.
    tail_epoch: Option<KeyId>,
    tail_changed: bool,
    /// Keys of backups, which leave the memory with the backup that needed them.
    of_backups: HashSet<KeyId>,
    backup: Option<RunningBackup>,
    maintenance: bool,
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
    #[serde(default)]
    pub previous_epoch: Option<KeyId>,
    #[serde(default)]
    pub tail_epoch: Option<KeyId>,
}

/// A key grant that is no key.
#[derive(Debug, thiserror::Error)]
#[error("the control plane granted something that is no data key for {0}")]
pub(crate) struct BadGrant(pub KeyId);

impl LineageKeys {
    /// # Errors
    /// [`BadGrant`] when a grant is not 64 hex digits.
    pub(crate) fn from_grant(grant: &RepositoryGrant) -> Result<Self, BadGrant> {
        let ring = Self::default();
        ring.add(&grant.keys)?;
        ring.lock().active_epoch = grant.active_epoch;
        Ok(ring)
    }

    /// # Errors
    /// As [`Self::from_grant`].
    pub(crate) fn from_kept(kept: &KeptKeys) -> Result<Self, BadGrant> {
        let ring = Self::default();
        ring.add(&kept.keys)?;
        ring.lock().active_epoch = kept.active_epoch;
        ring.lock().previous_epoch = kept.previous_epoch;
        ring.lock().tail_epoch = kept.tail_epoch;
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
                KeyPurpose::Backup => {
                    ring.of_backups.insert(grant.id);
                }
                KeyPurpose::Epoch => {}
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

    /// Backups' keys leave the memory; the next step that needs them is granted them anew.
    pub(crate) fn forget_backup_keys(&self) {
        let mut ring = self.lock();
        for id in std::mem::take(&mut ring.of_backups) {
            ring.keys.remove(&id);
        }
    }

    /// For the step that removes what has expired: the tool may delete.
    pub(crate) fn allow_removal(&self, allowed: bool) {
        self.lock().maintenance = allowed;
    }

    /// From now on log is sealed with this epoch's key, which [`LineageKeys::keep`] has brought to disk first: an agent that is
    /// killed behind that opens what it sealed.
    ///
    /// # Errors
    /// What `write` says; then nothing changes.
    pub(crate) fn begin_epoch<E>(
        &self,
        epoch: KeyId,
        write: impl FnOnce(&KeptKeys) -> Result<(), E>,
    ) -> Result<(), E> {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.lock().kept_in(Some(epoch));
        write(&kept)?;
        self.lock().enter(Some(epoch));
        Ok(())
    }

    /// Brings what is to be kept to disk by `write`; one at a time, so that what was looked at last is what stays.
    ///
    /// # Errors
    /// What `write` says.
    pub(crate) fn keep<E>(&self, write: impl FnOnce(&KeptKeys) -> Result<(), E>) -> Result<(), E> {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, tail) = {
            let ring = self.lock();
            (ring.kept_in(ring.active_epoch), ring.tail_epoch)
        };
        write(&kept)?;
        let mut ring = self.lock();
        ring.tail_changed &= ring.tail_epoch != tail;
        Ok(())
    }

    /// The key that seals log now.
    #[must_use]
    pub(crate) fn epoch_key(&self) -> Option<OwnedKey> {
        let ring = self.lock();
        ring.active_epoch.and_then(|id| ring.keys.get(&id).cloned())
    }

    /// The newest segment of the log is being sealed with this key.
    pub(crate) fn seals_tail(&self, key: KeyId) {
        let mut ring = self.lock();
        ring.tail_changed |= ring.tail_epoch.replace(key) != Some(key);
    }

    /// Whether the tail's key is another one than on disk.
    pub(crate) fn tail_changed(&self) -> bool {
        self.lock().tail_changed
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

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn enter(&mut self, epoch: Option<KeyId>) {
        if self.active_epoch != epoch {
            self.previous_epoch = std::mem::replace(&mut self.active_epoch, epoch);
        }
    }

    /// What is to be kept on disk once this epoch is the active one: all but the backups' keys.
    fn kept_in(&self, epoch: Option<KeyId>) -> KeptKeys {
        let previous_epoch = if self.active_epoch == epoch { self.previous_epoch } else { self.active_epoch };
        let purpose = |id: KeyId| {
            if self.repository == Some(id) {
                Some(KeyPurpose::Repository)
            } else if self.coverage == Some(id) {
                Some(KeyPurpose::Coverage)
            } else if [epoch, previous_epoch, self.tail_epoch].contains(&Some(id)) {
                Some(KeyPurpose::Epoch)
            } else {
                None
            }
        };
        let grant = |owned: &OwnedKey| {
            Some(KeyGrant {
                id: owned.key_id,
                purpose: purpose(owned.key_id)?,
                owner: owned.owner.clone(),
                key_hex: Secret(hex::encode(owned.key.expose())),
            })
        };
        let keys = self.keys.values().filter_map(grant).collect();
        KeptKeys { keys, active_epoch: epoch, previous_epoch, tail_epoch: self.tail_epoch }
    }

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
        let is_known = running.known_labels.iter().any(|known| known == label);
        let ours = match &running.label {
            // A tool of a try that was cut off may still have had a file on its way; the one that runs began later.
            Some(bound) => bound == label || (!is_known && began(label) > began(bound)),
            None => !is_known,
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
            ObjectClass::Log { .. } | ObjectClass::PartialLog { .. } => {
                ring.named(ring.active_epoch, "epoch")
            }
            // A timeline's history is needed for as long as any log of the timeline is: no epoch's end may take it along.
            ObjectClass::TimelineHistory { .. }
            | ObjectClass::BackupHistory
            | ObjectClass::Info
            | ObjectClass::Other => ring.named(ring.repository, "repository"),
        }
    }

    fn opening_key(&self, key_id: KeyId) -> Result<OwnedKey, KeyRefused> {
        self.lock().named(Some(key_id), "fitting")
    }

    fn may_delete(&self, class: &ObjectClass) -> bool {
        let ring = self.lock();
        if ring.maintenance {
            return true;
        }
        match (class, &ring.backup) {
            // What an earlier try of the running backup left.
            (ObjectClass::BackupFile { label }, Some(running)) => !running.known_labels.contains(label),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::position::Position;

    use super::*;

    fn log() -> ObjectClass {
        let from = Position { timeline: 1, offset: 0 };
        ObjectClass::Log { from, to: from.plus(1) }
    }

    fn ring(purposes: &[(KeyId, KeyPurpose)]) -> LineageKeys {
        let grants: Vec<KeyGrant> = purposes
            .iter()
            .map(|(id, purpose)| KeyGrant {
                id: *id,
                purpose: *purpose,
                owner: id.to_string(),
                key_hex: Secret("ab".repeat(32)),
            })
            .collect();
        let ring = LineageKeys::default();
        ring.add(&grants).expect("they are keys");
        ring
    }

    fn enter(keys: &LineageKeys, epoch: KeyId) {
        let Ok(()) = keys.begin_epoch(epoch, |_| Ok::<_, std::convert::Infallible>(()));
    }

    #[test]
    fn nothing_is_sealed_with_a_key_that_is_not_on_disk() {
        let [first, second] = [(); 2].map(|()| KeyId::random());
        let keys = ring(&[(first, KeyPurpose::Epoch), (second, KeyPurpose::Epoch)]);
        let sealed_by = || keys.epoch_key().map(|key| key.key_id);
        enter(&keys, first);
        keys.begin_epoch(second, |_| Err("the disk is full")).expect_err("it could not be written");
        assert_eq!(sealed_by(), Some(first));
        let kept = keys.begin_epoch(second, |kept| {
            assert_eq!(sealed_by(), Some(first), "it is being written");
            assert_eq!((kept.active_epoch, kept.previous_epoch), (Some(second), Some(first)));
            assert!(kept.keys.iter().any(|key| key.id == second));
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = kept;
        assert_eq!(sealed_by(), Some(second));
    }

    #[test]
    fn the_tails_key_is_to_be_kept_until_it_is() {
        let [first, second] = [(); 2].map(|()| KeyId::random());
        let keys = ring(&[(first, KeyPurpose::Epoch), (second, KeyPurpose::Epoch)]);
        keys.seals_tail(first);
        keys.keep(|_| Err("the disk is full")).expect_err("it could not be written");
        assert!(keys.tail_changed(), "it is tried again");
        let kept = keys.keep(|kept| {
            assert!(kept.keys.iter().any(|key| key.id == first));
            keys.seals_tail(second); // meanwhile
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = kept;
        assert!(keys.tail_changed(), "another one since");
        let Ok(()) = keys.keep(|_| Ok::<_, std::convert::Infallible>(()));
        assert!(!keys.tail_changed());
    }

    #[test]
    fn each_object_is_sealed_with_the_key_of_its_place() {
        let [repository, first, second, backup] = [(); 4].map(|()| KeyId::random());
        let keys = ring(&[
            (repository, KeyPurpose::Repository),
            (first, KeyPurpose::Epoch),
            (second, KeyPurpose::Epoch),
            (backup, KeyPurpose::Backup),
        ]);
        let sealed_by = |class: &ObjectClass| keys.sealing_key(class).map(|owned| owned.key_id).ok();
        let file = |label: &str| ObjectClass::BackupFile { label: label.to_owned() };
        enter(&keys, first);
        assert_eq!(sealed_by(&log()), Some(first));
        assert_eq!(sealed_by(&ObjectClass::TimelineHistory { timeline: 2 }), Some(repository));
        assert_eq!(sealed_by(&file("new")), None, "no backup runs");
        keys.begin_backup(backup, vec!["old".to_owned()]);
        assert_eq!(sealed_by(&file("old")), None, "a finished backup is not written to");
        assert_eq!(sealed_by(&file("new")), Some(backup));
        assert_eq!(sealed_by(&file("other")), None, "one label a backup");
        keys.end_backup();
        let [earlier, full, incremental, later] = [
            "20260315-010000F",
            "20260315-020000F",
            "20260315-010000F_20260315-030000I",
            "20260315-020000F_20260315-040000D",
        ];
        keys.begin_backup(backup, vec![later.to_owned()]);
        assert_eq!(sealed_by(&file(full)), Some(backup), "the last file of a tool that was killed");
        assert_eq!(sealed_by(&file(incremental)), Some(backup), "the tool that runs now");
        for late in [full, earlier, later] {
            assert_eq!(sealed_by(&file(late)), None, "{late}");
        }
        keys.end_backup();
        enter(&keys, second);
        let kept = keys.lock().kept_in(Some(second));
        assert_eq!((kept.active_epoch, kept.previous_epoch), (Some(second), Some(first)));
        assert!(!kept.keys.iter().any(|key| key.id == backup), "a backup's key does not rest on this host");
    }

    #[test]
    fn the_tools_credential_cannot_remove_what_is_finished() {
        let backup = KeyId::random();
        let keys = ring(&[(backup, KeyPurpose::Backup)]);
        let file = |label: &str| ObjectClass::BackupFile { label: label.to_owned() };
        let wal = log();
        assert!(
            !keys.may_delete(&file("old")) && !keys.may_delete(&wal) && !keys.may_delete(&ObjectClass::Info)
        );
        keys.begin_backup(backup, vec!["old".to_owned()]);
        assert!(
            !keys.may_delete(&file("old")) && keys.may_delete(&file("cut off")) && !keys.may_delete(&wal)
        );
        keys.allow_removal(true);
        assert!(keys.may_delete(&wal));
    }
}
