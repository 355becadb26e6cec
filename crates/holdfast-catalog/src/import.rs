//! Taking over services that were found in a bucket, into a catalog that is made anew.

use holdfast_core::backup::Backup;
use holdfast_core::key::KeyRecord;
use holdfast_core::position::{Coverage, Gap};
use holdfast_core::service::Service;

use crate::error::{CatalogError, Result};
use crate::open::commit;
use crate::{Catalog, backups, coverage, keys, services};

impl Catalog {
    /// A service without any job, with all that belongs to it; all or nothing.
    ///
    /// # Errors
    /// `Conflict` when the service, its name or one of its backups is there already; `NotFound` without the organization.
    pub async fn import_service(
        &self,
        service: &Service,
        backups: &[Backup],
        keys: &[KeyRecord],
        coverage: &[Coverage],
        gaps: &[Gap],
    ) -> Result<()> {
        let doing = "importing a service";
        let mut tx = self.write(doing).await?;
        if let Err(source) = services::insert(&mut tx, service).await? {
            return Err(CatalogError::Database { doing, source });
        }
        for backup in backups {
            backups::insert(&mut tx, backup).await?;
        }
        for key in keys {
            keys::insert(&mut tx, key).await?;
        }
        for stretch in coverage {
            coverage::upsert(&mut tx, service.lineage_id, stretch).await?;
        }
        for gap in gaps {
            coverage::insert_gap(&mut tx, service.lineage_id, gap).await?;
        }
        commit(tx, doing).await
    }
}
