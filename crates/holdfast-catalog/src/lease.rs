//! Getting a job and keeping it: which one is next, the lease and its generation, the heartbeat.
//!
//! Jobs of one service run one at a time, in the order of their creation, from the first step of one to the end of its
//! last, retries included: a stop, a start and a new password take effect in the order asked for. The exceptions:
//! - an `expire` that has not begun lets everything pass. Between its steps it holds up backups, which might build on what
//!   has just been chosen to go; once a try has failed (a store that refuses deletes may do so for weeks), what goes is
//!   marked in the catalog, and it holds up only other `expire` jobs;
//! - a `delete_service` passes what has not begun;
//! - a job whose `not_before` lies ahead and that has not begun holds up nothing.
//!
//! A job about no service waits for nothing, and nothing waits for it.
//!
//! A restore belongs to its new service, so the source's jobs never wait for it, nor it for them.

use holdfast_core::job::{Job, JobError, JobState, Place, Progress};
use holdfast_core::{AgentId, JobId, ServiceId};
use jiff::{SignedDuration, Timestamp};

use crate::error::{CatalogError, Result, database};
use crate::jobs::from_row;
use crate::open::commit;
use crate::queue::{end_step, write_back};
use crate::rows::{RowExt as _, cut, json_opt, micros, word};
use crate::{Catalog, StepOutcome, Transaction};

/// What the holder of a job learns when it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Somebody asked for the job's end: the step may be broken off and reported as failed, or brought to its end.
    pub cancel_requested: bool,
}

/// When a job may begin, `$2` being now. No wait is longer than some minutes: one of over an hour was written by a clock
/// that has been set back since, and is over.
macro_rules! not_before {
    ($job:literal) => {
        concat!("CASE WHEN ", $job, ".not_before > $2 + 3600000000 THEN $2 ELSE ", $job, ".not_before END")
    };
}

/// True of `job` while another one of its service goes first; `$2` is now.
macro_rules! blocked {
    () => {
        concat!(
            "EXISTS (SELECT 1 FROM jobs other WHERE other.service_id = job.service_id AND other.id <> job.id \
             AND other.state IN ('queued', 'running') AND (other.state = 'running' \
             OR (other.started_at IS NOT NULL AND (other.kind <> 'expire' OR job.kind = 'expire' \
             OR (job.kind = 'backup' AND other.attempt = 0))) \
             OR (other.started_at IS NULL AND job.started_at IS NULL AND ",
            not_before!("other"),
            " <= $2 AND other.kind <> 'expire' AND job.kind <> 'delete_service' \
             AND (other.created_at, other.id) < (job.created_at, job.id))))"
        )
    };
}

/// True of `job` while a worker of place `$1` may take it; `$2` is now.
macro_rules! takeable {
    () => {
        concat!(
            "job.place = $1 AND job.state IN ('queued', 'running') AND ((job.state = 'queued' AND ",
            not_before!("job"),
            " <= $2) OR (job.state = 'running' AND job.lease_until < $2 \
             AND job.attempt < job.max_attempts AND job.cancel_requested = 0)) AND NOT ",
            blocked!()
        )
    };
}

pub(crate) const NEXT: &str = concat!(
    "SELECT job.id, job.service_id FROM jobs job WHERE ",
    takeable!(),
    " ORDER BY job.created_at, job.id LIMIT 1"
);
const STILL: &str = concat!("SELECT * FROM jobs job WHERE job.id = $3 AND ", takeable!());
/// A lease has lapsed once now is later than `lease_until`, hence the one microsecond.
pub(crate) const NEXT_DUE: &str = concat!(
    "SELECT MIN(CASE WHEN job.state = 'running' THEN job.lease_until + 1 ELSE ",
    not_before!("job"),
    " END) AS due_at \
     FROM jobs job WHERE job.place = $1 AND job.state IN ('queued', 'running') AND (job.state = 'running' OR NOT ",
    blocked!(),
    ")"
);
/// Lapsed leases that nobody may take over.
pub(crate) const ABANDONED: &str = "SELECT * FROM jobs WHERE state = 'running' AND lease_until < $1 \
                         AND (attempt >= max_attempts OR cancel_requested = 1)";

impl Catalog {
    /// Gives `worker` the oldest job that is due in `place`: queued, or running under a lease that has lapsed. The
    /// job's generation and `attempt` rise by one, and the start is recorded, before this returns. `None` when nothing
    /// is due: see [`Self::next_due`] and [`Self::changed`].
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn lease(
        &self,
        place: Place,
        worker: AgentId,
        now: Timestamp,
        lease_for: SignedDuration,
    ) -> Result<Option<Job>> {
        let now = cut(now);
        self.end_abandoned(now).await?;
        // Another worker may be quicker, but then a job has moved: nobody loses this race for ever.
        loop {
            // Idle polls must not queue for the write lock.
            let next = sqlx::query(NEXT)
                .bind(word(&place))
                .bind(micros(now))
                .fetch_optional(self.reader())
                .await
                .map_err(database("looking for a job"))?;
            let Some(next) = next else { return Ok(None) };
            let (id, service) = (next.parsed("id")?, next.parsed_opt("service_id")?);
            if let Some(job) = self.take(id, service, place, worker, now, lease_for).await? {
                return Ok(Some(job));
            }
        }
    }

    /// Takes this job, if it can still be had.
    async fn take(
        &self,
        id: JobId,
        service: Option<ServiceId>,
        place: Place,
        worker: AgentId,
        now: Timestamp,
        lease_for: SignedDuration,
    ) -> Result<Option<Job>> {
        let doing = "leasing a job";
        let mut tx = self.write(doing).await?;
        // One decision a service at a time, also between control planes.
        if let Some(service) = service {
            crate::services::lock(&mut tx, service).await?;
        }
        let row = sqlx::query(STILL)
            .bind(word(&place))
            .bind(micros(now))
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(database(doing))?;
        let Some(row) = row else { return Ok(None) };
        let before = from_row(&row)?;
        if before.state == JobState::Running {
            end_step(&mut tx, &before, StepOutcome::Lost, None, now).await?;
        }
        let job = Job {
            state: JobState::Running,
            generation: before.generation + 1,
            attempt: before.attempt + 1,
            leased_by: Some(worker),
            lease_until: Some(until(now, lease_for)),
            progress: None,
            started_at: before.started_at.or(Some(now)),
            ..before.clone()
        };
        write_back(&mut tx, &before, &job).await?;
        begin_step(&mut tx, &job, worker, now).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(Some(job))
    }

    /// Extends the lease to `now + lease_for` and replaces the progress if some is given.
    ///
    /// # Errors
    /// `Stale` when another worker holds the job, or nobody: stop, and touch nothing more.
    pub async fn heartbeat(
        &self,
        job: JobId,
        generation: i64,
        now: Timestamp,
        lease_for: SignedDuration,
        progress: Option<&Progress>,
    ) -> Result<HeartbeatAnswer> {
        let doing = "extending a lease";
        let mut tx = self.write(doing).await?;
        let update = "UPDATE jobs SET lease_until = $3, progress = COALESCE($4, progress) \
                      WHERE id = $1 AND generation = $2 AND state = 'running' RETURNING cancel_requested";
        let row = sqlx::query(update)
            .bind(job.to_string())
            .bind(generation)
            .bind(micros(until(now, lease_for)))
            .bind(json_opt("progress", progress)?)
            .fetch_optional(&mut *tx)
            .await
            .map_err(database(doing))?
            .ok_or(CatalogError::Stale { job, generation })?;
        commit(tx, doing).await?;
        Ok(HeartbeatAnswer { cancel_requested: row.flag("cancel_requested")? })
    }

    /// Ends the jobs whose worker went silent and that nobody may take over: `cancelled` where that was asked for,
    /// `failed` (cause `worker_lost`) where the step's tries are used up. [`Self::lease`] does this by itself.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn end_abandoned(&self, now: Timestamp) -> Result<Vec<Job>> {
        let (doing, now) = ("ending abandoned jobs", cut(now));
        let found = sqlx::query(ABANDONED)
            .bind(micros(now))
            .fetch_all(self.reader())
            .await
            .map_err(database(doing))?;
        let mut ended = Vec::new();
        for row in &found {
            let seen = from_row(row)?;
            let mut tx = self.write(doing).await?;
            // A heartbeat or an end may have come in between.
            let Some(before) = crate::jobs::read(&mut *tx, seen.id).await? else { continue };
            let lapsed = before.lease_until.is_some_and(|until| until < now);
            if before.generation != seen.generation || before.state != JobState::Running || !lapsed {
                continue;
            }
            let lost = worker_lost(before.attempt);
            end_step(&mut tx, &before, StepOutcome::Lost, Some(&lost), now).await?;
            let job = Job {
                state: if before.cancel_requested { JobState::Cancelled } else { JobState::Failed },
                leased_by: None,
                lease_until: None,
                error: Some(lost),
                finished_at: Some(now),
                ..before.clone()
            };
            write_back(&mut tx, &before, &job).await?;
            commit(tx, doing).await?;
            self.announce();
            ended.push(job);
        }
        Ok(ended)
    }

    /// The workers of `place` are dead, says who knows it: their leases lapse at once, so that the jobs go on without
    /// waiting for it. One that lives after all is refused as any late worker is.
    ///
    /// # Errors
    /// `Database`.
    pub async fn lapse_leases(&self, place: Place, now: Timestamp) -> Result<()> {
        let doing = "ending the leases of dead workers";
        let mut tx = self.write(doing).await?;
        sqlx::query(
            "UPDATE jobs SET lease_until = $2 WHERE state = 'running' AND place = $1 AND lease_until > $2",
        )
        .bind(word(&place))
        .bind(micros(now) - 1) // a lease has lapsed once now is later
        .execute(&mut *tx)
        .await
        .map_err(database(doing))?;
        commit(tx, doing).await?;
        self.announce();
        Ok(())
    }

    /// When a worker of `place` should look again at the latest, unless [`Self::changed`] wakes it earlier: the
    /// earliest instant at which a job becomes due or a lease lapses; in the past when one is due now; `None` when
    /// nothing is queued or leased there, or all of it waits for other jobs.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn next_due(&self, place: Place, now: Timestamp) -> Result<Option<Timestamp>> {
        sqlx::query(NEXT_DUE)
            .bind(word(&place))
            .bind(micros(now))
            .fetch_one(self.reader())
            .await
            .map_err(database("looking for the next job"))?
            .instant_opt("due_at")
    }
}

fn until(now: Timestamp, lease_for: SignedDuration) -> Timestamp {
    cut(now.checked_add(lease_for).unwrap_or(Timestamp::MAX))
}

fn worker_lost(attempt: u32) -> JobError {
    JobError {
        cause: "worker_lost".to_owned(),
        message: format!("The worker went silent during try {attempt} of this step. See the agent's log."),
        retryable: false,
    }
}

async fn begin_step(tx: &mut Transaction, job: &Job, worker: AgentId, now: Timestamp) -> Result<()> {
    let step = job.step().expect("a job that can be leased has a step left");
    let insert = "INSERT INTO job_steps (job_id, generation, step_index, step, attempt, worker, started_at, outcome) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(insert)
        .bind(job.id.to_string())
        .bind(job.generation)
        .bind(i64::from(job.step_index))
        .bind(word(&step))
        .bind(i64::from(job.attempt))
        .bind(worker.to_string())
        .bind(micros(now))
        .bind(word(&StepOutcome::Started))
        .execute(&mut **tx)
        .await
        .map_err(database("recording the start of a step"))?;
    Ok(())
}
