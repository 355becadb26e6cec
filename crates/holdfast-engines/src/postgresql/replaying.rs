//! How far a recovery is: PostgreSQL writes it into its log (`log_startup_progress_interval`, PostgreSQL 17, 19.8; there since 15).

use std::time::{Duration, Instant};

use super::position::format_lsn;
use super::position::lsn_after;
use crate::files::{last_log_lines, recent_log};
use crate::{EngineError, Instance, ProgressSink, Result};

/// Makes the engine write down every second where it is; as an option of its start.
pub(super) const TELL: &str = "-c log_startup_progress_interval=1s";
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// More than the lines of a few seconds.
const LINES: u64 = 4 << 10;
/// One record may copy a whole database's folder; none takes longer.
const STALL_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Looks at a recovery until it ends.
pub(super) struct Watch<'a> {
    progress: &'a ProgressSink,
    from: u64,
    to: u64,
    reached: u64,
    moved: Instant,
    looked: Option<Instant>,
    limit: Duration,
}

impl<'a> Watch<'a> {
    /// Of log from byte `from` on, up to about `to`.
    pub(super) fn new(progress: &'a ProgressSink, from: u64, to: u64) -> Self {
        Self { progress, from, to, reached: from, moved: Instant::now(), looked: None, limit: STALL_LIMIT }
    }

    /// To be called often; looks once a second.
    ///
    /// # Errors
    /// Nothing has moved for two hours.
    pub(super) fn look(&mut self, instance: &Instance) -> Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let reached =
            recent_log(instance, LINES).iter().rev().find_map(|line| lsn_after(line, "current LSN: "));
        if let Some(reached) = reached.filter(|reached| *reached > self.reached) {
            (self.reached, self.moved) = (reached, Instant::now());
            self.tell();
        }
        if self.moved.elapsed() <= self.limit {
            return Ok(());
        }
        let at = format_lsn(self.reached);
        let last = format!("replay does not go on from {at}; its log says: {}", last_log_lines(instance));
        Err(EngineError::NotReady { seconds: self.limit.as_secs(), last })
    }

    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    fn tell(&self) {
        let all = self.to.saturating_sub(self.from);
        let done = self.reached - self.from;
        if all > 0 {
            self.progress.percent((100.0 * done as f64 / all as f64).min(99.0), Some(all));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Paths;

    #[test]
    fn the_engines_own_words_tell_how_far_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let instance = super::super::restore::tests::instance(folder.path());
        let log = Paths(&instance.folder).log();
        std::fs::create_dir_all(&log).expect("made");
        let progress = ProgressSink::default();
        progress.phase("replaying log");
        let mut watch = Watch::new(&progress, 0x200_0000, 0x600_0000);
        let percent = || progress.get().expect("a phase").percent;
        watch.look(&instance).expect("it has just begun");
        assert_eq!(percent(), None);
        let line = |lsn| {
            format!(
                "2026-11-29 06:41:24.123 UTC [77] LOG:  redo in progress, elapsed time: 1.00 s, current LSN: {lsn}\n"
            )
        };
        for (lsn, expected) in [("0/3000000", 25.0), ("0/5000000", 75.0), ("0/6000028", 99.0)] {
            std::fs::write(log.join("postgresql-Sun.log"), line(lsn)).expect("written");
            watch.looked = None;
            watch.look(&instance).expect("it goes on");
            assert_eq!(percent(), Some(expected), "{lsn}");
        }
    }

    #[test]
    fn what_does_not_move_for_long_has_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let instance = super::super::restore::tests::instance(folder.path());
        let progress = ProgressSink::default();
        let mut watch = Watch::new(&progress, 0, 1);
        watch.look(&instance).expect("it has just begun");
        (watch.limit, watch.looked) = (Duration::ZERO, None);
        let error = watch.look(&instance).expect_err("it stands still").to_string();
        assert!(error.contains("0/0"), "{error}");
    }
}
