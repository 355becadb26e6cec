//! Reading a stretch of archived log, while compaction may replace segments under the reader.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdfast_core::KeyId;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::segment::{Segment, SegmentHeader, segment_name};
use crate::error::{ErrorKind, Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{LineageScope, ObjectName, ObjectPrefix};
use crate::sealed::store_error;
use crate::store::Store;

/// Bytes of log handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait for a slow reader.
const CHUNKS_WAITING: usize = 4;
/// How often the store is listed anew when a segment went away.
const LISTINGS: u32 = 5;
/// How often a segment is read again that did not come whole, and how long is waited the first time.
pub const READS: u32 = 5;
pub const READ_AGAIN: Duration = Duration::from_millis(200);

/// A segment that the store lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedSegment {
    pub timeline: u32,
    pub from: u64,
    pub to: u64,
    pub modified_at: holdfast_core::Timestamp,
}

/// What a reader of log gets.
#[derive(Debug, Clone, PartialEq)]
pub enum LogItem {
    /// A segment's first byte follows. Left out where compaction has put the boundary elsewhere meanwhile.
    Segment(Box<SegmentHeader>),
    Bytes(Bytes),
}

/// All segments of a lineage, in the order of the log.
pub async fn pieces(store: &Store, lineage: LineageScope) -> Result<Vec<ListedSegment>> {
    let mut found = Vec::new();
    let mut objects = store.list(&ObjectPrefix::Log(lineage));
    while let Some(object) = objects.try_next().await? {
        if let ObjectName::LogPiece { timeline, from, to, .. } = object.name {
            found.push(ListedSegment { timeline, from, to, modified_at: object.info.modified_at });
        }
    }
    found.sort();
    Ok(found)
}

/// The header of the segment that ends last, with where it ends.
pub async fn last_segment(
    store: &Store,
    lineage: LineageScope,
    keys: &(dyn Fn(KeyId) -> Option<OwnedKey> + Sync),
) -> Result<Option<(u64, SegmentHeader)>> {
    let listed = pieces(store, lineage).await?;
    let Some(last) = listed.iter().max_by_key(|piece| (piece.timeline, piece.to, piece.from)) else {
        return Ok(None);
    };
    let name = segment_name(lineage, last.timeline, last.from, last.to);
    let segment = Segment::open(store, &name, keys).await?;
    Ok(Some((last.to, segment.header)))
}

/// The segment that leads on from `at`: the one that reaches furthest.
fn next_segment(listed: &[ListedSegment], timeline: u32, at: u64) -> Option<ListedSegment> {
    let leads_on = |piece: &&ListedSegment| piece.timeline == timeline && piece.from <= at && piece.to > at;
    listed.iter().filter(leads_on).max_by_key(|piece| piece.to).copied()
}

/// Reads the log of one timeline from the segment that holds byte `from` up to at least byte `to`. It begins at that
/// segment's first byte, which may lie before `from`; a hole is an error.
pub fn read_log(
    store: &Store,
    lineage: LineageScope,
    timeline: u32,
    from: u64,
    to: u64,
    keys: impl Fn(KeyId) -> Option<OwnedKey> + Send + Sync + 'static,
) -> BoxStream<'static, Result<LogItem>> {
    let (sender, mut receiver) = mpsc::channel(CHUNKS_WAITING);
    let reader = Reader { store: store.clone(), lineage, timeline, keys: Box::new(keys), sender };
    tokio::spawn(async move {
        if let Err(error) = reader.run(from, to).await {
            let _ = reader.sender.send(Err(error)).await; // nobody reads on
        }
    });
    Box::pin(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

struct Reader {
    store: Store,
    lineage: LineageScope,
    timeline: u32,
    keys: Box<dyn Fn(KeyId) -> Option<OwnedKey> + Send + Sync>,
    sender: mpsc::Sender<Result<LogItem>>,
}

impl Reader {
    async fn run(&self, from: u64, to: u64) -> Result<()> {
        let mut listed = pieces(&self.store, self.lineage).await?;
        let (mut at, mut listings, mut reads) = (from, 1, 1);
        // Reading begins with a whole segment.
        if let Some(first) = next_segment(&listed, self.timeline, at) {
            at = first.from;
        }
        while at < to {
            let found = match next_segment(&listed, self.timeline, at) {
                Some(piece) => self.pass_on(piece, &mut at).await,
                None => Err(self.hole(at, to)),
            };
            match found {
                Ok(true) => reads = 1,
                Ok(false) => return Ok(()), // nobody reads on
                // Compaction replaced it after it was listed; reading goes on where it stands.
                Err(error) if error.kind() == ErrorKind::NotFound && listings < LISTINGS => {
                    listings += 1;
                    listed = pieces(&self.store, self.lineage).await?;
                }
                // What came was passed on; reading goes on behind it.
                Err(error) if may_pass(&error) && reads < READS => {
                    tokio::time::sleep(READ_AGAIN * reads).await;
                    reads += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hole(&self, at: u64, to: u64) -> StoreError {
        StoreError::Document {
            object: format!("the log of {}", self.lineage),
            problem: format!(
                "the segment that holds byte {at} is missing; the log should go on to byte {to}"
            ),
        }
    }

    /// Passes a segment's bytes from `at` on, and moves `at` along. `false` when nobody reads any more.
    async fn pass_on(&self, piece: ListedSegment, at: &mut u64) -> Result<bool> {
        let name = segment_name(self.lineage, piece.timeline, piece.from, piece.to);
        let mut segment = Segment::open(&self.store, &name, &*self.keys).await?;
        // Bytes before `at` were passed on out of a segment that this one replaced.
        let mut skip = *at - piece.from;
        if skip == 0 {
            let header = Box::new(segment.header.clone());
            if self.sender.send(Ok(LogItem::Segment(header))).await.is_err() {
                return Ok(false);
            }
        }
        let mut read_to = piece.from;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let filled = (&mut segment.log)
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut chunk)
                .await
                .map_err(|error| read_error(&name, error))?;
            if filled == 0 {
                break;
            }
            read_to += filled as u64;
            let drop = skip.min(filled as u64);
            skip -= drop;
            let kept = Bytes::from(chunk).slice(usize::try_from(drop).expect("within a chunk")..);
            *at += kept.len() as u64;
            if !kept.is_empty() && self.sender.send(Ok(LogItem::Bytes(kept))).await.is_err() {
                return Ok(false);
            }
        }
        if read_to != piece.to {
            let problem = format!("it holds {} bytes of log", read_to - piece.from);
            return Err(StoreError::Document { object: name.to_string(), problem });
        }
        Ok(true)
    }
}

/// Whether reading again may help: a store that fails now and then, and bytes that were damaged on their way.
#[must_use]
pub fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Seal { .. }) || error.kind() == ErrorKind::Transient
}

/// What the store says of an error of a segment's reader; damage where it says nothing.
#[must_use]
pub fn read_error(name: &ObjectName, error: std::io::Error) -> StoreError {
    if store_error(&error).is_none() {
        let problem = format!("its log cannot be read: {error}");
        return StoreError::Document { object: name.to_string(), problem };
    }
    let inner = error.into_inner().map(|inner| inner.downcast::<StoreError>());
    match inner {
        Some(Ok(inner)) => *inner,
        _ => unreachable!("it was found in there just now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_that_reaches_furthest_leads_on() {
        let piece = |from, to| ListedSegment {
            timeline: 0,
            from,
            to,
            modified_at: holdfast_core::Timestamp::UNIX_EPOCH,
        };
        let listed =
            [piece(0, 0), piece(0, 5), piece(0, 9), piece(5, 7), piece(9, 9), piece(10, 10), piece(10, 12)];
        let next = |at| next_segment(&listed, 0, at).map(|piece| (piece.from, piece.to));
        assert_eq!(next(0), Some((0, 9)));
        assert_eq!(next(5), Some((0, 9)), "compaction has replaced what began here");
        assert_eq!(next(9), None, "a gap");
        assert_eq!(next(10), Some((10, 12)));
        assert_eq!(next_segment(&listed, 1, 0), None);
    }
}
