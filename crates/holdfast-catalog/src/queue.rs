//! Ending steps and jobs. Every move is a compare-and-set on (state, generation): a late worker gets `Stale` and has
//! changed nothing.

use holdfast_core::JobId;
use holdfast_core::job::{Job, JobError, JobState, Move, Step, after_failure, after_success};
use jiff::Timestamp;

use crate::error::{CatalogError, Result, database, is_unique_violation, not_found};
use crate::jobs::{from_row, place_word, read};
use crate::open::commit;
use crate::rows::{cut, json, json_opt, micros, micros_opt, word};
use crate::{Catalog, StepOutcome, Transaction};

impl Catalog {
    /// The holder has finished step `step_index`: its output is kept under the step's name, the lease ends, and the
    /// job goes on with the next step, or is `completed`, or, where that was asked for, `cancelled` between two steps.
    /// Said again by the same holder it changes nothing and returns the job as it is now.
    ///
    /// # Errors
    /// `Stale` when this generation does not hold this step (any more); `NotFound`.
    pub async fn complete_step(
        &self,
        job: JobId,
        generation: i64,
        step_index: u32,
        output: serde_json::Value,
        now: Timestamp,
    ) -> Result<Job> {
        let now = cut(now);
        let finish = |before: &Job| {
            let mut job = freed(before);
            let step = before.step().expect("a running job has a step");
            job.outputs.insert(word(&step), output.clone());
            job.error = None;
            job.attempt = 0;
            job.step_index = step_index + 1;
            match after_success(before.kind, step_index) {
                Move::Next { step_index }
                    if before.cancel_requested && !before.kind.only_records(step_index) =>
                {
                    end(&mut job, JobState::Cancelled, now);
                }
                Move::Next { step_index } => {
                    job.step_index = step_index;
                    job.not_before = job.not_before.min(now);
                }
                _ => end(&mut job, JobState::Completed, now),
            }
            job
        };
        self.finish_step(job, generation, step_index, StepOutcome::Done, None, now, finish).await
    }

    /// The holder could not finish step `step_index`: the lease ends, and the step is tried again later, or the job
    /// is `failed`, or `cancelled` where that was asked for. The error stays with the job until a later try succeeds.
    /// Said again by the same holder it changes nothing.
    ///
    /// # Errors
    /// `Stale` when this generation does not hold this step (any more); `NotFound`.
    pub async fn fail_step(
        &self,
        job: JobId,
        generation: i64,
        step_index: u32,
        error: JobError,
        now: Timestamp,
    ) -> Result<Job> {
        let now = cut(now);
        let finish = |before: &Job| {
            let mut job = freed(before);
            job.error = Some(error.clone());
            match after_failure(before.kind, step_index, before.attempt, error.retryable, now) {
                _ if before.cancel_requested => end(&mut job, JobState::Cancelled, now),
                Move::Retry { not_before } => job.not_before = not_before,
                _ => end(&mut job, JobState::Failed, now),
            }
            job
        };
        self.finish_step(job, generation, step_index, StepOutcome::Failed, Some(&error), now, finish).await
    }

    /// The holder could not finish step `step_index`, and the job begins anew at an earlier step of its kind, at once, with
    /// `kept` among its outputs; `cancelled` where that was asked for. Said again by the same holder it changes nothing.
    ///
    /// # Errors
    /// `Stale` when this generation does not hold this step (any more); `NotFound`.
    ///
    /// # Panics
    /// When `to` is no earlier step of the job's kind.
    #[allow(clippy::too_many_arguments)] // as `fail_step`, and where to
    pub async fn go_back(
        &self,
        job: JobId,
        generation: i64,
        step_index: u32,
        to: Step,
        error: JobError,
        kept: (&str, serde_json::Value),
        now: Timestamp,
    ) -> Result<Job> {
        let now = cut(now);
        let finish = |before: &Job| {
            let mut job = freed(before);
            let earlier = before.kind.steps().iter().take(step_index as usize).position(|step| *step == to);
            job.step_index =
                earlier.and_then(|at| u32::try_from(at).ok()).expect("an earlier step of the kind");
            job.outputs.insert(kept.0.to_owned(), kept.1.clone());
            job.error = Some(error.clone());
            job.attempt = 0;
            if before.cancel_requested {
                end(&mut job, JobState::Cancelled, now);
            }
            job
        };
        self.finish_step(job, generation, step_index, StepOutcome::Failed, Some(&error), now, finish).await
    }

    /// The holder gives the job back unfinished (it is shutting down): due again at once, the try not counted;
    /// `cancelled` where that was asked for.
    ///
    /// # Errors
    /// `Stale` when this generation does not hold the job (any more); `NotFound`.
    pub async fn release(&self, job: JobId, generation: i64, now: Timestamp) -> Result<Job> {
        let (doing, now) = ("releasing a job", cut(now));
        let mut tx = self.write(doing).await?;
        let before = read(&mut *tx, job).await?.ok_or_else(|| not_found("job", job))?;
        if before.generation != generation || before.state != JobState::Running {
            return Err(CatalogError::Stale { job, generation });
        }
        let mut after = freed(&before);
        after.attempt = before.attempt.saturating_sub(1);
        if before.cancel_requested {
            end(&mut after, JobState::Cancelled, now);
        }
        end_step(&mut tx, &before, StepOutcome::Released, None, now).await?;
        write_back(&mut tx, &before, &after).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(after)
    }

    /// Asks for the job's end. One that nobody holds is `cancelled` at once; one that runs ends after its current
    /// step, or when its worker falls silent; a backup that is made is recorded, and one that has ended stays as it is. What finished steps have made is the
    /// caller's to clean up.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn cancel(&self, job: JobId, now: Timestamp) -> Result<Job> {
        let (doing, now) = ("cancelling a job", cut(now));
        let mut tx = self.write(doing).await?;
        let before = read(&mut *tx, job).await?.ok_or_else(|| not_found("job", job))?;
        if before.state.is_terminal() {
            return Ok(before);
        }
        let mut after = Job { cancel_requested: true, ..before.clone() };
        if before.state == JobState::Queued && !before.kind.only_records(before.step_index) {
            end(&mut after, JobState::Cancelled, now);
        }
        write_back(&mut tx, &before, &after).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(after)
    }

    /// Jobs that have ended without [`Self::settle_job`] having been called, in the order of their end: what follows
    /// from them (the status of a service or backup) may not have been recorded, because a process died first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn unsettled_jobs(&self, limit: u32) -> Result<Vec<Job>> {
        let rows = sqlx::query(LIST_UNSETTLED)
            .bind(i64::from(limit))
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the unsettled jobs"))?;
        rows.iter().map(from_row).collect()
    }

    /// What follows from the job's end has been recorded. Again is fine; a job that has not ended is left alone.
    ///
    /// # Errors
    /// `Database`.
    pub async fn settle_job(&self, job: JobId) -> Result<()> {
        let doing = "settling a job";
        let mut tx = self.write(doing).await?;
        sqlx::query("UPDATE jobs SET settled = 1 WHERE id = $1 AND finished_at IS NOT NULL")
            .bind(job.to_string())
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        commit(tx, doing).await
    }

    #[allow(clippy::too_many_arguments)] // the two ends of a step, spelled out once
    async fn finish_step(
        &self,
        id: JobId,
        generation: i64,
        step_index: u32,
        outcome: StepOutcome,
        error: Option<&JobError>,
        now: Timestamp,
        finish: impl FnOnce(&Job) -> Job + Send,
    ) -> Result<Job> {
        let doing = "ending a step";
        let mut tx = self.write(doing).await?;
        let before = read(&mut *tx, id).await?.ok_or_else(|| not_found("job", id))?;
        let held = before.generation == generation && before.state == JobState::Running;
        if !held || before.step_index != step_index {
            return match was_ended_so(&mut tx, id, generation, step_index, outcome).await? {
                true => Ok(before),
                false => Err(CatalogError::Stale { job: id, generation }),
            };
        }
        let after = finish(&before);
        end_step(&mut tx, &before, outcome, error, now).await?;
        if after.step_index < before.step_index {
            undo_steps(&mut tx, &after).await?;
        }
        write_back(&mut tx, &before, &after).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(after)
    }
}

pub(crate) const LIST_UNSETTLED: &str =
    "SELECT * FROM jobs WHERE finished_at IS NOT NULL AND settled = 0 ORDER BY finished_at, id LIMIT $1";

/// The job back in the queue, held by nobody.
fn freed(job: &Job) -> Job {
    Job { state: JobState::Queued, leased_by: None, lease_until: None, progress: None, ..job.clone() }
}

fn end(job: &mut Job, state: JobState, now: Timestamp) {
    job.state = state;
    job.finished_at = Some(now);
}

/// Whether this very report has been taken already.
async fn was_ended_so(
    tx: &mut Transaction,
    id: JobId,
    generation: i64,
    step_index: u32,
    outcome: StepOutcome,
) -> Result<bool> {
    let query = "SELECT generation FROM job_steps \
                 WHERE job_id = $1 AND generation = $2 AND step_index = $3 AND outcome = $4";
    let found: Option<i64> = sqlx::query_scalar(query)
        .bind(id.to_string())
        .bind(generation)
        .bind(i64::from(step_index))
        .bind(word(&outcome))
        .fetch_optional(&mut **tx)
        .await
        .map_err(database("looking for a step's end"))?;
    Ok(found.is_some())
}

/// Records how the try that holds `job` ended.
pub(crate) async fn end_step(
    tx: &mut Transaction,
    job: &Job,
    outcome: StepOutcome,
    error: Option<&JobError>,
    now: Timestamp,
) -> Result<()> {
    let update = "UPDATE job_steps SET ended_at = $3, outcome = $4, error = $5 \
                  WHERE job_id = $1 AND generation = $2 AND ended_at IS NULL";
    let done = sqlx::query(update)
        .bind(job.id.to_string())
        .bind(job.generation)
        .bind(micros(now))
        .bind(word(&outcome))
        .bind(json_opt("error", error)?)
        .execute(&mut **tx)
        .await
        .map_err(database("recording the end of a step"))?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(CatalogError::Stale { job: job.id, generation: job.generation }),
    }
}

/// Steps that the job stands at or before and that were done once: it went back.
async fn undo_steps(tx: &mut Transaction, job: &Job) -> Result<()> {
    sqlx::query(
        "UPDATE job_steps SET outcome = $3 WHERE job_id = $1 AND step_index >= $2 AND outcome = 'done'",
    )
    .bind(job.id.to_string())
    .bind(i64::from(job.step_index))
    .bind(word(&StepOutcome::Undone))
    .execute(&mut **tx)
    .await
    .map_err(database("going back to a step"))?;
    Ok(())
}

/// Writes what may change of a job, if it is still in the state and generation of `before`.
pub(crate) async fn write_back(tx: &mut Transaction, before: &Job, after: &Job) -> Result<()> {
    let stale = || CatalogError::Stale { job: before.id, generation: before.generation };
    let update = "UPDATE jobs SET state = $4, step_index = $5, place = $6, generation = $7, attempt = $8, \
                  leased_by = $9, lease_until = $10, not_before = $11, outputs = $12, progress = $13, error = $14, \
                  cancel_requested = $15, started_at = $16, finished_at = $17, max_attempts = $18 \
                  WHERE id = $1 AND state = $2 AND generation = $3";
    let done = sqlx::query(update)
        .bind(before.id.to_string())
        .bind(word(&before.state))
        .bind(before.generation)
        .bind(word(&after.state))
        .bind(i64::from(after.step_index))
        .bind(place_word(after.kind, after.step_index))
        .bind(after.generation)
        .bind(i64::from(after.attempt))
        .bind(after.leased_by.map(|id| id.to_string()))
        .bind(micros_opt(after.lease_until))
        .bind(micros(after.not_before))
        .bind(json("outputs", &after.outputs)?)
        .bind(json_opt("progress", after.progress.as_ref())?)
        .bind(json_opt("error", after.error.as_ref())?)
        .bind(i64::from(after.cancel_requested))
        .bind(micros_opt(after.started_at))
        .bind(micros_opt(after.finished_at))
        .bind(i64::from(after.kind.max_attempts(after.step_index)))
        .execute(&mut **tx)
        .await
        .map_err(|e| match is_unique_violation(&e) {
            true => stale(), // another job of the service has started
            false => database("moving a job")(e),
        })?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(stale()) }
}
