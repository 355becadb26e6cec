//! How far a long operation is, from the driver to whoever shows it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use holdfast_core::job::{Phase, Progress};

/// Shared by the one who works and the one who reports; the newest value wins.
#[derive(Clone, Default)]
pub struct ProgressSink(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    current: Option<Progress>,
    phase_started: Option<Instant>,
    ended: Vec<Phase>,
}

impl State {
    fn end_phase(&mut self) {
        if let (Some(progress), Some(started)) = (self.current.take(), self.phase_started.take()) {
            self.ended.push(Phase { name: progress.phase, seconds: started.elapsed().as_secs_f64() });
        }
    }
}

impl ProgressSink {
    /// A new phase begins and the one before ends; nothing is known of the new one yet.
    pub fn phase(&self, phase: &str) {
        let mut state = self.lock();
        state.end_phase();
        state.phase_started = Some(Instant::now());
        state.current = Some(Progress {
            phase: phase.to_owned(),
            percent: None,
            bytes_done: None,
            bytes_total: None,
            eta_seconds: None,
        });
    }

    /// The current phase is done to this percentage (0 to 100) of `bytes_total`; the ETA follows from the pace so far.
    pub fn percent(&self, percent: f64, bytes_total: Option<u64>) {
        let mut state = self.lock();
        let percent = percent.clamp(0.0, 100.0);
        let elapsed = state.phase_started.map_or(0.0, |start| start.elapsed().as_secs_f64());
        let Some(progress) = state.current.as_mut() else { return };
        // Never backwards: parallel workers report out of order.
        let percent = progress.percent.map_or(percent, |before| before.max(percent));
        progress.percent = Some(percent);
        progress.bytes_total = bytes_total;
        progress.bytes_done = bytes_total.map(|total| portion(total, percent));
        progress.eta_seconds = (percent >= 1.0).then(|| whole_seconds(elapsed * (100.0 - percent) / percent));
    }

    #[must_use]
    pub fn get(&self) -> Option<Progress> {
        self.lock().current.clone()
    }

    /// All phases in their order, the current one ended by this.
    #[must_use]
    pub fn finish(&self) -> Vec<Phase> {
        let mut state = self.lock();
        state.end_phase();
        std::mem::take(&mut state.ended)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an estimate"
)]
fn portion(total: u64, percent: f64) -> u64 {
    (total as f64 * percent / 100.0) as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// The percentage in a line such as `… (128KB, 12.34%) …`, as pgBackRest prints it.
#[must_use]
pub fn percent_in(line: &str) -> Option<f64> {
    let end = line.find("%)").or_else(|| line.find('%'))?;
    let digits = line[..end].rfind(|c: char| !c.is_ascii_digit() && c != '.').map_or(0, |i| i + 1);
    line[digits..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_tools_percentages() {
        let rows = [
            ("P01 DETAIL: backup file /d/base/1/1255 (bundle 1/0, 784KB, 12.34%) checksum ab", Some(12.34)),
            ("P01 DETAIL: restore file /d/base/5/2619 (bundle 1/8, 264KB, 100.00%) checksum ab", Some(100.0)),
            ("P00   INFO: new backup label = 20261122-143200F", None),
            ("%", None),
        ];
        for (line, expected) in rows {
            assert_eq!(percent_in(line), expected, "{line}");
        }
    }

    #[test]
    fn progress_never_goes_back() {
        let sink = ProgressSink::default();
        sink.phase("copying files");
        sink.percent(40.0, Some(1000));
        sink.percent(30.0, Some(1000));
        let progress = sink.get().expect("a phase is set");
        assert_eq!((progress.percent, progress.bytes_done), (Some(40.0), Some(400)));
    }

    #[test]
    fn phases_are_told_in_their_order_with_their_times() {
        let sink = ProgressSink::default();
        assert!(sink.finish().is_empty());
        sink.phase("copying files");
        sink.phase("replaying log");
        let phases = sink.finish();
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["copying files", "replaying log"]);
        assert!(phases.iter().all(|phase| phase.seconds >= 0.0));
    }
}
