//! The tail's part of a restore: segments that the tool's archive does not have are put together from parts. One that is not
//! whole is kept only where the log was proven to end in it: padded with zeros it would end the log there.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use holdfast_core::causes::chain;
use holdfast_core::position::Position;
use holdfast_engines::{Instance, RepositoryDriver};
use holdfast_gateway::RepositoryKeys;
use holdfast_store::log::reading::{READ_AGAIN, READS, may_pass, read_error};
use holdfast_store::log::segment::Segment;
use holdfast_store::log::{pieces, segment_name};
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{ErrorKind, LineageScope, ObjectName, ObjectPrefix, Store, StoreError};
use tokio::io::AsyncReadExt;

use crate::error::AgentError;
use crate::lineage::Lineage;

/// Parts go while they are read, when their segment has been archived: the store is listed again.
const TRIES: u32 = 5;
const DOING: &str = "restore the instance";

/// Keeps in the folder of `instance` what the store holds of the tail of `source` behind `from`, and makes sure that with
/// the tool's archive the log reaches `covered_to`.
pub(crate) async fn rebuild(
    store: &Store,
    source: &Lineage,
    driver: &dyn RepositoryDriver,
    instance: &Instance,
    from: Position,
    covered_to: Position,
) -> Result<(), AgentError> {
    let segment = driver.log_piece();
    let first = Position { offset: from.offset, ..covered_to }.start_of_piece(segment);
    for attempt in 1.. {
        match rebuild_once(store, source, driver, instance, first, covered_to).await {
            Err(AgentError::Store { source, .. })
                if source.kind() == ErrorKind::NotFound && attempt < TRIES => {}
            Err(error) => return Err(error),
            Ok(true) => return Ok(()),
            Ok(false) => break,
        }
    }
    let end = Position { offset: covered_to.offset.saturating_sub(1), ..covered_to };
    let last = end.start_of_piece(segment);
    if is_archived(store, source.scope, last).await? {
        return Ok(());
    }
    let what = format!("the log's tail does not reach {covered_to:?}, where it was proven to end");
    Err(AgentError::Damaged { doing: DOING, what })
}

/// Returns whether the segment was put together in which the log was proven to end, up to there.
async fn rebuild_once(
    store: &Store,
    source: &Lineage,
    driver: &dyn RepositoryDriver,
    instance: &Instance,
    first: Position,
    covered_to: Position,
) -> Result<bool, AgentError> {
    let listed = pieces(store, source.scope).await.map_err(AgentError::store("list the log's tail"))?;
    let bytes = driver.log_piece();
    let mut segments: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for piece in listed.iter().filter(|p| p.timeline == first.timeline && p.from >= first.offset) {
        let at = Position { offset: piece.from, ..first };
        segments.entry(at.start_of_piece(bytes).offset).or_default().push((piece.from, piece.to));
    }
    let mut reaches = false;
    for (start, parts) in segments {
        let segment = Position { offset: start, ..first };
        let log = beginning(store, source, segment, bytes, &parts).await?;
        if is_of_use(start, log.len() as u64, bytes, covered_to.offset) {
            reaches |= start + log.len() as u64 >= covered_to.offset;
            driver.keep_log(instance, segment, &log).map_err(AgentError::engine("keep the log's tail"))?;
        }
    }
    Ok(reaches)
}

/// Whether so many bytes of the segment that begins at `start` do for the whole: all of it, or all up to `covered_to`. What lies
/// behind that is not needed.
fn is_of_use(start: u64, length: u64, segment: u64, covered_to: u64) -> bool {
    start < covered_to && (length == segment || start + length >= covered_to)
}

/// The bytes of a segment from its first one on, as far as its parts hold them without a hole. `parts` ascend.
async fn beginning(
    store: &Store,
    source: &Lineage,
    segment: Position,
    bytes: u64,
    parts: &[(u64, u64)],
) -> Result<Vec<u8>, AgentError> {
    let mut log = Vec::new();
    for (from, to) in parts {
        let at = segment.offset + log.len() as u64;
        if *from > at {
            break; // the parts before it are gone: the tool's archive has the segment
        }
        if *to <= at {
            continue;
        }
        let name = segment_name(source.scope, segment.timeline, *from, *to);
        let part = read_part(store, source, &name, to - from, bytes).await.map_err(damaged)?;
        log.extend_from_slice(&part[usize::try_from(at - from).expect("within a segment")..]);
    }
    Ok(log)
}

/// Read again where it did not come whole.
async fn read_part(
    store: &Store,
    source: &Lineage,
    name: &ObjectName,
    length: u64,
    most: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut reads = 1;
    loop {
        match read_once(store, source, name, length, most).await {
            Err(error) if may_pass(&error) && reads < READS => {
                tokio::time::sleep(READ_AGAIN * reads).await;
                reads += 1;
            }
            done => return done,
        }
    }
}

async fn read_once(
    store: &Store,
    source: &Lineage,
    name: &ObjectName,
    length: u64,
    most: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut segment = Segment::open(store, name, &|id| source.keys.opening_key(id).ok()).await?;
    let mut log = Vec::new();
    let problem = |problem: String| StoreError::Document { object: name.to_string(), problem };
    let read = (&mut segment.log).take(most + 1).read_to_end(&mut log).await;
    read.map_err(|error| read_error(name, error))?;
    if log.len() as u64 != length {
        return Err(problem(format!("it holds {} bytes of log", log.len())));
    }
    Ok(log)
}

fn damaged(error: StoreError) -> AgentError {
    match error {
        StoreError::Seal { .. } | StoreError::Document { .. } | StoreError::NoKey { .. } => {
            AgentError::Damaged { doing: DOING, what: chain(&error) }
        }
        error => AgentError::store("read the log's tail")(error),
    }
}

async fn is_archived(store: &Store, scope: LineageScope, segment: Position) -> Result<bool, AgentError> {
    let mut objects = store.list(&ObjectPrefix::Repository { lineage: scope, folder: None });
    let failed = || AgentError::store("list the log archive");
    while let Some(object) = objects.try_next().await.map_err(failed())? {
        if matches!(&object.name, ObjectName::Repository { path, .. }
            if matches!(classify(path.as_str()), ObjectClass::Log { from, .. } if from == segment))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = 16 << 20;

    #[test]
    fn half_a_segment_never_stands_in_for_a_whole_one() {
        let at = |number: u64| number * SEGMENT_BYTES;
        let rows = [
            (at(1), SEGMENT_BYTES, at(2) + 100, true, "whole, before the last"),
            (at(1), SEGMENT_BYTES - 1, at(2) + 100, false, "its last byte is missing"),
            (at(1), 0, at(2) + 100, false, "its parts are gone"),
            (at(2), 100, at(2) + 100, true, "the last, up to where log was proven"),
            (at(2), 200, at(2) + 100, true, "and beyond"),
            (at(2), 99, at(2) + 100, false, "a byte before that"),
            (at(1), SEGMENT_BYTES, at(2), true, "the last is whole"),
            (at(2), 100, at(2), false, "behind all that was proven"),
            (at(3), 100, at(2) + 100, false, "behind all that was proven"),
        ];
        for (start, length, covered_to, expected, why) in rows {
            assert_eq!(is_of_use(start, length, SEGMENT_BYTES, covered_to), expected, "{why}");
        }
    }
}
