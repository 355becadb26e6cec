//! Backups as users list them. Rows are never deleted: an expired or deleted backup is delisted, later shredded and removed.

use holdfast_core::backup::{Backup, BackupType};
use holdfast_core::{BackupId, ServiceId};

use crate::error::{CatalogError, Result, database, is_unique_violation, not_found};
use crate::open::commit;
use crate::rows::{RowExt as _, json_opt, micros, micros_opt, word};
use crate::{Catalog, NewJob, Row, Transaction};

/// Whether a backup on demand may be asked for while another one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDemandRule {
    /// A manual backup is refused while another *manual* one of the service is pending or running. An automated one
    /// under way never refuses anything: jobs of a service queue.
    OneAtATime,
    /// Never refused; the job queues.
    Queue,
}

const UPDATE_TRIES: u32 = 16;

impl Catalog {
    /// The backup and its job, both or none. The rule concerns manual backups only.
    ///
    /// # Errors
    /// `Conflict` by the rule, or when the id exists already; `NotFound` without the service.
    pub async fn create_backup(&self, backup: &Backup, job: &NewJob, rule: OnDemandRule) -> Result<()> {
        let doing = "creating a backup";
        let mut tx = self.write(doing).await?;
        crate::services::lock(&mut tx, backup.service_id).await?;
        if backup.backup_type == BackupType::Manual && rule == OnDemandRule::OneAtATime {
            refuse_a_second_manual(&mut tx, backup.service_id).await?;
        }
        insert(&mut tx, backup).await?;
        crate::descriptions::touch(&mut tx, &backup.service_id.to_string()).await?;
        crate::jobs::insert(&mut tx, job).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(())
    }

    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn backup(&self, id: &BackupId) -> Result<Option<Backup>> {
        let row = sqlx::query("SELECT * FROM backups WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading a backup"))?;
        row.as_ref().map(from_row).transpose()
    }

    /// All of the service, newest first; delisted and shredded ones too: the caller filters.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn backups_of(&self, service: ServiceId) -> Result<Vec<Backup>> {
        let rows = sqlx::query(LIST_OF_SERVICE)
            .bind(service.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the backups of a service"))?;
        rows.iter().map(from_row).collect()
    }

    /// The backups of all services whose key and objects may still exist, oldest first, whatever their status.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn unshredded_backups(&self) -> Result<Vec<Backup>> {
        let rows = sqlx::query(LIST_UNSHREDDED)
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the backups that are not shredded"))?;
        rows.iter().map(from_row).collect()
    }

    /// Reads the backup, lets `change` alter it, and writes it back, without losing anybody else's write: `change` is
    /// called again on the newer state when there was one. Id, service, lineage, type, method, key and creation time
    /// stay whatever `change` does. Returns the backup as stored.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn update_backup(
        &self,
        id: &BackupId,
        mut change: impl FnMut(&mut Backup) + Send,
    ) -> Result<Backup> {
        let doing = "updating a backup";
        for _ in 0..UPDATE_TRIES {
            let mut tx = self.write(doing).await?;
            let row = sqlx::query("SELECT * FROM backups WHERE id = $1")
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(database(doing))?
                .ok_or_else(|| not_found("backup", id))?;
            let before = from_row(&row)?;
            let mut backup = before.clone();
            change(&mut backup);
            let Backup { id, service_id, lineage_id, backup_type, method, key_id, created_at, .. } = before;
            backup = Backup { id, service_id, lineage_id, backup_type, method, key_id, created_at, ..backup };
            if let Some(stored) = write_back(&mut tx, &backup, row.int("revision")?).await? {
                crate::descriptions::touch(&mut tx, &backup.service_id.to_string()).await?;
                commit(tx, doing).await?;
                self.announce();
                return Ok(stored);
            }
        }
        Err(CatalogError::Contended { what: "backup", id: id.to_string() })
    }
}

pub(crate) const LIST_OF_SERVICE: &str =
    "SELECT * FROM backups WHERE service_id = $1 ORDER BY created_at DESC, id DESC";
pub(crate) const LIST_UNSHREDDED: &str =
    "SELECT * FROM backups WHERE shredded_at IS NULL ORDER BY created_at, id";

async fn refuse_a_second_manual(tx: &mut Transaction, service: ServiceId) -> Result<()> {
    let under_way = "SELECT id FROM backups WHERE service_id = $1 AND backup_type = 'manual' \
                     AND status IN ('pending', 'running') LIMIT 1";
    let found: Option<String> = sqlx::query_scalar(under_way)
        .bind(service.to_string())
        .fetch_optional(&mut **tx)
        .await
        .map_err(database("looking for a backup under way"))?;
    match found {
        None => Ok(()),
        Some(id) => Err(CatalogError::Conflict { what: "backup", id, reason: "it is still under way" }),
    }
}

pub(crate) async fn insert(tx: &mut Transaction, backup: &Backup) -> Result<()> {
    let insert = "INSERT INTO backups (id, service_id, lineage_id, backup_type, mode, status, label, retention_days, \
                  key_id, created_at, started_at, completed_at, error, facts, delisted_at, shredded_at, method, removed_at, revision) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 1)";
    sqlx::query(insert)
        .bind(backup.id.as_str())
        .bind(backup.service_id.to_string())
        .bind(backup.lineage_id.to_string())
        .bind(word(&backup.backup_type))
        .bind(word(&backup.mode))
        .bind(word(&backup.status))
        .bind(&backup.label)
        .bind(backup.retention_days.map(i64::from))
        .bind(backup.key_id.to_string())
        .bind(micros(backup.created_at))
        .bind(micros_opt(backup.started_at))
        .bind(micros_opt(backup.completed_at))
        .bind(&backup.error)
        .bind(json_opt("facts", backup.facts.as_ref())?)
        .bind(micros_opt(backup.delisted_at))
        .bind(micros_opt(backup.shredded_at))
        .bind(&backup.method)
        .bind(micros_opt(backup.removed_at))
        .execute(&mut **tx)
        .await
        .map_err(|e| match is_unique_violation(&e) {
            true => CatalogError::Conflict {
                what: "backup",
                id: backup.id.to_string(),
                reason: "it exists already",
            },
            false => database("creating a backup")(e),
        })?;
    Ok(())
}

/// Writes what may change, if the row still has `revision`; gives the backup as stored.
async fn write_back(tx: &mut Transaction, backup: &Backup, revision: i64) -> Result<Option<Backup>> {
    let update = "UPDATE backups SET mode = $3, status = $4, label = $5, retention_days = $6, started_at = $7, \
                  completed_at = $8, error = $9, facts = $10, delisted_at = $11, shredded_at = $12, \
                  removed_at = $13, revision = revision + 1 WHERE id = $1 AND revision = $2 RETURNING *";
    let row = sqlx::query(update)
        .bind(backup.id.as_str())
        .bind(revision)
        .bind(word(&backup.mode))
        .bind(word(&backup.status))
        .bind(&backup.label)
        .bind(backup.retention_days.map(i64::from))
        .bind(micros_opt(backup.started_at))
        .bind(micros_opt(backup.completed_at))
        .bind(&backup.error)
        .bind(json_opt("facts", backup.facts.as_ref())?)
        .bind(micros_opt(backup.delisted_at))
        .bind(micros_opt(backup.shredded_at))
        .bind(micros_opt(backup.removed_at))
        .fetch_optional(&mut **tx)
        .await
        .map_err(database("updating a backup"))?;
    row.as_ref().map(from_row).transpose()
}

fn from_row(row: &Row) -> Result<Backup> {
    Ok(Backup {
        id: row.parsed("id")?,
        service_id: row.parsed("service_id")?,
        lineage_id: row.parsed("lineage_id")?,
        backup_type: row.worded("backup_type")?,
        mode: row.worded("mode")?,
        method: row.text_opt("method")?,
        status: row.worded("status")?,
        label: row.text_opt("label")?,
        retention_days: row.number_opt("retention_days")?,
        key_id: row.parsed("key_id")?,
        created_at: row.instant("created_at")?,
        started_at: row.instant_opt("started_at")?,
        completed_at: row.instant_opt("completed_at")?,
        error: row.text_opt("error")?,
        facts: row.json_opt("facts")?,
        delisted_at: row.instant_opt("delisted_at")?,
        shredded_at: row.instant_opt("shredded_at")?,
        removed_at: row.instant_opt("removed_at")?,
    })
}
