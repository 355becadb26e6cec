//! Which small pieces of archived log become one, so that a week of log is hundreds of objects and not hundreds of
//! thousands: the pieces of a minute, and later those of an hour, once it is over.

use jiff::Timestamp;

/// A piece of log in the store, `[from, to)` on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPiece {
    pub from: u64,
    pub to: u64,
    /// When the store got it; of a merged piece, when it was merged.
    pub stored_at: Timestamp,
}

/// What to do with a row of pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Each of these stretches becomes one piece: at least two pieces that follow each other exactly.
    pub merge: Vec<Vec<StoredPiece>>,
    /// These lie wholly in another piece: a merge was cut off before it had removed them.
    pub remove: Vec<StoredPiece>,
}

/// A merged piece has at most so many bytes of log, unless a single one had more.
const MOST_BYTES: u64 = 64 << 20;
/// Merging waits so long after a minute or hour is over.
const SETTLE_SECONDS: i64 = 30;
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

/// Decides for the pieces of one timeline, in any order. The last piece stays as it is: reading goes on from it.
#[must_use]
pub fn compaction(mut pieces: Vec<StoredPiece>, now: Timestamp) -> Compaction {
    let Some(end) = pieces.iter().map(|piece| piece.to).max() else { return Compaction::default() };
    // Empty ones mark where log begins, for a reader that comes back to them.
    pieces.retain(|piece| piece.from < piece.to);
    // Of two that begin together the longer one comes first, and holds the other.
    pieces.sort_by_key(|piece| (piece.from, std::cmp::Reverse(piece.to)));
    let mut plan = Compaction::default();
    let mut row: Vec<StoredPiece> = Vec::new();
    for piece in pieces {
        match row.last() {
            Some(last) if piece.to <= last.to => plan.remove.push(piece),
            _ => row.push(piece),
        }
    }
    if row.last().is_some_and(|last| last.to == end) {
        row.pop();
    }
    for group in groups(&row, now) {
        if group.len() > 1 {
            plan.merge.push(group);
        }
    }
    plan
}

/// Neighbours whose hour, or else minute, is the same and over.
fn groups(row: &[StoredPiece], now: Timestamp) -> Vec<Vec<StoredPiece>> {
    let mut groups: Vec<Vec<StoredPiece>> = Vec::new();
    for piece in row {
        if let Some(group) = groups.last_mut()
            && let (Some(first), Some(last)) = (group.first(), group.last())
            && last.to == piece.from
            && piece.to - first.from <= MOST_BYTES
            && (same_and_over(first, piece, HOUR, now) || same_and_over(first, piece, MINUTE, now))
        {
            group.push(*piece);
        } else {
            groups.push(vec![*piece]);
        }
    }
    groups
}

fn same_and_over(a: &StoredPiece, b: &StoredPiece, unit: i64, now: Timestamp) -> bool {
    let of = |piece: &StoredPiece| piece.stored_at.as_second().div_euclid(unit);
    of(a) == of(b) && (of(b) + 1) * unit + SETTLE_SECONDS <= now.as_second()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 / HOUR * HOUR + second).expect("in range")
    }

    fn piece(from: u64, to: u64, second: i64) -> StoredPiece {
        StoredPiece { from, to, stored_at: at(second) }
    }

    #[test]
    fn pieces_of_a_minute_that_is_over_become_one() {
        let pieces =
            vec![piece(0, 0, 1), piece(0, 5, 2), piece(5, 9, 50), piece(9, 12, 61), piece(12, 14, 62)];
        assert_eq!(compaction(pieces.clone(), at(80)), Compaction::default());
        let plan = compaction(pieces.clone(), at(100));
        assert_eq!(plan.merge, [vec![piece(0, 5, 2), piece(5, 9, 50)]]);
        let plan = compaction(pieces, at(3700));
        assert_eq!(
            plan.merge,
            [vec![piece(0, 5, 2), piece(5, 9, 50), piece(9, 12, 61)]],
            "the last one stays"
        );
    }

    #[test]
    fn a_gap_is_never_bridged_and_a_leftover_goes() {
        let pieces = vec![piece(0, 5, 1), piece(6, 6, 2), piece(6, 9, 3), piece(9, 10, 4), piece(20, 30, 5)];
        let plan = compaction(pieces, at(4000));
        assert!(plan.merge.iter().all(|group| group[0].from != 0), "{plan:?}");
        let pieces = vec![piece(0, 9, 100), piece(0, 5, 1), piece(5, 9, 2), piece(9, 12, 110)];
        let plan = compaction(pieces, at(101));
        assert_eq!(plan.remove, [piece(0, 5, 1), piece(5, 9, 2)]);
    }

    proptest! {
        /// Whatever is done, in whichever order, every byte stays readable and no hole is bridged.
        #[test]
        fn every_byte_stays(
            sizes in prop::collection::vec((0..6_u64, prop::bool::weighted(0.9), 0..900_i64), 1..40),
            now in 0..20_000_i64,
        ) {
            let (mut pieces, mut end, mut second) = (Vec::new(), 0, 0);
            for (size, follows, pause) in sizes {
                end += u64::from(!follows);
                second += pause;
                pieces.push(piece(end, end + size, second));
                end += size;
            }
            let bytes = |pieces: &[StoredPiece]| -> std::collections::BTreeSet<u64> {
                pieces.iter().flat_map(|piece| piece.from..piece.to).collect()
            };
            let plan = compaction(pieces.clone(), at(now));
            let mut after: Vec<_> = pieces.iter().filter(|piece| !plan.remove.contains(piece)).copied().collect();
            for group in &plan.merge {
                prop_assert!(group.windows(2).all(|pair| pair[0].to == pair[1].from));
                after.retain(|piece| !group.contains(piece));
                after.push(piece(group[0].from, group[group.len() - 1].to, now));
            }
            prop_assert_eq!(bytes(&after), bytes(&pieces));
            prop_assert_eq!(after.iter().map(|p| p.to).max(), pieces.iter().map(|p| p.to).max());
        }
    }
}
