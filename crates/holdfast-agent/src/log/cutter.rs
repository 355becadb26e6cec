//! Cuts a followed log into segments, by size and by time. Pure: the clock is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use holdfast_core::Timestamp;
use holdfast_engines::{FeedItem, LogCursor};
use holdfast_store::log::{SEGMENT_FORMAT, SegmentHeader};

/// A segment is cut when it has so many bytes, however young it is.
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;
/// Log that is cut and not stored yet, before the engine's reader has to wait.
const WAITING_BYTES: usize = 4 * SEGMENT_BYTES;
const BEGAN_ANEW: &str = "the engine's log began anew";

/// Where the archive of a lineage's log ends: the offset of the next byte, and from where the engine goes on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogEnd {
    pub offset: u64,
    pub cursor: LogCursor,
}

/// A segment that is to be stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    pub from: u64,
    pub header: SegmentHeader,
    pub log: Bytes,
}

impl Cut {
    pub(crate) fn to(&self) -> u64 {
        self.from + self.log.len() as u64
    }

    pub(crate) fn end(&self) -> LogEnd {
        LogEnd { offset: self.to(), cursor: LogCursor(self.header.to.clone()) }
    }
}

#[derive(Debug)]
pub(crate) struct Cutter {
    interval: Duration,
    /// Behind all that was cut; `None` until log has begun.
    end: Option<LogEnd>,
    /// What follows `end`, and from where the engine goes on behind it.
    buffer: BytesMut,
    cursor: Option<LogCursor>,
    since: Option<Instant>,
    complete_until: Option<Timestamp>,
    cuts: VecDeque<Cut>,
    waiting_bytes: usize,
}

impl Cutter {
    /// Goes on from `end`; `None` for an archive without any log.
    pub(crate) fn new(end: Option<LogEnd>, interval: Duration) -> Self {
        Self {
            interval,
            end,
            buffer: BytesMut::new(),
            cursor: None,
            since: None,
            complete_until: None,
            cuts: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Takes what the engine's reader says. Returns the offset that everything acknowledged until an instant lies before.
    pub(crate) fn take(&mut self, item: FeedItem, now: Instant) -> Option<(Timestamp, u64)> {
        match item {
            FeedItem::Begin { cursor, cause } => {
                self.begin(cursor, cause);
                None
            }
            FeedItem::Log { bytes, cursor } => {
                self.since.get_or_insert(now);
                self.buffer.extend_from_slice(&bytes);
                self.cursor = Some(cursor);
                if self.buffer.len() >= SEGMENT_BYTES {
                    self.cut();
                }
                None
            }
            FeedItem::CaughtUp { at } => {
                let end = self.end.as_ref()?.offset + self.buffer.len() as u64;
                self.complete_until = Some(at);
                Some((at, end))
            }
        }
    }

    /// An empty segment marks where log begins: at the beginning of all, and behind each gap, which is one byte of the row
    /// that will never be.
    fn begin(&mut self, cursor: LogCursor, cause: Option<String>) {
        self.cut();
        let (from, gap) = match &self.end {
            None => (0, None),
            Some(end) => (end.offset + 1, Some(cause.unwrap_or_else(|| BEGAN_ANEW.to_owned()))),
        };
        self.complete_until = None;
        self.since = None;
        let header = SegmentHeader {
            format: SEGMENT_FORMAT,
            from: cursor.0.clone(),
            to: cursor.0.clone(),
            complete_until: None,
            gap,
        };
        self.end = Some(LogEnd { offset: from, cursor });
        self.cuts.push_back(Cut { from, header, log: Bytes::new() });
    }

    /// Cuts what is there.
    pub(crate) fn cut(&mut self) {
        let (Some(end), Some(cursor)) = (&self.end, self.cursor.take()) else { return };
        self.since = None;
        let log = self.buffer.split().freeze();
        self.waiting_bytes += log.len();
        let header = SegmentHeader {
            format: SEGMENT_FORMAT,
            from: end.cursor.0.clone(),
            to: cursor.0.clone(),
            complete_until: self.complete_until,
            gap: None,
        };
        let cut = Cut { from: end.offset, header, log };
        self.end = Some(LogEnd { offset: cut.to(), cursor });
        if !cut.log.is_empty() {
            self.cuts.push_back(cut);
        }
    }

    /// When the buffer is to be cut at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.interval)
    }

    /// The oldest segment that is cut.
    pub(crate) fn next(&mut self) -> Option<Cut> {
        let cut = self.cuts.pop_front()?;
        self.waiting_bytes -= cut.log.len();
        Some(cut)
    }

    /// Whether more log may come.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting_bytes + self.buffer.len() < WAITING_BYTES
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cursor(number: u64) -> LogCursor {
        LogCursor(json!({ "at": number }))
    }

    fn log(bytes: &[u8], to: u64) -> FeedItem {
        FeedItem::Log { bytes: Bytes::copy_from_slice(bytes), cursor: cursor(to) }
    }

    fn ranges(cutter: &mut Cutter) -> Vec<(u64, u64, Option<String>)> {
        std::iter::from_fn(|| cutter.next()).map(|cut| (cut.from, cut.to(), cut.header.gap)).collect()
    }

    #[test]
    fn segments_follow_each_other_and_say_where_the_engine_stood() {
        let now = Instant::now();
        let mut cutter = Cutter::new(None, Duration::from_millis(500));
        assert_eq!(
            cutter.take(FeedItem::CaughtUp { at: Timestamp::UNIX_EPOCH }, now),
            None,
            "no log has begun"
        );
        cutter.take(FeedItem::Begin { cursor: cursor(7), cause: None }, now);
        cutter.take(log(b"ab", 8), now);
        cutter.take(log(b"c", 9), now + Duration::from_millis(300));
        assert_eq!(cutter.due(), Some(now + Duration::from_millis(500)), "counted from the first byte");
        let at = Timestamp::from_second(1).expect("in range");
        assert_eq!(cutter.take(FeedItem::CaughtUp { at }, now), Some((at, 3)));
        cutter.cut();
        assert_eq!(cutter.due(), None);
        let marker = cutter.next().expect("where log begins");
        assert_eq!((marker.from, marker.to(), marker.header.gap), (0, 0, None));
        let cut = cutter.next().expect("it was cut");
        assert_eq!((cut.from, cut.to(), &cut.log[..]), (0, 3, &b"abc"[..]));
        assert_eq!((cut.header.from, cut.header.to), (cursor(7).0, cursor(9).0));
        assert_eq!(cut.header.complete_until, Some(at));
    }

    #[test]
    fn a_break_leaves_a_hole_of_one_byte_and_says_why() {
        let now = Instant::now();
        let end = LogEnd { offset: 10, cursor: cursor(1) };
        let mut cutter = Cutter::new(Some(end), Duration::from_millis(500));
        cutter.take(log(b"xy", 2), now);
        cutter.take(FeedItem::Begin { cursor: cursor(50), cause: Some("purged".to_owned()) }, now);
        cutter.take(log(b"z", 51), now);
        cutter.cut();
        let purged = Some("purged".to_owned());
        assert_eq!(ranges(&mut cutter), [(10, 12, None), (13, 13, purged), (13, 14, None)]);
    }

    #[test]
    fn much_log_is_cut_by_size_and_then_waits() {
        let now = Instant::now();
        let end = LogEnd { offset: 0, cursor: cursor(0) };
        let mut cutter = Cutter::new(Some(end), Duration::from_secs(3600));
        let piece = vec![0_u8; SEGMENT_BYTES / 2 + 1];
        let mut taken = 0;
        while cutter.has_room() {
            cutter.take(log(&piece, taken), now);
            taken += 1;
        }
        assert!((7..=9).contains(&taken), "{taken}");
        assert_eq!(cutter.next().map(|cut| cut.log.len()), Some(2 * piece.len()));
        assert!(cutter.has_room());
    }
}
