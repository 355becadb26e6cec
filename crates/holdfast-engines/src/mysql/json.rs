//! Values in JSON columns that their text does not tell. What the server's own functions put there stays of its type: `JSON_OBJECT('p', price,
//! 'at', NOW())` holds a DECIMAL and a DATETIME. A dump is text, and what is read back from it are doubles and strings: `1.10` is `1.1`, a
//! long number loses digits, a date is compared as a string. So rows are looked at before a dump is begun, and again beside it.
//!
//! A DECIMAL whose text and worth are those of a double is let through: `1.5` is then of another type, and of the same value.
//!
//! Source: MySQL 9.7 manual, "The JSON Data Type"; tried on 9.7.4.

use std::time::{Duration, Instant};

use mysql_async::{Conn, Error};

use super::sql::{identifier, rows, run, text};
use crate::Result;

const DOING: &str = "look for JSON that its text does not tell";
const TIME_IS_UP: u16 = 3024; // ER_QUERY_TIMEOUT

/// Why a dump would not be this database; `None` where it would. Reads all rows with JSON, which takes some seconds for 100 MB, and no longer
/// than `limit`: what was not looked at until then counts as found.
pub(super) async fn unheld(conn: &mut Conn, limit: Duration) -> Result<Option<String>> {
    let begun = Instant::now();
    let mut reason = None;
    for (database, table, columns) in tables(conn).await? {
        let left = limit.saturating_sub(begun.elapsed()).as_millis().clamp(1, u128::from(u32::MAX));
        run(conn, DOING, format!("SET SESSION max_execution_time = {left}")).await?;
        let wheres: Vec<String> = columns.iter().map(|column| is_untold(column)).collect();
        let name = format!("{}.{}", identifier(&database), identifier(&table));
        let query = format!("SELECT 1 FROM {name} WHERE {} LIMIT 1", wheres.join(" OR "));
        reason = match rows(conn, DOING, &query).await {
            Err(error) if error.said().is_some_and(is_timeout) => {
                Some(format!("JSON that takes more than {} s to look at ({name})", limit.as_secs()))
            }
            found => (!found?.is_empty())
                .then(|| format!("JSON with DECIMALs, dates, times or bytes, which come back as doubles and strings ({name})")),
        };
        if reason.is_some() {
            break;
        }
    }
    run(conn, DOING, "SET SESSION max_execution_time = 0").await?;
    Ok(reason)
}

/// Another value, or another text, once it was read from its text.
fn is_untold(column: &str) -> String {
    let value = identifier(column);
    let read = format!("CAST(CAST({value} AS CHAR) AS JSON)");
    format!(
        "NOT ({value} <=> {read}) OR CAST(CAST({value} AS CHAR) AS BINARY) <> CAST(CAST({read} AS CHAR) AS BINARY)"
    )
}

/// Tables with JSON that a dump writes: what is generated the copy generates.
async fn tables(conn: &mut Conn) -> Result<Vec<(String, String, Vec<String>)>> {
    let query = "SELECT table_schema AS db, table_name AS tab, column_name AS col \
        FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) \
        WHERE data_type = 'json' AND generation_expression = '' AND table_type = 'BASE TABLE' \
        AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY db, tab, col";
    let mut tables: Vec<(String, String, Vec<String>)> = Vec::new();
    for row in rows(conn, DOING, query).await? {
        let (database, table, column) = (text(&row, "db"), text(&row, "tab"), text(&row, "col"));
        match tables.last_mut() {
            Some((db, tab, columns)) if *db == database && *tab == table => columns.push(column),
            _ => tables.push((database, table, vec![column])),
        }
    }
    Ok(tables)
}

fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Server(error) if error.code == TIME_IS_UP)
}
