//! Small named values (the administrator's password hash, ids made once), and when agents were last heard.

use holdfast_core::AgentId;
use jiff::Timestamp;

use crate::Catalog;
use crate::error::{Result, database};
use crate::rows::{RowExt as _, micros};

/// An agent as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    pub id: AgentId,
    pub first_seen_at: Timestamp,
    pub last_seen_at: Timestamp,
}

impl Catalog {
    /// # Errors
    /// `Database`.
    pub async fn setting(&self, name: &str) -> Result<Option<String>> {
        sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading a setting"))
    }

    /// Sets or replaces.
    ///
    /// # Errors
    /// `Database`.
    pub async fn put_setting(&self, name: &str, value: &str) -> Result<()> {
        let doing = "writing a setting";
        let mut tx = self.write(doing).await?;
        let upsert = "INSERT INTO settings (name, value) VALUES ($1, $2) \
                      ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(upsert).bind(name).bind(value).execute(&mut *tx).await.map_err(database(doing))?;
        crate::open::commit(tx, doing).await
    }

    /// Sets the value where there is none; of several callers exactly one is told `true`, and all find its value
    /// from then on.
    ///
    /// # Errors
    /// `Database`.
    pub async fn put_setting_if_absent(&self, name: &str, value: &str) -> Result<bool> {
        let doing = "writing a setting";
        let mut tx = self.write(doing).await?;
        let insert = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        let done =
            sqlx::query(insert).bind(name).bind(value).execute(&mut *tx).await.map_err(database(doing))?;
        crate::open::commit(tx, doing).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that the agent spoke at `now`; an earlier instant than the last one changes nothing.
    ///
    /// # Errors
    /// `Database`.
    pub async fn record_agent_seen(&self, id: AgentId, now: Timestamp) -> Result<()> {
        let doing = "noting that an agent was heard";
        let mut tx = self.write(doing).await?;
        let upsert = "INSERT INTO agents (id, first_seen_at, last_seen_at) VALUES ($1, $2, $2) \
                      ON CONFLICT (id) DO UPDATE SET last_seen_at = excluded.last_seen_at \
                      WHERE agents.last_seen_at < excluded.last_seen_at";
        sqlx::query(upsert)
            .bind(id.to_string())
            .bind(micros(now))
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        crate::open::commit(tx, doing).await
    }

    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>> {
        let row = sqlx::query("SELECT first_seen_at, last_seen_at FROM agents WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.reader())
            .await
            .map_err(database("reading an agent"))?;
        row.map(|row| {
            let (first_seen_at, last_seen_at) = (row.instant("first_seen_at")?, row.instant("last_seen_at")?);
            Ok(AgentRecord { id, first_seen_at, last_seen_at })
        })
        .transpose()
    }
}
