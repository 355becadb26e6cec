//! Organizations: the owners of services.

use holdfast_core::OrganizationId;
use jiff::Timestamp;

use crate::error::{CatalogError, Result, database, is_unique_violation};
use crate::rows::{RowExt as _, micros};
use crate::{Catalog, Row};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    pub id: OrganizationId,
    pub name: String,
    /// Unique, for people and addresses.
    pub slug: String,
    pub is_personal: bool,
    pub created_at: Timestamp,
}

impl Catalog {
    /// # Errors
    /// `NameTaken` when the slug (or the id) is in use.
    pub async fn insert_organization(&self, organization: &Organization) -> Result<()> {
        let doing = "creating an organization";
        let mut tx = self.write(doing).await?;
        let insert =
            "INSERT INTO organizations (id, name, slug, is_personal, created_at) VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(insert)
            .bind(organization.id.to_string())
            .bind(&organization.name)
            .bind(&organization.slug)
            .bind(i64::from(organization.is_personal))
            .bind(micros(organization.created_at))
            .execute(&mut *tx)
            .await
            .map_err(|e| match is_unique_violation(&e) {
                true => CatalogError::NameTaken { name: organization.slug.clone() },
                false => database(doing)(e),
            })?;
        crate::open::commit(tx, doing).await
    }

    /// All, oldest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn organizations(&self) -> Result<Vec<Organization>> {
        let rows = sqlx::query("SELECT * FROM organizations ORDER BY created_at, id")
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the organizations"))?;
        rows.iter().map(from_row).collect()
    }

    /// The one with this id or, failing that, this slug.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn organization(&self, id_or_slug: &str) -> Result<Option<Organization>> {
        // A slug may look like another organization's id: the id wins.
        let query = "SELECT * FROM organizations WHERE id = $1 OR slug = $1 \
                     ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1";
        let row = sqlx::query(query)
            .bind(id_or_slug)
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading an organization"))?;
        row.as_ref().map(from_row).transpose()
    }
}

fn from_row(row: &Row) -> Result<Organization> {
    Ok(Organization {
        id: row.parsed("id")?,
        name: row.text("name")?,
        slug: row.text("slug")?,
        is_personal: row.flag("is_personal")?,
        created_at: row.instant("created_at")?,
    })
}
