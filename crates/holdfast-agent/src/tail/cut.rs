//! Cuts the log as it comes into parts: by time, by size, and where a segment of the engine's ends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::position::Position;
use tokio::time::{Instant, sleep_until};

/// Longest part.
const PART_BYTES: usize = 4 << 20;
/// So much may wait; then the engine waits.
const MOST_WAITING: usize = 2 * PART_BYTES;

pub(super) struct Cut {
    from: Position,
    waiting: BytesMut,
    /// When the first waiting byte came.
    since: Instant,
    every: Duration,
    /// Bytes of a segment.
    segment: u64,
}

impl Cut {
    pub(super) fn new(from: Position, every: Duration, segment: u64) -> Self {
        Self { from, waiting: BytesMut::new(), since: Instant::now(), every, segment }
    }

    pub(super) fn push(&mut self, log: &[u8]) {
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.extend_from_slice(log);
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> Position {
        Position { offset: self.from.offset + self.waiting.len() as u64, ..self.from }
    }

    /// Length of the part that would be cut now.
    fn part(&self) -> usize {
        let in_segment = self.segment - self.from.offset % self.segment;
        let most = PART_BYTES.min(usize::try_from(in_segment).unwrap_or(PART_BYTES));
        self.waiting.len().min(most)
    }

    /// Waits until there is something to cut; until more comes, if there is nothing.
    pub(super) async fn due(&self) {
        if self.is_empty() {
            std::future::pending::<()>().await;
        }
        if self.part() == self.waiting.len() && self.waiting.len() < PART_BYTES {
            sleep_until(self.since + self.every).await;
        }
    }

    /// The next part, never across the end of a segment.
    pub(super) fn take(&mut self) -> (Position, Bytes) {
        let at = self.from;
        let part = self.waiting.split_to(self.part()).freeze();
        self.from.offset += part.len() as u64;
        (at, part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = 16 << 20;

    #[tokio::test]
    async fn parts_end_in_time_at_their_length_and_with_the_segment() {
        let at = |offset| Position { timeline: 1, offset };
        let begun = Instant::now();
        let mut cut = Cut::new(at(SEGMENT_BYTES - 100), Duration::from_millis(50), SEGMENT_BYTES);
        cut.push(&[1; 60]);
        cut.due().await;
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(
            (cut.take(), cut.end()),
            ((at(SEGMENT_BYTES - 100), vec![1; 60].into()), at(SEGMENT_BYTES - 40))
        );
        cut.every = Duration::from_secs(3600);
        cut.push(&[2; 50]);
        cut.due().await; // a segment's end is cut at once
        assert_eq!(cut.take(), (at(SEGMENT_BYTES - 40), vec![2; 40].into()));
        cut.push(&vec![3; MOST_WAITING]);
        assert!(!cut.has_room());
        cut.due().await;
        let (from, part) = cut.take();
        assert_eq!((from, part.len()), (at(SEGMENT_BYTES), PART_BYTES));
        assert!(cut.has_room() && !cut.is_empty());
    }
}
