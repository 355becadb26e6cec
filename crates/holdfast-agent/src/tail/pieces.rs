//! Which parts of the tail the store holds, and which of them nobody needs: those whose segment the tool has archived.

use std::collections::{BTreeMap, VecDeque};

use holdfast_core::position::{Piece, Position};

/// Archived segments that are remembered, for a part that was on its way while its segment was archived.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Pieces {
    needed: Vec<Piece>,
    spent: Vec<Piece>,
    archived: VecDeque<Piece>,
}

impl Pieces {
    /// From what the store lists: parts, and the archived segments.
    pub(crate) fn listed(pieces: Vec<Piece>, archived: &[Piece]) -> Self {
        let ends: BTreeMap<_, _> = archived.iter().map(|segment| (order(&segment.0), segment)).collect();
        let is_spent = |piece: &Piece| {
            let before = ends.range(..=order(&piece.0)).next_back();
            before.is_some_and(|(_, segment)| lies_in(piece, segment))
        };
        let (spent, needed) = pieces.into_iter().partition(is_spent);
        let archived = archived.iter().rev().take(REMEMBERED).copied().collect();
        Self { needed, spent, archived }
    }

    pub(crate) fn shipped(&mut self, piece: Piece) {
        let is_spent = self.archived.iter().any(|segment| lies_in(&piece, segment));
        if is_spent { self.spent.push(piece) } else { self.needed.push(piece) }
    }

    /// The segment is in the tool's archive.
    pub(crate) fn archived(&mut self, segment: Piece) {
        self.archived.truncate(REMEMBERED - 1);
        self.archived.push_front(segment);
        self.spent.extend(self.needed.extract_if(.., |piece| lies_in(piece, &segment)));
    }

    /// What may be removed from the store now; what could not is given back.
    pub(crate) fn take_spent(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.spent)
    }

    pub(crate) fn give_back(&mut self, spent: Vec<Piece>) {
        self.spent.extend(spent);
    }
}

fn order(position: &Position) -> (u32, u64) {
    (position.timeline, position.offset)
}

/// No part crosses the end of a segment.
fn lies_in((from, _): &Piece, (start, end): &Piece) -> bool {
    from.timeline == start.timeline && (start.offset..end.offset).contains(&from.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: u64 = 16 << 20;

    fn piece(from: u64, to: u64) -> Piece {
        (Position { timeline: 1, offset: from }, Position { timeline: 1, offset: to })
    }

    fn segment(number: u64) -> Piece {
        piece(number * MIB16, (number + 1) * MIB16)
    }

    #[test]
    fn a_part_goes_when_its_own_segment_is_archived_and_never_before() {
        let mut pieces = Pieces::default();
        pieces.shipped(piece(MIB16, MIB16 + 10));
        pieces.shipped(piece(MIB16 + 10, 2 * MIB16));
        pieces.shipped(piece(2 * MIB16, 2 * MIB16 + 5));
        assert_eq!(pieces.take_spent(), []);
        pieces.archived(segment(2));
        assert_eq!(pieces.take_spent(), [piece(2 * MIB16, 2 * MIB16 + 5)], "a segment before it never came");
        pieces.archived(segment(1));
        assert_eq!(pieces.take_spent().len(), 2);
        pieces.shipped(piece(2 * MIB16 + 5, 2 * MIB16 + 9));
        assert_eq!(pieces.take_spent(), [piece(2 * MIB16 + 5, 2 * MIB16 + 9)], "it was on its way");
    }

    #[test]
    fn a_listing_tells_what_is_spent() {
        let listed = vec![piece(MIB16, MIB16 + 10), piece(2 * MIB16, 2 * MIB16 + 5)];
        let mut pieces = Pieces::listed(listed, &[segment(0), segment(1)]);
        assert_eq!(pieces.take_spent(), [piece(MIB16, MIB16 + 10)]);
        pieces.archived(segment(2));
        assert_eq!(pieces.take_spent(), [piece(2 * MIB16, 2 * MIB16 + 5)]);
    }
}
