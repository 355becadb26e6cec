//! Single rules, each by an example.

use holdfast_core::Timestamp;
use holdfast_core::backup::{Backup, BackupMode, BackupStatus, BackupType};
use holdfast_core::position::Position;
use holdfast_core::retention::expiry::Reason;
use holdfast_core::retention::{
    DeleteRefusal, ExpiryPlan, Policy, can_delete_by_hand, expires_at, plan_expiry,
};
use holdfast_core::window::{
    History, RestorePlan, RestoreRefusal, plan_backup_restore, plan_restore_point, recovery_window,
};
use jiff::SignedDuration;

use crate::life::{Event, Life};

const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

fn automated(life: &mut Life, mode: BackupMode) {
    life.backup(mode, BackupType::Automated, None, false);
}

fn expire(life: &Life) -> ExpiryPlan {
    let catalog = life.catalog();
    plan_expiry(&catalog.history(), &Policy::default(), life.now, life.deleted_at, &[])
}

fn plan(life: &Life, point: Timestamp) -> Result<RestorePlan, RestoreRefusal> {
    plan_restore_point(&life.catalog().history(), &Policy::default(), point, life.now)
}

fn consistent_at(backup: &Backup) -> Timestamp {
    backup.facts.as_ref().expect("completed").consistent_at
}

#[test]
fn automated_backups_expire_after_seven_days_and_manual_ones_when_their_owner_said() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    let day = SignedDuration::from_hours(24);
    let made = life.backups[0].clone();
    let completed_at = made.completed_at.expect("completed");
    let with =
        |backup_type, status, retention_days| Backup { backup_type, status, retention_days, ..made.clone() };
    use BackupStatus::{Completed, Failed, Pending, Running};
    use BackupType::{Automated, Manual};
    let rows = [
        (with(Automated, Completed, None), Some(completed_at + day * 7)),
        (with(Automated, Completed, Some(90)), Some(completed_at + day * 7)),
        (with(Manual, Completed, None), None),
        (with(Manual, Completed, Some(1)), Some(completed_at + day)),
        (with(Manual, Completed, Some(365)), Some(completed_at + day * 365)),
        (with(Automated, Running, None), None),
        (with(Manual, Pending, Some(3)), None),
        (with(Automated, Failed, None), Some(made.created_at + day * 7)),
        (with(Manual, Failed, None), None),
    ];
    for (backup, expected) in rows {
        assert_eq!(expires_at(&backup, &Policy::default()), expected, "{backup:?}");
    }
}

#[test]
fn only_finished_manual_backups_can_be_deleted_by_hand() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    let id = life.backups[0].id.clone();
    let with = |backup_type, status| Backup { backup_type, status, ..life.backups[0].clone() };
    use BackupStatus::{Completed, Failed, Pending, Running};
    for status in [Completed, Failed, Pending, Running] {
        let refusal = can_delete_by_hand(&with(BackupType::Automated, status));
        assert_eq!(refusal, Err(DeleteRefusal::Automated(id.clone())));
        let expected = match status {
            Completed | Failed => Ok(()),
            Pending | Running => Err(DeleteRefusal::InProgress(id.clone())),
        };
        assert_eq!(can_delete_by_hand(&with(BackupType::Manual, status)), expected, "{status:?}");
    }
}

#[test]
fn a_backup_leaves_the_list_at_the_instant_it_expires() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    let expires_at = life.backups[0].completed_at.expect("completed") + SignedDuration::from_hours(7 * 24);
    for (now, leaves) in
        [(expires_at - NANOSECOND, false), (expires_at, true), (expires_at + NANOSECOND, true)]
    {
        life.now = now;
        assert_eq!(!expire(&life).delist.is_empty(), leaves, "{now}");
    }
}

/// The window's start moves over the second base: from that instant on the first one is not needed.
#[test]
fn the_base_before_the_window_goes_when_the_next_one_reaches_its_start() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.pass(6, 1);
    automated(&mut life, BackupMode::Full);
    life.pass(60, 1);
    life.happen(&Event::Ship);
    let edge = consistent_at(&life.backups[1]) + SignedDuration::from_hours(7 * 24);
    let (first, second) = (life.backups[0].clone(), life.backups[1].clone());
    let starts = [&first, &second]
        .map(|backup| backup.facts.as_ref().and_then(|facts| facts.log).expect("completed").start);
    for (now, goes) in [(edge - NANOSECOND, false), (edge, true), (edge + NANOSECOND, true)] {
        life.now = now;
        let plan = expire(&life);
        assert_eq!(plan.shred.contains(&first.id), goes, "{now}");
        let expected: Vec<Position> = if goes { vec![starts[1]] } else { vec![] };
        assert_eq!(plan.remove_log_before, expected, "{now}");
    }
}

/// R18.
#[test]
fn a_target_between_a_backups_start_and_its_consistent_point_picks_the_earlier_base() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.pass(3, 1);
    automated(&mut life, BackupMode::Full);
    life.pass(3, 1);
    let consistent = consistent_at(&life.backups[1]);
    let started = life.backups[1].started_at.expect("started");
    let rows = [(started, 0), (consistent - NANOSECOND, 0), (consistent, 1), (consistent + NANOSECOND, 1)];
    for (point, expected) in rows {
        assert_eq!(
            plan(&life, point).map(|plan| plan.base),
            Ok(life.backups[expected].id.clone()),
            "{point}"
        );
    }
}

#[test]
fn a_point_behind_the_archive_asks_for_the_log_if_the_source_runs_and_is_refused_if_not() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    let archived = life.now;
    life.pass(2, 1);
    assert_eq!(plan(&life, archived).map(|plan| plan.needs_log_shipped), Ok(false));
    assert_eq!(plan(&life, archived + NANOSECOND).map(|plan| plan.needs_log_shipped), Ok(true));
    assert_eq!(plan(&life, life.now).map(|plan| plan.needs_log_shipped), Ok(true));
    let text = plan(&life, life.now + NANOSECOND).expect_err("the future").to_string();
    assert_eq!(
        text,
        "restore point 2026-03-01T12:00:00.000000001Z lies in the future (it is 2026-03-01T12:00:00Z); the recovery \
         window is 2026-03-01T04:00:00Z to 2026-03-01T12:00:00Z, the nearest reachable point is 2026-03-01T12:00:00Z"
    );
    life.happen(&Event::StopSource);
    assert!(plan(&life, archived).is_ok());
    assert_eq!(
        plan(&life, archived + NANOSECOND).expect_err("not archived").to_string(),
        "restore point 2026-03-01T04:00:00.000000001Z lies after the last archived log and the source does not run; \
         the recovery window is 2026-03-01T04:00:00Z to 2026-03-01T04:00:00Z, the nearest reachable point is \
         2026-03-01T04:00:00Z"
    );
}

/// R8: a gap blocks the points behind it until a new base, and no others.
#[test]
fn a_gap_blocks_what_lies_behind_it_until_the_next_base() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.pass(2, 1);
    life.happen(&Event::Ship);
    life.pass(2, 1);
    life.happen(&Event::LoseLog);
    life.pass(2, 1);
    let inside = life.now;
    let before = "2026-03-01T12:00:00Z".parse::<Timestamp>().expect("a time");
    let refusal = plan(&life, inside).expect_err("behind the gap");
    assert_eq!(refusal.nearest(), (Some(before), None));
    life.happen(&Event::Ship);
    assert_eq!(plan(&life, inside).expect_err("no base joins this log").nearest(), (Some(before), None));
    automated(&mut life, BackupMode::Full);
    let after = life.now;
    assert_eq!(
        plan(&life, inside).expect_err("in the gap").to_string(),
        "restore point 2026-03-02T04:00:00Z lies in a gap of the log archive (2026-03-01T12:00:00Z to \
         2026-03-01T20:00:00Z: the log was removed before it was archived); the nearest reachable points are \
         2026-03-01T12:00:00Z and 2026-03-02T08:00:00Z; the recovery window is 2026-03-01T04:00:00Z to \
         2026-03-02T08:00:00Z"
    );
    assert_eq!((plan(&life, before).is_ok(), plan(&life, after).is_ok()), (true, true));
    let early =
        plan(&life, "2026-03-01T03:59:59Z".parse().expect("a time")).expect_err("before the first base");
    assert_eq!(
        early.to_string(),
        "restore point 2026-03-01T03:59:59Z lies before the recovery window (2026-03-01T04:00:00Z to \
         2026-03-02T08:00:00Z); the nearest reachable point is 2026-03-01T04:00:00Z"
    );
}

#[test]
fn without_a_backup_or_without_log_the_refusal_says_which() {
    let mut life = Life::new();
    life.pass(2, 1);
    assert_eq!(plan(&life, life.now), Err(RestoreRefusal::NoBackup { asked: life.now }));
    automated(&mut life, BackupMode::Full);
    let mut catalog = life.catalog();
    catalog.coverage.clear();
    let refusal = plan_restore_point(&catalog.history(), &Policy::default(), life.now, life.now);
    assert_eq!(refusal, Err(RestoreRefusal::NothingReachable { asked: life.now }));
    assert!(plan_backup_restore(&catalog.history(), &life.backups[0].id).is_ok());
}

/// A manual backup kept for long keeps what it builds on, and no log: it carries its own.
#[test]
fn a_long_kept_manual_backup_keeps_its_chain_but_no_log() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.backup(BackupMode::Incremental, BackupType::Manual, None, false);
    for _ in 0..30 {
        life.pass(5, 1);
        automated(&mut life, BackupMode::Full);
    }
    let plan = expire(&life);
    let [full, manual] = [&life.backups[0].id, &life.backups[1].id];
    assert!(plan.delist.contains(full) && !plan.shred.contains(full));
    assert!(plan.keep_reasons.contains(&(full.clone(), Reason::ParentOf(manual.clone()))));
    assert!(plan.keep_reasons.contains(&(manual.clone(), Reason::Listed)));
    let manual_stop = life.backups[1].facts.as_ref().and_then(|facts| facts.log).expect("completed").stop;
    assert!(plan.remove_log_before.iter().any(|cut| cut.offset > manual_stop.offset));
    life.carry_out(&plan, 0);
    assert!(plan_backup_restore(&life.catalog().history(), &life.backups[1].id).is_ok());
}

/// While the daily backups fail, or the source stands still, the last good base and its log stay.
#[test]
fn the_newest_base_of_a_living_service_stays_with_its_log_however_old() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.pass(3, 1);
    life.happen(&Event::Ship);
    life.happen(&Event::StopSource);
    (0..60).for_each(|_| life.pass(6, 0));
    let plan_of_living = expire(&life);
    assert_eq!(plan_of_living.delist, [life.backups[0].id.clone()]);
    assert_eq!(
        (plan_of_living.shred.as_slice(), plan_of_living.remove_log_before.as_slice()),
        (&[][..], &[][..])
    );
    life.carry_out(&plan_of_living, 0);
    life.happen(&Event::StartSource);
    life.pass(1, 1);
    assert_eq!(plan(&life, life.now).map(|plan| plan.base), Ok(life.backups[0].id.clone()));

    life.happen(&Event::StopSource);
    life.deleted_at = Some(life.now);
    let plan_of_deleted = expire(&life);
    assert_eq!(plan_of_deleted.shred, [life.backups[0].id.clone()]);
    assert!(plan_of_deleted.lineage_done);
}

/// Where there is no log a backup that is not listed can never be restored: one that its owner deleted goes at once, and the last
/// one stays listed while none follows it.
#[test]
fn without_a_log_the_last_backup_stays_listed_until_its_owner_deletes_it() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.pass(3, 1);
    automated(&mut life, BackupMode::Full);
    for backup in &mut life.backups {
        backup.facts.as_mut().expect("it is made").log = None;
    }
    let history = |backups: &[Backup]| -> ExpiryPlan {
        let history = History { backups, coverage: &[], gaps: &[], live_until: None };
        let late = life.now + SignedDuration::from_hours(24 * 365);
        plan_expiry(&history, &Policy::default(), late, None, &[])
    };
    let ids: Vec<_> = life.backups.iter().map(|backup| backup.id.clone()).collect();
    let plan = history(&life.backups);
    assert_eq!((plan.delist.as_slice(), plan.shred.as_slice()), (&ids[..1], &ids[..1]));
    let mut deleted = life.backups.clone();
    deleted[1].delisted_at = Some(life.now);
    let plan = history(&deleted);
    assert_eq!(
        (plan.delist.as_slice(), plan.shred.as_slice()),
        (&[][..], &ids[1..]),
        "the other is the last now"
    );
}

/// A running incremental backup tells what it builds on only when it is done.
#[test]
fn what_a_running_incremental_backup_may_build_on_stays() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    automated(&mut life, BackupMode::Incremental);
    let asked_at = life.now;
    life.backup(BackupMode::Full, BackupType::Manual, None, false);
    life.backup(BackupMode::Incremental, BackupType::Automated, None, false);
    let last = life.backups.last_mut().expect("just made");
    (last.status, last.facts, last.completed_at) = (BackupStatus::Running, None, None);
    (last.created_at, last.started_at) = (asked_at, Some(asked_at));
    life.pass(6 * 9, 1);
    life.happen(&Event::Ship);
    let plan = expire(&life);
    assert!(plan.keep_reasons.contains(&(life.backups[1].id.clone(), Reason::MayBeBuiltOn)), "{plan:?}");
    assert!(plan.keep_reasons.contains(&(life.backups[3].id.clone(), Reason::InProgress)));
    assert_eq!(plan.shred, []);
    life.backups[3].status = BackupStatus::Failed;
    assert_eq!(expire(&life).shred.len(), 3, "the two behind the anchor, and the failed one");
}

/// Log of a timeline that nothing needs goes wholly; the current one is cut at its own base.
#[test]
fn log_is_cut_timeline_by_timeline() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    life.happen(&Event::SwitchTimeline);
    automated(&mut life, BackupMode::Full);
    life.pass(6 * 8, 1);
    life.happen(&Event::Ship);
    let start = life.backups[1].facts.as_ref().and_then(|facts| facts.log).expect("completed").start;
    let whole = Position { timeline: 1, offset: life.logs[0].len() as u64 };
    assert_eq!(expire(&life).remove_log_before, [whole, start]);
}

#[test]
fn plans_survive_being_stored_with_their_job() {
    let mut life = Life::new();
    automated(&mut life, BackupMode::Full);
    automated(&mut life, BackupMode::Incremental);
    let plan = plan(&life, life.now).expect("now is reachable");
    let stored = serde_json::to_string(&plan).expect("plain data");
    assert_eq!(serde_json::from_str::<RestorePlan>(&stored).expect("just written"), plan);
    let expiry = expire(&life);
    let stored = serde_json::to_string(&expiry).expect("plain data");
    assert_eq!(serde_json::from_str::<ExpiryPlan>(&stored).expect("just written"), expiry);
    let window = recovery_window(&life.catalog().history(), &Policy::default(), life.now);
    let whole = (Some(consistent_at(&life.backups[0])), Some(life.now));
    assert_eq!((window.earliest(), window.latest()), whole);
}

/// An engine without a log: what is listed can be restored as it is, nothing between, and goes by the list alone.
#[test]
fn bases_without_a_log_are_points_of_their_own() {
    let mut life = Life::new();
    for _ in 0..3 {
        automated(&mut life, BackupMode::Full);
        life.pass(24, 0);
    }
    for backup in &mut life.backups {
        backup.facts.as_mut().expect("completed").log = None;
    }
    let (first, last) = (life.backups[0].clone(), life.backups[2].clone());
    let history = History { backups: &life.backups, coverage: &[], gaps: &[], live_until: None };
    let policy = Policy::default();
    assert_eq!(recovery_window(&history, &policy, life.now).span(), None);
    let between = consistent_at(&first) + SignedDuration::from_hours(1);
    let refusal = plan_restore_point(&history, &policy, between, life.now);
    assert_eq!(refusal, Err(RestoreRefusal::NothingReachable { asked: between }));
    let plan = plan_backup_restore(&history, &first.id).expect("it is listed");
    assert_eq!((plan.chain, plan.log), (vec![first.id.clone()], None));

    let leaves_at =
        |backup: &Backup| backup.completed_at.expect("completed") + SignedDuration::from_hours(7 * 24);
    let plan = plan_expiry(&history, &policy, leaves_at(&first), None, &[]);
    assert_eq!((plan.delist, plan.shred), (vec![first.id.clone()], vec![first.id.clone()]));
    assert_eq!(plan.remove_log_before, []);
    let plan = plan_expiry(&history, &policy, leaves_at(&last), None, &[]);
    assert_eq!(plan.shred.len(), 2, "the newest stays while its service lives: {:?}", plan.shred);
    assert!(!plan.shred.contains(&last.id));
}
