//! The recovery window: which instants a service can be restored to.
//!
//! Everything is derived from two facts of the catalog: base backups, and the stretches of log that lie in the object
//! store without a hole. A gap is what no stretch covers; the gap records only explain it to people.

pub mod plan;
pub mod refusal;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use plan::{RestorePlan, Target, plan_backup_restore, plan_restore_point};
pub use refusal::{LogGap, RestoreRefusal};

use crate::backup::{Backup, BackupFacts, LogSpan};
use crate::id::BackupId;
use crate::position::{Coverage, Gap, Position};
use crate::retention::{Now, Policy};

/// What the catalog knows of one lineage, in any order.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    pub backups: &'a [Backup],
    pub coverage: &'a [Coverage],
    pub gaps: &'a [Gap],
    /// `Some(now)` while the source runs: a point later than what is archived makes the agent ship the log first.
    pub live_until: Option<Timestamp>,
}

/// A closed interval of reachable restore points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// All restore points that are shown: ascending, disjoint intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryWindow {
    pub reaches: Vec<Reach>,
}

impl Reach {
    #[must_use]
    pub fn contains(&self, point: Timestamp) -> bool {
        self.earliest <= point && point <= self.latest
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.earliest, self.latest)
    }
}

impl RecoveryWindow {
    #[must_use]
    pub fn earliest(&self) -> Option<Timestamp> {
        self.reaches.first().map(|reach| reach.earliest)
    }

    #[must_use]
    pub fn latest(&self) -> Option<Timestamp> {
        self.reaches.last().map(|reach| reach.latest)
    }

    /// From the first to the last reachable point, holes included.
    #[must_use]
    pub fn span(&self) -> Option<Reach> {
        Some(Reach { earliest: self.earliest()?, latest: self.latest()? })
    }

    #[must_use]
    pub fn contains(&self, point: Timestamp) -> bool {
        self.reaches.iter().any(|reach| reach.contains(point))
    }

    /// The last reachable point not after `point`, and the first not before it; `point` twice if it is reachable.
    #[must_use]
    pub fn nearest(&self, point: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let before = self.reaches.iter().rev().find(|reach| reach.earliest <= point);
        let after = self.reaches.iter().find(|reach| reach.latest >= point);
        (before.map(|reach| reach.latest.min(point)), after.map(|reach| reach.earliest.max(point)))
    }
}

/// The restore points that are shown at `now`: not older than the policy's days, not in the future.
#[must_use]
pub fn recovery_window(history: &History<'_>, policy: &Policy, now: impl Into<Now>) -> RecoveryWindow {
    let now = now.into();
    let start = policy.window_start(now.aged);
    let mut reaches: Vec<Reach> = (history.spans().iter())
        .map(|span| Reach {
            earliest: span.base.facts.consistent_at.max(start),
            latest: span.until.min(now.wall),
        })
        .filter(|reach| reach.earliest <= reach.latest)
        .collect();
    reaches.sort_by_key(|reach| reach.earliest);
    let mut window = RecoveryWindow::default();
    for reach in reaches {
        match window.reaches.last_mut() {
            Some(last) if reach.earliest <= last.latest => last.latest = last.latest.max(reach.latest),
            _ => window.reaches.push(reach),
        }
    }
    window
}

/// A backup that restores can start from, its whole chain included.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) backup: &'a Backup,
    pub(crate) facts: &'a BackupFacts,
}

impl Base<'_> {
    /// Whether the log that makes it consistent, and what follows, lies in this stretch.
    pub(crate) fn lies_in(&self, coverage: &Coverage) -> bool {
        let Some(LogSpan { start, stop }) = self.facts.log else { return false };
        let on_timeline = |position: Position| position.timeline == coverage.to.timeline;
        [coverage.from, start, stop].into_iter().all(on_timeline)
            && coverage.from.offset <= start.offset
            && stop.offset <= coverage.to.offset
    }

    /// Its place among bases of the same instant: by the log, or in front of all that have one.
    pub(crate) fn place(&self) -> Option<(u32, u64)> {
        self.facts.log.map(|log| (log.stop.timeline, log.stop.offset))
    }
}

/// A base with a stretch of log that it lies in: from `base.facts.consistent_at` to `until` every point is reachable.
pub(crate) struct Span<'a> {
    pub(crate) base: Base<'a>,
    pub(crate) coverage: &'a Coverage,
    pub(crate) until: Timestamp,
}

impl<'a> History<'a> {
    pub(crate) fn backup(&self, id: &BackupId) -> Option<&'a Backup> {
        self.backups.iter().find(|backup| backup.id == *id)
    }

    /// The backups that this one builds on, nearest first. Ends where the catalog does not know the next one; at most
    /// as many as there are backups, should the catalog ever hold a circle.
    pub(crate) fn ancestors(&self, backup: &'a Backup) -> impl Iterator<Item = &'a Backup> {
        let parent = |backup: &Backup| self.backup(backup.facts.as_ref()?.parent.as_ref()?);
        std::iter::successors(parent(backup), move |backup| parent(backup)).take(self.backups.len())
    }

    /// The full backup first, the given one last.
    ///
    /// # Errors
    /// The first backup of the chain that cannot be restored, or is not known.
    pub(crate) fn chain(&self, backup: &'a Backup) -> Result<Vec<BackupId>, BackupId> {
        let mut chain = vec![backup.id.clone()];
        let mut last = backup;
        for ancestor in std::iter::once(backup).chain(self.ancestors(backup)) {
            if !ancestor.is_restorable() {
                return Err(ancestor.id.clone());
            }
            if ancestor.id != backup.id {
                chain.push(ancestor.id.clone());
            }
            last = ancestor;
        }
        if let Some(missing) = last.facts.as_ref().and_then(|facts| facts.parent.clone()) {
            return Err(missing);
        }
        chain.reverse();
        Ok(chain)
    }

    pub(crate) fn bases(&self) -> impl Iterator<Item = Base<'a>> {
        (self.backups.iter())
            .filter(|backup| self.chain(backup).is_ok())
            .filter_map(|backup| Some(Base { backup, facts: backup.facts.as_ref()? }))
    }

    /// Whether new log is appended to this stretch: it is the newest, and no gap behind its end is known.
    pub(crate) fn is_open(&self, coverage: &Coverage) -> bool {
        let order = |position: &Position| (position.timeline, position.offset);
        self.coverage.iter().all(|other| order(&other.to) <= order(&coverage.to))
            && self.gaps.iter().all(|gap| order(&gap.to) <= order(&coverage.to))
    }

    /// The latest instant that this stretch reaches, with the log still to be shipped.
    fn reaches_until(&self, coverage: &Coverage) -> Option<Timestamp> {
        let live = self.live_until.filter(|_| self.is_open(coverage));
        coverage.complete_until.max(live)
    }

    pub(crate) fn spans(&self) -> Vec<Span<'a>> {
        let mut spans = Vec::new();
        for base in self.bases() {
            for coverage in self.coverage.iter().filter(|coverage| base.lies_in(coverage)) {
                if let Some(until) = self.reaches_until(coverage)
                    && base.facts.consistent_at <= until
                {
                    spans.push(Span { base, coverage, until });
                }
            }
        }
        spans
    }
}
