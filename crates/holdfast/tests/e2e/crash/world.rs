//! A Holdfast with fault points, a source with a writer on it, and the services that the scenarios act on.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use holdfast_catalog::{Catalog, JobFilter, StepRecord};
use holdfast_core::ServiceId;
use holdfast_core::job::{Job, JobKind, JobState, Step};
use holdfast_testkit::ledger::{Ledger, Writer};
use holdfast_testkit::{Client, Holdfast, wait_for};
use tokio::sync::Mutex;

use crate::BINARY;

/// What a job with one fault may take on a busy machine.
pub(crate) const JOB_SECONDS: u64 = 240;

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) instances: PathBuf,
    pub(crate) objects: PathBuf,
    pub(crate) data: PathBuf,
    faults: PathBuf,
    /// The test's own look into the catalog, beside the control plane's.
    pub(crate) catalog: Catalog,
    /// Read by restores, written to all the time.
    pub(crate) source: String,
    pub(crate) ledger: Ledger,
    /// Stopped and started, set and reset.
    pub(crate) toy: String,
    /// Backed up and expired.
    pub(crate) archive: String,
    /// Held while a fault waits for whichever service is created next, and by everybody else who creates one.
    pub(crate) creating: Arc<Mutex<()>>,
}

/// The world and what must outlive it.
pub(crate) struct Running {
    pub(crate) holdfast: Holdfast,
    pub(crate) world: World,
    pub(crate) writer: Writer,
}

pub(crate) async fn start(name: &str) -> Result<Running> {
    let faults = tempfile::Builder::new().prefix("fault-points-").tempdir()?.keep();
    let folder = faults.to_str().context("a temporary folder with an odd name")?.to_owned();
    let holdfast = Holdfast::start_with(BINARY, name, &[("HOLDFAST_FAULTS", &folder)]).await?;
    let client = holdfast.client();
    let (source, toy, archive) =
        tokio::try_join!(client.create("source"), client.create("toy"), client.create("archive"))?;
    tokio::try_join!(
        client.wait_first_backup(&source),
        client.wait_first_backup(&toy),
        client.wait_first_backup(&archive)
    )?;
    let writer = Writer::start(&client.connection_string(&source).await?, Ledger::default(), 1).await?;
    let catalog = Catalog::open(&holdfast.data().join("catalog.db")).await?;
    let world = World {
        client,
        instances: holdfast.instances.clone(),
        objects: holdfast.objects(),
        data: holdfast.data(),
        faults,
        catalog,
        source,
        ledger: writer.ledger.clone(),
        toy,
        archive,
        creating: Arc::default(),
    };
    Ok(Running { holdfast, world, writer })
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.faults);
    }
}

/// Where in a step a fault is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Before,
    After,
}

impl World {
    /// Sets a fault point; `service` may be `any`. Returns the file, which is gone once the point was met.
    pub(crate) fn set(
        &self,
        service: &str,
        kind: JobKind,
        step: Step,
        at: At,
        action: &str,
    ) -> Result<PathBuf> {
        let at = if at == At::Before { "before" } else { "after" };
        let path = self.faults.join(format!("{service}.{}.{}.{at}", word(kind), word(step)));
        std::fs::write(&path, action)?;
        Ok(path)
    }

    /// The job of this kind and service that was created last, once there is one that is not in `before`.
    pub(crate) async fn new_job(
        &self,
        kind: JobKind,
        service: Option<ServiceId>,
        before: &[Job],
    ) -> Result<Job> {
        wait_for(&format!("a {kind:?} job of {service:?}"), 60, || async {
            let jobs = self.jobs(kind, service).await?;
            Ok(jobs.into_iter().find(|job| !before.iter().any(|old| old.id == job.id)))
        })
        .await
    }

    /// Of this kind, of the service or of all.
    pub(crate) async fn jobs(&self, kind: JobKind, service: Option<ServiceId>) -> Result<Vec<Job>> {
        let filter = JobFilter { service_id: service, kind: Some(kind), states: Vec::new() };
        Ok(self.catalog.jobs(1000, &filter).await?)
    }

    /// Waits for the job's end.
    pub(crate) async fn ended(&self, job: &Job) -> Result<Job> {
        wait_for(&format!("the end of {:?} {}", job.kind, job.id), JOB_SECONDS, || async {
            let job = self.catalog.job(job.id).await?.context("the job is gone")?;
            Ok(job.state.is_terminal().then_some(job))
        })
        .await
    }

    pub(crate) async fn completed(&self, job: &Job) -> Result<Vec<StepRecord>> {
        let ended = self.ended(job).await?;
        ensure!(
            ended.state == JobState::Completed,
            "{:?} ended {:?}: {:?}",
            job.kind,
            ended.state,
            ended.error
        );
        Ok(self.catalog.job_steps(job.id).await?)
    }

    /// No job of the service waits or runs.
    pub(crate) async fn quiet(&self, service: &str) -> Result<()> {
        let id: ServiceId = service.parse()?;
        wait_for(&format!("the jobs of {service} have ended"), JOB_SECONDS, || async {
            Ok(self.catalog.open_jobs_of(id).await?.is_empty().then_some(()))
        })
        .await
    }
}

pub(crate) fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).expect("an enum of plain words");
    value.as_str().expect("a word").to_owned()
}
