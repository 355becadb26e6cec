//! Services. A name belongs to one living service of an organization; a service being deleted gives it back at once.

use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{OrganizationId, ServiceId};
use jiff::Timestamp;

use crate::error::{
    CatalogError, Result, database, is_foreign_key_violation, is_unique_violation, not_found,
};
use crate::open::commit;
use crate::rows::{RowExt as _, json, json_opt, micros, micros_opt, word};
use crate::{Catalog, NewJob, Row, Transaction};

/// How often an update starts over when somebody else wrote the row meanwhile.
const UPDATE_TRIES: u32 = 16;

impl Catalog {
    /// The service and its first job, both or none. With a `quota`, only while the organization has fewer living
    /// services than that.
    ///
    /// # Errors
    /// `NameTaken` when a living service of the organization has the name; `NotFound` without the organization;
    /// `Conflict` when the id or lineage exists already; `QuotaReached`.
    pub async fn create_service(&self, service: &Service, job: &NewJob, quota: Option<u32>) -> Result<()> {
        let doing = "creating a service";
        let mut tx = self.write(doing).await?;
        if let Some(quota) = quota
            && count_living(&mut tx, service.organization_id).await? >= i64::from(quota)
        {
            return Err(CatalogError::QuotaReached { quota });
        }
        if let Err(error) = insert(&mut tx, service).await? {
            drop(tx);
            return Err(self.explain_refusal(service, error, doing).await?);
        }
        crate::jobs::insert(&mut tx, job).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(())
    }

    /// The service whatever its status, deleted ones too: the caller judges.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn service(&self, id: ServiceId) -> Result<Option<Service>> {
        let row = sqlx::query("SELECT * FROM services WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading a service"))?;
        row.as_ref().map(from_row).transpose()
    }

    /// All that are not `deleted` (those being deleted included), of one organization or of all, oldest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn services(&self, organization: Option<OrganizationId>) -> Result<Vec<Service>> {
        let query = match organization {
            Some(id) => sqlx::query(LIST_OF_ORGANIZATION).bind(id.to_string()),
            None => sqlx::query(LIST),
        };
        let rows = query.fetch_all(self.reader()).await.map_err(database("listing the services"))?;
        rows.iter().map(from_row).collect()
    }

    /// A page of the living ones (neither `deleted` nor being deleted), of one organization or of all, oldest first, and
    /// how many there are in all. Both are as of one moment.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn living_services(
        &self,
        organization: Option<OrganizationId>,
        limit: Option<u32>,
        offset: u32,
    ) -> Result<(Vec<Service>, u64)> {
        let failed = || database("listing the services");
        let (mut page, mut count) = (sqlx::query(PAGE), sqlx::query_scalar::<_, i64>(COUNT));
        if let Some(id) = organization {
            page = sqlx::query(PAGE_OF_ORGANIZATION).bind(id.to_string());
            count = sqlx::query_scalar(COUNT_OF_ORGANIZATION).bind(id.to_string());
        }
        page = page.bind(limit.map_or(i64::MAX, i64::from)).bind(i64::from(offset));
        let mut tx = self.reader().begin().await.map_err(failed())?;
        let rows = page.fetch_all(&mut *tx).await.map_err(failed())?;
        let total = count.fetch_one(&mut *tx).await.map_err(failed())?;
        commit(tx, "listing the services").await?;
        let services = rows.iter().map(from_row).collect::<Result<_>>()?;
        Ok((services, u64::try_from(total).unwrap_or(0)))
    }

    /// Reads the service, lets `change` alter it, and writes it back, without losing anybody else's write: `change`
    /// is called again on the newer state when there was one, so it must only depend on what it is given.
    /// `updated_at` becomes `now`; id, organization, lineage, engine and creation time stay whatever `change` does.
    /// Returns the service as stored.
    ///
    /// # Errors
    /// `NotFound`; `NameTaken` when the new name, or a status that makes it living again, meets a living namesake.
    pub async fn update_service(
        &self,
        id: ServiceId,
        now: Timestamp,
        mut change: impl FnMut(&mut Service) + Send,
    ) -> Result<Service> {
        let always = |service: &mut Service| {
            change(service);
            Some(Vec::new())
        };
        self.update_service_and_enqueue(id, now, always).await
    }

    /// As [`Self::update_service`]; the jobs that `change` returns are queued in the same transaction. `None` leaves
    /// everything as it is and returns the service unchanged.
    ///
    /// # Errors
    /// As `update_service`; `Conflict` or `NotFound` when a job cannot be queued.
    pub async fn update_service_and_enqueue(
        &self,
        id: ServiceId,
        now: Timestamp,
        mut change: impl FnMut(&mut Service) -> Option<Vec<NewJob>> + Send,
    ) -> Result<Service> {
        let doing = "updating a service";
        for _ in 0..UPDATE_TRIES {
            let mut tx = self.write(doing).await?;
            let row = sqlx::query("SELECT * FROM services WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await
                .map_err(database(doing))?
                .ok_or_else(|| not_found("service", id))?;
            let before = from_row(&row)?;
            let mut service = before.clone();
            let Some(jobs) = change(&mut service) else { return Ok(before) };
            let Service { id, organization_id, lineage_id, engine, created_at, .. } = before;
            service =
                Service { id, organization_id, lineage_id, engine, created_at, updated_at: now, ..service };
            match write_back(&mut tx, &service, row.int("revision")?).await? {
                Ok(Some(stored)) => {
                    let stored = from_row(&stored)?;
                    for job in &jobs {
                        crate::jobs::insert(&mut tx, job).await?;
                    }
                    commit(tx, doing).await?;
                    self.announce();
                    return Ok(stored);
                }
                Ok(None) => continue,
                Err(error) => {
                    drop(tx);
                    return Err(self.explain_refusal(&service, error, doing).await?);
                }
            }
        }
        Err(CatalogError::Contended { what: "service", id: id.to_string() })
    }

    /// Moves the status to `to` if it is one of `from` now; says whether it did. The message is replaced (`None`
    /// clears it); reaching `deleted` stamps `deleted_at`.
    ///
    /// # Errors
    /// `NotFound`; `NameTaken` when the service would live again beside a namesake.
    pub async fn set_service_status(
        &self,
        id: ServiceId,
        from: &[ServiceStatus],
        to: ServiceStatus,
        message: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut moved = false;
        self.update_service_and_enqueue(id, now, |service| {
            moved = from.contains(&service.status);
            if moved {
                service.status = to;
                service.status_message = message.map(str::to_owned);
                if to == ServiceStatus::Deleted {
                    service.deleted_at = Some(now);
                }
            }
            moved.then(Vec::new)
        })
        .await?;
        Ok(moved)
    }

    /// Why the database refused the row. Asked after the transaction, which PostgreSQL has given up by then.
    async fn explain_refusal(
        &self,
        service: &Service,
        error: sqlx::Error,
        doing: &'static str,
    ) -> Result<CatalogError> {
        if is_foreign_key_violation(&error) {
            return Ok(not_found("organization", service.organization_id));
        }
        if !is_unique_violation(&error) {
            return Ok(database(doing)(error));
        }
        let namesake = "SELECT id FROM services WHERE organization_id = $1 AND name = $2 \
                        AND status NOT IN ('deleting', 'deleted') AND id <> $3";
        let found: Option<String> = sqlx::query_scalar(namesake)
            .bind(service.organization_id.to_string())
            .bind(&service.name)
            .bind(service.id.to_string())
            .fetch_optional(self.reader())
            .await
            .map_err(database(doing))?;
        Ok(match found {
            Some(_) => CatalogError::NameTaken { name: service.name.clone() },
            None => CatalogError::Conflict {
                what: "service",
                id: service.id.to_string(),
                reason: "its id, lineage or name exists already",
            },
        })
    }
}

pub(crate) const LIST: &str = "SELECT * FROM services WHERE status <> 'deleted' ORDER BY created_at, id";
pub(crate) const LIST_OF_ORGANIZATION: &str =
    "SELECT * FROM services WHERE organization_id = $1 AND status <> 'deleted' ORDER BY created_at, id";

// The condition is that of the indices, word for word.
pub(crate) const PAGE: &str = "SELECT * FROM services WHERE status <> 'deleted' AND status <> 'deleting' \
                               ORDER BY created_at, id LIMIT $1 OFFSET $2";
pub(crate) const PAGE_OF_ORGANIZATION: &str = "SELECT * FROM services WHERE organization_id = $1 AND status <> 'deleted' AND status <> 'deleting' \
     ORDER BY created_at, id LIMIT $2 OFFSET $3";
pub(crate) const COUNT: &str =
    "SELECT COUNT(*) FROM services WHERE status <> 'deleted' AND status <> 'deleting'";
pub(crate) const COUNT_OF_ORGANIZATION: &str = "SELECT COUNT(*) FROM services WHERE organization_id = $1 \
                                     AND status <> 'deleted' AND status <> 'deleting'";

/// Makes sure that the service exists and, on PostgreSQL, that nobody else decides about it until the transaction ends.
pub(crate) async fn lock(tx: &mut Transaction, id: ServiceId) -> Result<()> {
    let touched = sqlx::query("UPDATE services SET revision = revision WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut **tx)
        .await
        .map_err(database("locking a service"))?;
    if touched.rows_affected() == 1 { Ok(()) } else { Err(not_found("service", id)) }
}

/// The inner result is the database's own refusal, for the caller to explain.
async fn count_living(tx: &mut Transaction, organization: OrganizationId) -> Result<i64> {
    let count = "SELECT COUNT(*) AS living FROM services \
                 WHERE organization_id = $1 AND status NOT IN ('deleting', 'deleted')";
    let row = sqlx::query(count)
        .bind(organization.to_string())
        .fetch_one(&mut **tx)
        .await
        .map_err(database("counting the services"))?;
    row.int("living")
}

pub(crate) async fn insert(tx: &mut Transaction, service: &Service) -> Result<Result<(), sqlx::Error>> {
    let insert = "INSERT INTO services (id, organization_id, lineage_id, name, engine, version, engine_version, status, \
                  status_message, plan_name, zone, allowed_cidrs, attributes, restored_from, host, port, created_at, \
                  updated_at, deleted_at, revision) VALUES \
                  ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, 1)";
    let done = sqlx::query(insert)
        .bind(service.id.to_string())
        .bind(service.organization_id.to_string())
        .bind(service.lineage_id.to_string())
        .bind(&service.name)
        .bind(service.engine.as_str())
        .bind(&service.version)
        .bind(&service.engine_version)
        .bind(word(&service.status))
        .bind(&service.status_message)
        .bind(&service.plan_name)
        .bind(&service.zone)
        .bind(json("allowed_cidrs", &service.allowed_cidrs)?)
        .bind(json("attributes", &service.attributes)?)
        .bind(json_opt("restored_from", service.restored_from.as_ref())?)
        .bind(&service.host)
        .bind(service.port.map(i64::from))
        .bind(micros(service.created_at))
        .bind(micros(service.updated_at))
        .bind(micros_opt(service.deleted_at))
        .execute(&mut **tx)
        .await;
    Ok(done.map(|_| ()))
}

/// Writes what may change, if the row still has `revision`; gives the row as stored.
async fn write_back(
    tx: &mut Transaction,
    service: &Service,
    revision: i64,
) -> Result<Result<Option<Row>, sqlx::Error>> {
    let update = "UPDATE services SET name = $3, version = $4, engine_version = $5, status = $6, status_message = $7, \
                  plan_name = $8, zone = $9, allowed_cidrs = $10, attributes = $11, restored_from = $12, host = $13, \
                  port = $14, updated_at = $15, deleted_at = $16, revision = revision + 1, changes = changes + 1 \
                  WHERE id = $1 AND revision = $2 RETURNING *";
    Ok(sqlx::query(update)
        .bind(service.id.to_string())
        .bind(revision)
        .bind(&service.name)
        .bind(&service.version)
        .bind(&service.engine_version)
        .bind(word(&service.status))
        .bind(&service.status_message)
        .bind(&service.plan_name)
        .bind(&service.zone)
        .bind(json("allowed_cidrs", &service.allowed_cidrs)?)
        .bind(json("attributes", &service.attributes)?)
        .bind(json_opt("restored_from", service.restored_from.as_ref())?)
        .bind(&service.host)
        .bind(service.port.map(i64::from))
        .bind(micros(service.updated_at))
        .bind(micros_opt(service.deleted_at))
        .fetch_optional(&mut **tx)
        .await)
}

pub(crate) fn from_row(row: &Row) -> Result<Service> {
    Ok(Service {
        id: row.parsed("id")?,
        organization_id: row.parsed("organization_id")?,
        lineage_id: row.parsed("lineage_id")?,
        name: row.text("name")?,
        engine: row.parsed("engine")?,
        version: row.text("version")?,
        engine_version: row.text_opt("engine_version")?,
        status: row.worded("status")?,
        status_message: row.text_opt("status_message")?,
        plan_name: row.text("plan_name")?,
        zone: row.text("zone")?,
        allowed_cidrs: row.json("allowed_cidrs")?,
        attributes: row.json("attributes")?,
        restored_from: row.json_opt("restored_from")?,
        host: row.text_opt("host")?,
        port: row.number_opt("port")?,
        created_at: row.instant("created_at")?,
        updated_at: row.instant("updated_at")?,
        deleted_at: row.instant_opt("deleted_at")?,
    })
}
