//! Which stretches of a lineage's log lie in the store, and which holes are known.
//!
//! A stretch is named by its lineage and beginning. Reports may come late, twice or out of order: `to` and
//! `complete_until` only ever grow, and what was trimmed stays trimmed.

use holdfast_core::LineageId;
use holdfast_core::position::{Coverage, Gap, Position};

use crate::error::{CatalogError, Result, database, not_found};
use crate::open::commit;
use crate::rows::{RowExt as _, micros, micros_opt, offset};
use crate::{Catalog, Row, Transaction};

impl Catalog {
    /// Adds the stretch or extends the one with the same beginning (its first one, or the one left by a trim).
    ///
    /// # Errors
    /// `Invalid` when it spans timelines or ends before it begins.
    pub async fn upsert_coverage(&self, lineage: LineageId, stretch: &Coverage) -> Result<()> {
        self.upsert_all_coverage(&[(lineage, stretch.clone())]).await
    }

    /// The same for many, all or none, at the cost of one write.
    ///
    /// # Errors
    /// `Invalid` when one spans timelines or ends before it begins.
    pub async fn upsert_all_coverage(&self, stretches: &[(LineageId, Coverage)]) -> Result<()> {
        let doing = "recording log coverage";
        let mut tx = self.write(doing).await?;
        for (lineage, stretch) in stretches {
            upsert(&mut tx, *lineage, stretch).await?;
        }
        commit(tx, doing).await
    }

    /// The stretches of the lineage in the order of their beginnings. What a trim has wholly gone past is left out; a
    /// stretch that is empty stays, for it may be complete until some instant and go on.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn coverage_of(&self, lineage: LineageId) -> Result<Vec<Coverage>> {
        let query = "SELECT * FROM coverage WHERE lineage_id = $1 AND kept_from <= to_offset \
                     ORDER BY timeline, kept_from, from_offset";
        let rows = sqlx::query(query)
            .bind(lineage.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(database("reading log coverage"))?;
        rows.iter().map(coverage_from_row).collect()
    }

    /// Forgets the coverage of `before.timeline` below `before`: call it before the log itself is removed, so that
    /// no moment promises log that is gone. Other timelines stay as they are.
    ///
    /// # Errors
    /// `Database`.
    pub async fn trim_coverage(&self, lineage: LineageId, before: Position) -> Result<()> {
        let doing = "trimming log coverage";
        let mut tx = self.write(doing).await?;
        sqlx::query(
            "UPDATE coverage SET kept_from = $3 WHERE lineage_id = $1 AND timeline = $2 AND kept_from < $3",
        )
        .bind(lineage.to_string())
        .bind(i64::from(before.timeline))
        .bind(i64::try_from(before.offset).unwrap_or(i64::MAX)) // beyond every offset that can be stored
        .execute(&mut *tx)
        .await
        .map_err(database(doing))?;
        commit(tx, doing).await
    }

    /// Records a hole; the same one again changes nothing, its acknowledgement stays.
    ///
    /// # Errors
    /// `Database`, `Invalid`.
    pub async fn insert_gap(&self, lineage: LineageId, gap: &Gap) -> Result<()> {
        let doing = "recording a gap";
        let mut tx = self.write(doing).await?;
        self::insert_gap(&mut tx, lineage, gap).await?;
        commit(tx, doing).await?;
        self.announce();
        Ok(())
    }

    /// Acknowledged ones too, in the order of time.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub async fn gaps_of(&self, lineage: LineageId) -> Result<Vec<Gap>> {
        let rows = sqlx::query(
            "SELECT * FROM gaps WHERE lineage_id = $1 ORDER BY from_at, from_timeline, from_offset",
        )
        .bind(lineage.to_string())
        .fetch_all(self.reader())
        .await
        .map_err(database("reading the gaps"))?;
        rows.iter().map(gap_from_row).collect()
    }

    /// A human has seen the gap between these positions. It still blocks what it blocks.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn acknowledge_gap(&self, lineage: LineageId, from: Position, to: Position) -> Result<()> {
        let doing = "acknowledging a gap";
        let mut tx = self.write(doing).await?;
        let update = "UPDATE gaps SET acknowledged = 1 WHERE lineage_id = $1 AND from_timeline = $2 AND from_offset = $3 \
                      AND to_timeline = $4 AND to_offset = $5";
        let done = sqlx::query(update)
            .bind(lineage.to_string())
            .bind(i64::from(from.timeline))
            .bind(offset("gap", from.offset)?)
            .bind(i64::from(to.timeline))
            .bind(offset("gap", to.offset)?)
            .execute(&mut *tx)
            .await
            .map_err(database(doing))?;
        if done.rows_affected() == 0 {
            return Err(not_found("gap of lineage", lineage));
        }
        commit(tx, doing).await
    }
}

pub(crate) async fn upsert(tx: &mut Transaction, lineage: LineageId, stretch: &Coverage) -> Result<()> {
    let Coverage { from, to, complete_until } = stretch;
    if from.timeline != to.timeline || from.offset > to.offset {
        let reason = format!("a stretch stays on one timeline and goes forward, not {from:?} to {to:?}");
        return Err(CatalogError::Invalid { what: "coverage", reason });
    }
    let doing = "recording log coverage";
    let (timeline, from, to) =
        (i64::from(from.timeline), offset("coverage", from.offset)?, offset("coverage", to.offset)?);
    // After a trim the agent knows the stretch by what is left of it.
    let named: Option<i64> = sqlx::query_scalar(
        "SELECT from_offset FROM coverage WHERE lineage_id = $1 AND timeline = $2 \
         AND (from_offset = $3 OR (kept_from = $3 AND kept_from <= to_offset)) ORDER BY from_offset DESC LIMIT 1",
    )
    .bind(lineage.to_string())
    .bind(timeline)
    .bind(from)
    .fetch_optional(&mut **tx)
    .await
    .map_err(database(doing))?;
    let upsert = "INSERT INTO coverage (lineage_id, timeline, from_offset, kept_from, to_offset, complete_until) \
         VALUES ($1, $2, $3, $3, $4, $5) ON CONFLICT (lineage_id, timeline, from_offset) DO UPDATE SET \
         to_offset = CASE WHEN excluded.to_offset > coverage.to_offset \
           THEN excluded.to_offset ELSE coverage.to_offset END, \
         complete_until = CASE WHEN coverage.complete_until IS NULL \
           OR excluded.complete_until > coverage.complete_until \
           THEN excluded.complete_until ELSE coverage.complete_until END";
    sqlx::query(upsert)
        .bind(lineage.to_string())
        .bind(timeline)
        .bind(named.unwrap_or(from))
        .bind(to)
        .bind(micros_opt(*complete_until))
        .execute(&mut **tx)
        .await
        .map_err(database(doing))?;
    Ok(())
}

pub(crate) async fn insert_gap(tx: &mut Transaction, lineage: LineageId, gap: &Gap) -> Result<()> {
    let insert = "INSERT INTO gaps (lineage_id, from_timeline, from_offset, to_timeline, to_offset, from_at, to_at, \
                  cause, acknowledged) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                  ON CONFLICT (lineage_id, from_timeline, from_offset, to_timeline, to_offset) DO NOTHING";
    sqlx::query(insert)
        .bind(lineage.to_string())
        .bind(i64::from(gap.from.timeline))
        .bind(offset("gap", gap.from.offset)?)
        .bind(i64::from(gap.to.timeline))
        .bind(offset("gap", gap.to.offset)?)
        .bind(micros(gap.from_time))
        .bind(micros(gap.to_time))
        .bind(&gap.cause)
        .bind(i64::from(gap.acknowledged))
        .execute(&mut **tx)
        .await
        .map_err(database("recording a gap"))?;
    Ok(())
}

fn coverage_from_row(row: &Row) -> Result<Coverage> {
    let timeline = row.number("timeline")?;
    Ok(Coverage {
        from: Position { timeline, offset: row.number("kept_from")? },
        to: Position { timeline, offset: row.number("to_offset")? },
        complete_until: row.instant_opt("complete_until")?,
    })
}

fn gap_from_row(row: &Row) -> Result<Gap> {
    Ok(Gap {
        from: Position { timeline: row.number("from_timeline")?, offset: row.number("from_offset")? },
        to: Position { timeline: row.number("to_timeline")?, offset: row.number("to_offset")? },
        from_time: row.instant("from_at")?,
        to_time: row.instant("to_at")?,
        cause: row.text("cause")?,
        acknowledged: row.flag("acknowledged")?,
    })
}
