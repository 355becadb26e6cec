//! A service's life, modelled byte by byte: what happens, and what the catalog would know of it.

use holdfast_core::backup::{Backup, BackupFacts, BackupMode, BackupStatus, BackupType, LogSpan};
use holdfast_core::position::{Coverage, Gap, Position};
use holdfast_core::retention::ExpiryPlan;
use holdfast_core::window::History;
use holdfast_core::{KeyId, LineageId, ServiceId, Timestamp};
use jiff::SignedDuration;
use proptest::prelude::*;

/// What became of one byte of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Byte {
    Pending,
    Archived,
    Lost,
    Removed,
}

/// Where the log stood at an instant; commits happen at marks only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: Timestamp,
    pub(crate) timeline: usize,
    pub(crate) written: usize,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Marks of four hours each, every one with so many bytes of log.
    Pass {
        marks: u8,
        bytes: u8,
    },
    Ship,
    /// The log that was not yet shipped is gone.
    LoseLog,
    Backup {
        mode: BackupMode,
        by: BackupType,
        retention_days: Option<u32>,
        fails: bool,
    },
    /// The owner deletes one of his backups.
    DeleteByHand(prop::sample::Index),
    StopSource,
    StartSource,
    SwitchTimeline,
    /// Expiry runs; where a bit is set, the removal of that object is interrupted.
    Expire {
        interrupted: u64,
    },
}

pub(crate) const MARK: SignedDuration = SignedDuration::from_hours(4);

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let mode = prop_oneof![1 => Just(BackupMode::Full), 3 => Just(BackupMode::Incremental)];
    let by = prop_oneof![3 => Just(BackupType::Automated), 1 => Just(BackupType::Manual)];
    let days = prop_oneof![2 => Just(None), 1 => (1..20_u32).prop_map(Some)];
    prop_oneof![
        8 => (1..10_u8, 0..3_u8).prop_map(|(marks, bytes)| Event::Pass { marks, bytes }),
        5 => Just(Event::Ship),
        1 => Just(Event::LoseLog),
        8 => (mode, by, days, prop::bool::weighted(0.1))
            .prop_map(|(mode, by, retention_days, fails)| Event::Backup { mode, by, retention_days, fails }),
        1 => any::<prop::sample::Index>().prop_map(Event::DeleteByHand),
        1 => Just(Event::StopSource),
        2 => Just(Event::StartSource),
        1 => Just(Event::SwitchTimeline),
        5 => prop_oneof![2 => Just(0), 1 => any::<u64>()].prop_map(|interrupted| Event::Expire { interrupted }),
    ]
}

/// Everything there is to know about one lineage.
pub(crate) struct Life {
    pub(crate) now: Timestamp,
    pub(crate) backups: Vec<Backup>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) logs: Vec<Vec<Byte>>,
    pub(crate) source_runs: bool,
    pub(crate) deleted_at: Option<Timestamp>,
    ids: (ServiceId, LineageId, KeyId),
}

/// What the catalog would hold of a life.
pub(crate) struct Catalog {
    pub(crate) backups: Vec<Backup>,
    pub(crate) coverage: Vec<Coverage>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) live_until: Option<Timestamp>,
}

impl Catalog {
    pub(crate) fn history(&self) -> History<'_> {
        History {
            backups: &self.backups,
            coverage: &self.coverage,
            gaps: &self.gaps,
            live_until: self.live_until,
        }
    }
}

impl Life {
    pub(crate) fn new() -> Self {
        let now = "2026-03-01T00:00:00Z".parse().expect("a time");
        let ids = (ServiceId::random(), LineageId::random(), KeyId::random());
        let marks = vec![Mark { at: now, timeline: 0, written: 0 }];
        Self { now, backups: vec![], marks, logs: vec![vec![]], source_runs: true, deleted_at: None, ids }
    }

    pub(crate) fn pass(&mut self, marks: u8, bytes: u8) {
        for _ in 0..marks {
            self.now += MARK;
            // A source that does not run is not marked: nobody says that there were no commits.
            if self.source_runs {
                self.write(usize::from(bytes));
            }
        }
    }

    fn write(&mut self, bytes: usize) {
        let timeline = self.logs.len() - 1;
        let log = &mut self.logs[timeline];
        log.extend(std::iter::repeat_n(Byte::Pending, bytes));
        self.marks.push(Mark { at: self.now, timeline, written: log.len() });
    }

    fn turn_pending(&mut self, into: Byte) {
        for byte in self.logs.iter_mut().flatten().filter(|byte| **byte == Byte::Pending) {
            *byte = into;
        }
    }

    /// Takes four hours; ships the log afterwards, as a backup does before it is complete.
    pub(crate) fn backup(
        &mut self,
        mode: BackupMode,
        by: BackupType,
        retention_days: Option<u32>,
        fails: bool,
    ) {
        if !self.source_runs {
            return;
        }
        let parent = (self.backups.iter().rev())
            .find(|backup| backup.is_restorable() && self.chain(backup).is_some())
            .filter(|_| mode == BackupMode::Incremental)
            .map(|backup| backup.id.clone());
        let mode = if parent.is_some() { mode } else { BackupMode::Full };
        let (created_at, start) = (self.now, self.end());
        self.pass(1, 2);
        self.turn_pending(Byte::Archived);
        let facts = (!fails).then(|| BackupFacts {
            tool_label: "label".to_owned(),
            parent,
            log: Some(LogSpan { start, stop: self.end() }),
            consistent_at: self.now,
            stored_bytes: 1,
            database_bytes: 1,
            manifest_sha256: String::new(),
            engine: serde_json::Value::Null,
            instead: None,
        });
        let status = if fails { BackupStatus::Failed } else { BackupStatus::Completed };
        self.backups.push(Backup {
            id: format!("bkp_{:016}", self.backups.len()).parse().expect("an id"),
            service_id: self.ids.0,
            lineage_id: self.ids.1,
            backup_type: by,
            mode,
            method: None,
            status,
            label: None,
            retention_days: retention_days.filter(|_| by == BackupType::Manual),
            key_id: self.ids.2,
            created_at,
            started_at: Some(created_at),
            completed_at: (!fails).then_some(self.now),
            error: fails.then(|| "out of space".to_owned()),
            facts,
            delisted_at: None,
            shredded_at: None,
            removed_at: None,
        });
    }

    fn end(&self) -> Position {
        let timeline = self.logs.len() - 1;
        Position { timeline: timeline as u32 + 1, offset: self.logs[timeline].len() as u64 }
    }

    /// Everything but expiry.
    pub(crate) fn happen(&mut self, event: &Event) {
        match event {
            Event::Pass { marks, bytes } => self.pass(*marks, *bytes),
            Event::Ship => self.turn_pending(Byte::Archived),
            Event::LoseLog => self.turn_pending(Byte::Lost),
            Event::Backup { mode, by, retention_days, fails } => {
                self.backup(*mode, *by, *retention_days, *fails);
            }
            Event::DeleteByHand(index) => {
                let now = self.now;
                let mut own: Vec<_> = (self.backups.iter_mut())
                    .filter(|backup| backup.backup_type == BackupType::Manual && backup.is_listed())
                    .collect();
                if !own.is_empty() {
                    let index = index.index(own.len());
                    own[index].delisted_at = Some(now);
                }
            }
            Event::StopSource => self.source_runs = false,
            Event::StartSource => self.source_runs = self.deleted_at.is_none(),
            Event::SwitchTimeline if self.source_runs => {
                self.turn_pending(Byte::Archived);
                self.logs.push(vec![]);
                self.pass(1, 1);
                self.turn_pending(Byte::Archived);
            }
            Event::SwitchTimeline | Event::Expire { .. } => {}
        }
    }

    /// Carries a plan out, but for what the bits interrupt.
    pub(crate) fn carry_out(&mut self, plan: &ExpiryPlan, interrupted: u64) {
        let now = self.now;
        let goes_on = |index: usize| interrupted >> (index % 64) & 1 == 0;
        for backup in &mut self.backups {
            if plan.delist.contains(&backup.id) {
                backup.delisted_at = Some(now);
            }
        }
        for (index, id) in plan.shred.iter().enumerate() {
            // Interrupted between any two, no backup is left whose parent is gone.
            let facts =
                self.backups.iter().find(|backup| backup.id == *id).and_then(|backup| backup.facts.as_ref());
            let parent = facts.and_then(|facts| facts.parent.as_ref());
            assert!(
                parent.is_none_or(|parent| !plan.shred[..index].contains(parent)),
                "{id} goes after its parent"
            );
        }
        for (index, id) in plan.shred.iter().enumerate() {
            let backup = self.backups.iter_mut().find(|backup| backup.id == *id).expect("a known backup");
            assert!(backup.removed_at.is_none() && !backup.is_listed(), "{id} is listed or removed already");
            // Interrupted before its key was destroyed, or before its objects were removed.
            if goes_on(index) || goes_on(index + 7) {
                backup.shredded_at = backup.shredded_at.or(Some(now));
            }
            backup.removed_at = Some(now).filter(|_| goes_on(index));
        }
        for (_, cut) in plan.remove_log_before.iter().enumerate().filter(|(index, _)| goes_on(63 - *index)) {
            let log = &mut self.logs[cut.timeline as usize - 1];
            for byte in log[..cut.offset as usize].iter_mut().filter(|byte| **byte == Byte::Archived) {
                *byte = Byte::Removed;
            }
        }
    }

    /// As the catalog keeps it: runs of archived and of lost bytes.
    pub(crate) fn catalog(&self) -> Catalog {
        let (mut coverage, mut gaps) = (vec![], vec![]);
        for (timeline, log) in self.logs.iter().enumerate() {
            let position = |offset: usize| Position { timeline: timeline as u32 + 1, offset: offset as u64 };
            let marks = || self.marks.iter().filter(move |mark| mark.timeline == timeline);
            for (byte, from, to) in runs(log) {
                let before = |offset| marks().rev().find(|mark| mark.written <= offset).map(|mark| mark.at);
                let after = marks().find(|mark| mark.written >= to).map_or(self.now, |mark| mark.at);
                let (from_time, complete_until) = (before(from).unwrap_or(self.now), before(to));
                let (from, to) = (position(from), position(to));
                match byte {
                    Byte::Archived => coverage.push(Coverage { from, to, complete_until }),
                    Byte::Lost => gaps.push(Gap {
                        from,
                        to,
                        from_time,
                        to_time: after,
                        cause: "the log was removed before it was archived".to_owned(),
                        acknowledged: false,
                    }),
                    Byte::Pending | Byte::Removed => {}
                }
            }
        }
        let live_until = self.source_runs.then_some(self.now);
        Catalog { backups: self.backups.clone(), coverage, gaps, live_until }
    }
}

/// Runs of equal bytes, as `(byte, from, to)`.
fn runs(log: &[Byte]) -> Vec<(Byte, usize, usize)> {
    let mut runs: Vec<(Byte, usize, usize)> = vec![];
    for (index, byte) in log.iter().enumerate() {
        match runs.last_mut() {
            Some(last) if last.0 == *byte => last.2 = index + 1,
            _ => runs.push((*byte, index, index + 1)),
        }
    }
    runs
}
