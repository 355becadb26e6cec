//! What the scheduler looks over.

use holdfast_core::ServiceId;
use holdfast_core::job::{Job, JobKind, JobState};
use holdfast_core::service::Service;

use crate::error::{Result, database};
use crate::{Catalog, JobFilter};

const WITH_DATA: &str = "SELECT * FROM services WHERE id IN \
                         (SELECT id FROM services WHERE status <> 'deleted' \
                          UNION SELECT service_id FROM backups WHERE removed_at IS NULL \
                          UNION SELECT service_id FROM data_keys WHERE removed_at IS NULL) ORDER BY created_at, id";
/// More open restores than this at once are not expected on any host.
const MANY: u32 = 10_000;

impl Catalog {
    /// Services that live, and deleted ones of which backups or keys are still in the store.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn services_with_data(&self) -> Result<Vec<Service>> {
        let rows = sqlx::query(WITH_DATA)
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the services with data"))?;
        rows.iter().map(crate::services::from_row).collect()
    }

    /// The newest job of a kind of the service, open or ended.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn last_job(&self, service: ServiceId, kind: JobKind) -> Result<Option<Job>> {
        let filter = JobFilter { service_id: Some(service), kind: Some(kind), states: Vec::new() };
        Ok(self.jobs(1, &filter).await?.into_iter().next())
    }

    /// Restores under way that read this service (field `source` of their input).
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn open_restores_from(&self, source: ServiceId) -> Result<Vec<Job>> {
        let states = vec![JobState::Queued, JobState::Running];
        let filter = JobFilter { service_id: None, kind: Some(JobKind::Restore), states };
        let source = source.to_string();
        let mut jobs = self.jobs(MANY, &filter).await?;
        jobs.retain(|job| {
            job.input.get("source").and_then(serde_json::Value::as_str) == Some(source.as_str())
        });
        Ok(jobs)
    }
}
