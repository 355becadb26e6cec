//! One object being opened, chunk by chunk, whole or a range of it.
//!
//! What does not open is read again some times before it counts as damaged: a bit that flipped on its way, or an answer that
//! was cut short, is no damage in the store.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdfast_core::KeyId;
use holdfast_seal::{CHUNK_PLAIN, CHUNK_SEALED, HEADER_LEN, Header, PREFIX_LEN, RangeOpener};
use sha2::{Digest, Sha256};

use crate::error::{Result, StoreError};
use crate::keys::{KeyRefused, OwnedKey};
use crate::layout::ObjectName;
use crate::store::{ObjectInfo, Store, Stored};

/// Plaintext is passed on in pieces of about this length.
const PIECE_BYTES: usize = 64 << 10;

/// How often bytes that do not open are read before they count as damaged.
pub const READS: u32 = 4;

/// Picks a range once the plaintext's length is known; `None` where there is no such range.
pub type Choose<'a> = &'a (dyn Fn(u64) -> Option<Range<u64>> + Sync);

/// Finds the key that an object's header names.
pub type Keys<'a> = &'a (dyn Fn(KeyId) -> Result<OwnedKey, KeyRefused> + Sync);

/// Why an object could not be opened.
#[derive(Debug)]
pub enum NotOpened {
    Store(StoreError),
    NoKey(KeyRefused),
    /// The object has no such range.
    NoSuchRange {
        plain_len: u64,
    },
}

impl From<StoreError> for NotOpened {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Opens one object of the store, or a range of it. Its first piece is authentic when this returns.
///
/// # Errors
/// [`NotOpened`].
pub async fn open_object(
    store: &Store,
    keys: Keys<'_>,
    name: &ObjectName,
    choose: Option<Choose<'_>>,
) -> Result<Opened, NotOpened> {
    for read in 1.. {
        match Opened::begin(store, keys, name, choose).await {
            Err(NotOpened::Store(StoreError::Seal { .. }) | NotOpened::NoKey(_)) if read < READS => {
                pause_before_reading_again(read).await;
            }
            other => return other,
        }
    }
    unreachable!("the last reading returns")
}

/// Before the `read`-th reading of what did not open.
pub async fn pause_before_reading_again(read: u32) {
    tokio::time::sleep(Duration::from_millis(20) * read).await;
}

/// An object whose prefix has been checked, being opened.
pub struct Opened {
    pub info: ObjectInfo,
    /// The plaintext bytes that it yields.
    pub range: Range<u64>,
    store: Store,
    name: ObjectName,
    opener: RangeOpener,
    sealed: BoxStream<'static, Result<Bytes>>,
    buffer: BytesMut,
    /// The next chunk, and the one behind the last.
    chunks: Range<u64>,
    /// Opened already and not yet given out.
    first: Option<Bytes>,
    /// Over the sealed bytes that opened, from the object's first one on.
    hasher: Sha256,
}

impl Opened {
    /// Begins to open an object and opens its first piece.
    pub async fn begin(
        store: &Store,
        keys: Keys<'_>,
        name: &ObjectName,
        choose: Option<Choose<'_>>,
    ) -> Result<Self, NotOpened> {
        let mut opened = match choose {
            None => Self::whole(store, keys, name).await?,
            Some(choose) => Self::range(store, keys, name, choose).await?,
        };
        opened.first = opened.open_piece().await?;
        Ok(opened)
    }

    /// The whole object: one request to the store.
    async fn whole(store: &Store, keys: Keys<'_>, name: &ObjectName) -> Result<Self, NotOpened> {
        let mut reading = store.get(name).await?;
        let mut buffer = BytesMut::new();
        fill(&mut reading.bytes, &mut buffer, PREFIX_LEN).await?;
        let opener = opener(keys, name, &buffer, reading.info.sealed_bytes)?;
        let hasher = Sha256::new_with_prefix(buffer.split_to(PREFIX_LEN));
        let (range, chunks) = (0..opener.plain_len(), 0..opener.chunks());
        Ok(Self {
            info: reading.info,
            range,
            store: store.clone(),
            name: name.clone(),
            opener,
            sealed: reading.bytes,
            buffer,
            chunks,
            first: None,
            hasher,
        })
    }

    /// A range: one request for the prefix and one for the range's chunks.
    async fn range(
        store: &Store,
        keys: Keys<'_>,
        name: &ObjectName,
        choose: Choose<'_>,
    ) -> Result<Self, NotOpened> {
        let mut reading = store.get_range(name, 0..PREFIX_LEN as u64).await?;
        let mut prefix = BytesMut::new();
        fill(&mut reading.bytes, &mut prefix, PREFIX_LEN).await?;
        let info = reading.info;
        let opener = opener(keys, name, &prefix, info.sealed_bytes)?;
        let plain_len = opener.plain_len();
        let range = choose(plain_len).ok_or(NotOpened::NoSuchRange { plain_len })?;
        // A range up to the end also opens the last chunk, which may be empty: only it proves where the end is.
        let end = if range.end == opener.plain_len() {
            opener.chunks()
        } else {
            RangeOpener::chunk_of(range.end - 1) + 1
        };
        let chunks = RangeOpener::chunk_of(range.start)..end;
        let sealed = store.get_range(name, sealed_range(&chunks, &info)).await?.bytes;
        let (store, name, buffer) = (store.clone(), name.clone(), BytesMut::new());
        let hasher = Sha256::new();
        Ok(Self { info, range, store, name, opener, sealed, buffer, chunks, first: None, hasher })
    }

    /// Length of the whole object's plaintext.
    pub fn plain_len(&self) -> u64 {
        self.opener.plain_len()
    }

    /// The key that sealed it.
    pub fn key_id(&self) -> KeyId {
        KeyId(self.opener.header().key_id)
    }

    /// The next authenticated plaintext; `None` at the end of the range.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        match self.first.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.open_piece().await,
        }
    }

    /// What the store holds, once the whole object has been opened: only bytes that opened count.
    pub fn into_stored(self) -> Stored {
        debug_assert!(self.range == (0..self.plain_len()) && self.chunks.is_empty(), "opened to its end");
        Stored {
            sealed_bytes: self.info.sealed_bytes,
            sha256: hex::encode(self.hasher.finalize()),
            etag: self.info.etag,
        }
    }

    async fn open_piece(&mut self) -> Result<Option<Bytes>> {
        let mut plain = BytesMut::new();
        while self.chunks.start < self.chunks.end && plain.len() < PIECE_BYTES {
            let (index, from) = (self.chunks.start, plain.len());
            self.open_chunk(index, &mut plain).await?;
            self.trim(index, &mut plain, from);
            self.chunks.start += 1;
        }
        // Only the empty last chunk behind a full one yields nothing, and it is the last.
        Ok(if plain.is_empty() { None } else { Some(plain.freeze()) })
    }

    /// Opens the next chunk, reading it again where it does not open or does not come.
    async fn open_chunk(&mut self, index: u64, plain: &mut BytesMut) -> Result<()> {
        for read in 1.. {
            let error = match self.read_chunk(index, plain).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if read == READS {
                return Err(error);
            }
            pause_before_reading_again(read).await;
            self.buffer.clear();
            let again = self.store.get_range(&self.name, sealed_range(&self.chunks, &self.info)).await?;
            let (told, found) = (self.info.sealed_bytes, again.info.sealed_bytes);
            if found != told {
                // The first answer was cut short, its length with it; what was promised on cannot be kept.
                return Err(StoreError::OtherLength { object: self.name.to_string(), told, found });
            }
            self.sealed = again.bytes;
        }
        unreachable!("the last reading returns")
    }

    async fn read_chunk(&mut self, index: u64, plain: &mut BytesMut) -> Result<()> {
        let start = PREFIX_LEN as u64 + index * CHUNK_SEALED as u64;
        let length = self.info.sealed_bytes.saturating_sub(start).min(CHUNK_SEALED as u64);
        let length = usize::try_from(length).expect("a chunk fits into memory");
        fill(&mut self.sealed, &mut self.buffer, length).await?;
        let sealed = self.buffer.split_to(length.min(self.buffer.len()));
        self.opener
            .open_chunk(index, &sealed, plain)
            .map_err(|source| StoreError::Seal { object: self.name.to_string(), source })?;
        self.hasher.update(&sealed);
        Ok(())
    }

    /// Cuts what chunk `index` added behind `from` down to the range.
    fn trim(&self, index: u64, plain: &mut BytesMut, from: usize) {
        let chunk_start = index * CHUNK_PLAIN as u64;
        let added = plain.len() - from;
        let cut = |position: u64| {
            usize::try_from(position.saturating_sub(chunk_start)).map_or(added, |offset| offset.min(added))
        };
        let (skip, keep) = (cut(self.range.start), cut(self.range.end));
        plain.truncate(from + keep);
        if skip > 0 {
            let kept = plain.split_off(from + skip.min(keep));
            plain.truncate(from);
            plain.unsplit(kept);
        }
    }
}

/// Where chunks lie in the store.
fn sealed_range(chunks: &Range<u64>, info: &ObjectInfo) -> Range<u64> {
    let at = |chunk: u64| (PREFIX_LEN as u64 + chunk * CHUNK_SEALED as u64).min(info.sealed_bytes);
    at(chunks.start)..at(chunks.end)
}

/// Checks an object's first bytes: its header names the key, its commitment binds key and place.
fn opener(
    keys: Keys<'_>,
    name: &ObjectName,
    prefix: &[u8],
    sealed_len: u64,
) -> Result<RangeOpener, NotOpened> {
    let seal = |source| NotOpened::Store(StoreError::Seal { object: name.to_string(), source });
    let header = Header::parse(&prefix[..prefix.len().min(HEADER_LEN)]).map_err(seal)?;
    let key = keys(KeyId(header.key_id)).map_err(NotOpened::NoKey)?;
    let context = name.context(&key.owner).expect("a repository's files are sealed");
    RangeOpener::new(&key.key, &context, &prefix[..prefix.len().min(PREFIX_LEN)], sealed_len).map_err(seal)
}

/// Reads on until `buffer` has `wanted` bytes. An object that ends before leaves fewer, and then does not open.
async fn fill(
    stream: &mut BoxStream<'static, Result<Bytes>>,
    buffer: &mut BytesMut,
    wanted: usize,
) -> Result<()> {
    while buffer.len() < wanted {
        match stream.try_next().await? {
            Some(piece) => buffer.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok(())
}
