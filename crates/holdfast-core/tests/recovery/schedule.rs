//! The schedule on a fake clock.

use std::collections::BTreeMap;

use holdfast_core::backup::{Backup, BackupMode, BackupStatus, BackupType};
use holdfast_core::schedule::{DailySlot, LastRuns, daily_slot, due, next_run};
use holdfast_core::{ServiceId, Timestamp};
use jiff::SignedDuration;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use crate::life::Life;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A service whose scheduler looks every few minutes, by a clock that may be wrong.
struct Scheduled {
    service: ServiceId,
    created_at: Timestamp,
    now: Timestamp,
    skew: SignedDuration,
    runs: Vec<Backup>,
    /// When each run was begun in truth.
    begun: Vec<Timestamp>,
    template: Backup,
}

impl Scheduled {
    fn new(service: u128, created_at: Timestamp) -> Self {
        let mut life = Life::new();
        life.backup(BackupMode::Full, BackupType::Automated, None, false);
        let service = ServiceId(uuid::Uuid::from_u128(service));
        let template = life.backups.remove(0);
        let skew = SignedDuration::ZERO;
        Self { service, created_at, now: created_at, skew, runs: vec![], begun: vec![], template }
    }

    fn slot(&self) -> DailySlot {
        daily_slot(self.service)
    }

    /// One look of the scheduler.
    fn look(&mut self, fails: bool) -> Option<BackupMode> {
        let wall = self.now + self.skew;
        let mode = due(self.service, self.created_at, &LastRuns::of(&self.runs, wall), wall)?;
        let status = if fails { BackupStatus::Failed } else { BackupStatus::Completed };
        let mut facts = self.template.facts.clone().filter(|_| !fails);
        if let Some(facts) = &mut facts {
            facts.log.as_mut().expect("it has log").stop.offset = self.runs.len() as u64;
        }
        self.runs.push(Backup { mode, status, facts, created_at: wall, ..self.template.clone() });
        self.begun.push(self.now);
        // It is not due again while it runs or after it succeeded.
        assert!(fails || due(self.service, self.created_at, &LastRuns::of(&self.runs, wall), wall).is_none());
        Some(mode)
    }

    fn run(&mut self, time: SignedDuration, step: SignedDuration) {
        let end = self.now + time;
        while self.now < end {
            self.look(false);
            self.now += step;
        }
    }

    /// Slots that lie in `[from, to)`.
    fn slots(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let midnight = date(from).to_zoned(TimeZone::UTC).expect("a date").timestamp();
        let first = midnight + MINUTE * i32::from(self.slot().minute_of_day);
        (0..100).map(|day| first + DAY * day).filter(|slot| (from..to).contains(slot)).collect()
    }
}

fn date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[test]
fn two_weeks_have_one_run_a_day_at_the_slot_and_one_full_a_week() {
    for service in 0..50_u128 {
        // Over the change to summer time: UTC has none.
        let time = ["00:00", "13:07", "22:30"][usize::try_from(service % 3).expect("small")];
        let mut scheduled = Scheduled::new(service, at(&format!("2026-03-20T{time}:00Z")));
        let created_at = scheduled.created_at;
        scheduled.run(DAY * 14, MINUTE);
        let first_full = scheduled.runs[0].mode == BackupMode::Full;
        assert!(scheduled.begun[0] == created_at && first_full, "the first one is made at once, and full");
        let slots = scheduled.slots(created_at, scheduled.now);
        assert_eq!(slots.len(), 14);
        let minute = scheduled.slot().minute_of_day;
        // The first slot is served by the first backup if that was shortly before, on the same day.
        let is_served = slots[0].duration_since(created_at) <= HOUR * 6 && date(slots[0]) == date(created_at);
        assert_eq!(scheduled.begun[1..], slots[usize::from(is_served)..], "slot at minute {minute}");

        let mut per_day: BTreeMap<Date, usize> = BTreeMap::new();
        scheduled.begun.iter().for_each(|begun| *per_day.entry(date(*begun)).or_default() += 1);
        let midnights = date(scheduled.now - MINUTE).since(date(created_at)).expect("two dates").get_days();
        // The last day may end before its slot.
        let days = if date(scheduled.begun[scheduled.begun.len() - 1]) == date(scheduled.now - MINUTE) {
            1
        } else {
            0
        };
        assert_eq!(i32::try_from(per_day.len()), Ok(midnights + days), "every day has a run");
        assert!(per_day.into_iter().skip(1).all(|(_, runs)| runs == 1), "one a day after the first");

        let full: Vec<_> = (scheduled.runs.iter().zip(&scheduled.begun).skip(1))
            .filter(|(run, _)| run.mode == BackupMode::Full)
            .map(|(_, begun)| *begun)
            .collect();
        assert!((1..=2).contains(&full.len()), "{full:?}");
        assert!(full.windows(2).all(|pair| pair[1].duration_since(pair[0]) == DAY * 7), "{full:?}");
        assert!(full.iter().all(|begun| date(*begun).weekday() == scheduled.slot().full_weekday), "{full:?}");
    }
}

#[test]
fn three_days_of_downtime_are_caught_up_by_one_run() {
    let mut scheduled = Scheduled::new(7, at("2026-03-02T00:00:00Z"));
    scheduled.run(DAY * 5, MINUTE);
    let before = scheduled.runs.len();
    scheduled.now += DAY * 3;
    let back = scheduled.now;
    assert!(scheduled.look(false).is_some(), "caught up at once");
    assert!(scheduled.look(false).is_none());
    scheduled.run(DAY * 3, MINUTE);
    let slots = scheduled.slots(back, scheduled.now);
    assert_eq!(scheduled.begun[before + 1..], slots[slots.len() - (scheduled.runs.len() - before - 1)..]);
    assert!((3..=4).contains(&(scheduled.runs.len() - before)));
}

#[test]
fn a_failed_run_is_tried_again_with_growing_waits_until_one_succeeds() {
    let mut scheduled = Scheduled::new(7, at("2026-03-02T00:00:00Z"));
    let end = scheduled.now + HOUR * 20;
    while scheduled.now < end {
        scheduled.look(true);
        scheduled.now += MINUTE;
    }
    let waits: Vec<i64> =
        scheduled.begun.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_mins()).collect();
    assert_eq!(waits, [15, 30, 60, 120, 240, 240, 240, 240]);
    assert!(scheduled.runs.iter().all(|run| run.mode == BackupMode::Full), "nothing to build on yet");
    scheduled.now += HOUR * 4;
    assert!(scheduled.look(false).is_some());
    let runs = LastRuns::of(&scheduled.runs, scheduled.now);
    assert_eq!((runs.failed_attempts, runs.last_attempt_failed_at), (0, None));
}

/// T21: a clock that is wrong for some hours makes at most one run more than there should be, and each run that it made
/// takes the place of at most one later. Weeks of nothing, until the wrong stamps have come true, must not follow.
#[test]
fn a_clock_that_jumps_and_returns_moves_few_runs() {
    let skews = [90, -195, 2 * 24 * 60, -7 * 60, 42 * 24 * 60].map(SignedDuration::from_mins);
    for skew in skews {
        for service in 0..20_u128 {
            for wrong_for in [HOUR, HOUR * 9, HOUR * 30] {
                let mut scheduled = Scheduled::new(service, at("2026-03-02T00:00:00Z"));
                scheduled.run(DAY * 4, MINUTE * 5);
                scheduled.skew = skew;
                let before = scheduled.runs.len();
                scheduled.run(wrong_for, MINUTE * 5);
                let during = i64::try_from(scheduled.runs.len() - before).expect("few");
                let usual = 1 + wrong_for.as_hours() / 24;
                assert!(during <= usual + 1, "{skew:#} for {wrong_for:#}: {during} runs");
                scheduled.skew = SignedDuration::ZERO;
                let back = scheduled.now;
                scheduled.run(DAY * 5, MINUTE * 5);
                let after: Vec<_> = scheduled.begun.iter().filter(|begun| **begun >= back).collect();
                assert!(
                    (3..=6).contains(&after.len()),
                    "{skew:#} for {wrong_for:#}: {} runs after it",
                    after.len()
                );
                assert!(*after[0] <= back + DAY * 3);
                let waits = after.windows(2).map(|pair| pair[1].duration_since(*pair[0]));
                assert!(waits.clone().all(|wait| wait <= DAY * 2), "{:?}", waits.collect::<Vec<_>>());
                assert_eq!(
                    after.last().map(|last| last.duration_since(scheduled.now - DAY).is_negative()),
                    Some(false)
                );
            }
        }
    }
}

#[test]
fn slots_are_stable_and_spread_over_day_and_week() {
    let fixed = ServiceId("5f0c6d8e-2a57-4c7e-9d4b-0d6a3f3c1b2a".parse().expect("a uuid"));
    let slot = daily_slot(fixed);
    // Fixed for ever: a release that moved the slots would make two runs of one, or none.
    assert_eq!((slot.minute_of_day, slot.full_weekday), (90, Weekday::Sunday));
    let (mut hours, mut weekdays) = ([0; 24], [0; 7]);
    for number in 0..10_000_u128 {
        let slot = daily_slot(ServiceId(uuid::Uuid::from_u128(number)));
        assert!(slot.minute_of_day < 1440);
        hours[usize::from(slot.minute_of_day) / 60] += 1;
        weekdays[slot.full_weekday.to_monday_zero_offset() as usize] += 1;
    }
    // 417 an hour and 1429 a weekday are even.
    assert!(hours.iter().all(|count| (300..550).contains(count)), "{hours:?}");
    assert!(weekdays.iter().all(|count| (1200..1700).contains(count)), "{weekdays:?}");
}

proptest! {
    // A case plays some weeks, in steps of ten minutes.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With any outages and failures: never two successes for one slot, none missed while the machine ran long enough,
    /// and the next run is exactly when one is due.
    #[test]
    fn every_slot_is_served_once(
        service in any::<u128>(),
        minute in 0..1440_i64,
        turns in prop::collection::vec((1..60_i32, 0..100_i32, prop::bool::weighted(0.2)), 1..20),
    ) {
        let created_at = at("2026-03-02T00:00:00Z") + MINUTE * i32::try_from(minute).expect("small");
        let mut scheduled = Scheduled::new(service, created_at);
        let step = MINUTE * 10;
        for (up_hours, down_hours, fails) in turns {
            let end = scheduled.now + HOUR * up_hours;
            while scheduled.now < end {
                scheduled.look(fails);
                let runs = LastRuns::of(&scheduled.runs, scheduled.now);
                let next = next_run(scheduled.service, created_at, &runs, scheduled.now);
                prop_assert!(due(scheduled.service, created_at, &runs, next).is_some(), "not due at {next}");
                let just_before = next - SignedDuration::from_nanos(1);
                prop_assert!(next == scheduled.now
                    || due(scheduled.service, created_at, &runs, just_before).is_none(), "due before {next}");
                prop_assert!(next <= scheduled.now + HOUR * 30);
                scheduled.now += step;
            }
            scheduled.now += HOUR * down_hours;
        }
        let good: Vec<Timestamp> = (scheduled.runs.iter())
            .filter(|run| run.status == BackupStatus::Completed)
            .map(|run| run.created_at)
            .collect();
        for pair in good.windows(2) {
            let slots = scheduled.slots(pair[0] + SignedDuration::from_nanos(1), pair[1] + SignedDuration::from_nanos(1));
            prop_assert!(!slots.is_empty(), "two runs for one slot: {pair:?}");
        }
        let is_full_after = |index: usize| scheduled.runs[..index].iter()
            .any(|run| run.mode == BackupMode::Full && run.status == BackupStatus::Completed);
        for (index, run) in scheduled.runs.iter().enumerate() {
            prop_assert!(run.mode == BackupMode::Full || is_full_after(index), "an increment of nothing");
        }
    }
}
