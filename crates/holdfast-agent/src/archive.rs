//! What the object store is proven to hold of one lineage's log, and how far behind it is (R1).
//!
//! Fed by two streams: pieces of log that the store has confirmed, and marks taken from the running engine. Pure: the
//! clock is in the marks. After a restart it is built again from the store's own listing.

use std::collections::VecDeque;

use holdfast_core::Timestamp;
use holdfast_core::position::{Continuity, Coverage, Gap, Piece, Position, continuity, recall, stretches};
use holdfast_engines::Mark;

/// Marks that wait for the store; one every probe, thinned out when a long outage piles them up.
const MOST_MARKS: usize = 512;

/// Coverage of one lineage, newest interval last.
#[derive(Debug, Default)]
pub(crate) struct ArchiveTracker {
    coverage: Vec<Coverage>,
    gaps: Vec<Gap>,
    waiting: VecDeque<Mark>,
    /// The newest mark of all, covered or not.
    newest: Option<Mark>,
    /// The newest mark that is wholly in the store.
    covered: Option<Mark>,
}

impl ArchiveTracker {
    /// From what the store lists, in any order.
    #[must_use]
    pub(crate) fn from_pieces(pieces: Vec<Piece>) -> Self {
        // Most holes in a listing are no news: they were reported when they arose, or are the trimmed past. Which ones are,
        // says `untold_holes`.
        Self { coverage: stretches(pieces), ..Self::default() }
    }

    /// Takes over what was known before a restart: a stretch that ends no earlier than it was known to is complete at least
    /// until then.
    pub(crate) fn remember(&mut self, coverage: &[Coverage], gaps: &[Gap]) {
        recall(&mut self.coverage, coverage);
        self.gaps = gaps.to_vec();
    }

    /// Holes of a timeline that nobody was told of: those behind `told_to`, up to where the newest known document reaches. What
    /// lies before was told of when it arose, or is where expired log was.
    #[must_use]
    pub(crate) fn untold_holes(&self, told_to: Option<Position>) -> Vec<Piece> {
        let pairs = self.coverage.windows(2).map(|pair| (pair[0].to, pair[1].from));
        let is_news = |from: Position| {
            told_to.is_none_or(|told| (from.timeline, from.offset) >= (told.timeline, told.offset))
        };
        let is_known = |from, to| self.gaps.iter().any(|gap| gap.from == from && gap.to == to);
        pairs
            .filter(|(from, to)| from.timeline == to.timeline && is_news(*from) && !is_known(*from, *to))
            .collect()
    }

    /// The hole between two stretches is a gap that was seen then. Returns it.
    pub(crate) fn note_hole(&mut self, (from, to): Piece, seen_at: Timestamp, cause: String) -> Option<Gap> {
        let before = self.coverage.iter().find(|stretch| stretch.to == from)?;
        let from_time = before.complete_until.unwrap_or(seen_at).min(seen_at);
        let gap = Gap { from, to, from_time, to_time: seen_at, cause, acknowledged: false };
        self.gaps.push(gap.clone());
        Some(gap)
    }

    /// Whether everything before `to` is in the store, from where its stretch begins.
    #[must_use]
    pub(crate) fn holds(&self, to: Position) -> bool {
        self.coverage
            .last()
            .is_some_and(|last| last.to.timeline == to.timeline && to.offset <= last.to.offset)
    }

    /// Until when the newest stretch is complete once it reaches `to`.
    #[must_use]
    pub(crate) fn complete_with(&self, to: Position) -> Option<Timestamp> {
        let lies_before =
            |mark: &&Mark| mark.position.timeline == to.timeline && mark.position.offset <= to.offset;
        let known = self.coverage.last().and_then(|last| last.complete_until);
        self.waiting.iter().filter(lies_before).map(|mark| mark.at).max().max(known)
    }

    /// Whether a mark waits for log that lies behind `end`.
    #[must_use]
    pub(crate) fn waits_behind(&self, end: Position) -> bool {
        self.waiting
            .front()
            .is_some_and(|mark| mark.position.timeline == end.timeline && mark.position.offset > end.offset)
    }

    /// The store has confirmed `[from, to)`. Returns the gap that this reveals, if any, with the cause given.
    pub(crate) fn stored(
        &mut self,
        from: Position,
        to: Position,
        now: Timestamp,
        cause_of_gap: String,
    ) -> Option<Gap> {
        let last = self.coverage.last().cloned();
        let found = match (self.add(from, to), last) {
            (Continuity::Gap, Some(last)) => Some(Gap {
                from: last.to,
                to: from,
                from_time: last.complete_until.unwrap_or(now),
                to_time: now,
                cause: cause_of_gap,
                acknowledged: false,
            }),
            _ => None,
        };
        self.gaps.extend(found.clone());
        self.settle();
        found
    }

    fn add(&mut self, from: Position, to: Position) -> Continuity {
        let Some(last) = self.coverage.last_mut() else {
            self.coverage.push(Coverage { from, to, complete_until: None });
            return Continuity::Extends;
        };
        let judged = continuity(last, from, to);
        match judged {
            Continuity::Extends => last.to = to,
            Continuity::Known | Continuity::Older | Continuity::Malformed => {}
            Continuity::NewTimeline | Continuity::Gap => {
                self.coverage.push(Coverage { from, to, complete_until: None });
            }
        }
        judged
    }

    /// The running engine was at this mark.
    pub(crate) fn mark(&mut self, mark: Mark) {
        // Nothing was committed since a mark that the store has: this one is covered too, without any new log (R17).
        if self.covered.as_ref().is_some_and(|covered| {
            covered.last_commit == mark.last_commit && covered.position.timeline == mark.position.timeline
        }) {
            self.cover(mark.clone());
        } else {
            if self.waiting.len() >= MOST_MARKS {
                let mut keep = false;
                self.waiting.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.waiting.push_back(mark.clone());
        }
        self.newest = Some(mark);
        self.settle();
    }

    fn settle(&mut self) {
        let Some(to) = self.coverage.last().map(|last| last.to) else { return };
        while let Some(mark) = self.waiting.front() {
            let reached = mark.position.timeline < to.timeline
                || (mark.position.timeline == to.timeline && mark.position.offset <= to.offset);
            if !reached {
                return;
            }
            let mark = self.waiting.pop_front().expect("a front was seen");
            // A mark of an earlier timeline says nothing about the newest interval.
            if mark.position.timeline == to.timeline {
                self.cover(mark);
            }
        }
    }

    fn cover(&mut self, mark: Mark) {
        if let Some(last) = self.coverage.last_mut()
            && last.to.timeline == mark.position.timeline
        {
            last.complete_until = last.complete_until.max(Some(mark.at));
            self.covered = Some(mark);
        }
    }

    #[must_use]
    pub(crate) fn coverage(&self) -> &[Coverage] {
        &self.coverage
    }

    #[must_use]
    pub(crate) fn newest_coverage(&self) -> Option<&Coverage> {
        self.coverage.last()
    }

    #[must_use]
    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Seconds between `now` and the instant up to which all commits are in the store, and bytes between the engine's
    /// position and the proven one.
    #[must_use]
    pub(crate) fn lag(&self, now: Timestamp) -> (f64, u64) {
        let Some(newest) = &self.newest else { return (0.0, 0) };
        let proven = self.coverage.last().map(|last| last.to);
        let bytes = match proven {
            Some(to) if to.timeline == newest.position.timeline => {
                newest.position.offset.saturating_sub(to.offset)
            }
            _ => newest.position.offset,
        };
        // The oldest waiting mark was not covered: what it vouches for is missing since the mark before it.
        let since = match (self.waiting.front(), &self.covered) {
            (None, _) => return (0.0, 0),
            (Some(_), Some(covered)) => covered.at,
            (Some(first), None) => first.at,
        };
        (now.duration_since(since).as_secs_f64().max(0.0), bytes)
    }

    /// Whether hardly anything was written since the oldest mark that waits: log that the engine has no reason to close.
    #[must_use]
    pub(crate) fn is_quiet(&self) -> bool {
        const HARDLY_ANYTHING_BYTES: u64 = 64 << 10;
        match (self.waiting.front(), &self.newest) {
            (Some(first), Some(newest)) => {
                newest.position.timeline == first.position.timeline
                    && newest.position.offset.saturating_sub(first.position.offset) < HARDLY_ANYTHING_BYTES
            }
            _ => false,
        }
    }

    /// Forgets log before `before`, which has been removed from the store.
    pub(crate) fn trim(&mut self, before: Position) {
        // The last stretch stays, were it empty: log goes on from its end.
        let end = self.coverage.last().map(|last| last.to);
        self.coverage
            .retain(|c| c.to.timeline > before.timeline || c.to.offset > before.offset || Some(c.to) == end);
        for coverage in &mut self.coverage {
            if coverage.from.timeline == before.timeline && coverage.from.offset < before.offset {
                coverage.from = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: u64 = 16 << 20;

    fn at(timeline: u32, segment: u64) -> Position {
        Position { timeline, offset: segment * MIB16 }
    }

    fn second(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("in range")
    }

    fn mark(seconds: i64, timeline: u32, offset: u64, commit: &str) -> Mark {
        Mark { at: second(seconds), position: Position { timeline, offset }, last_commit: commit.to_owned() }
    }

    fn store(tracker: &mut ArchiveTracker, timeline: u32, segment: u64) -> Option<Gap> {
        tracker.stored(at(timeline, segment), at(timeline, segment + 1), second(1000), "lost".to_owned())
    }

    #[test]
    fn a_mark_counts_once_the_store_has_everything_before_it() {
        let mut tracker = ArchiveTracker::default();
        store(&mut tracker, 1, 1);
        tracker.mark(mark(5, 1, 2 * MIB16 + 100, "a"));
        assert_eq!(tracker.newest_coverage().and_then(|c| c.complete_until), None);
        assert_eq!(tracker.lag(second(9)).0, 4.0);
        store(&mut tracker, 1, 2);
        assert_eq!(tracker.newest_coverage().and_then(|c| c.complete_until), Some(second(5)));
        assert_eq!(tracker.lag(second(9)), (0.0, 0));
    }

    #[test]
    fn an_idle_database_stays_reachable_without_any_new_log() {
        let mut tracker = ArchiveTracker::default();
        store(&mut tracker, 1, 1);
        tracker.mark(mark(5, 1, 2 * MIB16, "a"));
        // A checkpoint record moved the position; nothing was committed.
        tracker.mark(mark(500, 1, 2 * MIB16 + 200, "a"));
        assert_eq!(tracker.newest_coverage().and_then(|c| c.complete_until), Some(second(500)));
        // A commit: from here on the log is needed.
        tracker.mark(mark(600, 1, 2 * MIB16 + 400, "b"));
        assert_eq!(tracker.newest_coverage().and_then(|c| c.complete_until), Some(second(500)));
        assert_eq!(tracker.lag(second(610)).0, 110.0);
    }

    #[test]
    fn a_tail_covers_the_marks_that_it_reaches_and_overlaps_nobody() {
        let mut tracker = ArchiveTracker::default();
        store(&mut tracker, 1, 1);
        let end = |offset| Position { timeline: 1, offset: 2 * MIB16 + offset };
        tracker.mark(mark(5, 1, 2 * MIB16 + 100, "a"));
        tracker.mark(mark(6, 1, 2 * MIB16 + 300, "b"));
        assert!(tracker.holds(end(0)) && !tracker.holds(end(1)));
        assert_eq!(tracker.complete_with(end(99)), None);
        assert_eq!(tracker.complete_with(end(200)), Some(second(5)), "what a part may say of itself");
        assert_eq!(tracker.stored(end(0), end(200), second(7), String::new()), None);
        assert_eq!(tracker.newest_coverage().and_then(|c| c.complete_until), Some(second(5)));
        assert!(tracker.waits_behind(end(200)), "the engine has not flushed the rest");
        assert_eq!(tracker.stored(end(200), end(300), second(7), String::new()), None);
        assert!(!tracker.waits_behind(end(300)));
        assert_eq!(store(&mut tracker, 1, 2), None, "its segment comes, whole");
        assert_eq!(tracker.coverage().len(), 1);
        assert_eq!(
            tracker.stored(end(300), end(400), second(8), String::new()),
            None,
            "a part that was on its way"
        );
        assert_eq!(tracker.newest_coverage().map(|c| c.to), Some(at(1, 3)));
    }

    #[test]
    fn only_a_log_that_stands_still_is_quiet() {
        let mut tracker = ArchiveTracker::default();
        store(&mut tracker, 1, 1);
        assert!(!tracker.is_quiet(), "nothing waits");
        tracker.mark(mark(5, 1, 2 * MIB16 + 100, "unknown at 5"));
        tracker.mark(mark(6, 1, 2 * MIB16 + 300, "unknown at 6"));
        assert!(tracker.is_quiet(), "a checkpoint's few bytes");
        tracker.mark(mark(7, 1, 3 * MIB16, "c"));
        assert!(
            !tracker.is_quiet(),
            "the segment was closed: the store is behind, more segments do not help"
        );
    }

    #[test]
    fn a_missing_segment_is_a_gap_and_a_repeated_one_is_not() {
        let mut tracker = ArchiveTracker::default();
        assert_eq!(store(&mut tracker, 1, 1), None);
        assert_eq!(store(&mut tracker, 1, 2), None);
        assert_eq!(store(&mut tracker, 1, 2), None);
        let gap = store(&mut tracker, 1, 4).expect("segment 3 is missing");
        assert_eq!((gap.from, gap.to), (at(1, 3), at(1, 4)));
        assert_eq!(tracker.coverage().len(), 2);
        assert_eq!(store(&mut tracker, 2, 5), None, "a new timeline is no gap");
        assert_eq!(tracker.coverage().len(), 3);
    }

    #[test]
    fn a_listing_gives_the_same_coverage_in_any_order() {
        let segments = [at(1, 3), at(1, 1), at(1, 2), at(2, 4)];
        let pieces = segments.map(|from| (from, Position { offset: from.offset + MIB16, ..from }));
        let tracker = ArchiveTracker::from_pieces(pieces.to_vec());
        let spans: Vec<_> = tracker.coverage().iter().map(|c| (c.from, c.to)).collect();
        assert_eq!(spans, [(at(1, 1), at(1, 4)), (at(2, 4), at(2, 5))]);
    }
}
