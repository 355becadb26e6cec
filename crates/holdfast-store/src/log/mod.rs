//! The log archive in the store: the log of a lineage as one row of sealed segments.
//!
//! [`segment`] is one of them, [`reading`] puts them together again, [`compaction`] makes few of many. What a segment's
//! bytes mean is the engine's; where they lie in the row is their object's name.

pub mod compaction;
pub mod reading;
pub mod segment;

pub use reading::{ListedSegment, LogItem, last_segment, pieces, read_log};
pub use segment::{SEGMENT_FORMAT, Segment, SegmentHeader, segment_name, write_segment};
