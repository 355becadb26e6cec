//! The vault: the only place where data keys are unwrapped. It holds the KEKs and the recovery key's public half.
//!
//! On disk, below `<data>/keys` (folder 0700, files 0600): `kek-<version>` (64 hex digits) for every KEK that something may
//! still be wrapped by, and `recovery.pub`. The recovery key's private half is written once, into the recovery kit.
//! The KEK of the highest version is the current one: it wraps what is new. A rotation (`jobs::rotation`) adds one and
//! removes those before it.

mod files;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::service::Service;
use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::{DataKey, Kek, KeyIdentity, RecoveryPrivate, RecoveryPublic};
use tokio::sync;
use zeroize::Zeroizing;

pub use files::write_secret;

/// Why the vault could not do what was asked. Texts never hold key material.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot read or write the key file {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key file {path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the key-encryption key {path} is needed and not there: bring the file back from a copy of the data folder, then \
         start holdfast again"
    )]
    MissingKek { path: PathBuf },
    #[error("cannot open the wrapped {what} of service {service}")]
    Unwrap {
        what: String,
        service: ServiceId,
        #[source]
        source: holdfast_seal::SealError,
    },
    #[error("key {0} was destroyed")]
    Destroyed(KeyId),
}

/// Wraps and unwraps.
pub struct Vault {
    folder: PathBuf,
    /// Never empty.
    keks: RwLock<BTreeMap<u32, Kek>>,
    recovery: RecoveryPublic,
    wrappings: sync::RwLock<()>,
}

/// A secret wrapped by the KEK of this version.
pub struct Wrapped {
    pub kek_version: u32,
    pub bytes: Vec<u8>,
}

impl Vault {
    /// Whether there is any KEK below `folder`.
    #[must_use]
    pub fn has_keys(folder: &Path) -> bool {
        folder.is_dir() && files::list_kek_versions(folder).is_ok_and(|versions| !versions.is_empty())
    }

    /// Opens the keys below `folder`, or makes them at the first start.
    ///
    /// At the first start `save_kit` is given the recovery key's private half, which is kept nowhere else. A crash while
    /// the keys are made leaves either no KEK (the next start makes all anew, the kit too) or all of them: the KEK is
    /// written last.
    ///
    /// # Errors
    /// A file that cannot be read, written or understood.
    pub fn open(
        folder: &Path,
        save_kit: impl FnOnce(&RecoveryPrivate) -> Result<(), VaultError>,
    ) -> Result<Self, VaultError> {
        let mut keks = BTreeMap::new();
        if folder.is_dir() {
            for version in files::list_kek_versions(folder)? {
                keks.insert(version, files::read_kek(folder, version)?);
            }
        }
        if !keks.is_empty() {
            let path = folder.join("recovery.pub");
            let text = fs::read_to_string(&path)
                .map_err(|source| VaultError::File { path: path.clone(), source })?;
            let recovery = RecoveryPublic::from_text(text.trim())
                .map_err(|error| VaultError::Damaged { path, what: error.to_string() })?;
            return Ok(Self::new(folder, keks, recovery));
        }
        Self::create(folder, save_kit)
    }

    fn create(
        folder: &Path,
        save_kit: impl FnOnce(&RecoveryPrivate) -> Result<(), VaultError>,
    ) -> Result<Self, VaultError> {
        make_folder(folder)?;
        let private = RecoveryPrivate::generate();
        let public = private.public();
        write_secret(&folder.join("recovery.pub"), public.to_text().as_bytes())?;
        save_kit(&private)?;
        let kek = Kek::random(1);
        files::write_kek(folder, &kek)?;
        Ok(Self::new(folder, BTreeMap::from([(1, kek)]), public))
    }

    /// Makes a KEK of this version for keys that are taken over from a bucket, and keeps the recovery key's public half.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn found(folder: &Path, kek_version: u32, recovery: &RecoveryPublic) -> Result<Self, VaultError> {
        make_folder(folder)?;
        write_secret(&folder.join("recovery.pub"), recovery.to_text().as_bytes())?;
        let kek = Kek::random(kek_version);
        files::write_kek(folder, &kek)?;
        Ok(Self::new(folder, BTreeMap::from([(kek_version, kek)]), *recovery))
    }

    fn new(folder: &Path, keks: BTreeMap<u32, Kek>, recovery: RecoveryPublic) -> Self {
        Self {
            folder: folder.to_owned(),
            keks: RwLock::new(keks),
            recovery,
            wrappings: sync::RwLock::default(),
        }
    }

    /// Version of the KEK that wraps what is new.
    #[must_use]
    pub fn current_kek_version(&self) -> u32 {
        self.current().version()
    }

    /// Versions of all KEKs that are here, the current one last.
    #[must_use]
    pub fn kek_versions(&self) -> Vec<u32> {
        self.keks().keys().copied().collect()
    }

    /// Makes a KEK, which is the current one from then on if no version is higher. It is on the disk before it wraps
    /// anything.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn add_kek(&self, version: u32) -> Result<(), VaultError> {
        if self.keks().contains_key(&version) {
            return Ok(());
        }
        let kek = Kek::random(version);
        files::write_kek(&self.folder, &kek)?;
        self.keks.write().unwrap_or_else(PoisonError::into_inner).insert(version, kek);
        Ok(())
    }

    /// Removes a KEK for ever. Only for one that the catalog has retired; never the current one.
    ///
    /// # Errors
    /// The file cannot be removed; it goes on to work then.
    pub fn remove_kek(&self, version: u32) -> Result<(), VaultError> {
        assert_ne!(version, self.current_kek_version(), "the current KEK is not to be removed");
        files::remove_kek(&self.folder, version)?;
        self.keks.write().unwrap_or_else(PoisonError::into_inner).remove(&version);
        Ok(())
    }

    /// Held by whoever writes wrapped keys into the bucket as the catalog has them, for as long as that takes; by any number
    /// at once, for a slow bucket must not make them wait for each other.
    pub async fn use_wrappings(&self) -> sync::RwLockReadGuard<'_, ()> {
        self.wrappings.read().await
    }

    /// Held, alone, by whoever changes wrappings or destroys keys in the catalog. So no wrapping of a key is written after
    /// the key was destroyed: the writer looks under the lock whether it lives, and everything that was written is there to
    /// be removed when the destroyer goes on.
    pub async fn lock_wrappings(&self) -> sync::RwLockWriteGuard<'_, ()> {
        self.wrappings.write().await
    }

    /// Makes a new data key and its record, wrapped by the current KEK and for the recovery key.
    #[must_use]
    pub fn mint(
        &self,
        id: KeyId,
        owner: (OrganizationId, ServiceId, LineageId),
        purpose: KeyPurpose,
        now: Timestamp,
    ) -> KeyRecord {
        let key = DataKey::random();
        let (organization_id, service_id, lineage_id) = owner;
        let identity = identity(id, organization_id, service_id, lineage_id, purpose);
        let kek = self.current();
        KeyRecord {
            id,
            organization_id,
            service_id,
            lineage_id,
            purpose,
            kek_version: kek.version(),
            wrapped: holdfast_seal::wrap(&kek, &identity, &key),
            recovery_wrapped: holdfast_seal::wrap_for_recovery(&self.recovery, &identity, &key),
            created_at: now,
            destroyed_at: None,
        }
    }

    /// The record of a key that was found in a bucket, wrapped by the current KEK. For the recovery key it stays wrapped as
    /// it is there.
    #[must_use]
    pub fn take_over(
        &self,
        id: KeyId,
        owner: (OrganizationId, ServiceId, LineageId),
        purpose: KeyPurpose,
        (key, recovery_wrapped): (&DataKey, &[u8]),
        created_at: Timestamp,
    ) -> KeyRecord {
        let kek = self.current();
        let (organization_id, service_id, lineage_id) = owner;
        let identity = identity(id, organization_id, service_id, lineage_id, purpose);
        KeyRecord {
            id,
            organization_id,
            service_id,
            lineage_id,
            purpose,
            kek_version: kek.version(),
            wrapped: holdfast_seal::wrap(&kek, &identity, key),
            recovery_wrapped: recovery_wrapped.to_vec(),
            created_at,
            destroyed_at: None,
        }
    }

    /// The data key in the clear, to hand to the agent that seals with it.
    ///
    /// # Errors
    /// Destroyed keys, an unknown KEK version, a wrapped key that does not open.
    pub fn unwrap(&self, record: &KeyRecord) -> Result<DataKey, VaultError> {
        if record.destroyed_at.is_some() {
            return Err(VaultError::Destroyed(record.id));
        }
        self.open_wrapping(record, &record.wrapped)
    }

    /// A new wrapping of a data key, by the KEK of version `to`; it has been opened again and holds the same key.
    ///
    /// # Errors
    /// As [`Self::unwrap`].
    pub fn rewrap(&self, record: &KeyRecord, to: u32) -> Result<Vec<u8>, VaultError> {
        let key = self.unwrap(record)?;
        let wrapped = holdfast_seal::wrap(&self.kek(to)?, &identity_of(record), &key);
        assert!(self.holds_same_key(record, &wrapped)?, "a wrapping opens to what was wrapped");
        Ok(wrapped)
    }

    /// Whether another wrapping of the record's key, by whichever KEK, holds that very key.
    ///
    /// # Errors
    /// The record's own wrapping does not open.
    pub fn holds_same_key(&self, record: &KeyRecord, wrapped: &[u8]) -> Result<bool, VaultError> {
        let key = self.unwrap(record)?;
        Ok(self.open_wrapping(record, wrapped).is_ok_and(|other| other.expose() == key.expose()))
    }

    fn open_wrapping(&self, record: &KeyRecord, wrapped: &[u8]) -> Result<DataKey, VaultError> {
        let fail = |source| VaultError::Unwrap {
            what: format!("key {}", record.id),
            service: record.service_id,
            source,
        };
        let version = holdfast_seal::wrapped_kek_version(wrapped)
            .ok_or_else(|| fail(holdfast_seal::SealError::NotAWrappedKey { key_id: record.id.0 }))?;
        holdfast_seal::unwrap(&self.kek(version)?, &identity_of(record), wrapped).map_err(fail)
    }

    /// Wraps a short secret of a service (a password, a passphrase) under a name; it opens only under the same name.
    #[must_use]
    pub fn wrap_secret(&self, service: &Service, name: &str, secret: &str) -> Wrapped {
        let kek = self.current();
        let bytes = holdfast_seal::wrap_secret(&kek, &secret_identity(service, name), secret.as_bytes());
        Wrapped { kek_version: kek.version(), bytes }
    }

    /// As [`Self::wrap_secret`], by the KEK of version `to`.
    ///
    /// # Errors
    /// There is no such KEK.
    pub fn wrap_secret_by(
        &self,
        service: &Service,
        name: &str,
        secret: &str,
        to: u32,
    ) -> Result<Wrapped, VaultError> {
        let kek = self.kek(to)?;
        let bytes = holdfast_seal::wrap_secret(&kek, &secret_identity(service, name), secret.as_bytes());
        Ok(Wrapped { kek_version: to, bytes })
    }

    /// # Errors
    /// The blob was made for another service or name, or by an unknown KEK.
    pub fn unwrap_secret(
        &self,
        service: &Service,
        name: &str,
        blob: &[u8],
    ) -> Result<Zeroizing<String>, VaultError> {
        let what = || format!("secret {name:?}");
        let fail = |source| VaultError::Unwrap { what: what(), service: service.id, source };
        let version = holdfast_seal::wrapped_kek_version(blob)
            .ok_or_else(|| fail(holdfast_seal::SealError::NotAWrappedKey { key_id: service.id.0 }))?;
        let kek = self.kek(version)?;
        let bytes =
            holdfast_seal::unwrap_secret(&kek, &secret_identity(service, name), blob).map_err(fail)?;
        String::from_utf8(bytes.to_vec()).map(Zeroizing::new).map_err(|_| VaultError::Damaged {
            path: PathBuf::from(name),
            what: "the secret is no text".to_owned(),
        })
    }

    fn keks(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Kek>> {
        self.keks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Kek {
        self.keks().values().next_back().expect("there is always a current KEK").clone()
    }

    fn kek(&self, version: u32) -> Result<Kek, VaultError> {
        let missing = || VaultError::MissingKek { path: files::kek_path(&self.folder, version) };
        self.keks().get(&version).cloned().ok_or_else(missing)
    }
}

fn identity_of(record: &KeyRecord) -> KeyIdentity {
    identity(record.id, record.organization_id, record.service_id, record.lineage_id, record.purpose)
}

fn identity(
    id: KeyId,
    organization: OrganizationId,
    service: ServiceId,
    lineage: LineageId,
    purpose: KeyPurpose,
) -> KeyIdentity {
    KeyIdentity {
        key_id: id.0,
        organization: organization.to_string(),
        service: service.to_string(),
        lineage: lineage.to_string(),
        purpose: purpose.as_str().to_owned(),
    }
}

fn secret_identity(service: &Service, name: &str) -> KeyIdentity {
    KeyIdentity {
        key_id: service.id.0,
        organization: service.organization_id.to_string(),
        service: service.id.to_string(),
        lineage: service.lineage_id.to_string(),
        purpose: format!("secret:{name}"),
    }
}

fn make_folder(folder: &Path) -> Result<(), VaultError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| VaultError::File { path: folder.to_owned(), source })
}

/// A password of 32 characters, about 190 bits, that needs no quoting in a URL.
#[must_use]
pub fn new_password() -> Zeroizing<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    Zeroizing::new((0..32).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect())
}

#[cfg(test)]
mod tests;
