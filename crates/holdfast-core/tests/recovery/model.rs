//! What a life's bytes allow: the judge of windows and plans.

use holdfast_core::BackupId;
use holdfast_core::backup::Backup;
use holdfast_core::window::RestorePlan;

use crate::life::{Byte, Life, Mark};

impl Life {
    /// The chain of a backup, itself first; `None` when a part of it cannot be restored.
    pub(crate) fn chain(&self, backup: &Backup) -> Option<Vec<BackupId>> {
        if !backup.is_restorable() {
            return None;
        }
        let mut chain = vec![backup.id.clone()];
        if let Some(parent) = &backup.facts.as_ref()?.parent {
            let parent = self.backups.iter().find(|other| other.id == *parent)?;
            chain.extend(self.chain(parent)?);
        }
        Some(chain)
    }

    /// Every base with its timeline and the byte up to which its log lies there without a hole.
    fn bases(&self, with_live: bool) -> Vec<(&Backup, usize, usize)> {
        let is_there =
            |byte: Byte| byte == Byte::Archived || (byte == Byte::Pending && with_live && self.source_runs);
        let mut bases = vec![];
        for backup in self.backups.iter().filter(|backup| self.chain(backup).is_some()) {
            let facts = backup.facts.as_ref().expect("restorable backups have facts");
            let span = facts.log.expect("every base here has log");
            let timeline = span.start.timeline as usize - 1;
            let (start, stop) = (span.start.offset as usize, span.stop.offset as usize);
            let log = &self.logs[timeline];
            if log[start..stop].iter().all(|byte| *byte == Byte::Archived) {
                let joined = log[start..].iter().take_while(|byte| is_there(**byte)).count();
                bases.push((backup, timeline, start + joined));
            }
        }
        bases
    }

    /// For every mark, the bases from which it can be reached, judged byte by byte. The window's age is no matter here.
    pub(crate) fn reachable(&self, with_live: bool) -> Vec<(Mark, Vec<&Backup>)> {
        let bases = self.bases(with_live);
        let from = |mark: &Mark| {
            (bases.iter())
                .filter(|(_, timeline, until)| *timeline == mark.timeline && mark.written <= *until)
                .map(|(backup, ..)| *backup)
                .filter(|backup| backup.facts.as_ref().is_some_and(|facts| facts.consistent_at <= mark.at))
                .collect()
        };
        self.marks.iter().map(|mark| (*mark, from(mark))).collect()
    }

    /// Checks a plan for a mark against the bytes.
    pub(crate) fn check_plan(&self, plan: &RestorePlan, mark: Mark, bases: &[&Backup]) {
        let latest = bases.iter().max_by_key(|base| base.facts.as_ref().map(|facts| facts.consistent_at));
        let base = self.backups.iter().find(|backup| backup.id == plan.base).expect("a known base");
        let facts = base.facts.as_ref().expect("restorable");
        assert_eq!(Some(&base.id), latest.map(|latest| &latest.id), "not the latest base for {}", mark.at);
        assert!(facts.consistent_at <= mark.at);
        let mut chain = self.chain(base).expect("a whole chain");
        chain.reverse();
        assert_eq!(plan.chain, chain);
        let (from, to) = plan.log.expect("a restore point needs log");
        assert_eq!(Some(from), facts.log.map(|log| log.start));
        assert_eq!(to.timeline as usize, mark.timeline + 1);
        let log = &self.logs[mark.timeline];
        let planned = &log[from.offset as usize..to.offset as usize];
        assert!(planned.iter().all(|byte| *byte == Byte::Archived), "the planned stretch has a hole");
        assert_eq!(plan.needs_log_shipped, mark.written > to.offset as usize, "at {}", mark.at);
    }
}
