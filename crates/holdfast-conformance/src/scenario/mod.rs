//! The suite: a service is made, written to, backed up under load, and restored to many instants and from the backup; each
//! copy must hold exactly what clients were told. Copies are services too, and points that cannot be reached are refused. Of an
//! engine without a log several backups are restored instead.

mod points;
mod run;
mod snapshots;

use holdfast_core::engine::EngineKind;
use rand::Rng;
use rand::rngs::StdRng;

use crate::control::Control;
use crate::error::{ConformanceError, Result};
use crate::report::{Report, Watch};
use crate::service::Made;

/// How much of the suite, and how patiently.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Services are named after it.
    pub name: String,
    /// `None`: the platform's default.
    pub version: Option<String>,
    pub writers: i32,
    /// Seconds of writing, half of them before the backup.
    pub busy_seconds: u64,
    pub idle_seconds: u64,
    /// Restores to random points; some special ones come on top.
    pub restores: usize,
    /// How many restores run at the same time.
    pub at_once: usize,
    /// Longest wait for a service, a backup or a restore.
    pub patience_seconds: u64,
}

impl Plan {
    #[must_use]
    pub fn named(name: String) -> Self {
        Self {
            name,
            version: None,
            writers: 4,
            busy_seconds: 12,
            idle_seconds: 4,
            restores: 10,
            at_once: 3,
            patience_seconds: 600,
        }
    }
}

/// Runs the suite. What it makes is noted in `made`, for the caller to remove, however this ends.
///
/// # Errors
/// `Broken` when a promise does not hold; whatever else keeps the suite from its end.
pub async fn run(
    control: &dyn Control,
    kind: EngineKind,
    plan: &Plan,
    made: &Made,
    random: &mut StdRng,
    watch: &dyn Watch,
) -> Result<Report> {
    if !crate::engines::kinds().any(|known| known == kind) {
        return Err(ConformanceError::NoSuite(kind));
    }
    let seed = random.random();
    let run = run::Run::begin(control, kind, plan, made, watch).await?;
    match kind.capability().point_in_time {
        true => run.carry_out(random, seed).await,
        false => run.carry_out_snapshots(seed).await,
    }
}
