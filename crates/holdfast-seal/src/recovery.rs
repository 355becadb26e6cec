//! The recovery key: the second recipient of every data key, whose private half is only in the owner's recovery kit.
//!
//! ```text
//! "HFRK" | format 1 | 0 0 0 | recovery key's fingerprint 8 | encapsulated key 32 | ciphertext 32 | tag 16
//! ```
//! HPKE (RFC 9180) base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, one message. `info` is the first 16
//! bytes and the key's identity; no associated data. It does not change when the KEK rotates.

use std::convert::Infallible;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{CryptoRng, TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::key::DataKey;
use crate::layout::TAG_LEN;
use crate::wrap::KeyIdentity;
use crate::{Result, SealError};

mod text;

const MAGIC: &[u8; 4] = b"HFRK";
const FORMAT: u8 = 1;
const FINGERPRINT_LEN: usize = 8;
const HEADER_LEN: usize = 8 + FINGERPRINT_LEN;
const ENCAPSULATED_LEN: usize = 32;
const WRAPPED_LEN: usize = HEADER_LEN + ENCAPSULATED_LEN + 32 + TAG_LEN;

const PUBLIC_LABEL: &str = "HFPUB1";
const PRIVATE_LABEL: &str = "HFPRIV1";

type Suite = X25519HkdfSha256;

/// The public half: wraps, cannot unwrap. Safe to store and show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecoveryPublic([u8; 32]);

/// The private half. Wiped when dropped; never stored by Holdfast.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryPrivate([u8; 32]);

impl RecoveryPublic {
    /// # Errors
    /// [`SealError::RecoveryText`] when no key can be wrapped for it (a point of small order).
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self> {
        let refused = |_| SealError::RecoveryText { problem: "it is no usable public key" };
        let point = <Suite as Kem>::PublicKey::from_bytes(&bytes).map_err(refused)?;
        // A trial, so that wrapping for a key that was read never fails later, in the middle of a backup.
        encapsulate_and_seal(&point, b"", b"", &mut SystemRandom).map_err(refused)?;
        Ok(Self(bytes))
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// One line, `HFPUB1-…`, with a checksum.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::encode(PUBLIC_LABEL, &self.0).to_string()
    }

    /// # Errors
    /// [`SealError::RecoveryText`]; it says what is wrong without repeating the line.
    pub fn from_text(line: &str) -> Result<Self> {
        Self::from_bytes(*text::decode(PUBLIC_LABEL, line)?)
    }

    /// 16 hex digits that tell recovery keys apart: the first eight bytes of the public half's SHA-256.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint_bytes())
    }

    fn fingerprint_bytes(&self) -> [u8; FINGERPRINT_LEN] {
        *digest(&SHA256, &self.0).as_ref().first_chunk().expect("a SHA-256 is 32 bytes long")
    }

    fn point(&self) -> <Suite as Kem>::PublicKey {
        <Suite as Kem>::PublicKey::from_bytes(&self.0).expect("checked when it was read")
    }
}

impl RecoveryPrivate {
    /// A new key pair from the operating system's generator.
    #[must_use]
    pub fn generate() -> Self {
        Self::generate_from(&mut SystemRandom)
    }

    pub(crate) fn generate_from(rng: &mut impl CryptoRng) -> Self {
        let (private, _) = Suite::gen_keypair_with_rng(rng);
        let mut bytes = private.to_bytes();
        let key = Self(bytes.as_slice().try_into().expect("an X25519 key is 32 bytes long"));
        bytes.as_mut_slice().zeroize();
        key
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> RecoveryPublic {
        let bytes = Suite::sk_to_pk(&self.scalar()).to_bytes();
        RecoveryPublic(bytes.as_slice().try_into().expect("an X25519 key is 32 bytes long"))
    }

    /// The recovery kit's line, `HFPRIV1-…`, with a checksum.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        text::encode(PRIVATE_LABEL, &self.0)
    }

    /// Reads a line as a person copies or types it: upper or lower case, with or without dashes and spaces.
    ///
    /// # Errors
    /// [`SealError::RecoveryText`]; it says what is wrong without repeating the line.
    pub fn from_text(line: &str) -> Result<Self> {
        Ok(Self(*text::decode(PRIVATE_LABEL, line)?))
    }

    fn scalar(&self) -> <Suite as Kem>::PrivateKey {
        <Suite as Kem>::PrivateKey::from_bytes(&self.0).expect("any 32 bytes are an X25519 private key")
    }
}

impl fmt::Debug for RecoveryPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPrivate(redacted)")
    }
}

/// Wraps a data key for the recovery key's public half.
#[must_use]
pub fn wrap_for_recovery(public: &RecoveryPublic, identity: &KeyIdentity, key: &DataKey) -> Vec<u8> {
    wrap_with_rng(public, identity, key, &mut SystemRandom)
}

pub(crate) fn wrap_with_rng(
    public: &RecoveryPublic,
    identity: &KeyIdentity,
    key: &DataKey,
    rng: &mut impl CryptoRng,
) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(WRAPPED_LEN);
    wrapped.extend_from_slice(MAGIC);
    wrapped.extend_from_slice(&[FORMAT, 0, 0, 0]);
    wrapped.extend_from_slice(&public.fingerprint_bytes());
    let info = [&wrapped, identity.encode().as_slice()].concat();
    let (encapsulated, sealed) = encapsulate_and_seal(&public.point(), &info, key.expose(), rng)
        .expect("a public key that cannot be wrapped for is refused when it is read");
    wrapped.extend_from_slice(&encapsulated);
    wrapped.extend_from_slice(&sealed);
    wrapped
}

/// Unwraps a data key with the recovery kit.
///
/// # Errors
/// [`SealError::WrongRecoveryKey`] when it was wrapped for another kit, [`SealError::Unwrap`] when the identity does
/// not fit or a byte was changed, [`SealError::NotAWrappedKey`] when it is none.
pub fn unwrap_with_recovery(
    private: &RecoveryPrivate,
    identity: &KeyIdentity,
    wrapped: &[u8],
) -> Result<DataKey> {
    let key_id = identity.key_id;
    if wrapped.len() != WRAPPED_LEN || wrapped[..4] != *MAGIC || wrapped[4..8] != [FORMAT, 0, 0, 0] {
        return Err(SealError::NotAWrappedKey { key_id });
    }
    let (header, rest) = wrapped.split_at(HEADER_LEN);
    let public = private.public();
    if header[8..] != public.fingerprint_bytes() {
        let (wrapped_for, given) = (hex::encode(&header[8..]), public.fingerprint());
        return Err(SealError::WrongRecoveryKey { key_id, wrapped_for, given });
    }
    let (encapsulated, sealed) = rest.split_at(ENCAPSULATED_LEN);
    let damaged = |_| SealError::Unwrap { key_id };
    let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).map_err(damaged)?;
    let info = [header, &identity.encode()].concat();
    let plain = hpke::single_shot_open::<AesGcm256, HkdfSha256, Suite>(
        &OpModeR::Base,
        &private.scalar(),
        &encapsulated,
        &info,
        sealed,
        b"",
    )
    .map(Zeroizing::new)
    .map_err(damaged)?;
    Ok(DataKey::from_bytes(plain.as_slice().try_into().expect("the length was checked")))
}

fn encapsulate_and_seal(
    recipient: &<Suite as Kem>::PublicKey,
    info: &[u8],
    plain: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<(Vec<u8>, Vec<u8>), hpke::HpkeError> {
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, Suite>(
        &OpModeS::Base,
        recipient,
        info,
        plain,
        b"",
        rng,
    )?;
    Ok((encapsulated.to_bytes().to_vec(), sealed))
}

/// AWS-LC's generator in the shape that `hpke` asks for.
struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes(crate::encoding::random()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes(crate::encoding::random()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        aws_lc_rs::rand::fill(bytes).expect("AWS-LC aborts rather than run out of random bytes");
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}
