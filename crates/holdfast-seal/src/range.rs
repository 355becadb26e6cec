//! Ranged reads: any part of an object's plaintext from the whole chunks that cover it.

use std::ops::Range;

use bytes::BytesMut;

use crate::chunk::ChunkCipher;
use crate::context::ObjectContext;
use crate::key::DataKey;
use crate::layout::{CHUNK_PLAIN, CHUNK_SEALED, Header, PREFIX_LEN, TAG_LEN};
use crate::{Result, SealError, plain_len};

/// Opens single chunks of an object whose prefix and length are known.
///
/// The length is the store's word until the last chunk has been opened: every chunk that opens is authentic and in
/// its place, but that nothing is missing *behind* it is known only once chunk [`chunks`](Self::chunks)` - 1` opens.
/// Where that matters, and no manifest has vouched for the length, open the last chunk too.
pub struct RangeOpener {
    cipher: ChunkCipher,
    header: Header,
    plain_len: u64,
    object: String,
}

impl RangeOpener {
    /// `prefix` is the object's first [`PREFIX_LEN`] bytes, `sealed_len` its whole length in bytes.
    ///
    /// # Errors
    /// When the prefix is none, when key or context are not the object's, or when no object has that length.
    pub fn new(key: &DataKey, ctx: &ObjectContext, prefix: &[u8], sealed_len: u64) -> Result<Self> {
        let object = ctx.to_string();
        let plain_len = plain_len(sealed_len)?;
        let Some(prefix) = prefix.first_chunk().filter(|_| prefix.len() == PREFIX_LEN) else {
            return Err(SealError::Truncated { object, sealed_bytes: prefix.len() as u64 });
        };
        let (header, cipher) = ChunkCipher::from_prefix(key, ctx, prefix)?;
        Ok(Self { cipher, header, plain_len, object })
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Plaintext bytes of the whole object, if the store told its true length.
    #[must_use]
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// How many chunks the object has; at least one.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.plain_len / CHUNK_PLAIN as u64 + 1
    }

    /// The number of the chunk that holds the plaintext byte at `position`.
    #[must_use]
    pub fn chunk_of(position: u64) -> u64 {
        position / CHUNK_PLAIN as u64
    }

    /// The bytes of the object to fetch for the plaintext bytes `plain`: whole chunks. A range that reaches beyond
    /// the end is cut there; an empty one needs nothing.
    #[must_use]
    pub fn sealed_range(&self, plain: Range<u64>) -> Range<u64> {
        let end = plain.end.min(self.plain_len);
        let prefix = PREFIX_LEN as u64;
        if plain.start >= end {
            return prefix..prefix;
        }
        let (first, last) = (Self::chunk_of(plain.start), Self::chunk_of(end - 1));
        let start = prefix + first * CHUNK_SEALED as u64;
        start..prefix + last * CHUNK_SEALED as u64 + self.sealed_chunk_len(last) as u64
    }

    /// Appends the plaintext of chunk `index`, given exactly its stored bytes.
    ///
    /// # Errors
    /// When there is no such chunk, when it is not as long as that chunk of an object of this length, or when it does
    /// not authenticate; `out` is then as before.
    pub fn open_chunk(&self, index: u64, sealed: &[u8], out: &mut BytesMut) -> Result<()> {
        let chunks = self.chunks();
        if index >= chunks {
            return Err(SealError::NoSuchChunk { object: self.object.clone(), index, chunks });
        }
        let (expected, found) = (self.sealed_chunk_len(index), sealed.len());
        if found != expected {
            return Err(SealError::ChunkLength { object: self.object.clone(), index, expected, found });
        }
        let bad_chunk = |_| SealError::Chunk { object: self.object.clone(), index };
        self.cipher.open(index, sealed, out).map_err(bad_chunk)
    }

    /// Appends exactly the plaintext bytes `plain` (cut at the end), given the bytes of [`sealed_range`](Self::sealed_range).
    ///
    /// # Errors
    /// As [`open_chunk`](Self::open_chunk); `out` then holds nothing new.
    pub fn open_range(&self, plain: Range<u64>, sealed: &[u8], out: &mut BytesMut) -> Result<()> {
        let end = plain.end.min(self.plain_len);
        if plain.start >= end {
            return Ok(());
        }
        let (first, last) = (Self::chunk_of(plain.start), Self::chunk_of(end - 1));
        let mut opened = BytesMut::new();
        let mut rest = sealed;
        for index in first..=last {
            // The last piece takes all that is left, so that a surplus is refused as a wrong length.
            let len = if index == last { rest.len() } else { rest.len().min(CHUNK_SEALED) };
            let (chunk, behind) = rest.split_at(len);
            self.open_chunk(index, chunk, &mut opened)?;
            rest = behind;
        }
        let skip = usize::try_from(plain.start % CHUNK_PLAIN as u64).expect("less than a chunk");
        let len = usize::try_from(end - plain.start).expect("no longer than what was opened");
        out.extend_from_slice(&opened[skip..skip + len]);
        Ok(())
    }

    /// Stored bytes of chunk `index`, which must exist.
    fn sealed_chunk_len(&self, index: u64) -> usize {
        if index + 1 < self.chunks() {
            return CHUNK_SEALED;
        }
        usize::try_from(self.plain_len % CHUNK_PLAIN as u64).expect("less than a chunk") + TAG_LEN
    }
}
