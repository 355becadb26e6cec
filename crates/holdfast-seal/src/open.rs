//! Opening a whole object as a stream, in memory bounded by one chunk.

use bytes::BytesMut;

use crate::chunk::ChunkCipher;
use crate::context::ObjectContext;
use crate::key::DataKey;
use crate::layout::{CHUNK_SEALED, Header, PREFIX_LEN};
use crate::{Result, SealError};

/// Opens one object from its first byte to its last.
///
/// Bytes that [`update`](Self::update) appended are authentic and stand in their right place, but only
/// [`finish`](Self::finish) says that they are all: until it has returned `Ok`, a restore that used them is not
/// finished.
pub struct Opener {
    state: State,
    /// What has come of the prefix or of the current chunk.
    pending: Vec<u8>,
    /// Number of the next chunk.
    index: u64,
    object: String,
}

enum State {
    Prefix { key: DataKey, ctx: ObjectContext },
    Body { cipher: ChunkCipher, header: Header },
    Failed,
}

impl Opener {
    #[must_use]
    pub fn new(key: &DataKey, ctx: &ObjectContext) -> Self {
        Self {
            state: State::Prefix { key: key.clone(), ctx: ctx.clone() },
            pending: Vec::new(),
            index: 0,
            object: ctx.to_string(),
        }
    }

    /// The header, once the prefix has come and its commitment has been found right.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        match &self.state {
            State::Body { header, .. } => Some(header),
            State::Prefix { .. } | State::Failed => None,
        }
    }

    /// Takes the object's bytes in pieces of any length and appends the plaintext of every full chunk that
    /// authenticates to `out`.
    ///
    /// # Errors
    /// The first one ends it: nothing more is appended and every later call fails.
    pub fn update(&mut self, sealed: &[u8], out: &mut BytesMut) -> Result<()> {
        self.feed(sealed, out).inspect_err(|_| self.state = State::Failed)
    }

    /// Opens the last chunk, which must be there and be a short one.
    ///
    /// # Errors
    /// When the object is cut or followed by anything, or when an earlier part of it failed.
    pub fn finish(self, out: &mut BytesMut) -> Result<()> {
        let cipher = match self.state {
            State::Body { cipher, .. } => cipher,
            State::Prefix { .. } => {
                return Err(SealError::Truncated {
                    object: self.object,
                    sealed_bytes: self.pending.len() as u64,
                });
            }
            State::Failed => return Err(SealError::AlreadyFailed { object: self.object }),
        };
        if self.pending.is_empty() {
            let sealed_bytes = PREFIX_LEN as u64 + self.index * CHUNK_SEALED as u64;
            return Err(SealError::Truncated { object: self.object, sealed_bytes });
        }
        cipher
            .open(self.index, &self.pending, out)
            .map_err(|_| SealError::Chunk { object: self.object, index: self.index })
    }

    fn feed(&mut self, mut sealed: &[u8], out: &mut BytesMut) -> Result<()> {
        while !sealed.is_empty() {
            match &self.state {
                State::Failed => return Err(SealError::AlreadyFailed { object: self.object.clone() }),
                State::Prefix { key, ctx } => {
                    sealed = take_up_to(PREFIX_LEN, &mut self.pending, sealed);
                    if let Ok(prefix) = self.pending.as_slice().try_into() {
                        let (header, cipher) = ChunkCipher::from_prefix(key, ctx, prefix)?;
                        self.state = State::Body { cipher, header };
                        self.pending.clear();
                    }
                }
                State::Body { cipher, .. } => {
                    let whole =
                        if self.pending.is_empty() { sealed.split_at_checked(CHUNK_SEALED) } else { None };
                    let opened = if let Some((chunk, rest)) = whole {
                        sealed = rest;
                        cipher.open(self.index, chunk, out)
                    } else {
                        sealed = take_up_to(CHUNK_SEALED, &mut self.pending, sealed);
                        if self.pending.len() < CHUNK_SEALED {
                            return Ok(());
                        }
                        let opened = cipher.open(self.index, &self.pending, out);
                        self.pending.clear();
                        opened
                    };
                    // A chunk of full length is never the last one, so it can be opened without knowing what follows.
                    opened
                        .map_err(|_| SealError::Chunk { object: self.object.clone(), index: self.index })?;
                    self.index += 1;
                }
            }
        }
        Ok(())
    }
}

/// Moves bytes from `from` to `to` until it holds `wanted`; returns the rest.
fn take_up_to<'a>(wanted: usize, to: &mut Vec<u8>, from: &'a [u8]) -> &'a [u8] {
    let (taken, rest) = from.split_at(from.len().min(wanted - to.len()));
    to.extend_from_slice(taken);
    rest
}

/// Opens a small object in one go. Either the whole plaintext comes back or nothing.
///
/// # Errors
/// As [`Opener::update`] and [`Opener::finish`].
pub fn open_to_vec(key: &DataKey, ctx: &ObjectContext, sealed: &[u8]) -> Result<Vec<u8>> {
    let mut out = BytesMut::with_capacity(sealed.len());
    let mut opener = Opener::new(key, ctx);
    opener.update(sealed, &mut out)?;
    opener.finish(&mut out)?;
    Ok(out.into())
}
