//! Sealing a stream, in memory bounded by one chunk.

use bytes::BytesMut;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::chunk::ChunkCipher;
use crate::context::ObjectContext;
use crate::encoding::random;
use crate::key::DataKey;
use crate::layout::{CHUNK_PLAIN, Header, MAX_CHUNKS, SALT_LEN};
use crate::{Result, SealError, sealed_len};

/// Seals one object. What [`new`](Self::new), [`update`](Self::update) and [`finish`](Self::finish) append, one after
/// the other, is the object. Without `finish` it is no object: it does not open.
pub struct Sealer {
    cipher: ChunkCipher,
    /// Number of the next chunk.
    index: u64,
    /// Plaintext of the chunk that is not full yet; always shorter than a chunk.
    pending: Zeroizing<Vec<u8>>,
    object: String,
}

impl Sealer {
    /// Begins an object: appends its header, a fresh random salt and the commitment to `out`.
    ///
    /// # Errors
    /// None today.
    pub fn new(key: &DataKey, key_id: Uuid, ctx: &ObjectContext, out: &mut BytesMut) -> Result<Self> {
        Ok(Self::with_salt(key, key_id, ctx, &random(), out))
    }

    /// A salt must never be used twice with one key: only test vectors choose theirs.
    pub(crate) fn with_salt(
        key: &DataKey,
        key_id: Uuid,
        ctx: &ObjectContext,
        salt: &[u8; SALT_LEN],
        out: &mut BytesMut,
    ) -> Self {
        let header = Header::new(key_id).to_bytes();
        let cipher = ChunkCipher::derive(key, salt, &ctx.encode(&header));
        out.extend_from_slice(&header);
        out.extend_from_slice(salt);
        out.extend_from_slice(cipher.commitment());
        let pending = Zeroizing::new(Vec::with_capacity(CHUNK_PLAIN));
        Self { cipher, index: 0, pending, object: ctx.to_string() }
    }

    /// Takes plaintext in pieces of any length and appends every chunk that got full to `out`.
    ///
    /// # Errors
    /// [`SealError::TooLong`] beyond [`crate::MAX_PLAIN_LEN`].
    pub fn update(&mut self, mut plain: &[u8], out: &mut BytesMut) -> Result<()> {
        while !plain.is_empty() {
            if self.pending.is_empty() && plain.len() >= CHUNK_PLAIN {
                let (chunk, rest) = plain.split_at(CHUNK_PLAIN);
                let index = self.next_index()?;
                self.cipher.seal(index, chunk, out);
                plain = rest;
                continue;
            }
            let taken = plain.len().min(CHUNK_PLAIN - self.pending.len());
            self.pending.extend_from_slice(&plain[..taken]);
            plain = &plain[taken..];
            if self.pending.len() == CHUNK_PLAIN {
                let index = self.next_index()?;
                self.cipher.seal(index, &self.pending, out);
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Appends the last chunk, which is always short and may be empty.
    ///
    /// # Errors
    /// None today: [`update`](Self::update) keeps the last chunk's number free.
    pub fn finish(self, out: &mut BytesMut) -> Result<()> {
        self.cipher.seal(self.index, &self.pending, out);
        Ok(())
    }

    /// The number for a full chunk, which leaves at least one for the last.
    fn next_index(&mut self) -> Result<u64> {
        let index = self.index;
        if index + 1 >= MAX_CHUNKS {
            return Err(SealError::TooLong { object: self.object.clone() });
        }
        self.index += 1;
        Ok(index)
    }
}

/// Seals a small object in one go.
///
/// # Errors
/// As [`Sealer::update`].
pub fn seal_to_vec(key: &DataKey, key_id: Uuid, ctx: &ObjectContext, plain: &[u8]) -> Result<Vec<u8>> {
    let mut out = BytesMut::with_capacity(usize::try_from(sealed_len(plain.len() as u64)).unwrap_or(0));
    let mut sealer = Sealer::new(key, key_id, ctx, &mut out)?;
    sealer.update(plain, &mut out)?;
    sealer.finish(&mut out)?;
    Ok(out.into())
}
