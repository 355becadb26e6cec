//! What expiry does, as a plan that can be shown before it is carried out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::{Backup, BackupMode, BackupStatus};
use crate::id::BackupId;
use crate::position::{Coverage, Position};
use crate::retention::{Policy, expires_at};
use crate::window::{History, RestorePlan};

/// What is to go, and why the rest stays. Two phases: `delist` at once, in the catalog; then keys, objects and log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryPlan {
    /// Leave the list now.
    pub delist: Vec<BackupId>,
    /// Nothing needs them any more: destroy the key, then the objects. Children come before what they build on.
    pub shred: Vec<BackupId>,
    /// At most one position a timeline: log that ends at or before it may go.
    pub remove_log_before: Vec<Position>,
    /// Every backup whose data stays, with the first reason found.
    pub keep_reasons: Vec<(BackupId, Reason)>,
    /// The service is deleted and this plan removes the last of it: all keys and the whole prefix may go.
    pub lineage_done: bool,
}

/// Why a backup's data and key stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its owner sees it.
    Listed,
    /// It is being made.
    InProgress,
    /// Restore points of the recovery window start from it.
    Window,
    /// The newest restorable base of a living service stays, however old, for its log leads on from it. Where there is no log, one
    /// that is listed stays listed; one that its owner deleted goes.
    NewestBase,
    /// A backup that is being made may build on it.
    MayBeBuiltOn,
    /// A queued or running restore reads it.
    RestoreReads,
    /// This kept backup builds on it.
    ParentOf(BackupId),
}

/// Decides what goes at `now`, which must be a trusted time ([`crate::retention::trusted_now`]).
///
/// `history.live_until` plays no part in what is kept of a living service: its newest stretch of log counts as reaching
/// `now`, so that a stopped source can go on where it ended. `service_deleted_at` tells whether the service lives.
/// `reading` are the plans of queued and running restores: what they read stays.
///
/// What holds after the plan is carried out: every point of the recovery window at `now`, or at any later time, that
/// could be reached before still can. So it does when the plan is carried out in part, or twice.
#[must_use]
pub fn plan_expiry(
    history: &History<'_>,
    policy: &Policy,
    now: Timestamp,
    service_deleted_at: Option<Timestamp>,
    reading: &[RestorePlan],
) -> ExpiryPlan {
    let expiry = Expiry { history, policy, now, service_lives: service_deleted_at.is_none(), reading };
    let delist: Vec<BackupId> = expiry.delisted().map(|backup| backup.id.clone()).collect();
    let reasons = expiry.reasons();
    let mut shred: Vec<&Backup> = (history.backups.iter())
        // Also what an earlier plan shredded and could not remove.
        .filter(|backup| backup.removed_at.is_none() && !reasons.contains_key(&backup.id))
        .collect();
    shred.sort_by_key(|backup| std::cmp::Reverse(history.ancestors(backup).count()));
    let nothing_stays = reasons.is_empty() && reading.is_empty();
    ExpiryPlan {
        delist,
        shred: shred.into_iter().map(|backup| backup.id.clone()).collect(),
        remove_log_before: expiry.log_cuts(),
        keep_reasons: reasons.into_iter().collect(),
        lineage_done: !expiry.service_lives && nothing_stays,
    }
}

struct Expiry<'a> {
    history: &'a History<'a>,
    policy: &'a Policy,
    now: Timestamp,
    service_lives: bool,
    reading: &'a [RestorePlan],
}

/// Whether a log leads on from a base.
fn has_log(base: &Backup) -> bool {
    base.facts.as_ref().is_some_and(|facts| facts.log.is_some())
}

impl<'a> Expiry<'a> {
    fn leaves_list(&self, backup: &Backup) -> bool {
        let is_expired = expires_at(backup, self.policy).is_some_and(|at| at <= self.now);
        // The record of a failure is of no use once its service is gone, and would keep the lineage for ever.
        let is_leftover = !self.service_lives && backup.status == BackupStatus::Failed;
        backup.is_listed() && ((is_expired && !self.is_last_without_log(backup)) || is_leftover)
    }

    /// Without a log nothing but a listed backup can be restored: the last of a living service waits for the next one.
    fn is_last_without_log(&self, backup: &Backup) -> bool {
        let newest = self.newest_base(Backup::is_listed).filter(|newest| !has_log(newest));
        self.service_lives && newest.is_some_and(|newest| newest.id == backup.id)
    }

    fn delisted(&self) -> impl Iterator<Item = &'a Backup> {
        self.history.backups.iter().filter(|backup| self.leaves_list(backup))
    }

    /// Every unshredded backup that stays, with the first reason found.
    fn reasons(&self) -> BTreeMap<BackupId, Reason> {
        let mut reasons = BTreeMap::new();
        let mut keep = |backup: &Backup, reason: Reason| {
            if backup.shredded_at.is_none() {
                reasons.entry(backup.id.clone()).or_insert(reason);
            }
        };
        for backup in self.history.backups {
            if matches!(backup.status, BackupStatus::Pending | BackupStatus::Running) {
                keep(backup, Reason::InProgress);
            } else if backup.is_listed() && !self.leaves_list(backup) {
                keep(backup, Reason::Listed);
            }
        }
        for (_, anchor) in self.anchors() {
            keep(anchor, Reason::Window);
        }
        if self.service_lives {
            if let Some(newest) = self.newest_base(|_| true).filter(|newest| has_log(newest)) {
                keep(newest, Reason::NewestBase);
            }
            self.possible_parents().for_each(|parent| keep(parent, Reason::MayBeBuiltOn));
        }
        for read in self.reading.iter().flat_map(|plan| &plan.chain) {
            if let Some(backup) = self.history.backup(read) {
                keep(backup, Reason::RestoreReads);
            }
        }
        let kept: Vec<&Backup> =
            self.history.backups.iter().filter(|backup| reasons.contains_key(&backup.id)).collect();
        for backup in kept {
            let mut child = backup;
            for parent in self.history.ancestors(backup) {
                if parent.shredded_at.is_none() {
                    reasons.entry(parent.id.clone()).or_insert(Reason::ParentOf(child.id.clone()));
                }
                child = parent;
            }
        }
        reasons
    }

    /// The coverage intervals that the window needs, each with the one base that must stay for it: the latest from
    /// before the window's start or, where there is none, the earliest of all.
    fn anchors(&self) -> Vec<(&'a Coverage, &'a Backup)> {
        let start = self.policy.window_start(self.now);
        let mut anchors = Vec::new();
        for coverage in self.history.coverage {
            let Some(end) = self.needed_until(coverage).filter(|end| *end >= start) else { continue };
            let mut bases: Vec<_> = (self.history.bases())
                .filter(|base| base.lies_in(coverage) && base.facts.consistent_at <= end)
                .collect();
            bases.sort_by_key(|base| (base.facts.consistent_at, base.place()));
            let before = bases.iter().rev().find(|base| base.facts.consistent_at <= start);
            if let Some(anchor) = before.or(bases.first()) {
                anchors.push((coverage, anchor.backup));
            }
        }
        anchors
    }

    /// The latest instant that this interval may be asked for, now or later.
    fn needed_until(&self, coverage: &Coverage) -> Option<Timestamp> {
        let archived = coverage.complete_until;
        if self.service_lives && self.history.is_open(coverage) {
            archived.max(Some(self.now))
        } else {
            archived
        }
    }

    /// The newest restorable base among those that `admit` lets pass, by position: clocks may have been wrong.
    fn newest_base(&self, admit: impl Fn(&Backup) -> bool) -> Option<&'a Backup> {
        (self.history.bases())
            .filter(|base| admit(base.backup))
            .max_by_key(|base| (base.place(), base.facts.consistent_at))
            .map(|base| base.backup)
    }

    /// What an incremental backup that is being made may build on: the newest base when it was asked for, and all
    /// that completed since. Its facts tell only at the end.
    fn possible_parents(&self) -> impl Iterator<Item = &'a Backup> {
        let asked_at = (self.history.backups.iter())
            .filter(|backup| matches!(backup.status, BackupStatus::Pending | BackupStatus::Running))
            .filter(|backup| backup.mode == BackupMode::Incremental)
            .map(|backup| backup.created_at)
            .min();
        let newest_then = asked_at.and_then(|asked_at| {
            self.newest_base(|backup| backup.completed_at.is_some_and(|at| at <= asked_at))
        });
        let since = (self.history.bases()).map(|base| base.backup).filter(move |backup| {
            asked_at.is_some_and(|asked_at| backup.completed_at.is_none_or(|at| at > asked_at))
        });
        newest_then.into_iter().chain(since)
    }

    /// Log before the first needed position of each timeline goes; all of a timeline that is not needed.
    fn log_cuts(&self) -> Vec<Position> {
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut need = |from: Position| {
            let first = needed.entry(from.timeline).or_insert(from.offset);
            *first = (*first).min(from.offset);
        };
        let anchors = self.anchors();
        for (coverage, anchor) in &anchors {
            let log = anchor.facts.as_ref().and_then(|facts| facts.log);
            need(log.map_or(coverage.from, |log| log.start));
        }
        for coverage in self.history.coverage {
            // The base that will join this log may be in the making: its start is not known yet.
            let is_anchored = anchors.iter().any(|(anchored, _)| *anchored == coverage);
            if self.service_lives && self.history.is_open(coverage) && !is_anchored {
                need(coverage.from);
            }
        }
        self.reading.iter().filter_map(|plan| plan.log).for_each(|(from, _)| need(from));

        let mut cuts: BTreeMap<u32, u64> = BTreeMap::new();
        for coverage in self.history.coverage {
            let timeline = coverage.to.timeline;
            let before = needed.get(&timeline).copied().unwrap_or(coverage.to.offset);
            if coverage.from.offset < before {
                let cut = cuts.entry(timeline).or_insert(before);
                *cut = (*cut).max(before);
            }
        }
        cuts.into_iter().map(|(timeline, offset)| Position { timeline, offset }).collect()
    }
}
