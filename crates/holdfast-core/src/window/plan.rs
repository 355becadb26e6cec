//! Restore plans: which base, which chain, which log. Decided once, stored with the job; its steps choose nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::BackupId;
use crate::position::Position;
use crate::retention::{Now, Policy};
use crate::window::{History, LogGap, Reach, RecoveryWindow, RestoreRefusal, recovery_window};

/// Where a restore ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The base's own consistent point.
    Backup,
    /// What was acknowledged at or before this instant, and nothing that was sent after it.
    Instant(Timestamp),
}

/// A decided restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    pub base: BackupId,
    /// Every backup that is read: the full one first, the base last.
    pub chain: Vec<BackupId>,
    pub target: Target,
    /// The target lies behind what is archived: the source ships its log first, then the plan is made anew.
    pub needs_log_shipped: bool,
    /// The stretch of log that is read at most: from the base's start to the end of what is archived. `None` for a
    /// backup's own point: it carries the log that it needs.
    pub log: Option<(Position, Position)>,
}

impl RestorePlan {
    /// Where the archived log ends that vouches for the restore point; `None` for a backup's own point.
    #[must_use]
    pub fn covered_to(&self) -> Option<Position> {
        match self.target {
            Target::Backup => None,
            Target::Instant(_) => self.log.map(|(_, to)| to),
        }
    }
}

/// Plans a restore to an instant: from the latest base that is consistent at or before it and joined to it by log.
///
/// # Errors
/// A [`RestoreRefusal`] that names the recovery window and the nearest reachable points.
pub fn plan_restore_point(
    history: &History<'_>,
    policy: &Policy,
    point: Timestamp,
    now: impl Into<Now>,
) -> Result<RestorePlan, RestoreRefusal> {
    let now = now.into();
    let window = recovery_window(history, policy, now);
    if !window.contains(point) {
        return Err(refuse_point(history, &window, point, now.wall));
    }
    let span = (history.spans().into_iter())
        .filter(|span| span.base.facts.consistent_at <= point && point <= span.until)
        .max_by_key(|span| {
            let is_archived = span.coverage.complete_until >= Some(point);
            (span.base.facts.consistent_at, is_archived, span.base.place())
        })
        .expect("every point of the window lies in one of the spans that it was made from");
    let base = span.base.backup;
    let chain = history.chain(base).expect("only bases with a whole chain are in a span");
    Ok(RestorePlan {
        base: base.id.clone(),
        chain,
        target: Target::Instant(point),
        needs_log_shipped: span.coverage.complete_until < Some(point),
        log: span.base.facts.log.map(|log| (log.start, span.coverage.to)),
    })
}

/// Plans a restore to a listed backup's own point.
///
/// # Errors
/// A [`RestoreRefusal`] when the backup is unknown, no longer listed, not completed or misses one that it builds on.
pub fn plan_backup_restore(history: &History<'_>, backup: &BackupId) -> Result<RestorePlan, RestoreRefusal> {
    let found = (history.backup(backup))
        .filter(|found| found.is_listed())
        .ok_or_else(|| RestoreRefusal::UnknownBackup { backup: backup.clone() })?;
    if !found.is_restorable() {
        return Err(RestoreRefusal::BackupNotCompleted { backup: backup.clone(), status: found.status });
    }
    let chain = (history.chain(found))
        .map_err(|missing| RestoreRefusal::ChainBroken { backup: backup.clone(), missing })?;
    Ok(RestorePlan {
        base: backup.clone(),
        chain,
        target: Target::Backup,
        needs_log_shipped: false,
        log: None,
    })
}

/// Says why a point outside the window cannot be reached.
fn refuse_point(
    history: &History<'_>,
    window: &RecoveryWindow,
    asked: Timestamp,
    now: Timestamp,
) -> RestoreRefusal {
    if asked > now {
        return RestoreRefusal::Future { asked, now, window: window.span() };
    }
    let Some(span @ Reach { earliest, latest }) = window.span() else {
        return if history.bases().next().is_none() {
            RestoreRefusal::NoBackup { asked }
        } else {
            RestoreRefusal::NothingReachable { asked }
        };
    };
    if asked < earliest {
        return RestoreRefusal::BeforeWindow { asked, earliest, latest };
    }
    let (nearest_before, nearest_after) = window.nearest(asked);
    let gap = gap_between(history, nearest_before, nearest_after).map(Box::new);
    // Behind the last reachable point of a source that runs there is log, but no base joined to it.
    let has_later_log = history.live_until.is_some_and(|live_until| latest < live_until.min(now));
    if nearest_after.is_none() && gap.is_none() && !has_later_log {
        return RestoreRefusal::BeyondArchive { asked, earliest, latest };
    }
    RestoreRefusal::InGap { asked, nearest_before, nearest_after, gap, window: span }
}

/// The first recorded gap between two reachable points.
fn gap_between(history: &History<'_>, before: Option<Timestamp>, after: Option<Timestamp>) -> Option<LogGap> {
    (history.gaps.iter())
        .filter(|gap| before.is_none_or(|before| gap.to_time > before))
        .filter(|gap| after.is_none_or(|after| gap.from_time < after))
        .min_by_key(|gap| gap.from_time)
        .map(|gap| LogGap { from: gap.from_time, to: gap.to_time, cause: gap.cause.clone() })
}
