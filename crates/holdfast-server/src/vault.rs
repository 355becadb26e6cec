//! The vault: the only place where data keys are unwrapped. It holds the current KEK and the recovery key's public half.
//!
//! On disk, below `<data>/keys` (folder 0700, files 0600): `kek-<version>` (64 hex digits) for every KEK that something may
//! still be wrapped by, and `recovery.pub`. The recovery key's private half is written once, into the recovery kit.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::service::Service;
use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::{DataKey, Kek, KeyIdentity, RecoveryPrivate, RecoveryPublic};
use zeroize::Zeroizing;

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
    #[error("KEK version {version} is needed and not here")]
    MissingKek { version: u32 },
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

/// Wraps and unwraps; cheap to share.
pub struct Vault {
    keks: BTreeMap<u32, Kek>,
    current: u32,
    recovery: RecoveryPublic,
}

impl Vault {
    /// Whether there is any KEK below `folder`.
    #[must_use]
    pub fn has_keys(folder: &Path) -> bool {
        folder.is_dir() && list_kek_versions(folder).is_ok_and(|versions| !versions.is_empty())
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
            for version in list_kek_versions(folder)? {
                keks.insert(version, read_kek(folder, version)?);
            }
        }
        if let Some(current) = keks.keys().next_back().copied() {
            let path = folder.join("recovery.pub");
            let text = fs::read_to_string(&path)
                .map_err(|source| VaultError::File { path: path.clone(), source })?;
            let recovery = RecoveryPublic::from_text(text.trim())
                .map_err(|error| VaultError::Damaged { path, what: error.to_string() })?;
            return Ok(Self { keks, current, recovery });
        }
        Self::create(folder, save_kit)
    }

    fn create(
        folder: &Path,
        save_kit: impl FnOnce(&RecoveryPrivate) -> Result<(), VaultError>,
    ) -> Result<Self, VaultError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| VaultError::File { path: folder.to_owned(), source })?;
        let private = RecoveryPrivate::generate();
        let public = private.public();
        write_secret(&folder.join("recovery.pub"), public.to_text().as_bytes())?;
        save_kit(&private)?;
        let kek = Kek::random(1);
        let hex = Zeroizing::new(hex::encode(kek.expose()));
        write_secret(&kek_path(folder, 1), hex.as_bytes())?;
        Ok(Self { keks: BTreeMap::from([(1, kek)]), current: 1, recovery: public })
    }

    #[must_use]
    pub fn current_kek_version(&self) -> u32 {
        self.current
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
        KeyRecord {
            id,
            organization_id,
            service_id,
            lineage_id,
            purpose,
            kek_version: self.current,
            wrapped: holdfast_seal::wrap(self.kek(), &identity, &key),
            recovery_wrapped: holdfast_seal::wrap_for_recovery(&self.recovery, &identity, &key),
            created_at: now,
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
        let kek = self
            .keks
            .get(&record.kek_version)
            .ok_or(VaultError::MissingKek { version: record.kek_version })?;
        let identity =
            identity(record.id, record.organization_id, record.service_id, record.lineage_id, record.purpose);
        holdfast_seal::unwrap(kek, &identity, &record.wrapped).map_err(|source| VaultError::Unwrap {
            what: format!("key {}", record.id),
            service: record.service_id,
            source,
        })
    }

    /// Wraps a short secret of a service (a password, a passphrase) under a name; it opens only under the same name.
    #[must_use]
    pub fn wrap_secret(&self, service: &Service, name: &str, secret: &str) -> Vec<u8> {
        holdfast_seal::wrap_secret(self.kek(), &secret_identity(service, name), secret.as_bytes())
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
        let kek = self.keks.get(&version).ok_or(VaultError::MissingKek { version })?;
        let bytes = holdfast_seal::unwrap_secret(kek, &secret_identity(service, name), blob).map_err(fail)?;
        String::from_utf8(bytes.to_vec()).map(Zeroizing::new).map_err(|_| VaultError::Damaged {
            path: PathBuf::from(name),
            what: "the secret is no text".to_owned(),
        })
    }

    fn kek(&self) -> &Kek {
        self.keks.get(&self.current).expect("the current version is one of the keys")
    }
}

/// The word of a purpose in a key's identity; part of the format.
#[must_use]
pub fn purpose_word(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::Backup => "backup",
        KeyPurpose::Epoch => "epoch",
        KeyPurpose::Repository => "repository",
        KeyPurpose::Coverage => "coverage",
    }
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
        purpose: purpose_word(purpose).to_owned(),
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

fn kek_path(folder: &Path, version: u32) -> PathBuf {
    folder.join(format!("kek-{version}"))
}

fn list_kek_versions(folder: &Path) -> Result<Vec<u32>, VaultError> {
    let fail = |source| VaultError::File { path: folder.to_owned(), source };
    let mut versions = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if let Some(version) = name.to_str().and_then(|n| n.strip_prefix("kek-")).and_then(|v| v.parse().ok())
        {
            versions.push(version);
        }
    }
    Ok(versions)
}

fn read_kek(folder: &Path, version: u32) -> Result<Kek, VaultError> {
    let path = kek_path(folder, version);
    let text = fs::read_to_string(&path)
        .map(Zeroizing::new)
        .map_err(|source| VaultError::File { path: path.clone(), source })?;
    let damaged = || VaultError::Damaged { path: path.clone(), what: "not 64 hex digits".to_owned() };
    let bytes = Zeroizing::new(hex::decode(text.trim()).map_err(|_| damaged())?);
    let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| damaged())?;
    Ok(Kek::from_bytes(version, bytes))
}

/// Writes a file of mode 0600 so that it is there whole or not at all, also after a power cut.
///
/// # Errors
/// Whatever the file system says.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), VaultError> {
    let fail = |source| VaultError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(fail)
}

/// A password of 32 characters, about 190 bits, that needs no quoting in a URL.
#[must_use]
pub fn new_password() -> Zeroizing<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    Zeroizing::new((0..32).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect())
}

/// pgBackRest's cipher passphrase of a repository, derived from the repository's key (`docs/format.md`): whoever can
/// unwrap the key has it, and there is no second secret to keep.
#[must_use]
pub fn cipher_passphrase(repository_key: &DataKey) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, repository_key.expose());
    hex::encode(aws_lc_rs::hmac::sign(&key, b"holdfast/v1/pgbackrest-cipher-passphrase"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_random_and_plain() {
        let (a, b) = (new_password(), new_password());
        assert_eq!(a.len(), 32);
        assert_ne!(*a, *b);
        assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
