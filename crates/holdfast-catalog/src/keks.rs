//! Key-encryption keys: when each was made and retired, and what each still wraps. The keys themselves are the vault's.
//!
//! Retiring is one transaction that looks whether anything is wrapped by the KEK, and every write of something wrapped
//! looks in its own transaction whether its KEK is retired. So nothing can come to be wrapped by a KEK that is gone,
//! however late a writer is.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::error::{CatalogError, Result, database};
use crate::open::commit;
use crate::rows::{RowExt as _, micros};
use crate::{Catalog, Row, Transaction};

/// A KEK as the catalog knows it: without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KekRecord {
    pub version: u32,
    /// By the trusted time, where there was one.
    pub created_at: Timestamp,
    pub retired_at: Option<Timestamp>,
}

/// What a KEK wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KekUse {
    /// Living data keys.
    pub keys: u64,
    /// Passwords of database users.
    pub passwords: u64,
    /// Jobs that have not ended and whose input holds a wrapped secret.
    pub jobs: u64,
}

impl KekUse {
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

const IN_USE: &str = "SELECT kek_version AS version, COUNT(*) AS used, 'keys' AS what FROM data_keys \
                      WHERE destroyed_at IS NULL GROUP BY kek_version \
                      UNION ALL SELECT kek_version, COUNT(*), 'passwords' FROM credentials GROUP BY kek_version \
                      UNION ALL SELECT kek_version, COUNT(*), 'jobs' FROM jobs \
                      WHERE kek_version IS NOT NULL AND state IN ('queued', 'running') GROUP BY kek_version";

impl Catalog {
    /// Notes a KEK that the vault has; a known one stays as it is.
    ///
    /// # Errors
    /// `Database`.
    pub async fn note_kek(&self, version: u32, created_at: Timestamp) -> Result<()> {
        let doing = "noting a key-encryption key";
        let mut tx = self.write(doing).await?;
        sqlx::query(
            "INSERT INTO keks (version, created_at) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING",
        )
        .bind(i64::from(version))
        .bind(micros(created_at))
        .execute(&mut *tx)
        .await
        .map_err(database(doing))?;
        commit(tx, doing).await
    }

    /// Sets when a KEK counts as made: the time that it was stamped with was wrong.
    ///
    /// # Errors
    /// `Database`.
    pub async fn stamp_kek(&self, version: u32, created_at: Timestamp) -> Result<()> {
        let doing = "stamping a key-encryption key";
        let mut tx = self.write(doing).await?;
        sqlx::query("UPDATE keks SET created_at = $2 WHERE version = $1")
            .bind(i64::from(version))
            .bind(micros(created_at))
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        commit(tx, doing).await
    }

    /// All, retired ones too, oldest version first.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn keks(&self) -> Result<Vec<KekRecord>> {
        let rows = sqlx::query("SELECT * FROM keks ORDER BY version")
            .fetch_all(self.reader())
            .await
            .map_err(database("listing the key-encryption keys"))?;
        let record = |row: &Row| {
            Ok(KekRecord {
                version: row.number("version")?,
                created_at: row.instant("created_at")?,
                retired_at: row.instant_opt("retired_at")?,
            })
        };
        rows.iter().map(record).collect()
    }

    /// What each KEK wraps; those that wrap nothing are left out.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn kek_uses(&self) -> Result<BTreeMap<u32, KekUse>> {
        let rows = sqlx::query(IN_USE)
            .fetch_all(self.reader())
            .await
            .map_err(database("counting what the key-encryption keys wrap"))?;
        uses(&rows)
    }

    /// Retires a KEK if nothing is wrapped by it, for ever; says what still is. Again is fine.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn retire_kek(&self, version: u32, now: Timestamp) -> Result<KekUse> {
        let doing = "retiring a key-encryption key";
        let mut tx = self.write(doing).await?;
        let rows = sqlx::query(IN_USE).fetch_all(&mut *tx).await.map_err(database(doing))?;
        let left = uses(&rows)?.get(&version).copied().unwrap_or_default();
        if !left.is_none() {
            return Ok(left);
        }
        let upsert = "INSERT INTO keks (version, created_at, retired_at) VALUES ($1, $2, $2) \
                      ON CONFLICT (version) DO UPDATE SET retired_at = COALESCE(keks.retired_at, excluded.retired_at)";
        sqlx::query(upsert)
            .bind(i64::from(version))
            .bind(micros(now))
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        commit(tx, doing).await?;
        Ok(left)
    }
}

fn uses(rows: &[Row]) -> Result<BTreeMap<u32, KekUse>> {
    let mut uses: BTreeMap<u32, KekUse> = BTreeMap::new();
    for row in rows {
        let used = row.number("used")?;
        let of = uses.entry(row.number("version")?).or_default();
        match row.text("what")?.as_str() {
            "keys" => of.keys = used,
            "passwords" => of.passwords = used,
            _ => of.jobs = used,
        }
    }
    Ok(uses)
}

/// Refuses what is wrapped by a KEK that is gone; part of the transaction that would store it.
pub(crate) async fn refuse_retired(tx: &mut Transaction, version: u32) -> Result<()> {
    let retired: Option<i64> =
        sqlx::query_scalar("SELECT version FROM keks WHERE version = $1 AND retired_at IS NOT NULL")
            .bind(i64::from(version))
            .fetch_optional(&mut **tx)
            .await
            .map_err(database("looking for a retired key-encryption key"))?;
    match retired {
        Some(_) => Err(CatalogError::RetiredKek { version }),
        None => Ok(()),
    }
}
