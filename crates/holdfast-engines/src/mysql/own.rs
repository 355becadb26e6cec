//! What is the server's own, and the agent's: what the texts of tenants, in a dump that is loaded and in log that is replayed, must
//! leave as it was. It is read before and after; a difference ends the restore.
//!
//! Source: MySQL 9.7 manual, "The mysql System Schema"; the tables are those of 9.7.4.

use std::collections::BTreeSet;

use mysql_async::Conn;

use super::sql::{rows, text};
use super::users;
use crate::{EngineError, Result};

const DOING: &str = "look at what is the server's own";

/// A kind of thing, and a query for each: its name (`name`), and all that it is (`what`).
const KINDS: [(&str, &str); 9] = [
    (
        "table",
        "SELECT CONCAT_WS('.', table_schema, table_name) AS name, table_type AS what FROM information_schema.tables \
         WHERE table_schema IN {own}",
    ),
    (
        "view",
        "SELECT CONCAT_WS('.', table_schema, table_name) AS name, CONCAT_WS(' ', definer, security_type, view_definition) AS what \
         FROM information_schema.views WHERE table_schema IN {own}",
    ),
    (
        "routine",
        "SELECT CONCAT_WS('.', routine_schema, routine_name) AS name, \
         CONCAT_WS(' ', routine_type, definer, security_type, sql_mode, routine_definition) AS what \
         FROM information_schema.routines WHERE routine_schema IN {own}",
    ),
    (
        "trigger",
        "SELECT CONCAT_WS('.', trigger_schema, trigger_name) AS name, \
         CONCAT_WS(' ', event_object_table, action_timing, event_manipulation, definer, action_statement) AS what \
         FROM information_schema.triggers WHERE trigger_schema IN {own}",
    ),
    (
        "event",
        "SELECT CONCAT_WS('.', event_schema, event_name) AS name, CONCAT_WS(' ', definer, status, event_definition) AS what \
         FROM information_schema.events WHERE event_schema IN {own}",
    ),
    (
        "library",
        "SELECT CONCAT_WS('.', library_schema, library_name) AS name, library_definition AS what \
         FROM information_schema.libraries WHERE library_schema IN {own}",
    ),
    (
        "loaded function",
        "SELECT udf_name AS name, CONCAT_WS(' ', udf_type, udf_library) AS what FROM performance_schema.user_defined_functions",
    ),
    (
        "setting", // GTIDs change as transactions are executed
        "SELECT variable_name AS name, variable_value AS what FROM performance_schema.global_variables \
         WHERE variable_name NOT LIKE 'gtid%'",
    ),
    (
        "kept setting",
        "SELECT variable_name AS name, variable_value AS what FROM performance_schema.persisted_variables",
    ),
];
const OWN: &str = "('mysql', 'sys')";

/// Tables whose rows follow from those of others, or are of the replay itself.
const MOVING: &str =
    "table_name IN ('gtid_executed', 'innodb_index_stats', 'innodb_table_stats') OR table_name LIKE 'slave%'";

/// The server's own things, and the agent's account.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own(BTreeSet<Thing>);

/// Kind, name, all that it is.
type Thing = (&'static str, String, String);

impl Own {
    pub(super) async fn of(conn: &mut Conn) -> Result<Self> {
        let mut things = BTreeSet::new();
        for (kind, query) in KINDS {
            let found = rows(conn, DOING, &query.replace("{own}", OWN)).await?;
            things.extend(found.iter().map(|row| (kind, text(row, "name"), text(row, "what"))));
        }
        for table in tables(conn).await? {
            let sum = rows(conn, DOING, &format!("CHECKSUM TABLE {table}")).await?;
            let sum = sum.first().map(|row| text(row, "Checksum")).unwrap_or_default();
            things.insert(("content of the table", table, sum));
        }
        let rights = users::own_rights(conn).await?;
        things.extend(rights.into_iter().map(|(table, row)| ("account of the server, by", table, row)));
        Ok(Self(things))
    }

    /// Fails where anything is other than it was `before`.
    pub(super) async fn require_as(conn: &mut Conn, before: &Self) -> Result<()> {
        let now = Self::of(conn).await?;
        let Some((kind, name, _)) = before.0.symmetric_difference(&now.0).next() else { return Ok(()) };
        Err(EngineError::Differs {
            doing: DOING.to_owned(),
            what: format!("the {kind} {name} is not as it was before the tenants' statements"),
        })
    }
}

/// Those of the server's tables that hold still, but the grant tables, which are looked at by account.
async fn tables(conn: &mut Conn) -> Result<Vec<String>> {
    let query = format!(
        "SELECT CONCAT_WS('.', table_schema, table_name) AS name FROM information_schema.tables WHERE table_schema IN {OWN} \
         AND table_type = 'BASE TABLE' AND engine = 'InnoDB' AND NOT ({MOVING}) AND NOT (table_schema = 'mysql' AND table_name IN ({}))",
        users::tables()
    );
    Ok(rows(conn, DOING, &query).await?.iter().map(|row| text(row, "name")).collect())
}
