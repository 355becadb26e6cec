//! Passwords of database users, wrapped by the vault before they come here.

use std::fmt;

use holdfast_core::ServiceId;
use jiff::Timestamp;

use crate::error::{Result, database, is_foreign_key_violation, not_found};
use crate::keks::refuse_retired;
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

/// A wrapping and what replaces it.
#[derive(Clone, PartialEq, Eq)]
pub struct Rewrapped<T> {
    /// Whose it is.
    pub of: T,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

impl<T: fmt::Debug> fmt::Debug for Rewrapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewrapped").field("of", &self.of).finish_non_exhaustive()
    }
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
    /// `NotFound` without the service; `RetiredKek` when one wraps the password.
    pub async fn upsert_credential(&self, credential: &Credential) -> Result<()> {
        let doing = "storing a database user";
        let mut tx = self.write(doing).await?;
        refuse_retired(&mut tx, credential.kek_version).await?;
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

    /// All whose password this version of the KEK wraps.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn credentials_by_kek(&self, version: u32) -> Result<Vec<Credential>> {
        let rows =
            sqlx::query("SELECT * FROM credentials WHERE kek_version = $1 ORDER BY service_id, username")
                .bind(i64::from(version))
                .fetch_all(self.reader())
                .await
                .map_err(database("listing the database users of a key-encryption key"))?;
        rows.iter().map(from_row).collect()
    }

    /// Replaces wrappings of passwords by a newer KEK's, all or none of them; says how many. Skipped is a user that no
    /// longer has the wrapping of `before`: the password is another one.
    ///
    /// # Errors
    /// `RetiredKek` when the new one is.
    pub async fn rewrap_passwords(
        &self,
        to: u32,
        rewrapped: &[Rewrapped<(ServiceId, String)>],
    ) -> Result<u64> {
        let doing = "rewrapping passwords";
        let mut tx = self.write(doing).await?;
        refuse_retired(&mut tx, to).await?;
        let update = "UPDATE credentials SET kek_version = $4, wrapped = $5 \
                      WHERE service_id = $1 AND username = $2 AND wrapped = $3";
        let mut count = 0;
        for one in rewrapped {
            let (service, username) = &one.of;
            let done = sqlx::query(update)
                .bind(service.to_string())
                .bind(username)
                .bind(&one.before)
                .bind(i64::from(to))
                .bind(&one.after)
                .execute(&mut *tx)
                .await
                .map_err(database(doing))?;
            count += done.rows_affected();
        }
        commit(tx, doing).await?;
        Ok(count)
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
