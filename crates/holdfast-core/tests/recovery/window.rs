//! The window and its plans against the byte-by-byte model.

use holdfast_core::Timestamp;
use holdfast_core::backup::{BackupMode, BackupType};
use holdfast_core::retention::Policy;
use holdfast_core::window::{
    History, RecoveryWindow, RestoreRefusal, Target, plan_backup_restore, plan_restore_point, recovery_window,
};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::life::{Event, Life, event};

fn lives() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..60)
}

/// Lives through the events, with arbitrary backups shredded at the end, whatever needs them.
fn live(events: &[Event], shredded: &[prop::sample::Index]) -> Life {
    let mut life = Life::new();
    events.iter().for_each(|event| life.happen(event));
    for index in shredded {
        if !life.backups.is_empty() {
            let index = index.index(life.backups.len());
            life.backups[index].shredded_at = Some(life.now);
        }
    }
    life
}

/// A point is planned if and only if the window shows it; a refusal names reachable points, the nearest ones.
fn check_point(history: &History<'_>, window: &RecoveryWindow, point: Timestamp, now: Timestamp) {
    let plan = plan_restore_point(history, &Policy::default(), point, now);
    assert_eq!(plan.is_ok(), window.contains(point), "{point}: {plan:?}, shown: {window:?}");
    match plan {
        Ok(plan) => assert_eq!(plan.target, Target::Instant(point)),
        Err(refusal) => {
            let nanosecond = SignedDuration::from_nanos(1);
            let (before, after) = refusal.nearest();
            let text = refusal.to_string();
            assert!(text.contains(&point.to_string()), "{text}");
            for near in before.into_iter().chain(after) {
                assert!(window.contains(near), "{text}: {near} is not reachable");
                assert!(text.contains(&near.to_string()), "{text}");
            }
            assert!(before.is_none_or(|before| before < point && !window.contains(before + nanosecond)));
            assert!(after.is_none_or(|after| after > point && !window.contains(after - nanosecond)));
            assert_eq!(before.is_none() && after.is_none(), window.reaches.is_empty(), "{text}");
            assert_eq!(matches!(refusal, RestoreRefusal::Future { .. }), point > now, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_window_is_what_the_bytes_allow(
        events in lives(), shredded in prop::collection::vec(any::<prop::sample::Index>(), 0..3)
    ) {
        let life = live(&events, &shredded);
        let catalog = life.catalog();
        let (history, policy) = (catalog.history(), Policy::default());
        let window = recovery_window(&history, &policy, life.now);
        for pair in window.reaches.windows(2) {
            prop_assert!(pair[0].latest < pair[1].earliest, "not ascending or not disjoint");
        }
        let start = policy.window_start(life.now);
        for (mark, bases) in life.reachable(true) {
            let expected = mark.at >= start && !bases.is_empty();
            prop_assert_eq!(window.contains(mark.at), expected, "{} now {}", mark.at, life.now);
            check_point(&history, &window, mark.at, life.now);
            if expected {
                let plan = plan_restore_point(&history, &policy, mark.at, life.now).expect("shown");
                life.check_plan(&plan, mark, &bases);
            }
        }
    }

    /// R15, T22: one unit before, at and after each edge, for engines that count nanoseconds to seconds.
    #[test]
    fn points_around_every_edge_are_planned_if_and_only_if_they_are_shown(events in lives()) {
        let life = live(&events, &[]);
        let catalog = life.catalog();
        let history = catalog.history();
        let window = recovery_window(&history, &Policy::default(), life.now);
        let start = Policy::default().window_start(life.now);
        let edges = (window.reaches.iter())
            .flat_map(|reach| [reach.earliest, reach.latest])
            .chain((life.backups.iter()).filter_map(|backup| backup.facts.as_ref()).map(|facts| facts.consistent_at))
            .chain([start, life.now]);
        for edge in edges {
            for unit in [1, 1_000, 1_000_000, 1_000_000_000].map(SignedDuration::from_nanos) {
                for point in [edge - unit, edge, edge + unit] {
                    check_point(&history, &window, point, life.now);
                    prop_assert!(!window.contains(point) || (start <= point && point <= life.now));
                }
            }
        }
        for reach in &window.reaches {
            let nanosecond = SignedDuration::from_nanos(1);
            prop_assert!(!window.contains(reach.earliest - nanosecond) && !window.contains(reach.latest + nanosecond));
        }
    }

    /// R20: a backup's own point needs its chain and no archived log.
    #[test]
    fn a_listed_backup_is_restorable_as_long_as_its_chain_is_whole(
        events in lives(), shredded in prop::collection::vec(any::<prop::sample::Index>(), 0..3)
    ) {
        let life = live(&events, &shredded);
        let mut catalog = life.catalog();
        catalog.coverage.clear();
        for backup in &life.backups {
            let plan = plan_backup_restore(&catalog.history(), &backup.id);
            let chain = life.chain(backup).filter(|_| backup.is_listed());
            prop_assert_eq!(plan.is_ok(), chain.is_some(), "{:?}", plan);
            if let (Ok(plan), Some(mut chain)) = (plan, chain) {
                chain.reverse();
                prop_assert_eq!(plan.chain, chain);
                prop_assert_eq!((plan.target, plan.log, plan.needs_log_shipped), (Target::Backup, None, false));
            }
        }
    }
}

fn one_backup() -> Life {
    let mut life = Life::new();
    life.backup(BackupMode::Full, BackupType::Automated, None, false);
    life.pass(2, 1);
    life.happen(&Event::Ship);
    life
}

/// The log that makes a base consistent must be there up to its last byte.
#[test]
fn a_base_that_ends_behind_the_archived_log_reaches_no_point() {
    let life = one_backup();
    let stop = life.backups[0].facts.as_ref().and_then(|facts| facts.log).expect("completed").stop.offset;
    for (archived_to, is_reachable) in [(stop - 1, false), (stop, true), (stop + 1, true)] {
        let mut catalog = life.catalog();
        catalog.coverage[0].to.offset = archived_to;
        let window = recovery_window(&catalog.history(), &Policy::default(), life.now);
        assert_eq!(
            window.contains(life.now),
            is_reachable,
            "archived up to {archived_to}, base ends at {stop}"
        );
    }
}

/// An agent whose clock is ahead marks the future as complete: no such point is shown.
#[test]
fn a_mark_of_the_future_shows_no_point_of_the_future() {
    let life = one_backup();
    let mut catalog = life.catalog();
    catalog.coverage[0].complete_until = Some(life.now + SignedDuration::from_mins(90));
    for live_until in [None, Some(life.now)] {
        catalog.live_until = live_until;
        let window = recovery_window(&catalog.history(), &Policy::default(), life.now);
        assert_eq!(window.latest(), Some(life.now));
        check_point(&catalog.history(), &window, life.now, life.now);
        check_point(&catalog.history(), &window, life.now + SignedDuration::from_nanos(1), life.now);
    }
}

#[test]
fn a_backup_whose_parent_the_catalog_does_not_know_is_refused_by_name() {
    let mut life = one_backup();
    life.backup(BackupMode::Incremental, BackupType::Automated, None, false);
    let parent = life.backups.remove(0).id;
    let catalog = life.catalog();
    let backup = life.backups[0].id.clone();
    let refusal = plan_backup_restore(&catalog.history(), &backup);
    assert_eq!(refusal, Err(RestoreRefusal::ChainBroken { backup, missing: parent }));
    assert!(recovery_window(&catalog.history(), &Policy::default(), life.now).reaches.is_empty());
}
