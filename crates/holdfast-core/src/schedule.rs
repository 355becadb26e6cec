//! When automated backups run: daily at a stable time a service, a full one a week.
//!
//! All in UTC. A slot that was missed is caught up once, not once a missed day; a failed run is tried again with
//! growing waits until it succeeds.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::backup::{Backup, BackupMode, BackupStatus, BackupType};
use crate::id::ServiceId;

/// When a service's automated backups begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailySlot {
    /// Minutes after midnight UTC, 0 to 1439.
    pub minute_of_day: u16,
    /// The day of the full backup.
    pub full_weekday: Weekday,
}

/// What has run so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastRuns {
    /// When the newest automated backup that has not failed was asked for; waiting and running ones count.
    pub last_automated: Option<Timestamp>,
    /// The same, of full ones alone.
    pub last_full: Option<Timestamp>,
    /// When the newest failed one was asked for, if none has been asked for since.
    pub last_attempt_failed_at: Option<Timestamp>,
    /// Failed ones in a row, up to the newest.
    pub failed_attempts: u32,
}

/// A backup made so shortly before a slot, on the same day, serves that slot too.
const SERVES_BEFORE: SignedDuration = SignedDuration::from_hours(6);

/// Stamps further ahead than this were made by a clock that was wrong, and do not hold anything up.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);

const FIRST_RETRY: SignedDuration = SignedDuration::from_mins(15);
const LAST_RETRY: SignedDuration = SignedDuration::from_hours(4);

impl LastRuns {
    /// Reads the runs off a service's backups, in any order, listed or not.
    ///
    /// A clock that was once wrong must not stop the daily backups until its day comes: stamps more than a day ahead of
    /// `now` do not count, nor do those of completed backups that the log shows to be older than an earlier stamp.
    #[must_use]
    pub fn of(backups: &[Backup], now: Timestamp) -> Self {
        let limit = saturating_add(now, AHEAD);
        let mut runs: Vec<&Backup> = (backups.iter())
            .filter(|backup| backup.backup_type == BackupType::Automated && backup.created_at <= limit)
            .filter(|backup| !backups.iter().any(|other| is_misdated(backup, other)))
            .collect();
        runs.sort_by_key(|backup| backup.created_at);
        let newest = |full_only: bool| {
            (runs.iter().rev())
                .filter(|run| run.status != BackupStatus::Failed)
                .find(|run| !full_only || run.mode == BackupMode::Full)
                .map(|run| run.created_at)
        };
        let failures = runs.iter().rev().take_while(|run| run.status == BackupStatus::Failed);
        Self {
            last_automated: newest(false),
            last_full: newest(true),
            last_attempt_failed_at: failures.clone().next().map(|run| run.created_at),
            failed_attempts: u32::try_from(failures.count()).unwrap_or(u32::MAX),
        }
    }

    /// Before this instant a failed run is not tried again.
    fn retry_at(&self) -> Option<Timestamp> {
        let doublings = self.failed_attempts.saturating_sub(1).min(8);
        let wait = (FIRST_RETRY * (1 << doublings)).min(LAST_RETRY);
        Some(saturating_add(self.last_attempt_failed_at?, wait))
    }
}

/// The service's slot: a function of its id alone, spread evenly over the day and the week.
#[must_use]
pub fn daily_slot(service: ServiceId) -> DailySlot {
    const WEEK: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];
    // FNV-1a, 64 bits: fixed for ever, unlike the standard library's hashers.
    let hash = (service.0.as_bytes().iter()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let minutes = u16::try_from((hash >> 16) % (24 * 60)).expect("1439 at most");
    let day = usize::try_from((hash >> 40) % 7).expect("6 at most");
    DailySlot { minute_of_day: minutes, full_weekday: WEEK[day] }
}

/// The automated backup that is due at `now`, if any. The first one is due at once and full. Whoever asks for an engine
/// without incrementals takes [`BackupMode::Full`] in either case.
#[must_use]
pub fn due(service: ServiceId, created_at: Timestamp, runs: &LastRuns, now: Timestamp) -> Option<BackupMode> {
    if runs.retry_at().is_some_and(|retry_at| now < retry_at) {
        return None;
    }
    let slot = daily_slot(service);
    let Some(last_automated) = runs.last_automated else {
        return (now >= created_at).then_some(BackupMode::Full);
    };
    if serves(last_automated, slot.latest(now)) {
        return None;
    }
    let has_full = runs.last_full.is_some_and(|last_full| serves(last_full, slot.latest_full(now)));
    Some(if has_full { BackupMode::Incremental } else { BackupMode::Full })
}

/// When the next automated backup begins, if nothing else runs before: `now` when one is due.
#[must_use]
pub fn next_run(service: ServiceId, created_at: Timestamp, runs: &LastRuns, now: Timestamp) -> Timestamp {
    let slot = daily_slot(service);
    let slots = (1..=3).map(|day| saturating_add(slot.latest(now), SignedDuration::from_hours(24 * day)));
    let mut candidates: Vec<Timestamp> = [Some(now), Some(created_at), runs.retry_at()]
        .into_iter()
        .flatten()
        .chain(slots)
        .filter(|candidate| *candidate >= now)
        .collect();
    candidates.sort_unstable();
    (candidates.iter().copied())
        .find(|candidate| due(service, created_at, runs, *candidate).is_some())
        .unwrap_or_else(|| saturating_add(runs.last_automated.unwrap_or(now), AHEAD))
}

/// Whether `other` was made later than `backup`, by its place in the log, though its stamp is earlier.
fn is_misdated(backup: &Backup, other: &Backup) -> bool {
    let place = |backup: &Backup| {
        let stop = backup.facts.as_ref()?.log?.stop;
        Some((stop.timeline, stop.offset))
    };
    let (Some(one), Some(another)) = (place(backup), place(other)) else { return false };
    one < another && backup.created_at > other.created_at
}

/// Whether a backup that was asked for at `run` makes one at `slot` unnecessary.
fn serves(run: Timestamp, slot: Timestamp) -> bool {
    run >= slot || (slot.duration_since(run) <= SERVES_BEFORE && utc_date(run) == utc_date(slot))
}

impl DailySlot {
    /// The last slot at or before `now`.
    fn latest(self, now: Timestamp) -> Timestamp {
        let today = self.on(utc_date(now));
        if today <= now { today } else { saturating_add(today, SignedDuration::from_hours(-24)) }
    }

    /// The last slot at or before `now` that falls on the day of the full backup.
    fn latest_full(self, now: Timestamp) -> Timestamp {
        let latest = self.latest(now);
        let days = utc_date(latest).weekday().since(self.full_weekday);
        saturating_add(latest, SignedDuration::from_hours(-24 * i64::from(days)))
    }

    fn on(self, date: Date) -> Timestamp {
        let midnight = date.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |zoned| zoned.timestamp());
        saturating_add(midnight, SignedDuration::from_mins(i64::from(self.minute_of_day)))
    }
}

fn utc_date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn saturating_add(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
