//! Makes few segments of many. The merged one is confirmed before any that it replaces goes, so there is no moment in which
//! a stretch cannot be read; a kill in between leaves both, and the merged one is read to its end before they go.

use bytes::Bytes;
use holdfast_core::compaction::{StoredPiece, compaction};
use holdfast_core::{KeyId, Timestamp};
use tokio::io::AsyncReadExt;

use super::reading::pieces;
use super::segment::{Segment, SegmentHeader, head, segment_name};
use crate::error::{ErrorKind, Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{LineageScope, ObjectName};
use crate::sealed::{FindKey, SealedWriter};
use crate::store::Store;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were written, each in the place of several.
    pub merged: usize,
    pub removed: usize,
}

/// Merges what [`compaction`] names on timeline 0. Segments of different epochs stay apart, for a key is destroyed with its
/// epoch; segments whose key is not held here stay as they are.
pub async fn compact(
    store: &Store,
    lineage: LineageScope,
    keys: FindKey<'_>,
    now: Timestamp,
) -> Result<Compacted> {
    let listed = pieces(store, lineage).await?.into_iter().filter(|piece| piece.timeline == 0);
    let stored: Vec<StoredPiece> =
        listed.map(|p| StoredPiece { from: p.from, to: p.to, stored_at: p.modified_at }).collect();
    let plan = compaction(stored.clone(), now);
    let mut done = Compacted::default();
    for (whole, parts) in replaced(&stored, &plan.remove) {
        done.removed += remove_replaced(store, lineage, keys, whole, &parts).await?;
    }
    for group in &plan.merge {
        for same_key in by_key(store, lineage, keys, group).await? {
            done.removed += merge(store, lineage, keys, &same_key).await?;
            done.merged += 1;
        }
    }
    Ok(done)
}

/// What is to be removed, by the piece that holds it.
fn replaced(stored: &[StoredPiece], remove: &[StoredPiece]) -> Vec<(StoredPiece, Vec<StoredPiece>)> {
    let stays = |piece: &&StoredPiece| !remove.contains(piece);
    let mut rows: Vec<(StoredPiece, Vec<StoredPiece>)> = Vec::new();
    for part in remove {
        let holds = |whole: &&StoredPiece| whole.from <= part.from && part.to <= whole.to;
        let Some(whole) = stored.iter().filter(stays).find(holds) else { continue };
        match rows.iter_mut().find(|(known, _)| known == whole) {
            Some((_, parts)) => parts.push(*part),
            None => rows.push((*whole, vec![*part])),
        }
    }
    rows
}

/// Ends a run that was cut off. What it merged was not confirmed, perhaps: it is read before what it replaces goes. If it does
/// not open to its end, it goes itself, where all that it was made of is still there. Returns how many went.
async fn remove_replaced(
    store: &Store,
    lineage: LineageScope,
    keys: FindKey<'_>,
    whole: StoredPiece,
    parts: &[StoredPiece],
) -> Result<usize> {
    let name = segment_name(lineage, 0, whole.from, whole.to);
    let checked = check(store, keys, &name, whole.to - whole.from).await;
    match checked {
        Ok(()) => {
            for part in parts {
                store.delete(&segment_name(lineage, 0, part.from, part.to)).await?;
            }
            Ok(parts.len())
        }
        Err(StoreError::NoKey { .. }) => Ok(0), // nobody here can tell
        Err(StoreError::Seal { .. } | StoreError::Document { .. }) if is_made_of(whole, parts) => {
            store.delete(&name).await?;
            Ok(1)
        }
        Err(error) => Err(error),
    }
}

/// Whether `parts`, which ascend, hold every byte of `whole`.
fn is_made_of(whole: StoredPiece, parts: &[StoredPiece]) -> bool {
    let end =
        parts.iter().fold(whole.from, |end, part| if part.from <= end { end.max(part.to) } else { end });
    end == whole.to
}

/// Reads a segment to its end.
///
/// # Errors
/// As of reading; [`StoreError::Document`] also where it holds another number of bytes than its name says.
async fn check(store: &Store, keys: FindKey<'_>, name: &ObjectName, length: u64) -> Result<()> {
    let mut segment = Segment::open(store, name, keys).await?;
    let read = tokio::io::copy(&mut segment.log, &mut tokio::io::sink()).await;
    let read = read.map_err(|error| super::reading::read_error(name, error))?;
    if read == length {
        return Ok(());
    }
    let problem = format!("it holds {read} bytes of log");
    Err(StoreError::Document { object: name.to_string(), problem })
}

/// Splits a row where the key changes; rows of one piece are left out.
async fn by_key(
    store: &Store,
    lineage: LineageScope,
    keys: FindKey<'_>,
    group: &[StoredPiece],
) -> Result<Vec<Vec<StoredPiece>>> {
    let mut rows: Vec<(Option<KeyId>, Vec<StoredPiece>)> = Vec::new();
    for piece in group {
        let name = segment_name(lineage, 0, piece.from, piece.to);
        let key = match Segment::open(store, &name, keys).await {
            Ok(segment) if segment.header.gap.is_none() => Some(segment.key_id),
            // A segment behind a gap keeps its own header.
            Ok(_) | Err(StoreError::NoKey { .. }) => None,
            Err(error) => return Err(error),
        };
        match rows.last_mut() {
            Some((last, row)) if key.is_some() && *last == key => row.push(*piece),
            _ => rows.push((key, vec![*piece])),
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).filter(|row| row.len() > 1).collect())
}

/// Writes one segment in the place of `group`; returns how many went.
async fn merge(
    store: &Store,
    lineage: LineageScope,
    keys: FindKey<'_>,
    group: &[StoredPiece],
) -> Result<usize> {
    let names: Vec<_> = group.iter().map(|piece| segment_name(lineage, 0, piece.from, piece.to)).collect();
    let first = Segment::open(store, &names[0], keys).await?;
    let last = Segment::open(store, &names[names.len() - 1], keys).await?;
    let header = SegmentHeader {
        from: first.header.from.clone(),
        gap: first.header.gap.clone(),
        ..last.header.clone()
    };
    let key: OwnedKey = keys(first.key_id).expect("it opened the segment just now");
    drop((first, last));
    let whole = segment_name(lineage, 0, group[0].from, group[group.len() - 1].to);
    let mut writer = SealedWriter::begin(store, &whole, &key).await?;
    let copied = copy(store, &names, keys, &header, &mut writer).await;
    match copied {
        Ok(()) => {}
        Err(error) => {
            writer.abort().await;
            return Err(error);
        }
    }
    match writer.finish().await {
        Ok(_) => {}
        // A run that was cut off had come this far.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let length = group[group.len() - 1].to - group[0].from;
            check(store, keys, &whole, length).await?;
        }
        Err(error) => {
            // Perhaps it lies there, and nobody knows what it is: the next run makes it anew.
            if let Err(left) = store.delete(&whole).await {
                tracing::debug!(object = %whole, error = %left, "a merged segment that was not confirmed is left");
            }
            return Err(error);
        }
    }
    for name in &names {
        store.delete(name).await?;
    }
    Ok(names.len())
}

/// One zstd frame a segment, compressed anew: frames of a few hundred bytes hardly compress.
async fn copy(
    store: &Store,
    names: &[ObjectName],
    keys: FindKey<'_>,
    header: &SegmentHeader,
    writer: &mut SealedWriter,
) -> Result<()> {
    writer.write(&head(header)).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(2);
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (Ok::<_, std::io::Error>(item), receiver))
    });
    let mut encoder = async_compression::tokio::bufread::ZstdEncoder::with_quality(
        tokio_util::io::StreamReader::new(Box::pin(stream)),
        async_compression::Level::Precise(3),
    );
    let feed = async {
        for name in names {
            let mut segment = Segment::open(store, name, keys).await?;
            loop {
                let mut chunk = Vec::with_capacity(64 << 10);
                let read = (&mut segment.log).take(64 << 10).read_to_end(&mut chunk).await;
                if read.map_err(|error| super::reading::read_error(name, error))? == 0 {
                    break;
                }
                if sender.send(Bytes::from(chunk)).await.is_err() {
                    break;
                }
            }
        }
        drop(sender);
        Ok::<(), StoreError>(())
    };
    let seal = async {
        let mut piece = vec![0_u8; 64 << 10];
        loop {
            let filled = encoder.read(&mut piece).await.expect("its input has no errors");
            if filled == 0 {
                return Ok::<(), StoreError>(());
            }
            writer.write(&piece[..filled]).await?;
        }
    };
    tokio::try_join!(feed, seal)?;
    Ok(())
}
