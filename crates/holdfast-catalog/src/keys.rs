//! Data keys, only ever wrapped. A destroyed key keeps its row, without the bytes, as the proof that it is gone.

use holdfast_core::key::KeyRecord;
use holdfast_core::{KeyId, ServiceId};
use jiff::Timestamp;

use crate::error::{CatalogError, Result, database, is_foreign_key_violation, not_found};
use crate::open::commit;
use crate::rows::{RowExt as _, micros, micros_opt, word};
use crate::{Catalog, Row, Transaction};

impl Catalog {
    /// Stores a key; the same key again is fine.
    ///
    /// # Errors
    /// `Conflict` when the id stands for another key, or for this one after its destruction; `NotFound` without the
    /// service.
    pub async fn insert_key(&self, key: &KeyRecord) -> Result<()> {
        let doing = "storing a data key";
        let mut tx = self.write(doing).await?;
        insert(&mut tx, key).await?;
        commit(tx, doing).await
    }

    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        let row = sqlx::query("SELECT * FROM data_keys WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading a data key"))?;
        row.as_ref().map(from_row).transpose()
    }

    /// All of the service, destroyed ones too, oldest first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn keys_of(&self, service: ServiceId) -> Result<Vec<KeyRecord>> {
        let rows = sqlx::query("SELECT * FROM data_keys WHERE service_id = $1 ORDER BY created_at, id")
            .bind(service.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the data keys of a service"))?;
        rows.iter().map(from_row).collect()
    }

    /// The living keys that this version of the KEK wraps: what a rotation has still to rewrap.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn keys_by_kek(&self, version: u32) -> Result<Vec<KeyRecord>> {
        let rows = sqlx::query(
            "SELECT * FROM data_keys WHERE kek_version = $1 AND destroyed_at IS NULL ORDER BY id",
        )
        .bind(i64::from(version))
        .fetch_all(self.reader())
        .await
        .map_err(database("listing the data keys of a key-encryption key"))?;
        rows.iter().map(from_row).collect()
    }

    /// Replaces the wrapping by a newer version's, if the key still has version `from`; says whether it did.
    /// Neither touches destroyed keys nor the recovery wrapping.
    ///
    /// # Errors
    /// `Database`.
    pub async fn rewrap_key(&self, id: KeyId, from: u32, to: u32, wrapped: &[u8]) -> Result<bool> {
        let doing = "rewrapping a data key";
        let mut tx = self.write(doing).await?;
        let update = "UPDATE data_keys SET kek_version = $3, wrapped = $4 \
                      WHERE id = $1 AND kek_version = $2 AND destroyed_at IS NULL";
        let done = sqlx::query(update)
            .bind(id.to_string())
            .bind(i64::from(from))
            .bind(i64::from(to))
            .bind(wrapped)
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        commit(tx, doing).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Wipes both wrappings from the table, the free pages and the write-ahead log. Again is fine: the first instant
    /// stays. Copies elsewhere (the store, the catalog's own backups) are the caller's.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn destroy_key(&self, id: KeyId, now: Timestamp) -> Result<()> {
        let doing = "destroying a data key";
        let mut tx = self.write(doing).await?;
        let update = "UPDATE data_keys SET wrapped = $2, recovery_wrapped = $2, destroyed_at = COALESCE(destroyed_at, $3) \
                      WHERE id = $1";
        let done = sqlx::query(update)
            .bind(id.to_string())
            .bind(Vec::<u8>::new())
            .bind(micros(now))
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        if done.rows_affected() == 0 {
            return Err(not_found("key", id));
        }
        let service: String = sqlx::query_scalar("SELECT service_id FROM data_keys WHERE id = $1")
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(database(doing))?;
        crate::descriptions::touch(&mut tx, &service).await?;
        commit(tx, doing).await?;
        self.scrub_write_ahead_log().await
    }
}

/// Stores the key in the caller's transaction; the same key again is fine.
pub(crate) async fn insert(tx: &mut Transaction, key: &KeyRecord) -> Result<()> {
    let doing = "storing a data key";
    let insert = "INSERT INTO data_keys (id, organization_id, service_id, lineage_id, purpose, kek_version, wrapped, \
                  recovery_wrapped, created_at, destroyed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                  ON CONFLICT (id) DO NOTHING";
    let done = sqlx::query(insert)
        .bind(key.id.to_string())
        .bind(key.organization_id.to_string())
        .bind(key.service_id.to_string())
        .bind(key.lineage_id.to_string())
        .bind(word(&key.purpose))
        .bind(i64::from(key.kek_version))
        .bind(&key.wrapped)
        .bind(&key.recovery_wrapped)
        .bind(micros(key.created_at))
        .bind(micros_opt(key.destroyed_at))
        .execute(&mut **tx)
        .await
        .map_err(|e| match is_foreign_key_violation(&e) {
            true => not_found("service", key.service_id),
            false => database(doing)(e),
        })?;
    if done.rows_affected() == 0 {
        let row = sqlx::query("SELECT * FROM data_keys WHERE id = $1")
            .bind(key.id.to_string())
            .fetch_one(&mut **tx)
            .await
            .map_err(database(doing))?;
        let stored = from_row(&row)?;
        let created_at = stored.created_at; // cut to microseconds
        if stored != (KeyRecord { created_at, ..key.clone() }) || micros(key.created_at) != micros(created_at)
        {
            let reason = "another key has this id, or it was destroyed";
            return Err(CatalogError::Conflict { what: "key", id: key.id.to_string(), reason });
        }
    }
    crate::descriptions::touch(tx, &key.service_id.to_string()).await
}

fn from_row(row: &Row) -> Result<KeyRecord> {
    Ok(KeyRecord {
        id: row.parsed("id")?,
        organization_id: row.parsed("organization_id")?,
        service_id: row.parsed("service_id")?,
        lineage_id: row.parsed("lineage_id")?,
        purpose: row.worded("purpose")?,
        kek_version: row.number("kek_version")?,
        wrapped: row.bytes("wrapped")?,
        recovery_wrapped: row.bytes("recovery_wrapped")?,
        created_at: row.instant("created_at")?,
        destroyed_at: row.instant_opt("destroyed_at")?,
    })
}
