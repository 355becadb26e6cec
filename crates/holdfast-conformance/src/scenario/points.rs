//! Which instants are restored.

use holdfast_core::engine::TimeUnit;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use rand::rngs::StdRng;

use crate::ledger::Entry;

/// An instant with the reason why it was chosen.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub what: String,
    pub at: Timestamp,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Stretch {
    fn any(self, random: &mut StdRng) -> Timestamp {
        let (from, to) = (self.from.as_microsecond(), self.to.as_microsecond());
        Timestamp::from_microsecond(random.random_range(from..to.max(from + 1))).unwrap_or(self.from)
    }
}

/// The stretches of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretches {
    /// From the first write until now.
    pub all: Stretch,
    pub backup: Stretch,
    /// Nothing was written in it.
    pub idle: Stretch,
}

/// The points of a run, in the engine's unit, each a little before now.
pub(super) fn choose(
    unit: TimeUnit,
    stretches: Stretches,
    entries: &[Entry],
    restores: usize,
    random: &mut StdRng,
) -> Vec<Point> {
    let busy = Stretch { to: stretches.idle.from, ..stretches.all };
    let mut points: Vec<Point> =
        (1..=restores).map(|n| Point { what: format!("random point {n}"), at: busy.any(random) }).collect();
    points.push(Point { what: "in an idle stretch".to_owned(), at: stretches.idle.any(random) });
    points.push(Point { what: "during the backup".to_owned(), at: stretches.backup.any(random) });
    let whole = |entry: &&Entry| {
        let is_in = |at| stretches.all.from < at && at < stretches.backup.to;
        is_in(entry.sent_at) && entry.acknowledged_at.is_some_and(is_in)
    };
    let whole: Vec<&Entry> = entries.iter().filter(whole).collect();
    if let Some(entry) = (!whole.is_empty()).then(|| whole[random.random_range(0..whole.len())])
        && let Some(acknowledged_at) = entry.acknowledged_at
    {
        // The latest instant at which it must not be there for certain, and the first at which it must.
        let number = entry.number;
        let before = unit.floor(entry.sent_at);
        let after = later(unit.floor(acknowledged_at), unit, 1);
        points.push(Point { what: format!("just before write {number}"), at: before });
        points.push(Point { what: format!("just after write {number}"), at: after });
        points.push(Point { what: format!("one unit after write {number}"), at: later(after, unit, 1) });
    }
    points.iter_mut().for_each(|point| point.at = unit.floor(point.at));
    points
}

/// So many units later.
pub(super) fn later(at: Timestamp, unit: TimeUnit, units: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_micros(unit.microseconds() * units)).unwrap_or(at)
}
