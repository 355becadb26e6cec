//! Positions in an engine's own coordinates, and the coverage of a log archive between them.
//!
//! Positions are compared within one timeline only; what follows a timeline switch is a new coverage interval.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in an engine's log: a timeline (PostgreSQL: the timeline id; elsewhere 0) and an offset in it
/// (PostgreSQL: the LSN as a number of bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    pub timeline: u32,
    pub offset: u64,
}

/// A stretch of log that lies in the object store without a hole: everything from `from` up to, not including, `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub from: Position,
    pub to: Position,
    /// Every commit acknowledged at or before this instant (agent's clock) lies before `to`.
    /// It is the latest restore point that this stretch reaches; `None` until the first mark is covered.
    pub complete_until: Option<Timestamp>,
}

/// A hole in the log archive (R8). It blocks only restore points behind it that need a base from before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub from: Position,
    pub to: Position,
    /// Instants between which commits are missing.
    pub from_time: Timestamp,
    pub to_time: Timestamp,
    pub cause: String,
    pub acknowledged: bool,
}

/// What a new piece of log means for the coverage so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// It follows without a hole.
    Extends,
    /// It lies wholly inside what is covered (a retry).
    Known,
    /// Between the covered end and this piece something is missing.
    Gap,
    /// It belongs to another timeline: a new interval begins.
    NewTimeline,
}

/// Judges the piece `[from, to)` against the covered end, by positions alone, never by file names (R10, R12).
#[must_use]
pub fn continuity(covered: &Coverage, from: Position, to: Position) -> Continuity {
    if from.timeline != covered.to.timeline || to.timeline != covered.to.timeline {
        Continuity::NewTimeline
    } else if from.offset > covered.to.offset || to.offset < from.offset {
        Continuity::Gap
    } else if to.offset <= covered.to.offset && from.offset >= covered.from.offset {
        Continuity::Known
    } else if to.offset <= covered.to.offset {
        // Older than everything covered: it neither extends nor harms.
        Continuity::Known
    } else {
        Continuity::Extends
    }
}
