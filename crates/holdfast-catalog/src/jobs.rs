//! Jobs as rows: creating, reading and listing them, and the record of their steps.
//! How they move is in `lease` and `queue`.

use holdfast_core::job::{Job, JobError, JobKind, JobState, Step};
use holdfast_core::{AgentId, JobId, ServiceId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{
    CatalogError, Result, database, is_foreign_key_violation, is_unique_violation, not_found,
};
use crate::keks::refuse_retired;
use crate::open::commit;
use crate::rows::{RowExt as _, json, micros, word};
use crate::{Catalog, Db, Row, Transaction};

/// A job to be queued.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    pub kind: JobKind,
    /// The service that the job is about (a restore: the new one); `None` for a kind that is about none.
    pub service_id: Option<ServiceId>,
    /// What it is asked to do. Never a secret in the clear.
    pub input: serde_json::Value,
    /// The KEK that wraps a secret in `input`, if there is one: it is not retired before the job has ended.
    pub kek_version: Option<u32>,
    /// Not to be started earlier.
    pub not_before: Timestamp,
    /// Its place in the service's order.
    pub created_at: Timestamp,
}

impl NewJob {
    /// A job with a new id, due at once.
    #[must_use]
    pub fn new(kind: JobKind, service_id: ServiceId, input: serde_json::Value, now: Timestamp) -> Self {
        Self { service_id: Some(service_id), ..Self::of_platform(kind, input, now) }
    }

    /// As [`Self::new`], for a kind that is about no service.
    #[must_use]
    pub fn of_platform(kind: JobKind, input: serde_json::Value, now: Timestamp) -> Self {
        let id = JobId::random();
        Self { id, kind, service_id: None, input, kek_version: None, not_before: now, created_at: now }
    }
}

/// Which jobs to list; an empty filter lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub service_id: Option<ServiceId>,
    pub kind: Option<JobKind>,
    /// Any of these; empty: any at all.
    pub states: Vec<JobState>,
}

/// How a try of a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// It has not ended, as far as the catalog knows.
    Started,
    Done,
    Failed,
    /// The worker gave it back before it was done.
    Released,
    /// The worker was not heard of until its lease had lapsed.
    Lost,
    /// It was done, and then the job went back to it or to a step before it.
    Undone,
}

/// One try of a step by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    pub step: Step,
    pub step_index: u32,
    /// Counted from 1 for each step; a try that was released shares its number with the next one.
    pub attempt: u32,
    pub generation: i64,
    pub worker: AgentId,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub outcome: StepOutcome,
    pub error: Option<JobError>,
}

impl Catalog {
    /// # Errors
    /// `NotFound` without the service; `Conflict` when the id exists already, or a rotation of keys is to be queued while
    /// another one has not ended; `RetiredKek` when its secret is wrapped by one.
    pub async fn enqueue(&self, job: &NewJob) -> Result<()> {
        let doing = "queueing a job";
        let mut tx = self.write(doing).await?;
        insert(&mut tx, job).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(())
    }

    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>> {
        read(self.reader(), id).await
    }

    /// All of the service, newest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn jobs_of(&self, service: ServiceId) -> Result<Vec<Job>> {
        let rows = sqlx::query(LIST_OF_SERVICE)
            .bind(service.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the jobs of a service"))?;
        rows.iter().map(from_row).collect()
    }

    /// Those of the service that have not ended, oldest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn open_jobs_of(&self, service: ServiceId) -> Result<Vec<Job>> {
        let rows = sqlx::query(LIST_OPEN_OF_SERVICE)
            .bind(service.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the open jobs of a service"))?;
        rows.iter().map(from_row).collect()
    }

    /// At most `limit`, newest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn jobs(&self, limit: u32, filter: &JobFilter) -> Result<Vec<Job>> {
        let mut query = sqlx::QueryBuilder::<Db>::new("SELECT * FROM jobs WHERE 1 = 1");
        if let Some(service) = filter.service_id {
            query.push(" AND service_id = ").push_bind(service.to_string());
        }
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(word(&kind));
        }
        if !filter.states.is_empty() {
            query.push(" AND state IN (");
            let mut states = query.separated(", ");
            for state in &filter.states {
                states.push_bind(word(state));
            }
            query.push(")");
        }
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        let rows = query.build().fetch_all(self.reader()).await.map_err(database("listing the jobs"))?;
        rows.iter().map(from_row).collect()
    }

    /// Forgets the jobs that were created and ended before this instant, with their steps; how many. One whose
    /// consequences are not recorded yet stays.
    ///
    /// # Errors
    /// `Database`.
    pub async fn prune_jobs(&self, before: Timestamp) -> Result<u64> {
        const OLD: &str = "SELECT id FROM jobs WHERE created_at < $1 AND finished_at < $1 AND settled = 1";
        let doing = "forgetting old jobs";
        let count = format!("SELECT COUNT(*) FROM ({OLD})");
        let count: i64 = sqlx::query_scalar(&count)
            .bind(micros(before))
            .fetch_one(self.reader())
            .await
            .map_err(database(doing))?;
        if count == 0 {
            return Ok(0); // no need to wait for the write lock
        }
        let mut tx = self.write(doing).await?;
        for delete in [
            format!("DELETE FROM job_steps WHERE job_id IN ({OLD})"),
            format!("DELETE FROM jobs WHERE id IN ({OLD})"),
        ] {
            sqlx::query(&delete).bind(micros(before)).execute(&mut *tx).await.map_err(database(doing))?;
        }
        commit(tx, doing).await?;
        Ok(count.unsigned_abs())
    }

    /// The tries of the job's steps in the order of their start.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn job_steps(&self, id: JobId) -> Result<Vec<StepRecord>> {
        let rows = sqlx::query("SELECT * FROM job_steps WHERE job_id = $1 ORDER BY generation")
            .bind(id.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("reading the steps of a job"))?;
        rows.iter().map(step_from_row).collect()
    }
}

pub(crate) const LIST_OF_SERVICE: &str =
    "SELECT * FROM jobs WHERE service_id = $1 ORDER BY created_at DESC, id DESC";
pub(crate) const LIST_OPEN_OF_SERVICE: &str =
    "SELECT * FROM jobs WHERE service_id = $1 AND state IN ('queued', 'running') ORDER BY created_at, id";

/// The word for the place of a kind's step, or of its last one once all are done.
pub(crate) fn place_word(kind: JobKind, step_index: u32) -> String {
    let steps = kind.steps();
    let step = steps.get(step_index as usize).or(steps.last()).expect("every kind of job has a step");
    word(&step.place())
}

pub(crate) async fn insert(tx: &mut Transaction, job: &NewJob) -> Result<()> {
    if let Some(version) = job.kek_version {
        refuse_retired(tx, version).await?;
    }
    let insert = "INSERT INTO jobs (id, kind, service_id, state, step_index, place, generation, attempt, max_attempts, \
                  not_before, input, kek_version, outputs, cancel_requested, created_at, settled) \
                  VALUES ($1, $2, $3, 'queued', 0, $4, 0, 0, $5, $6, $7, $8, '{}', 0, $9, 0)";
    sqlx::query(insert)
        .bind(job.id.to_string())
        .bind(word(&job.kind))
        .bind(job.service_id.map(|id| id.to_string()))
        .bind(place_word(job.kind, 0))
        .bind(i64::from(job.kind.max_attempts(0)))
        .bind(micros(job.not_before))
        .bind(json("input", &job.input)?)
        .bind(job.kek_version.map(i64::from))
        .bind(micros(job.created_at))
        .execute(&mut **tx)
        .await
        .map_err(|e| {
            if is_foreign_key_violation(&e) {
                not_found("service", job.service_id.map(|id| id.to_string()).unwrap_or_default())
            } else if is_unique_violation(&e) {
                let reason = match job.kind {
                    JobKind::RotateKeys => "a rotation of the keys is under way",
                    _ => "it exists already",
                };
                CatalogError::Conflict { what: "job", id: job.id.to_string(), reason }
            } else {
                database("queueing a job")(e)
            }
        })?;
    Ok(())
}

pub(crate) async fn read<'e, E>(executor: E, id: JobId) -> Result<Option<Job>>
where
    E: sqlx::Executor<'e, Database = Db>,
{
    let row = sqlx::query("SELECT * FROM jobs WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(executor)
        .await
        .map_err(database("reading a job"))?;
    row.as_ref().map(from_row).transpose()
}

pub(crate) fn from_row(row: &Row) -> Result<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        kind: row.worded("kind")?,
        service_id: row.parsed_opt("service_id")?,
        state: row.worded("state")?,
        step_index: row.number("step_index")?,
        generation: row.int("generation")?,
        attempt: row.number("attempt")?,
        leased_by: row.parsed_opt("leased_by")?,
        lease_until: row.instant_opt("lease_until")?,
        not_before: row.instant("not_before")?,
        input: row.json("input")?,
        outputs: row.json("outputs")?,
        progress: row.json_opt("progress")?,
        error: row.json_opt("error")?,
        cancel_requested: row.flag("cancel_requested")?,
        created_at: row.instant("created_at")?,
        started_at: row.instant_opt("started_at")?,
        finished_at: row.instant_opt("finished_at")?,
    })
}

fn step_from_row(row: &Row) -> Result<StepRecord> {
    Ok(StepRecord {
        step: row.worded("step")?,
        step_index: row.number("step_index")?,
        attempt: row.number("attempt")?,
        generation: row.int("generation")?,
        worker: row.parsed("worker")?,
        started_at: row.instant("started_at")?,
        ended_at: row.instant_opt("ended_at")?,
        outcome: row.worded("outcome")?,
        error: row.json_opt("error")?,
    })
}
