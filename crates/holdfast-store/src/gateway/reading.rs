//! Objects on their way out of the store: opened chunk by chunk, whole or a range.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdfast_core::KeyId;
use holdfast_seal::{CHUNK_PLAIN, CHUNK_SEALED, HEADER_LEN, Header, PREFIX_LEN, RangeOpener};
use s3s::S3Result;
use s3s::dto::StreamingBlob;
use tokio::sync::mpsc;

use super::classify::{ObjectClass, classify};
use super::info;
use super::refusal::{key_refusal, store_refusal};
use super::repository::Repository;
use crate::error::{Result, StoreError};
use crate::layout::{ObjectName, RepositoryPath};
use crate::store::{ObjectInfo, Store};

/// Plaintext is passed on in pieces of about this length.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may wait for a slow reader.
const PIECES_WAITING: usize = 4;
/// How often a rewritten file is looked up again when its generation went away meanwhile.
const GENERATION_TRIES: usize = 5;

/// Finds the object that a path names now.
pub(super) async fn locate(
    store: &Store,
    repository: &Repository,
    path: &RepositoryPath,
) -> Result<(ObjectName, ObjectInfo)> {
    let lineage = repository.scope();
    if classify(path.as_str()) == ObjectClass::Info {
        let file = info::newest(store, lineage, path).await?;
        let name = ObjectName::InfoGeneration { lineage, path: file.path, generation: file.generation };
        return Ok((name, file.info));
    }
    let name = ObjectName::Repository { lineage, path: path.clone() };
    let info = store.head(&name).await?;
    Ok((name, info))
}

/// Opens what a path names now: all of it, or the range that `choose` picks once the plaintext's length is known.
pub(super) async fn open(
    store: &Store,
    repository: &Repository,
    path: &RepositoryPath,
    choose: Option<&(dyn Fn(u64) -> S3Result<Range<u64>> + Sync)>,
) -> S3Result<Opened> {
    let lineage = repository.scope();
    let is_info = classify(path.as_str()) == ObjectClass::Info;
    for attempt in 1.. {
        let name = if is_info {
            let file = info::newest(store, lineage, path).await.map_err(|error| store_refusal(&error))?;
            ObjectName::InfoGeneration { lineage, path: file.path, generation: file.generation }
        } else {
            ObjectName::Repository { lineage, path: path.clone() }
        };
        let opened = match choose {
            None => Opened::whole(store, repository, &name).await,
            Some(choose) => Opened::range(store, repository, &name, choose).await,
        };
        match opened {
            // A rewrite removed this generation after we had found it.
            Err(error)
                if is_info && attempt < GENERATION_TRIES && *error.code() == s3s::S3ErrorCode::NoSuchKey => {}
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}

/// An object whose prefix has been checked, being opened.
pub(super) struct Opened {
    pub(super) info: ObjectInfo,
    /// The plaintext bytes that it yields.
    pub(super) range: Range<u64>,
    name: ObjectName,
    opener: RangeOpener,
    sealed: BoxStream<'static, Result<Bytes>>,
    buffer: BytesMut,
    /// The next chunk, and the one behind the last.
    chunks: Range<u64>,
}

impl Opened {
    /// Begins to open the whole object: one request to the store.
    pub(super) async fn whole(store: &Store, repository: &Repository, name: &ObjectName) -> S3Result<Self> {
        let refuse = |error: StoreError| store_refusal(&error);
        let mut reading = store.get(name).await.map_err(refuse)?;
        let mut buffer = BytesMut::new();
        fill(&mut reading.bytes, &mut buffer, PREFIX_LEN).await.map_err(refuse)?;
        let opener = opener(repository, name, &buffer, reading.info.sealed_bytes)?;
        let _ = buffer.split_to(PREFIX_LEN);
        let (range, chunks) = (0..opener.plain_len(), 0..opener.chunks());
        Ok(Self {
            info: reading.info,
            range,
            name: name.clone(),
            opener,
            sealed: reading.bytes,
            buffer,
            chunks,
        })
    }

    /// Begins to open a range: one request for the prefix and one for the range's chunks.
    async fn range(
        store: &Store,
        repository: &Repository,
        name: &ObjectName,
        choose: &(dyn Fn(u64) -> S3Result<Range<u64>> + Sync),
    ) -> S3Result<Self> {
        let refuse = |error: StoreError| store_refusal(&error);
        let mut reading = store.get_range(name, 0..PREFIX_LEN as u64).await.map_err(refuse)?;
        let mut buffer = BytesMut::new();
        fill(&mut reading.bytes, &mut buffer, PREFIX_LEN).await.map_err(refuse)?;
        let info = reading.info;
        let opener = opener(repository, name, &buffer, info.sealed_bytes)?;
        let range = choose(opener.plain_len())?;
        // A range up to the end also opens the last chunk, which may be empty: only it proves where the end is.
        let end = if range.end == opener.plain_len() {
            opener.chunks()
        } else {
            RangeOpener::chunk_of(range.end - 1) + 1
        };
        let chunks = RangeOpener::chunk_of(range.start)..end;
        let at = |chunk: u64| (PREFIX_LEN as u64 + chunk * CHUNK_SEALED as u64).min(info.sealed_bytes);
        let sealed = store.get_range(name, at(chunks.start)..at(chunks.end)).await.map_err(refuse)?.bytes;
        Ok(Self { info, range, name: name.clone(), opener, sealed, buffer: BytesMut::new(), chunks })
    }

    /// Length of the whole object's plaintext.
    pub(super) fn plain_len(&self) -> u64 {
        self.opener.plain_len()
    }

    /// The key that sealed it.
    pub(super) fn key_id(&self) -> KeyId {
        KeyId(self.opener.header().key_id)
    }

    /// The next authenticated plaintext; `None` at the end of the range.
    pub(super) async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let mut plain = BytesMut::new();
        while self.chunks.start < self.chunks.end && plain.len() < PIECE_BYTES {
            let index = self.chunks.start;
            let start = PREFIX_LEN as u64 + index * CHUNK_SEALED as u64;
            let length = (self.info.sealed_bytes - start).min(CHUNK_SEALED as u64);
            let length = usize::try_from(length).expect("a chunk fits into memory");
            fill(&mut self.sealed, &mut self.buffer, length).await?;
            let sealed = self.buffer.split_to(length.min(self.buffer.len()));
            let from = plain.len();
            self.opener
                .open_chunk(index, &sealed, &mut plain)
                .map_err(|source| StoreError::Seal { object: self.name.to_string(), source })?;
            self.trim(index, &mut plain, from);
            self.chunks.start += 1;
        }
        // Only the empty last chunk behind a full one yields nothing, and it is the last.
        Ok(if plain.is_empty() { None } else { Some(plain.freeze()) })
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

    /// Turns it into a body. The first piece is opened before this returns, so most damage is still answered with an
    /// error; later damage breaks the connection.
    pub(super) async fn into_body(mut self, repository: Arc<Repository>) -> S3Result<StreamingBlob> {
        let first = self.next_piece().await.map_err(|error| store_refusal(&error))?;
        let (sender, mut receiver) = mpsc::channel(PIECES_WAITING);
        tokio::spawn(async move {
            let mut next = Ok(first);
            loop {
                let piece = match next {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the sealing gateway breaks a read off"
                        );
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                let length = piece.len() as u64;
                if sender.send(Ok(piece)).await.is_err() {
                    return; // The client went away.
                }
                repository.events.served(length);
                next = self.next_piece().await;
            }
        });
        Ok(StreamingBlob::wrap(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx))))
    }
}

/// Checks an object's first bytes: its header names the key, its commitment binds key and place.
fn opener(
    repository: &Repository,
    name: &ObjectName,
    prefix: &[u8],
    sealed_len: u64,
) -> S3Result<RangeOpener> {
    let seal = |source| store_refusal(&StoreError::Seal { object: name.to_string(), source });
    let header = Header::parse(&prefix[..prefix.len().min(HEADER_LEN)]).map_err(seal)?;
    let key = repository.keys.opening_key(KeyId(header.key_id)).map_err(|error| key_refusal(&error))?;
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

/// Plaintext length of an object by its length in the store. An impossible length means damage: it is logged and
/// shown as empty; reading the object will fail.
pub(super) fn plain_len(name: &ObjectName, info: &ObjectInfo) -> u64 {
    holdfast_seal::plain_len(info.sealed_bytes).unwrap_or_else(|error| {
        tracing::error!(%name, %error, "a damaged object lies in the object store");
        0
    })
}
