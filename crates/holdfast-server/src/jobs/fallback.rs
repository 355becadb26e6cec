//! A base that cannot be loaded, and the one before it. A restore to an instant needs some base that is joined to it by log; where
//! the newest one turns out to be no base at all, an older one leads to the same rows, by a longer replay.
//!
//! What is passed over is kept with the job, before the job goes back to planning; a restore to a backup asked for that
//! very one and is never led to another.

use holdfast_core::BackupId;
use holdfast_core::backup::BackupFacts;
use holdfast_core::job::{Job, JobError, Move, Step, after_failure};
use holdfast_core::window::{History, RestorePlan, plan_backup_restore, plan_restore_point};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::steps::PlannedRestore;
use super::{StepError, input, input_of, output_of};
use crate::ControlPlane;

/// Under which name a job keeps what was passed over.
pub const PASSED_OVER: &str = "passed_over";
/// Each costs the time of a whole restore.
const AT_MOST: usize = 3;
/// What may lie in a base. A store, a disk or a host that is in the way is in the way of every base.
const OF_A_BASE: [&str; 6] =
    ["damaged_object", "copy_differs", "unfit", "tool_failed", "engine_error", "unexpected_answer"];

/// A base that could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    pub backup: BackupId,
    pub why: String,
}

/// What the job has passed over so far.
#[must_use]
pub fn passed_over(job: &Job) -> Vec<PassedOver> {
    output_of(job, PASSED_OVER).unwrap_or_default()
}

/// In a sentence, for the service; `None` where the first base was the one.
#[must_use]
pub fn told(job: &Job) -> Option<String> {
    let passed_over = passed_over(job);
    let last = passed_over.last()?;
    let ids: Vec<String> = passed_over.iter().map(|one| one.backup.to_string()).collect();
    let (names, verb) = (ids.join(", "), if ids.len() == 1 { "backup" } else { "backups" });
    Some(format!("restored from an older backup, because {verb} {names} could not be loaded: {}", last.why))
}

/// What a failed step leads to, where it is not the end: everything that was passed over, this base last.
///
/// # Errors
/// Whatever the catalog says.
pub(super) async fn instead(
    cp: &ControlPlane,
    job: &Job,
    error: &JobError,
    now: Timestamp,
) -> Result<Option<Vec<PassedOver>>, StepError> {
    let is_over = after_failure(job.kind, job.step_index, job.attempt, error.retryable, now) == Move::Fail;
    let is_of_a_base = job.step() == Some(Step::RestoreInstance) && OF_A_BASE.contains(&&*error.cause);
    if !is_over || !is_of_a_base || job.cancel_requested {
        return Ok(None);
    }
    let planned: PlannedRestore = output_of(job, "plan_restore")?;
    let mut passed = passed_over(job);
    let why = error.message.clone();
    passed.push(PassedOver { backup: planned.plan.base, why });
    if passed.len() > AT_MOST || input_of::<input::Restore>(job)?.point.is_none() {
        return Ok(None);
    }
    match plan(cp, job, &passed).await {
        Ok(_) => Ok(Some(passed)),
        Err(StepError::Refused(_)) => Ok(None), // there is no other
        Err(error) => Err(error),
    }
}

/// The plan by what the source's catalog says now, without the bases that were passed over.
///
/// # Errors
/// `Refused` when no base leads to the target.
pub(super) async fn plan(
    cp: &ControlPlane,
    job: &Job,
    passed: &[PassedOver],
) -> Result<(RestorePlan, BackupFacts), StepError> {
    let incomplete = |what: &str| StepError::Incomplete { job: job.id.to_string(), what: what.to_owned() };
    let asked: input::Restore = input_of(job)?;
    let source = cp.catalog.service(asked.source).await?.ok_or_else(|| incomplete("its source service"))?;
    let mut backups = cp.catalog.backups_of(source.id).await?;
    backups.retain(|backup| passed.iter().all(|passed| passed.backup != backup.id));
    let coverage = cp.catalog.coverage_of(source.lineage_id).await?;
    let gaps = cp.catalog.gaps_of(source.lineage_id).await?;
    // The log was shipped: nothing later than what is archived counts from here on.
    let history = History { backups: &backups, coverage: &coverage, gaps: &gaps, live_until: None };
    let present = super::scheduler::present(cp, Timestamp::now()).await?;
    let plan = match (asked.point, &asked.backup_id) {
        (Some(point), _) => plan_restore_point(&history, &cp.settings.policy, point, present)?,
        (None, Some(backup)) => plan_backup_restore(&history, backup)?,
        (None, None) => return Err(incomplete("a point or a backup")),
    };
    let base = backups.iter().find(|backup| backup.id == plan.base);
    let base = base.and_then(|backup| backup.facts.clone()).ok_or_else(|| incomplete("the base's facts"))?;
    Ok((plan, base))
}
