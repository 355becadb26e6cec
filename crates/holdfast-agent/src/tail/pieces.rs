//! Which parts of the tail the store holds, and which of them nobody needs: those whose segment the tool has archived.

use std::collections::VecDeque;

use holdfast_core::position::{Piece, Position};
use holdfast_engines::postgresql::segment_start;

/// Archived segments that are remembered, for a part that was on its way while its segment was archived.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Pieces {
    needed: Vec<Piece>,
    spent: Vec<Piece>,
    archived: VecDeque<Position>,
}

impl Pieces {
    /// From what the store lists: parts, and where each archived segment begins.
    pub(crate) fn listed(pieces: Vec<Piece>, archived: &[Position]) -> Self {
        let (spent, needed) = pieces.into_iter().partition(|(from, _)| archived.contains(&segment_of(*from)));
        let archived = archived.iter().rev().take(REMEMBERED).copied().collect();
        Self { needed, spent, archived }
    }

    pub(crate) fn shipped(&mut self, piece: Piece) {
        let is_spent = self.archived.contains(&segment_of(piece.0));
        if is_spent { self.spent.push(piece) } else { self.needed.push(piece) }
    }

    /// The segment that begins there is in the tool's archive.
    pub(crate) fn archived(&mut self, segment: Position) {
        self.archived.truncate(REMEMBERED - 1);
        self.archived.push_front(segment);
        self.spent.extend(self.needed.extract_if(.., |(from, _)| segment_of(*from) == segment));
    }

    /// What may be removed from the store now; what could not is given back.
    pub(crate) fn take_spent(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.spent)
    }

    pub(crate) fn give_back(&mut self, spent: Vec<Piece>) {
        self.spent.extend(spent);
    }
}

fn segment_of(position: Position) -> Position {
    Position { offset: segment_start(position.offset), ..position }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: u64 = 16 << 20;

    fn piece(from: u64, to: u64) -> Piece {
        (Position { timeline: 1, offset: from }, Position { timeline: 1, offset: to })
    }

    fn segment(number: u64) -> Position {
        Position { timeline: 1, offset: number * MIB16 }
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
