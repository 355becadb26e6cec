//! Why a restore cannot be planned, in words that go to the user as they are.

use std::fmt;

use jiff::Timestamp;

use crate::backup::BackupStatus;
use crate::id::BackupId;
use crate::window::Reach;

/// A recorded hole in the log archive, in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogGap {
    pub from: Timestamp,
    pub to: Timestamp,
    pub cause: String,
}

/// Why a restore was refused. Times are shown as RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreRefusal {
    #[error("restore point {asked} cannot be reached: there is no completed backup yet")]
    NoBackup { asked: Timestamp },
    #[error(
        "restore point {asked} cannot be reached: no backup is joined by archived log inside the recovery window; \
         restore a backup instead"
    )]
    NothingReachable { asked: Timestamp },
    #[error("restore point {asked} lies in the future (it is {now}){}", window_text(*.window))]
    Future { asked: Timestamp, now: Timestamp, window: Option<Reach> },
    #[error(
        "restore point {asked} lies before the recovery window ({earliest} to {latest}); \
         the nearest reachable point is {earliest}"
    )]
    BeforeWindow { asked: Timestamp, earliest: Timestamp, latest: Timestamp },
    #[error(
        "restore point {asked} lies in a gap of the log archive{}; {}; the recovery window is {window}",
        gap_text(.gap.as_deref()), nearest_text(*.nearest_before, *.nearest_after)
    )]
    InGap {
        asked: Timestamp,
        nearest_before: Option<Timestamp>,
        nearest_after: Option<Timestamp>,
        /// The recorded gap that the point lies in or behind, when there is a record of it.
        gap: Option<Box<LogGap>>,
        window: Reach,
    },
    #[error(
        "restore point {asked} lies after the last archived log and the source does not run; the recovery window is \
         {earliest} to {latest}, the nearest reachable point is {latest}"
    )]
    BeyondArchive { asked: Timestamp, earliest: Timestamp, latest: Timestamp },
    #[error("there is no backup {backup}")]
    UnknownBackup { backup: BackupId },
    #[error("backup {backup} cannot be restored: {}", status_text(*.status))]
    BackupNotCompleted { backup: BackupId, status: BackupStatus },
    #[error("backup {backup} cannot be restored: it builds on backup {missing}, which is not there")]
    ChainBroken { backup: BackupId, missing: BackupId },
}

impl RestoreRefusal {
    /// The reachable points nearest to the one asked for: before it, after it.
    #[must_use]
    pub fn nearest(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        match self {
            Self::Future { window, .. } => (window.map(|window| window.latest), None),
            Self::BeforeWindow { earliest, .. } => (None, Some(*earliest)),
            Self::InGap { nearest_before, nearest_after, .. } => (*nearest_before, *nearest_after),
            Self::BeyondArchive { latest, .. } => (Some(*latest), None),
            Self::NoBackup { .. }
            | Self::NothingReachable { .. }
            | Self::UnknownBackup { .. }
            | Self::BackupNotCompleted { .. }
            | Self::ChainBroken { .. } => (None, None),
        }
    }
}

fn window_text(window: Option<Reach>) -> String {
    window.map_or_else(String::new, |window| {
        format!("; the recovery window is {window}, the nearest reachable point is {}", window.latest)
    })
}

fn gap_text(gap: Option<&LogGap>) -> String {
    gap.map_or_else(String::new, |gap| format!(" ({} to {}: {})", gap.from, gap.to, gap.cause))
}

fn nearest_text(before: Option<Timestamp>, after: Option<Timestamp>) -> impl fmt::Display {
    match (before, after) {
        (Some(before), Some(after)) => format!("the nearest reachable points are {before} and {after}"),
        (Some(only), None) | (None, Some(only)) => format!("the nearest reachable point is {only}"),
        (None, None) => "there is no reachable point".to_owned(),
    }
}

fn status_text(status: BackupStatus) -> &'static str {
    match status {
        BackupStatus::Pending => "it has not started yet",
        BackupStatus::Running => "it is still being made",
        BackupStatus::Failed => "it failed",
        BackupStatus::Completed => "what it consists of was never recorded",
    }
}
