//! Data keys, only ever wrapped. A destroyed key keeps its row, without the bytes, as the proof that it is gone.

use holdfast_core::key::KeyRecord;
use holdfast_core::{KeyId, OrganizationId, ServiceId};
use jiff::Timestamp;

use crate::error::{CatalogError, Result, database, is_foreign_key_violation, not_found};
use crate::keks::refuse_retired;
use crate::open::commit;
use crate::rows::{RowExt as _, micros, micros_opt, word};
use crate::{Catalog, Rewrapped, Row, Transaction};

pub(crate) const LIST_BY_KEK: &str = "SELECT * FROM data_keys \
                                      WHERE kek_version = $1 AND id > $2 AND destroyed_at IS NULL ORDER BY id LIMIT $3";

pub(crate) const LIST_UNREMOVED: &str = "SELECT id FROM data_keys \
                                         WHERE service_id = $1 AND removed_at IS NULL AND destroyed_at IS NOT NULL";

impl Catalog {
    /// Stores a key; the same key again is fine.
    ///
    /// # Errors
    /// `Conflict` when the id stands for another key, or for this one after its destruction; `NotFound` without the
    /// service; `RetiredKek` when one wraps it.
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

    /// At most `limit` living keys that this version of the KEK wraps, in the order of their ids, from behind `after` on:
    /// what a rotation has still to rewrap.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn keys_by_kek(
        &self,
        version: u32,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<KeyRecord>> {
        let rows = sqlx::query(LIST_BY_KEK)
            .bind(i64::from(version))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the data keys of a key-encryption key"))?;
        rows.iter().map(from_row).collect()
    }

    /// Replaces wrappings by a newer KEK's, all or none of them; says how many. Skipped is a key that no longer has the
    /// wrapping of `before`, a destroyed one among them. The recovery wrapping stays as it is.
    ///
    /// # Errors
    /// `RetiredKek` when the new one is.
    pub async fn rewrap_keys(&self, to: u32, rewrapped: &[Rewrapped<KeyId>]) -> Result<u64> {
        let doing = "rewrapping data keys";
        let mut tx = self.write(doing).await?;
        refuse_retired(&mut tx, to).await?;
        let update = "UPDATE data_keys SET kek_version = $3, wrapped = $4 \
                      WHERE id = $1 AND wrapped = $2 AND destroyed_at IS NULL";
        let mut count = 0;
        for one in rewrapped {
            let done = sqlx::query(update)
                .bind(one.of.to_string())
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

    /// The services that have keys, living or destroyed: where in the bucket wrapped keys may lie.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn services_with_keys(&self) -> Result<Vec<(OrganizationId, ServiceId)>> {
        let rows =
            sqlx::query("SELECT DISTINCT organization_id, service_id FROM data_keys ORDER BY service_id")
                .fetch_all(self.reader())
                .await
                .map_err(database("listing the services with data keys"))?;
        rows.iter().map(|row| Ok((row.parsed("organization_id")?, row.parsed("service_id")?))).collect()
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

impl Catalog {
    /// The service's destroyed keys of which copies may still lie in the store.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn unremoved_keys(&self, service: ServiceId) -> Result<Vec<KeyId>> {
        let rows = sqlx::query(LIST_UNREMOVED)
            .bind(service.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the destroyed keys of a service"))?;
        rows.iter().map(|row| row.parsed("id")).collect()
    }

    /// Notes that no copy of these destroyed keys lies in the store any more. A living one is passed over.
    ///
    /// # Errors
    /// `Database`.
    pub async fn keys_removed(&self, keys: &[KeyId], now: Timestamp) -> Result<()> {
        let doing = "noting removed data keys";
        let mut tx = self.write(doing).await?;
        let update = "UPDATE data_keys SET removed_at = COALESCE(removed_at, $2) \
                      WHERE id = $1 AND destroyed_at IS NOT NULL";
        for key in keys {
            let update = sqlx::query(update).bind(key.to_string()).bind(micros(now));
            update.execute(&mut *tx).await.map_err(database(doing))?;
        }
        commit(tx, doing).await
    }
}

/// Stores the key in the caller's transaction; the same key again is fine.
pub(crate) async fn insert(tx: &mut Transaction, key: &KeyRecord) -> Result<()> {
    let doing = "storing a data key";
    refuse_retired(tx, key.kek_version).await?;
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
