//! Lengths and the header of a sealed object, format version 1. Pure arithmetic, no keys.
//!
//! ```text
//! header 32 | salt 24 | commitment 32 | chunk 0 (16400) | chunk 1 (16400) | … | last chunk (16..=16399)
//! ```

use uuid::Uuid;

use crate::{Result, SealError};

/// Bytes of the header: magic (8), version (u16, big-endian), six zero bytes, key id (16).
pub const HEADER_LEN: usize = 32;
/// Random bytes after the header; each object's chunk key derives from them.
pub const SALT_LEN: usize = 24;
/// Bytes that commit to the key and the context.
pub const COMMITMENT_LEN: usize = 32;
/// Header, salt and commitment: what a range reader fetches first.
pub const PREFIX_LEN: usize = HEADER_LEN + SALT_LEN + COMMITMENT_LEN;
/// Plaintext bytes of every chunk but the last, which has fewer.
pub const CHUNK_PLAIN: usize = 16 * 1024;
/// Bytes of an AES-GCM tag.
pub const TAG_LEN: usize = 16;
/// Stored bytes of every chunk but the last.
pub const CHUNK_SEALED: usize = CHUNK_PLAIN + TAG_LEN;
/// The format version that this crate writes.
pub const FORMAT_VERSION: u16 = 1;
/// Chunks are numbered in 38 bits (C2SP chunked-encryption), so the longest plaintext is a byte short of 4 PiB.
pub const MAX_CHUNKS: u64 = 1 << 38;
/// The longest plaintext that one object can hold, in bytes.
pub const MAX_PLAIN_LEN: u64 = MAX_CHUNKS * CHUNK_PLAIN as u64 - 1;

const MAGIC: [u8; 8] = *b"HOLDFAST";

/// Bytes of the sealed object that holds `plain_len` bytes. Saturates beyond [`MAX_PLAIN_LEN`], where nothing can be
/// sealed anyway.
#[must_use]
pub fn sealed_len(plain_len: u64) -> u64 {
    let full_chunks = plain_len / CHUNK_PLAIN as u64;
    plain_len.saturating_add(full_chunks.saturating_add(1) * TAG_LEN as u64).saturating_add(PREFIX_LEN as u64)
}

/// Plaintext bytes of a sealed object of `sealed_len` bytes: the exact inverse of [`sealed_len`].
///
/// # Errors
/// [`SealError::ImpossibleLength`] when no sealed object has that length, as after a cut at a chunk's edge.
pub fn plain_len(sealed_len: u64) -> Result<u64> {
    let impossible = SealError::ImpossibleLength { sealed_bytes: sealed_len };
    let Some(body) = sealed_len.checked_sub(PREFIX_LEN as u64) else { return Err(impossible) };
    let full_chunks = body / CHUNK_SEALED as u64;
    let Some(last) = (body % CHUNK_SEALED as u64).checked_sub(TAG_LEN as u64) else { return Err(impossible) };
    if full_chunks >= MAX_CHUNKS { Err(impossible) } else { Ok(full_chunks * CHUNK_PLAIN as u64 + last) }
}

/// The first [`HEADER_LEN`] bytes of a sealed object. Not authenticated by itself: it is part of the context, so an
/// object with a changed header does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub version: u16,
    /// The data key that seals the object.
    pub key_id: Uuid,
}

impl Header {
    /// The header of an object that is sealed now.
    #[must_use]
    pub fn new(key_id: Uuid) -> Self {
        Self { version: FORMAT_VERSION, key_id }
    }

    /// Reads the first [`HEADER_LEN`] bytes of `bytes`; what follows them is ignored.
    ///
    /// # Errors
    /// [`SealError::NotSealed`] or [`SealError::UnsupportedVersion`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::parse_of(bytes, "an object")
    }

    pub(crate) fn parse_of(bytes: &[u8], object: &str) -> Result<Self> {
        let not_sealed = || SealError::NotSealed { object: object.to_owned() };
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or_else(not_sealed)?;
        if header[..8] != MAGIC {
            return Err(not_sealed());
        }
        let version = u16::from_be_bytes([header[8], header[9]]);
        if version != FORMAT_VERSION {
            return Err(SealError::UnsupportedVersion { object: object.to_owned(), version });
        }
        if header[10..16] != [0; 6] {
            return Err(not_sealed());
        }
        let key_id = Uuid::from_slice(&header[16..]).expect("16 bytes are left of 32");
        Ok(Self { version, key_id })
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_be_bytes());
        bytes[16..].copy_from_slice(self.key_id.as_bytes());
        bytes
    }
}
