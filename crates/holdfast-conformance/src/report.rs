//! What a run tells while it goes on, and what it found.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// Hears what a run does.
pub trait Watch: Sync {
    /// A phase begins.
    fn phase(&self, what: &str);
    /// Something was found.
    fn found(&self, what: &str);
}

/// A restore that was exact.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// Which point it is.
    pub what: String,
    pub asked: Option<Timestamp>,
    pub reached: Option<Timestamp>,
    /// Numbers of the ledger that were found in it.
    pub found: usize,
    /// From the request until it ran.
    pub seconds: f64,
}

/// How far the proven end of the recovery window was behind the clock under load, in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Lag {
    pub p50: f64,
    pub p99: f64,
    pub largest: f64,
    pub looks: usize,
}

/// All that a run found. It exists only when every promise held.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub engine: String,
    pub engine_version: Option<String>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    pub backup_seconds: f64,
    pub backup_bytes: Option<u64>,
    pub restores: Vec<Restored>,
    /// Points outside the window, each refused.
    pub refused: Vec<String>,
    pub archive_lag_seconds: Option<Lag>,
    /// The engine's clock minus ours, where they differ for certain.
    pub clock_difference_seconds: f64,
    pub seconds: f64,
}

impl Lag {
    /// `None` without any sample.
    #[must_use]
    pub fn of(mut samples: Vec<SignedDuration>) -> Option<Self> {
        samples.sort_unstable();
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index"
            )]
            let index = ((samples.len() - 1) as f64 * share).ceil() as usize;
            samples[index].as_secs_f64()
        };
        let largest = samples.last()?.as_secs_f64();
        Some(Self { p50: at(0.5), p99: at(0.99), largest, looks: samples.len() })
    }
}
