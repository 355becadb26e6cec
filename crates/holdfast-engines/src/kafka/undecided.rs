//! What lies behind the first record of a transaction that has not ended.
//!
//! The server hands out what is committed only up to there, for as long as that transaction takes. What others wrote behind it was
//! acknowledged all the same: records of no transaction, and transactions that have ended. Of those the marks tell, which lie behind
//! their records; so such a stretch is read twice, once for its marks.

use std::collections::{HashMap, VecDeque};

use super::batches::{Batch, Ending};

/// How the transactions of a stretch ended.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Of each producer, in order: where its mark lies, and what it says.
    of: HashMap<i64, VecDeque<(i64, Ending)>>,
}

impl Endings {
    /// Takes note of a mark.
    pub(super) fn note(&mut self, batch: &Batch) {
        if let Some(ending) = batch.ending() {
            self.of.entry(batch.producer_id()).or_default().push_back((batch.base_offset(), ending));
        }
    }

    /// Whether the next batch holds records that were acknowledged: of no transaction, or of one that was committed. It is its
    /// producer's first mark behind it that tells.
    pub(super) fn shows(&mut self, batch: &Batch) -> bool {
        if batch.is_control() || batch.count() == 0 {
            return false;
        }
        if !batch.is_transactional() {
            return true;
        }
        let Some(marks) = self.of.get_mut(&batch.producer_id()) else { return false };
        let passed = marks.iter().take_while(|(mark, _)| *mark < batch.base_offset()).count();
        marks.drain(..passed);
        marks.front().is_some_and(|(_, ending)| *ending == Ending::Committed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::batches::tests::{TRANSACTIONAL, batch, mark};
    use super::*;

    #[test]
    fn what_was_acknowledged_behind_an_open_transaction_is_told_from_what_was_not() {
        let all = [
            (batch(0, 1, TRANSACTIONAL, 1), false), // it never ends
            (batch(2, 2, 0, 4), true),
            (batch(3, 4, TRANSACTIONAL, 2), true),
            (batch(5, 5, TRANSACTIONAL, 3), false),
            (batch(6, 6, TRANSACTIONAL, 1), false),
            (mark(7, 2, Ending::Committed), false),
            (mark(8, 3, Ending::GivenUp), false),
            (batch(9, 9, TRANSACTIONAL, 3), true),
            (batch(10, 11, TRANSACTIONAL, 2), false),
            (mark(12, 3, Ending::Committed), false),
            (batch(13, 13, TRANSACTIONAL, 3), false), // its mark is not there yet
        ];
        let mut endings = Endings::default();
        all.iter().for_each(|(batch, _)| endings.note(batch));
        for (batch, shown) in all {
            assert_eq!(endings.shows(&batch), shown, "{}", batch.base_offset());
        }
    }
}
