//! Passwords of database users and other secrets of a service, wrapped by the vault before they come here.

use std::fmt;

use holdfast_core::ServiceId;
use jiff::Timestamp;

use crate::error::{Result, database, is_foreign_key_violation, not_found};
use crate::open::commit;
use crate::rows::{RowExt as _, json, micros};
use crate::{Catalog, Row};

/// A database user whose password Holdfast keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub service_id: ServiceId,
    pub username: String,
    /// Version of the KEK that wraps the password.
    pub kek_version: u32,
    /// The password, sealed.
    pub wrapped: Vec<u8>,
    pub roles: Vec<String>,
    /// The wire's words for the rights; empty when there is nothing to say.
    pub privileges: String,
    /// Place in lists: the tenant's own user first.
    pub position: u32,
    pub created_at: Timestamp,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("service_id", &self.service_id)
            .field("username", &self.username)
            .field("kek_version", &self.kek_version)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Adds the user or replaces all about it but `created_at`.
    ///
    /// # Errors
    /// `NotFound` without the service.
    pub async fn upsert_credential(&self, credential: &Credential) -> Result<()> {
        let doing = "storing a database user";
        let mut tx = self.write(doing).await?;
        let upsert = "INSERT INTO credentials (service_id, username, kek_version, wrapped, roles, privileges, \
                      place_order, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                      ON CONFLICT (service_id, username) DO UPDATE SET kek_version = excluded.kek_version, \
                      wrapped = excluded.wrapped, roles = excluded.roles, privileges = excluded.privileges, \
                      place_order = excluded.place_order";
        sqlx::query(upsert)
            .bind(credential.service_id.to_string())
            .bind(&credential.username)
            .bind(i64::from(credential.kek_version))
            .bind(&credential.wrapped)
            .bind(json("roles", &credential.roles)?)
            .bind(&credential.privileges)
            .bind(i64::from(credential.position))
            .bind(micros(credential.created_at))
            .execute(&mut *tx)
            .await
            .map_err(|e| refused(e, credential.service_id, doing))?;
        commit(tx, doing).await
    }

    /// The users of the service in their order.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn credentials_of(&self, service: ServiceId) -> Result<Vec<Credential>> {
        let rows =
            sqlx::query("SELECT * FROM credentials WHERE service_id = $1 ORDER BY place_order, username")
                .bind(service.to_string())
                .fetch_all(self.reader())
                .await
                .map_err(database("listing the database users of a service"))?;
        rows.iter().map(from_row).collect()
    }

    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn credential(&self, service: ServiceId, username: &str) -> Result<Option<Credential>> {
        let row = sqlx::query("SELECT * FROM credentials WHERE service_id = $1 AND username = $2")
            .bind(service.to_string())
            .bind(username)
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading a database user"))?;
        row.as_ref().map(from_row).transpose()
    }

    /// Sets or replaces a named secret of the service (a repository's passphrase, a superuser's password).
    ///
    /// # Errors
    /// `NotFound` without the service.
    pub async fn put_secret(
        &self,
        service: ServiceId,
        name: &str,
        kek_version: u32,
        wrapped: &[u8],
    ) -> Result<()> {
        let doing = "storing a secret of a service";
        let mut tx = self.write(doing).await?;
        let upsert = "INSERT INTO service_secrets (service_id, name, kek_version, wrapped) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (service_id, name) DO UPDATE SET kek_version = excluded.kek_version, \
                      wrapped = excluded.wrapped";
        sqlx::query(upsert)
            .bind(service.to_string())
            .bind(name)
            .bind(i64::from(kek_version))
            .bind(wrapped)
            .execute(&mut *tx)
            .await
            .map_err(|e| refused(e, service, doing))?;
        commit(tx, doing).await
    }

    /// The secret's KEK version and its wrapped bytes.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn secret(&self, service: ServiceId, name: &str) -> Result<Option<(u32, Vec<u8>)>> {
        let row = sqlx::query(
            "SELECT kek_version, wrapped FROM service_secrets WHERE service_id = $1 AND name = $2",
        )
        .bind(service.to_string())
        .bind(name)
        .fetch_optional(self.reader())
        .await
        .map_err(database("reading a secret of a service"))?;
        row.map(|row| Ok((row.number("kek_version")?, row.bytes("wrapped")?))).transpose()
    }
}

fn refused(error: sqlx::Error, service: ServiceId, doing: &'static str) -> crate::CatalogError {
    match is_foreign_key_violation(&error) {
        true => not_found("service", service),
        false => database(doing)(error),
    }
}

fn from_row(row: &Row) -> Result<Credential> {
    Ok(Credential {
        service_id: row.parsed("service_id")?,
        username: row.text("username")?,
        kek_version: row.number("kek_version")?,
        wrapped: row.bytes("wrapped")?,
        roles: row.json("roles")?,
        privileges: row.text("privileges")?,
        position: row.number("place_order")?,
        created_at: row.instant("created_at")?,
    })
}
