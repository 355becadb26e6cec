//! Expiry over whole lives: nothing that is needed goes, everything else does.

use std::collections::BTreeMap;

use holdfast_core::backup::{Backup, BackupMode, BackupType};
use holdfast_core::retention::{ExpiryPlan, Policy, expires_at, plan_expiry};
use holdfast_core::window::{RestorePlan, plan_backup_restore, plan_restore_point};
use holdfast_core::{BackupId, Timestamp};
use proptest::prelude::*;

use crate::life::{Byte, Event, Life, event};

fn expire(life: &mut Life, reading: &[RestorePlan], interrupted: u64) -> ExpiryPlan {
    let catalog = life.catalog();
    let plan = plan_expiry(&catalog.history(), &Policy::default(), life.now, life.deleted_at, reading);
    life.carry_out(&plan, interrupted);
    plan
}

/// What was once shown without needing the source: it must stay so until it is older than the window.
#[derive(Default)]
struct Promises(BTreeMap<Timestamp, ()>);

impl Promises {
    fn make(&mut self, life: &Life) {
        let start = Policy::default().window_start(life.now);
        let shown = (life.reachable(false).into_iter())
            .filter(|(mark, bases)| mark.at >= start && !bases.is_empty())
            .map(|(mark, _)| (mark.at, ()));
        self.0.extend(shown);
    }

    fn check(&self, life: &Life) {
        let policy = Policy::default();
        let (start, catalog) = (policy.window_start(life.now), life.catalog());
        for (mark, bases) in life.reachable(false) {
            if self.0.contains_key(&mark.at) && mark.at >= start {
                let plan = plan_restore_point(&catalog.history(), &policy, mark.at, life.now);
                let plan = plan.unwrap_or_else(|refusal| panic!("promised, then: {refusal}"));
                // With the source running a newer base may reach it too; without, this is the judge.
                assert!(bases.iter().any(|base| base.id == plan.base), "{} has lost its bytes", mark.at);
                life.check_plan(&plan, mark, &bases);
            }
        }
    }
}

fn newest_base(life: &Life) -> Option<BackupId> {
    life.backups.iter().rev().find(|backup| life.chain(backup).is_some()).map(|backup| backup.id.clone())
}

/// R3, R23, with the expired ones leaving the list in time and no automated one before.
fn check_expiry(life: &mut Life, promises: &mut Promises, interrupted: u64) {
    promises.make(life);
    let newest = newest_base(life).filter(|_| life.deleted_at.is_none());
    let listed_before: Vec<Backup> =
        life.backups.iter().filter(|backup| backup.is_listed()).cloned().collect();
    let plan = expire(life, &[], interrupted);
    promises.check(life);
    if let Some(newest) = newest {
        assert_eq!(newest_base(life), Some(newest), "the newest base of a living service has gone");
    }
    for backup in listed_before {
        let is_expired = expires_at(&backup, &Policy::default()).is_some_and(|at| at <= life.now);
        assert_eq!(plan.delist.contains(&backup.id), is_expired, "{backup:?} at {}", life.now);
    }
    let catalog = life.catalog();
    for backup in life.backups.iter().filter(|backup| backup.is_listed() && backup.facts.is_some()) {
        let plan = plan_backup_restore(&catalog.history(), &backup.id);
        assert!(plan.is_ok(), "listed, but: {plan:?}");
    }
    let again = expire(life, &[], 0);
    promises.check(life);
    assert_eq!(again.delist, [], "a second run changes the list");
    if interrupted == 0 {
        assert_eq!((again.shred, again.remove_log_before), (vec![], vec![]), "one run was not enough");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_that_is_needed_goes_and_everything_else_does(events in prop::collection::vec(event(), 1..90)) {
        let (mut life, mut promises) = (Life::new(), Promises::default());
        for event in &events {
            life.happen(event);
            if let Event::Expire { interrupted } = event {
                check_expiry(&mut life, &mut promises, *interrupted);
            } else {
                promises.make(&life);
            }
        }
        // The service is deleted, its log closed. Its backups live on until they expire, or are deleted.
        life.happen(&Event::Ship);
        life.happen(&Event::StopSource);
        life.deleted_at = Some(life.now);
        for _ in 0..4 {
            life.pass(11, 0);
            check_expiry_of_deleted(&mut life, &mut promises);
        }
        for backup in life.backups.iter_mut().filter(|backup| backup.backup_type == BackupType::Manual) {
            backup.delisted_at.get_or_insert(life.now);
        }
        life.pass(11, 0);
        let last = expire(&mut life, &[], 0);
        prop_assert!(last.lineage_done, "{last:?}");
        prop_assert!(life.backups.iter().all(|backup| backup.shredded_at.is_some() && backup.removed_at.is_some()));
        prop_assert!(life.logs.iter().flatten().all(|byte| *byte != Byte::Archived), "log was left behind");
    }

    /// What a queued or running restore reads stays until it has ended, and goes then.
    #[test]
    fn a_running_restore_keeps_what_it_reads(
        events in prop::collection::vec(event(), 1..60), pick in any::<prop::sample::Index>()
    ) {
        let mut life = Life::new();
        events.iter().for_each(|event| life.happen(event));
        let shown: Vec<_> =
            life.reachable(false).into_iter().filter(|(_, bases)| !bases.is_empty()).map(|(mark, _)| mark).collect();
        prop_assume!(!shown.is_empty());
        let mark = shown[pick.index(shown.len())];
        // However old the point is by now: it was in the window when the restore was asked for.
        let plan = plan_restore_point(&life.catalog().history(), &Policy::default(), mark.at, mark.at);
        prop_assume!(plan.is_ok());
        let plan = plan.expect("assumed");
        life.happen(&Event::StopSource);
        life.deleted_at = Some(life.now);
        life.backups.iter_mut().for_each(|backup| backup.delisted_at = Some(life.now));
        life.pass(50, 0);
        let first = expire(&mut life, std::slice::from_ref(&plan), 0);
        prop_assert!(!first.lineage_done);
        for id in &plan.chain {
            prop_assert!(life.backups.iter().any(|backup| backup.id == *id && backup.is_restorable()), "{id} has gone");
        }
        let (from, to) = plan.log.expect("a restore point");
        let log = &life.logs[from.timeline as usize - 1][from.offset as usize..to.offset as usize];
        prop_assert!(log.iter().all(|byte| *byte == Byte::Archived), "its log has gone");
        prop_assert!(expire(&mut life, &[], 0).lineage_done);
    }
}

/// As [`check_expiry`], but the records of failures go at once.
fn check_expiry_of_deleted(life: &mut Life, promises: &mut Promises) {
    promises.make(life);
    let plan = expire(life, &[], 0);
    promises.check(life);
    let catalog = life.catalog();
    for backup in life.backups.iter().filter(|backup| backup.is_listed()) {
        assert!(
            expires_at(backup, &Policy::default()).is_none_or(|at| at > life.now),
            "{backup:?} is overdue"
        );
        assert!(plan_backup_restore(&catalog.history(), &backup.id).is_ok());
    }
    assert_eq!(plan.lineage_done, life.backups.iter().all(|backup| backup.shredded_at.is_some()));
}

/// Months of ordinary days need a bounded number of backups and bytes.
#[test]
fn an_ordinary_service_keeps_about_two_weeks() {
    let (mut life, mut promises) = (Life::new(), Promises::default());
    for day in 0..90 {
        let mode = if day % 7 == 0 { BackupMode::Full } else { BackupMode::Incremental };
        life.backup(mode, BackupType::Automated, None, false);
        life.pass(5, 3);
        life.happen(&Event::Ship);
        check_expiry(&mut life, &mut promises, 0);
        let listed = life.backups.iter().filter(|backup| backup.is_listed()).count();
        let kept = life.backups.iter().filter(|backup| backup.is_restorable()).count();
        let bytes = life.logs.iter().flatten().filter(|byte| **byte == Byte::Archived).count();
        assert_eq!(listed, usize::min(day + 1, 7), "day {day}");
        // Seven listed, one before the window, and the chain under them: six more at most.
        assert!((usize::min(day + 1, 8)..=14).contains(&kept), "day {day}: {kept} backups kept");
        assert!(bytes <= 17 * 9, "day {day}: {bytes} bytes of log kept");
    }
}

fn ordinary_days(life: &mut Life, days: u8) {
    for _ in 0..days {
        life.backup(BackupMode::Full, BackupType::Automated, None, false);
        life.pass(5, 1);
        life.happen(&Event::Ship);
    }
}

/// After a gap, the base that will join the new log may be in the making, its start unknown.
#[test]
fn log_behind_a_gap_stays_until_a_base_joins_it() {
    let mut life = Life::new();
    ordinary_days(&mut life, 1);
    life.pass(1, 1);
    life.happen(&Event::LoseLog);
    for _ in 0..10 {
        life.pass(6, 1);
        life.happen(&Event::Ship);
    }
    let behind = life.catalog().coverage[1].from;
    let plan = expire(&mut life, &[], 0);
    assert!(plan.remove_log_before.iter().all(|cut| cut.offset <= behind.offset), "{plan:?}");
    let kept = &life.logs[0][behind.offset as usize..];
    assert!(kept.len() == 60 && kept.iter().all(|byte| *byte == Byte::Archived));
}

#[test]
fn a_source_that_stands_still_for_long_keeps_the_log_from_its_newest_base_on() {
    let mut life = Life::new();
    ordinary_days(&mut life, 3);
    life.happen(&Event::StopSource);
    (0..60).for_each(|_| life.pass(6, 0));
    let start = life.backups[2].facts.as_ref().and_then(|facts| facts.log).expect("completed").start;
    assert_eq!(expire(&mut life, &[], 0).remove_log_before, [start]);
}

#[test]
fn a_lineage_is_done_only_when_its_service_is_deleted_and_nothing_is_read() {
    let mut life = Life::new();
    assert!(!expire(&mut life, &[], 0).lineage_done, "a new service without backups is not done");
    ordinary_days(&mut life, 2);
    let reading = plan_restore_point(&life.catalog().history(), &Policy::default(), life.now, life.now);
    let reading = [reading.expect("now is reachable")];
    life.happen(&Event::StopSource);
    life.deleted_at = Some(life.now);
    life.backups.iter_mut().for_each(|backup| backup.shredded_at = Some(life.now));
    assert!(!expire(&mut life, &reading, 0).lineage_done);
    assert!(expire(&mut life, &[], 0).lineage_done);
}

/// A slow restore of an old point, while the window has moved on; the catalog may list stretches in any order.
#[test]
fn the_earliest_need_of_a_timeline_decides_what_log_goes() {
    let mut life = Life::new();
    ordinary_days(&mut life, 1);
    let reading = plan_restore_point(&life.catalog().history(), &Policy::default(), life.now, life.now);
    let reading = [reading.expect("now is reachable")];
    ordinary_days(&mut life, 1);
    life.pass(1, 1);
    life.happen(&Event::LoseLog);
    ordinary_days(&mut life, 6);
    let mut catalog = life.catalog();
    catalog.coverage.reverse();
    let expiry = |reading: &[RestorePlan]| {
        plan_expiry(&catalog.history(), &Policy::default(), life.now, None, reading).remove_log_before
    };
    let second = life.backups[1].facts.as_ref().and_then(|facts| facts.log).expect("completed").start;
    assert!(expiry(&reading).iter().all(|cut| cut.offset <= reading[0].log.expect("a point").0.offset));
    // The window begins in the stretch before the gap, at or after the second base.
    let cuts = expiry(&[]);
    assert!(!cuts.is_empty() && cuts.iter().all(|cut| cut.offset >= second.offset), "{cuts:?}");
    let mut in_order = catalog.coverage.clone();
    in_order.reverse();
    let history = holdfast_core::window::History { coverage: &in_order, ..catalog.history() };
    assert_eq!(plan_expiry(&history, &Policy::default(), life.now, None, &[]).remove_log_before, cuts);
}
