//! The cipher of one object: C2SP chunked-encryption version 1 with AES-256-GCM and SHA-512 (Cobblestone-256).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Prk};
use bytes::BytesMut;
use zeroize::Zeroizing;

use crate::context::ObjectContext;
use crate::key::DataKey;
use crate::layout::{COMMITMENT_LEN, HEADER_LEN, Header, PREFIX_LEN, SALT_LEN, TAG_LEN};
use crate::{Result, SealError};

const KEY_LEN: usize = 32;
const DERIVED_LEN: usize = KEY_LEN + NONCE_LEN + COMMITMENT_LEN;

struct DerivedLen;

impl KeyType for DerivedLen {
    fn len(&self) -> usize {
        DERIVED_LEN
    }
}

/// The chunk did not authenticate, or is shorter than its tag.
pub(crate) struct BadChunk;

/// Key, base nonce and commitment that data key, salt and context derive.
pub(crate) struct ChunkCipher {
    key: LessSafeKey,
    base_nonce: [u8; NONCE_LEN],
    commitment: [u8; COMMITMENT_LEN],
}

impl ChunkCipher {
    pub(crate) fn derive(data_key: &DataKey, salt: &[u8; SALT_LEN], context: &[u8]) -> Self {
        let prk = Prk::new_less_safe(HKDF_SHA512, data_key.expose());
        let info = [b"c2sp.org/chunked-encryption@v1+".as_slice(), b"AEAD_AES_256_GCM\0", salt, context];
        let mut derived = Zeroizing::new([0_u8; DERIVED_LEN]);
        prk.expand(&info, DerivedLen)
            .and_then(|okm| okm.fill(derived.as_mut_slice()))
            .expect("HKDF-SHA-512 gives 76 bytes for any info");
        let (key, rest) = derived.split_at(KEY_LEN);
        let (nonce, commitment) = rest.split_at(NONCE_LEN);
        Self {
            key: LessSafeKey::new(
                UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key is 32 bytes long"),
            ),
            base_nonce: nonce.try_into().expect("split at its length"),
            commitment: commitment.try_into().expect("split at its length"),
        }
    }

    /// Reads an object's first [`PREFIX_LEN`] bytes and checks the commitment, in constant time, before anything else.
    pub(crate) fn from_prefix(
        data_key: &DataKey,
        context: &ObjectContext,
        prefix: &[u8; PREFIX_LEN],
    ) -> Result<(Header, Self)> {
        let header = Header::parse_of(prefix, &context.to_string())?;
        let raw_header: &[u8; HEADER_LEN] = prefix.first_chunk().expect("the prefix begins with the header");
        let (salt, commitment) = prefix[HEADER_LEN..].split_at(SALT_LEN);
        let salt = salt.try_into().expect("split at its length");
        let cipher = Self::derive(data_key, salt, &context.encode(raw_header));
        verify_slices_are_equal(&cipher.commitment, commitment)
            .map_err(|_| SealError::WrongKeyOrContext { object: context.to_string() })?;
        Ok((header, cipher))
    }

    pub(crate) fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        &self.commitment
    }

    /// The base nonce XOR the chunk's number, big-endian.
    fn nonce(&self, index: u64) -> Nonce {
        let mut nonce = self.base_nonce;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(index.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Appends chunk `index` to `out`: ciphertext, then tag. Each index is sealed once.
    pub(crate) fn seal(&self, index: u64, plain: &[u8], out: &mut BytesMut) {
        let start = out.len();
        out.reserve(plain.len() + TAG_LEN);
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(index), Aad::empty(), &mut out[start..])
            .expect("AES-GCM seals any 16 KiB");
        out.extend_from_slice(tag.as_ref());
    }

    /// Appends the plaintext of chunk `index` to `out` once it has been authenticated; otherwise `out` is as before.
    pub(crate) fn open(&self, index: u64, sealed: &[u8], out: &mut BytesMut) -> Result<(), BadChunk> {
        let Some(plain_len) = sealed.len().checked_sub(TAG_LEN) else { return Err(BadChunk) };
        let (ciphertext, tag) = sealed.split_at(plain_len);
        let start = out.len();
        out.resize(start + plain_len, 0);
        let opened = self.key.open_separate_gather(
            self.nonce(index),
            Aad::empty(),
            ciphertext,
            tag,
            &mut out[start..],
        );
        opened.map_err(|_| {
            // What a failed call leaves in the buffer is unspecified (aws-lc-rs, `open_separate_gather`).
            out[start..].fill(0);
            out.truncate(start);
            BadChunk
        })
    }
}
