//! Data keys and short secrets wrapped by the key-encryption key (KEK).
//!
//! ```text
//! "HFWK" | format 1 | kind (1 data key, 2 secret) | 0 0 | KEK version u32 BE | nonce 12 | ciphertext | tag 16
//! ```
//! AES-256-GCM with a random nonce; associated data: the first 12 bytes, then the key's identity. The version stands
//! outside the ciphertext so that a wrapped key says which KEK to fetch; it is authenticated like the rest.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::encoding::{length_prefixed, random};
use crate::key::DataKey;
use crate::layout::TAG_LEN;
use crate::{Result, SealError};

/// Bytes before the nonce.
const HEADER_LEN: usize = 12;
const MAGIC: &[u8; 4] = b"HFWK";
const FORMAT: u8 = 1;

/// What is inside; authenticated, so that a wrapped password never passes for a wrapped data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrappedKind {
    DataKey = 1,
    Secret = 2,
}

/// A key-encryption key of one version. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Kek {
    version: u32,
    bytes: [u8; 32],
}

impl Kek {
    /// A new key from the operating system's generator.
    #[must_use]
    pub fn random(version: u32) -> Self {
        Self { version, bytes: random() }
    }

    #[must_use]
    pub fn from_bytes(version: u32, bytes: [u8; 32]) -> Self {
        Self { version, bytes }
    }

    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The secret itself; for the provider that keeps it and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.bytes).expect("an AES-256 key is 32 bytes long"))
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek").field("version", &self.version).field("bytes", &"redacted").finish()
    }
}

/// Whose key it is. A wrapped key opens only under the identity that it was wrapped with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyIdentity {
    pub key_id: Uuid,
    pub organization: String,
    pub service: String,
    pub lineage: String,
    /// What the key is for: `backup`, `epoch`, `repository`, `coverage`; or what the secret is.
    pub purpose: String,
}

impl KeyIdentity {
    /// The canonical encoding: a label, key id (16 bytes), organization, service, lineage and purpose, each behind its
    /// length (u32, big-endian).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed([
            b"holdfast/key-identity/1".as_slice(),
            self.key_id.as_bytes(),
            self.organization.as_bytes(),
            self.service.as_bytes(),
            self.lineage.as_bytes(),
            self.purpose.as_bytes(),
        ])
    }
}

/// Wraps a data key.
#[must_use]
pub fn wrap(kek: &Kek, identity: &KeyIdentity, key: &DataKey) -> Vec<u8> {
    wrap_with_nonce(kek, identity, WrappedKind::DataKey, key.expose(), random())
}

/// Unwraps a data key.
///
/// # Errors
/// [`SealError::WrongKekVersion`] when another KEK wraps it, [`SealError::Unwrap`] when identity or key do not fit or
/// a byte was changed, [`SealError::NotAWrappedKey`] when it is none.
pub fn unwrap(kek: &Kek, identity: &KeyIdentity, wrapped: &[u8]) -> Result<DataKey> {
    let plain = unwrap_kind(kek, identity, WrappedKind::DataKey, wrapped)?;
    let not_a_key = |_| SealError::NotAWrappedKey { key_id: identity.key_id };
    let mut bytes: [u8; 32] = plain.as_slice().try_into().map_err(not_a_key)?;
    let key = DataKey::from_bytes(bytes);
    bytes.zeroize();
    Ok(key)
}

/// Wraps a short secret: a database password, a cipher passphrase. Its length shows.
#[must_use]
pub fn wrap_secret(kek: &Kek, identity: &KeyIdentity, secret: &[u8]) -> Vec<u8> {
    wrap_with_nonce(kek, identity, WrappedKind::Secret, secret, random())
}

/// Unwraps a short secret.
///
/// # Errors
/// As [`unwrap`].
pub fn unwrap_secret(kek: &Kek, identity: &KeyIdentity, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    unwrap_kind(kek, identity, WrappedKind::Secret, wrapped)
}

/// The version of the KEK that wraps a key or secret, as its bytes say; authenticated only by unwrapping. `None` when
/// the bytes are no wrapped key.
#[must_use]
pub fn wrapped_kek_version(wrapped: &[u8]) -> Option<u32> {
    let header: &[u8; HEADER_LEN] = wrapped.first_chunk()?;
    let well_formed = header[..4] == *MAGIC
        && header[4] == FORMAT
        && matches!(header[5], 1 | 2)
        && header[6..8] == [0, 0]
        && wrapped.len() >= HEADER_LEN + NONCE_LEN + TAG_LEN;
    well_formed.then(|| u32::from_be_bytes([header[8], header[9], header[10], header[11]]))
}

/// A nonce must never be used twice with one KEK: only test vectors choose theirs.
pub(crate) fn wrap_with_nonce(
    kek: &Kek,
    identity: &KeyIdentity,
    kind: WrappedKind,
    plain: &[u8],
    nonce: [u8; NONCE_LEN],
) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(HEADER_LEN + NONCE_LEN + plain.len() + TAG_LEN);
    wrapped.extend_from_slice(MAGIC);
    wrapped.extend_from_slice(&[FORMAT, kind as u8, 0, 0]);
    wrapped.extend_from_slice(&kek.version.to_be_bytes());
    let aad = associated_data(&wrapped, identity);
    wrapped.extend_from_slice(&nonce);
    let start = wrapped.len();
    wrapped.extend_from_slice(plain);
    let tag = kek
        .cipher()
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut wrapped[start..],
        )
        .expect("AES-GCM seals any short secret");
    wrapped.extend_from_slice(tag.as_ref());
    wrapped
}

fn unwrap_kind(
    kek: &Kek,
    identity: &KeyIdentity,
    kind: WrappedKind,
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let key_id = identity.key_id;
    let wrapped_by = wrapped_kek_version(wrapped)
        .filter(|_| wrapped[5] == kind as u8)
        .ok_or(SealError::NotAWrappedKey { key_id })?;
    if wrapped_by != kek.version {
        return Err(SealError::WrongKekVersion { key_id, wrapped_by, given: kek.version });
    }
    let (header, rest) = wrapped.split_at(HEADER_LEN);
    let (nonce, sealed) = rest.split_at(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("split at its length");
    let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_LEN);
    let mut plain = Zeroizing::new(vec![0; ciphertext.len()]);
    kek.cipher()
        .open_separate_gather(
            nonce,
            Aad::from(associated_data(header, identity)),
            ciphertext,
            tag,
            &mut plain,
        )
        .map_err(|_| SealError::Unwrap { key_id })?;
    Ok(plain)
}

fn associated_data(header: &[u8], identity: &KeyIdentity) -> Vec<u8> {
    [header, &identity.encode()].concat()
}
