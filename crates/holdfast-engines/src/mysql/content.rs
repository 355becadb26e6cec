//! Values that their text does not tell, so that rows are looked at before a dump is begun, and again beside it.
//!
//! - JSON: what the server's own functions put there stays of its type, `JSON_OBJECT('p', price, 'at', NOW())` holds a DECIMAL and a DATETIME. A
//!   dump is text, and what is read back from it are doubles and strings: `1.10` is `1.1`, a long number loses digits, a date is compared
//!   as a string. A DECIMAL whose text and worth are those of a double is let through: `1.5` is then of another type, and of the same value.
//! - Members of an `ENUM` or `SET` that are no text any more ([`super::members`]).
//!
//! Source: MySQL 9.7 manual, "The JSON Data Type"; tried on 9.7.4.

use std::time::{Duration, Instant};

use mysql_async::{Conn, Error};

use super::sql::{identifier, rows, run, text};
use crate::Result;

const DOING: &str = "look for values that their text does not tell";
const TIME_IS_UP: u16 = 3024; // ER_QUERY_TIMEOUT

/// A kind of values.
struct Look {
    what: &'static str,
    /// What is said of a table that has one.
    found: &'static str,
    /// Which columns may have one, in terms of `information_schema.columns`.
    columns: &'static str,
    /// What is true of a value that is one; `{value}` is its column, `{charset}` that column's character set.
    untold: &'static str,
}

const LOOKS: [Look; 2] = [
    Look {
        what: "JSON",
        found: "JSON with DECIMALs, dates, times or bytes, which come back as doubles and strings",
        columns: "data_type = 'json'",
        // Another value, or another text, once it was read from its text.
        untold: "NOT ({value} <=> CAST(CAST({value} AS CHAR) AS JSON)) \
            OR CAST(CAST({value} AS CHAR) AS BINARY) <> CAST(CAST(CAST(CAST({value} AS CHAR) AS JSON) AS CHAR) AS BINARY)",
    },
    Look {
        what: "an ENUM or SET with an empty member",
        found: "members of an ENUM or SET that are no text, as ALTER TABLE … CONVERT leaves them",
        columns: "data_type IN ('enum', 'set') AND character_set_name NOT IN ('binary', 'latin1') \
            AND (column_type LIKE '%(\\'\\'%' OR column_type LIKE '%,\\'\\'%')",
        untold: "NOT (CAST({value} AS BINARY) <=> CAST(CONVERT(CAST({value} AS BINARY) USING {charset}) AS BINARY))",
    },
];

/// Why a dump would not be this database; `None` where it would. Reads all rows with such columns, which takes some seconds for 100 MB of
/// JSON, and no longer than `limit`: what was not looked at until then counts as found.
pub(super) async fn unheld(conn: &mut Conn, limit: Duration) -> Result<Option<String>> {
    let begun = Instant::now();
    let mut reason = None;
    'looks: for look in &LOOKS {
        for (table, untold) in tables(conn, look).await? {
            let left = limit.saturating_sub(begun.elapsed()).as_millis().clamp(1, u128::from(u32::MAX));
            run(conn, DOING, format!("SET SESSION max_execution_time = {left}")).await?;
            let query = format!("SELECT 1 FROM {table} WHERE {} LIMIT 1", untold.join(" OR "));
            reason = match rows(conn, DOING, &query).await {
                Err(error) if error.said().is_some_and(is_timeout) => Some(format!(
                    "{} that takes more than {} s to look at ({table})",
                    look.what,
                    limit.as_secs()
                )),
                found => (!found?.is_empty()).then(|| format!("{} ({table})", look.found)),
            };
            if reason.is_some() {
                break 'looks;
            }
        }
    }
    run(conn, DOING, "SET SESSION max_execution_time = 0").await?;
    Ok(reason)
}

/// Tables that a dump writes, and what is true of a row that has such a value: what is generated the copy generates.
async fn tables(conn: &mut Conn, look: &Look) -> Result<Vec<(String, Vec<String>)>> {
    let query = format!(
        "SELECT table_schema AS db, table_name AS tab, column_name AS col, character_set_name AS charset \
         FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) \
         WHERE {} AND generation_expression = '' AND table_type = 'BASE TABLE' \
         AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY db, tab, col",
        look.columns
    );
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows(conn, DOING, &query).await? {
        let name = format!("{}.{}", identifier(&text(&row, "db")), identifier(&text(&row, "tab")));
        let untold = look.untold.replace("{charset}", &text(&row, "charset"));
        let untold = untold.replace("{value}", &identifier(&text(&row, "col")));
        match tables.last_mut() {
            Some((table, all)) if *table == name => all.push(untold),
            _ => tables.push((name, vec![untold])),
        }
    }
    Ok(tables)
}

fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Server(error) if error.code == TIME_IS_UP)
}
