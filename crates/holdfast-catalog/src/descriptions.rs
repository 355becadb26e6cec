//! Which services have changed since the bucket was told what they are.
//!
//! Every write that concerns a service raises its count of changes in the same transaction ([`touch`]), so a description
//! that was not written, whatever the reason, is always found again.

use holdfast_core::ServiceId;
use holdfast_core::service::Service;

use crate::error::{Result, database};
use crate::open::commit;
use crate::rows::RowExt as _;
use crate::{Catalog, Transaction};

/// A service whose description may be out of date.
#[derive(Debug, Clone, PartialEq)]
pub struct Undescribed {
    pub service: Service,
    /// How many changes there were when it was read; for [`Catalog::mark_described`].
    pub changes: i64,
    /// SHA-256 of the content that the bucket has, hex.
    pub described_sha256: Option<String>,
}

pub(crate) const LIST_UNDESCRIBED: &str =
    "SELECT * FROM services WHERE described < changes ORDER BY created_at, id";
const LIST_ALL: &str = "SELECT * FROM services ORDER BY created_at, id";

impl Catalog {
    /// Services that have changed since they were described; with `all`, every service.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn undescribed_services(&self, all: bool) -> Result<Vec<Undescribed>> {
        let rows = sqlx::query(if all { LIST_ALL } else { LIST_UNDESCRIBED })
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the services to describe"))?;
        rows.iter()
            .map(|row| {
                Ok(Undescribed {
                    service: crate::services::from_row(row)?,
                    changes: row.int("changes")?,
                    described_sha256: row.text_opt("description_sha256")?,
                })
            })
            .collect()
    }

    /// The bucket has the content with this hash, which was read when there were so many changes. What changed
    /// meanwhile stays to be described.
    ///
    /// # Errors
    /// `Database`.
    pub async fn mark_described(&self, id: ServiceId, changes: i64, sha256: Option<&str>) -> Result<()> {
        let doing = "noting that a service is described";
        let mut tx = self.write(doing).await?;
        sqlx::query(
            "UPDATE services SET described = $2, description_sha256 = $3 WHERE id = $1 AND described <= $2",
        )
        .bind(id.to_string())
        .bind(changes)
        .bind(sha256)
        .execute(&mut *tx)
        .await
        .map_err(database(doing))?;
        commit(tx, doing).await
    }
}

/// Notes in the caller's transaction that something about the service has changed.
pub(crate) async fn touch(tx: &mut Transaction, id: &str) -> Result<()> {
    sqlx::query("UPDATE services SET changes = changes + 1 WHERE id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await
        .map_err(database("noting a change of a service"))?;
    Ok(())
}
