//! Histograms, which `mysqldump` leaves out, or makes anew from the rows. They travel as the server tells them, and are given
//! to the copy as data: also those that somebody made by hand, and with their `AUTO UPDATE`.
//!
//! Source: MySQL 9.7 manual, "ANALYZE TABLE Statement", `USING DATA`; tried on 9.7.4.

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::sql::{identifier, literal, rows, text};
use crate::Result;

/// Object of a backup that holds them, as JSON.
pub(super) const NAME: &str = "histograms.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Histogram {
    database: String,
    table: String,
    column: String,
    /// JSON.
    data: String,
}

/// The caller holds the backup lock.
pub(super) async fn save(conn: &mut Conn) -> Result<Vec<Histogram>> {
    let query = "SELECT schema_name AS db, table_name AS tab, column_name AS col, histogram AS data \
        FROM information_schema.column_statistics WHERE schema_name NOT IN ('mysql', 'sys')";
    let found = rows(conn, "read the histograms", query).await?;
    let histograms = found.iter().map(|row| Histogram {
        database: text(row, "db"),
        table: text(row, "tab"),
        column: text(row, "col"),
        data: text(row, "data"),
    });
    Ok(histograms.collect())
}

/// They are hints to the optimizer: one that the server does not take is told of in the log, and ends nothing.
pub(super) async fn make(conn: &mut Conn, saved: &[Histogram]) -> Result<()> {
    for one in saved {
        let statement = format!(
            "ANALYZE NO_WRITE_TO_BINLOG TABLE {}.{} UPDATE HISTOGRAM ON {} USING DATA {}",
            identifier(&one.database),
            identifier(&one.table),
            identifier(&one.column),
            literal(&one.data)
        );
        for row in rows(conn, "make the histograms", &statement).await? {
            if text(&row, "Msg_type").eq_ignore_ascii_case("error") {
                let why = text(&row, "Msg_text");
                tracing::warn!(
                    why,
                    db = one.database,
                    table = one.table,
                    column = one.column,
                    "a histogram is not restored"
                );
            }
        }
    }
    Ok(())
}
