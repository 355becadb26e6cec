//! Until when the archived log is complete, as its segments say it themselves: the coverage document is a few seconds behind
//! them, and of a host that was lost those seconds count.

use holdfast_core::position::{Coverage, Position};

use super::{FoundService, passed_over};
use crate::error::{ErrorKind, Result};
use crate::log::reading::ListedSegment;
use crate::log::segment::{Segment, segment_name};
use crate::store::Store;

/// Segments that are looked at in each stretch, from its end, until one opens.
const TRIES: usize = 3;

/// What the newest segment of each stretch says. One that does not open is a problem of the service's, and the one before it
/// is asked.
///
/// # Errors
/// The bucket cannot be read.
pub(super) async fn said_by_segments(
    store: &Store,
    service: &mut FoundService,
    mut segments: Vec<ListedSegment>,
) -> Result<Vec<Coverage>> {
    let lineage = service.lineage_scope();
    segments.sort_by_key(|segment| std::cmp::Reverse((segment.timeline, segment.to, segment.from)));
    let (mut said, mut problems) = (Vec::new(), Vec::new());
    for stretch in &service.coverage {
        let of_stretch = segments.iter().filter(|segment| {
            segment.timeline == stretch.to.timeline
                && segment.from >= stretch.from.offset
                && segment.to <= stretch.to.offset
        });
        for segment in of_stretch.take(TRIES) {
            let name = segment_name(lineage, segment.timeline, segment.from, segment.to);
            let find = |id| service.owned_key(id);
            match Segment::open(store, &name, &find).await {
                Ok(opened) => {
                    let at = |offset| Position { timeline: segment.timeline, offset };
                    let complete_until = opened.header.complete_until;
                    said.push(Coverage { from: at(segment.from), to: at(segment.to), complete_until });
                    break;
                }
                // Of a bucket in use: compaction has replaced it since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    problems.push(format!("a segment of log does not open: {}", passed_over(error)?))
                }
            }
        }
    }
    service.problems.append(&mut problems);
    Ok(said)
}
