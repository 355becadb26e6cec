//! Retention: what leaves the list when, and what may be destroyed.
//!
//! *Listed* and *kept* are two things. A backup leaves the list when it expires or its owner deletes it; its data and
//! key stay for as long as a shown restore point, a listed backup or a running restore needs them ([`expiry`]).
//! Expiry runs on a time that cannot be too late ([`clock`]): a clock that jumps deletes nothing.

pub mod clock;
pub mod expiry;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use clock::{ClockJudgement, ClockReading, Now, trusted_now};
pub use expiry::{ExpiryPlan, Reason, plan_expiry};

use crate::backup::{Backup, BackupStatus, BackupType};
use crate::id::BackupId;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Days from completion until an automated backup leaves the list.
    pub automated_days: u32,
    /// Days that the recovery window reaches back.
    pub pitr_days: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { automated_days: 7, pitr_days: 7 }
    }
}

impl Policy {
    /// The oldest instant that the recovery window may show at `now`.
    #[must_use]
    pub fn window_start(&self, now: Timestamp) -> Timestamp {
        now.checked_sub(days(self.pitr_days)).unwrap_or(Timestamp::MIN)
    }
}

/// Days of exactly 24 hours: UTC has no other.
fn days(count: u32) -> SignedDuration {
    SignedDuration::from_hours(24 * i64::from(count))
}

/// When a backup leaves the list; `None` while it runs, and for a manual one that is kept until deleted.
///
/// Automated ones follow the policy, manual ones the days that their owner gave; counted from completion. A failed one
/// leaves with those that were made on the same day: its days count from its creation.
#[must_use]
pub fn expires_at(backup: &Backup, policy: &Policy) -> Option<Timestamp> {
    let since = match backup.status {
        BackupStatus::Completed => backup.completed_at?,
        BackupStatus::Failed => backup.created_at,
        BackupStatus::Pending | BackupStatus::Running => return None,
    };
    let kept_days = match backup.backup_type {
        BackupType::Automated => policy.automated_days,
        BackupType::Manual => backup.retention_days?,
    };
    Some(since.checked_add(days(kept_days)).unwrap_or(Timestamp::MAX))
}

/// Why a backup cannot be deleted by its owner; the text goes to the user as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteRefusal {
    #[error("backup {0} is automated: automated backups cannot be deleted, they expire")]
    Automated(BackupId),
    #[error("backup {0} is still being made: it can be deleted once it has completed or failed")]
    InProgress(BackupId),
}

/// Whether the owner may take the backup off the list. Whether a restore reads it just now is the caller's to check.
///
/// # Errors
/// [`DeleteRefusal`] for automated backups, whatever their state, and for ones that are not finished.
pub fn can_delete_by_hand(backup: &Backup) -> Result<(), DeleteRefusal> {
    match (backup.backup_type, backup.status) {
        (BackupType::Automated, _) => Err(DeleteRefusal::Automated(backup.id.clone())),
        (BackupType::Manual, BackupStatus::Pending | BackupStatus::Running) => {
            Err(DeleteRefusal::InProgress(backup.id.clone()))
        }
        (BackupType::Manual, BackupStatus::Completed | BackupStatus::Failed) => Ok(()),
    }
}
