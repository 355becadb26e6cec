//! One segment of archived log (`docs/format.md`, "Log segments").
//!
//! ```text
//! "HFLOGSEG" | length of the header, 4 bytes, big-endian | header, JSON | the log's bytes as zstd frames
//! ```

use bytes::{Buf, Bytes, BytesMut};
use holdfast_core::Timestamp;
use holdfast_seal::ManifestObject;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::error::{Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{LineageScope, ObjectName};
use crate::sealed::{FindKey, SealedReader, SealedWriter, decompressed};
use crate::store::Store;

/// The number that this release writes as `format`.
pub const SEGMENT_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"HFLOGSEG";
/// Longest header: two cursors, which name transactions at most.
const MAX_HEADER_BYTES: usize = 4 << 20;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentHeader {
    pub format: u32,
    /// Where the engine's log stood before the first byte, in the engine's own words; null where the object's name says it.
    pub from: serde_json::Value,
    /// Where reading goes on behind the last byte.
    pub to: serde_json::Value,
    /// Every commit acknowledged at or before this instant lies before the segment's end, so far as its writer knew.
    pub complete_until: Option<Timestamp>,
    /// The segment does not continue the one before it: there is a gap, and this is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
}

/// Stores one segment. The answer to an earlier try may be lost: what lies under the name already is taken for it if it
/// opens, with whichever of `keys`, to the same bytes.
///
/// # Errors
/// [`crate::ErrorKind::AlreadyExists`] when another segment lies there; what the store says when that could not be read.
pub async fn write_segment(
    store: &Store,
    name: &ObjectName,
    key: &OwnedKey,
    keys: FindKey<'_>,
    header: &SegmentHeader,
    log: &[u8],
) -> Result<ManifestObject> {
    crate::space::ensure_log_room(store)?;
    match try_write(store, name, key, header, log).await {
        Err(StoreError::AlreadyExists { object }) => {
            let same = same_lies_there(store, name, keys, log).await?;
            same.ok_or(StoreError::AlreadyExists { object })
        }
        other => other,
    }
}

async fn try_write(
    store: &Store,
    name: &ObjectName,
    key: &OwnedKey,
    header: &SegmentHeader,
    log: &[u8],
) -> Result<ManifestObject> {
    let mut writer = SealedWriter::begin(store, name, key).await?;
    writer.write(&head(header)).await?;
    let mut encoder = async_compression::tokio::bufread::ZstdEncoder::with_quality(
        log,
        async_compression::Level::Precise(1),
    );
    let mut piece = vec![0_u8; 64 << 10];
    loop {
        let filled = tokio::io::AsyncReadExt::read(&mut encoder, &mut piece)
            .await
            .expect("compressing bytes in memory does not fail");
        if filled == 0 {
            return writer.finish().await;
        }
        writer.write(&piece[..filled]).await?;
    }
}

/// The bytes before the zstd frames.
pub(super) fn head(header: &SegmentHeader) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("a header has only string keys");
    let length = u32::try_from(json.len()).expect("cursors are short");
    [MAGIC.as_slice(), &length.to_be_bytes(), &json].concat()
}

async fn same_lies_there(
    store: &Store,
    name: &ObjectName,
    keys: FindKey<'_>,
    log: &[u8],
) -> Result<Option<ManifestObject>> {
    let found = match read_whole(store, name, keys).await {
        Ok(found) => found,
        // What does not open, or is no segment, is not what was sent. A store that does not answer says nothing of that.
        Err(StoreError::Seal { .. } | StoreError::Document { .. } | StoreError::NoKey { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if found != log {
        return Ok(None);
    }
    let stored = store.hash(name).await?;
    Ok(Some(ManifestObject {
        name: name.relative(),
        sealed_bytes: stored.sealed_bytes,
        plain_bytes: holdfast_seal::plain_len(stored.sealed_bytes).unwrap_or_default(),
        sha256: stored.sha256,
        shared: None,
    }))
}

async fn read_whole(store: &Store, name: &ObjectName, keys: FindKey<'_>) -> Result<Vec<u8>> {
    let mut segment = Segment::open(store, name, keys).await?;
    let mut found = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut segment.log, &mut found).await;
    read.map_err(|error| super::reading::read_error(name, error))?;
    Ok(found)
}

/// A segment being read.
pub struct Segment {
    pub header: SegmentHeader,
    pub key_id: holdfast_core::KeyId,
    /// The log's bytes; damage further on is an error of the reader's.
    pub log: Box<dyn AsyncRead + Send + Unpin>,
}

impl Segment {
    /// Begins to read a segment.
    ///
    /// # Errors
    /// What [`SealedReader::open`] says, and [`StoreError::Document`] for a segment that is not understood.
    pub async fn open(store: &Store, name: &ObjectName, keys: FindKey<'_>) -> Result<Self> {
        let mut reader = SealedReader::open(store, name, keys).await?;
        let key_id = reader.key_id();
        let problem = |problem: String| StoreError::Document { object: name.to_string(), problem };
        let mut head = BytesMut::new();
        fill(&mut reader, &mut head, MAGIC.len() + 4).await?;
        if head.len() < MAGIC.len() + 4 || head[..MAGIC.len()] != MAGIC[..] {
            return Err(problem("it is no log segment".to_owned()));
        }
        head.advance(MAGIC.len());
        let length = head.get_u32() as usize;
        if length > MAX_HEADER_BYTES {
            return Err(problem(format!("its header has {length} bytes")));
        }
        fill(&mut reader, &mut head, length).await?;
        if head.len() < length {
            return Err(problem("it ends in its header".to_owned()));
        }
        let json = head.split_to(length);
        let header: SegmentHeader =
            serde_json::from_slice(&json).map_err(|error| problem(format!("its header: {error}")))?;
        if header.format != SEGMENT_FORMAT {
            return Err(problem(format!("its format {} is not known here", header.format)));
        }
        let first = futures::stream::iter([Ok::<Bytes, StoreError>(head.freeze())]);
        let log = decompressed(futures::StreamExt::chain(first, reader.into_stream()));
        Ok(Self { header, key_id, log })
    }
}

async fn fill(reader: &mut SealedReader, buffer: &mut BytesMut, wanted: usize) -> Result<()> {
    while buffer.len() < wanted {
        match reader.next().await? {
            Some(piece) => buffer.extend_from_slice(&piece),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// The name of the segment `[from, to)`.
#[must_use]
pub fn segment_name(lineage: LineageScope, timeline: u32, from: u64, to: u64) -> ObjectName {
    ObjectName::LogPiece { lineage, timeline, from, to }
}
