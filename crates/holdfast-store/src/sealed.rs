//! Sealed objects of any length as streams: what a base backup consists of, and pieces of log. In memory is one piece of
//! plaintext and what the store's writer holds, however long the object is.

use std::pin::Pin;

use async_compression::Level;
use async_compression::tokio::bufread::{ZstdDecoder, ZstdEncoder};
use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt};
use holdfast_core::KeyId;
use holdfast_seal::{ManifestObject, Sealer};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use crate::error::{Result, StoreError};
use crate::keys::{KeyRefused, OwnedKey};
use crate::layout::ObjectName;
use crate::opened::{NotOpened, Opened, open_object};
use crate::store::{Store, StoreWriter};

/// Plaintext is compressed and sealed in pieces of this length.
const PIECE_BYTES: usize = 256 << 10;
/// As `zstd -1`: what is written must keep up with the engine.
const LEVEL: Level = Level::Precise(1);

/// An object being sealed. Dropped before [`SealedWriter::finish`], it leaves nothing in the store.
pub struct SealedWriter {
    store: Store,
    name: ObjectName,
    sealer: Sealer,
    writer: StoreWriter,
    sealed: BytesMut,
    plain_bytes: u64,
}

impl SealedWriter {
    /// Begins an object that must not exist yet.
    pub async fn begin(store: &Store, name: &ObjectName, key: &OwnedKey) -> Result<Self> {
        let context = name.context(&key.owner).expect("streams are sealed");
        let mut sealed = BytesMut::new();
        let sealer = Sealer::new(&key.key, key.key_id.0, &context, &mut sealed)
            .map_err(|source| seal(name, source))?;
        let writer = store.writer(name, true).await?;
        Ok(Self { store: store.clone(), name: name.clone(), sealer, writer, sealed, plain_bytes: 0 })
    }

    /// Takes the next plaintext.
    pub async fn write(&mut self, plain: &[u8]) -> Result<()> {
        for piece in plain.chunks(PIECE_BYTES) {
            self.plain_bytes += piece.len() as u64;
            self.sealer.update(piece, &mut self.sealed).map_err(|source| seal(&self.name, source))?;
            if self.sealed.len() >= PIECE_BYTES {
                self.writer.write(self.sealed.split().freeze()).await?;
            }
        }
        Ok(())
    }

    /// Ends the object. When this returns `Ok` the store has confirmed it.
    pub async fn finish(mut self) -> Result<ManifestObject> {
        self.sealer.finish(&mut self.sealed).map_err(|source| seal(&self.name, source))?;
        self.writer.write(self.sealed.freeze()).await?;
        let stored = self.writer.finish().await?;
        Ok(ManifestObject {
            name: self.name.relative(),
            sealed_bytes: stored.sealed_bytes,
            plain_bytes: self.plain_bytes,
            sha256: stored.sha256,
            shared: None,
        })
    }

    /// Gives the object up.
    pub async fn abort(self) {
        self.writer.abort().await;
    }
}

/// Why a stream was not stored.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("what was to be stored could not be read to its end")]
    Source(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores what `data` yields, compressed and sealed. Returns the number of bytes read, and the object that the store has
/// confirmed. After an error there is no object.
pub async fn store_compressed(
    store: &Store,
    name: &ObjectName,
    key: &OwnedKey,
    data: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<(u64, ManifestObject), CopyError> {
    let mut writer = SealedWriter::begin(store, name, key).await?;
    match compress(&mut writer, data).await {
        Ok(read) => Ok((read, writer.finish().await?)),
        Err(error) => {
            writer.abort().await;
            Err(error)
        }
    }
}

async fn compress(
    writer: &mut SealedWriter,
    data: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<u64, CopyError> {
    let mut counted = Counted { data, bytes: 0 };
    let mut encoder = ZstdEncoder::with_quality(BufReader::with_capacity(PIECE_BYTES, &mut counted), LEVEL);
    let mut piece = vec![0_u8; PIECE_BYTES];
    loop {
        let filled = encoder.read(&mut piece).await.map_err(CopyError::Source)?;
        if filled == 0 {
            return Ok(counted.bytes);
        }
        crate::space::ensure_backup_room(&writer.store)?;
        writer.write(&piece[..filled]).await?;
    }
}

struct Counted<'a> {
    data: &'a mut (dyn AsyncRead + Send + Unpin),
    bytes: u64,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.data).poll_read(cx, buf);
        self.bytes += (buf.filled().len() - before) as u64;
        polled
    }
}

/// Which key opens an object, by the id in the object's header.
pub type FindKey<'a> = &'a (dyn Fn(KeyId) -> Option<OwnedKey> + Sync);

/// An object being opened; its first bytes are authentic.
pub struct SealedReader {
    opened: Opened,
    name: ObjectName,
}

impl SealedReader {
    /// Begins to read a whole object.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] when `keys` has none for it, [`StoreError::Seal`] when it does not open.
    pub async fn open(store: &Store, name: &ObjectName, keys: FindKey<'_>) -> Result<Self> {
        let find =
            |id: KeyId| keys(id).ok_or_else(|| KeyRefused { reason: format!("key {id} is not held here") });
        match open_object(store, &find, name, None).await {
            Ok(opened) => Ok(Self { opened, name: name.clone() }),
            Err(NotOpened::Store(error)) => Err(error),
            Err(NotOpened::NoKey(refused)) => {
                Err(StoreError::NoKey { object: name.to_string(), reason: refused.reason })
            }
            Err(NotOpened::NoSuchRange { .. }) => unreachable!("the whole object was asked for"),
        }
    }

    /// The key that sealed it.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.opened.key_id()
    }

    /// The next authenticated plaintext. `None` only behind a last chunk that proves the object's end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.opened.next_piece().await
    }

    /// The plaintext as a stream of pieces.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        })
    }

    /// What [`store_compressed`] was given. An object that does not open further on ends in an error that names it.
    #[must_use]
    pub fn decompressed(self) -> Box<dyn AsyncRead + Send + Unpin> {
        decompressed(self.into_stream())
    }

    /// Its name in the store.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        &self.name
    }
}

/// Decompresses zstd frames, one behind the other. An error of the store's stays one ([`store_error`] finds it again).
pub(crate) fn decompressed(
    pieces: impl Stream<Item = Result<Bytes>> + Send + 'static,
) -> Box<dyn AsyncRead + Send + Unpin> {
    let reader = StreamReader::new(Box::pin(pieces.map_err(std::io::Error::other)));
    let mut decoder = ZstdDecoder::new(reader);
    decoder.multiple_members(true);
    Box::new(decoder)
}

/// The store's error inside an I/O error of a [`SealedReader::decompressed`].
#[must_use]
pub fn store_error(error: &std::io::Error) -> Option<&StoreError> {
    error.get_ref()?.downcast_ref()
}

fn seal(name: &ObjectName, source: holdfast_seal::SealError) -> StoreError {
    StoreError::Seal { object: name.to_string(), source }
}
