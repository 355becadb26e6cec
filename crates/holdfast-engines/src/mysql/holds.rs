//! What a dump cannot hold: databases that `mysqldump` ends at, loses parts of, or writes as something else. A look at the
//! schema tells, before anything is copied; such a base is made with CLONE.
//!
//! Sources: each row was tried on 9.7.4; bugs.mysql.com 92880, MySQL 9.7 manual on `restrict_fk_on_non_standard_key`,
//! `ALTER DATABASE … READ ONLY`, FLOAT ("Approximate Value Literals").

use mysql_async::Conn;

use super::sql::{identifier, rows, text};
use super::{expressions, members, programs, triggers, views};
use crate::Result;

const DOING: &str = "look for what a dump cannot hold";
/// How many things a reason names.
const NAMED: usize = 3;

/// Reason, and a query for what it is about (`db`, `name`). `{own}` stands for the server's own databases.
const KINDS: [(&str, &str); 11] = [
    (
        "FLOAT columns, which come back with six digits",
        "SELECT table_schema AS db, CONCAT(table_name, '.', column_name) AS name FROM information_schema.columns \
         WHERE data_type = 'float' AND table_schema NOT IN {own}",
    ),
    (
        "text in character sets that are no Unicode, of which single bytes are lost",
        "SELECT table_schema AS db, CONCAT(table_name, '.', column_name) AS name FROM information_schema.columns \
         WHERE character_set_name NOT IN ('utf8mb4', 'utf8mb3', 'latin1', 'ascii', 'binary', 'ucs2', 'utf16', 'utf16le', 'utf32') \
         AND table_schema NOT IN {own}",
    ),
    (
        "members of an ENUM or SET that have four bytes",
        "SELECT table_schema AS db, CONCAT(table_name, '.', column_name) AS name FROM information_schema.columns \
         WHERE data_type IN ('enum', 'set') AND character_set_name IN ('utf8mb4', 'utf16', 'utf16le', 'utf32') \
         AND column_type LIKE '%?%' AND table_schema NOT IN {own}",
    ),
    (
        "foreign keys to keys that are not unique",
        // The server tells of a key that is not unique, not of a part of a unique one.
        "SELECT f.db, f.name FROM (\
           SELECT constraint_schema AS db, constraint_name AS name, referenced_table_schema AS parent_db, referenced_table_name AS parent, \
           COUNT(*) AS parts, GROUP_CONCAT(referenced_column_name ORDER BY ordinal_position) AS columns \
           FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL AND constraint_schema NOT IN {own} GROUP BY 1, 2, 3, 4\
         ) AS f LEFT JOIN (\
           SELECT table_schema AS db, table_name AS name, COUNT(*) AS parts, GROUP_CONCAT(column_name ORDER BY seq_in_index) AS columns \
           FROM information_schema.statistics WHERE non_unique = 0 GROUP BY table_schema, table_name, index_name\
         ) AS u ON u.db = f.parent_db AND u.name = f.parent AND u.parts = f.parts AND u.columns = f.columns WHERE u.db IS NULL",
    ),
    (
        "a database that is read-only",
        "SELECT schema_name AS db, '' AS name FROM information_schema.schemata_extensions \
         WHERE options LIKE '%READ ONLY=1%' AND schema_name NOT IN {own}",
    ),
    (
        "events, routines or triggers with ;; in their text",
        "SELECT db, name FROM (\
           SELECT event_schema AS db, event_name AS name, CONCAT_WS(' ', event_definition, event_comment, definer) AS body FROM information_schema.events \
           UNION ALL SELECT routine_schema, routine_name, CONCAT_WS(' ', routine_definition, routine_comment, definer) FROM information_schema.routines \
           UNION ALL SELECT specific_schema, specific_name, CONCAT_WS(' ', parameter_name, dtd_identifier) FROM information_schema.parameters \
           UNION ALL SELECT trigger_schema, trigger_name, CONCAT_WS(' ', action_statement, event_object_table, definer) FROM information_schema.triggers\
         ) AS t WHERE (LOCATE(';;', body) > 0 OR LOCATE(';;', name) > 0) AND db NOT IN {own}",
    ),
    (
        "events, routines, triggers or views that were made by clients of another character set",
        "SELECT db, name FROM (\
           SELECT event_schema AS db, event_name AS name, CONCAT_WS(' ', event_definition, event_comment, definer) AS body, character_set_client AS cs FROM information_schema.events \
           UNION ALL SELECT routine_schema, routine_name, CONCAT_WS(' ', routine_definition, routine_comment, definer), character_set_client FROM information_schema.routines \
           UNION ALL SELECT trigger_schema, trigger_name, CONCAT_WS(' ', event_object_table, action_statement, definer), character_set_client FROM information_schema.triggers \
           UNION ALL SELECT table_schema, table_name, CONCAT_WS(' ', view_definition, definer), character_set_client FROM information_schema.views\
         ) AS t WHERE cs NOT IN ('utf8mb4', 'utf8mb3', 'utf8') AND db NOT IN {own} \
         AND (LENGTH(body) <> CHAR_LENGTH(body) OR LENGTH(name) <> CHAR_LENGTH(name))",
    ),
    (
        "accounts with comments or attributes that are no UTF-8",
        "SELECT user AS db, '' AS name FROM mysql.user \
         WHERE NOT (CAST(CONVERT(CAST(user_attributes AS BINARY) USING utf8mb4) AS BINARY) <=> CAST(user_attributes AS BINARY))",
    ),
    (
        "libraries",
        "SELECT library_schema AS db, library_name AS name FROM information_schema.libraries WHERE library_schema NOT IN {own}",
    ),
    (
        "routines in a language whose name the server does not quote",
        "SELECT routine_schema AS db, routine_name AS name FROM information_schema.routines \
         WHERE external_language NOT IN ('SQL', 'JAVASCRIPT') AND routine_schema NOT IN {own}",
    ),
    (
        "tables whose files were taken away (DISCARD TABLESPACE)",
        "SELECT SUBSTRING_INDEX(name, '/', 1) AS db, SUBSTRING_INDEX(name, '/', -1) AS name FROM information_schema.innodb_tablespaces \
         WHERE state = 'discarded'",
    ),
];
const OWN: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Why a dump would not be this database, in words that name what it is about; `None` where it would. The caller holds the backup
/// lock.
pub(super) async fn unheld(conn: &mut Conn) -> Result<Option<String>> {
    for (reason, query) in KINDS {
        let found = rows(conn, DOING, &query.replace("{own}", OWN)).await?;
        let names = found.iter().map(|row| (text(row, "db"), text(row, "name")));
        if let Some(reason) = said(reason, names.collect()) {
            return Ok(Some(reason));
        }
    }
    if let Some(reason) = said("members of an ENUM or SET that are equal", members::equal(conn).await?) {
        return Ok(Some(reason));
    }
    let shown_otherwise = expressions::shown_otherwise(conn).await?;
    if let Some(reason) = said("expressions of tables that the server shows as others", shown_otherwise) {
        return Ok(Some(reason));
    }
    let misread = programs::misread(conn).await?;
    if let Some(reason) = said("events, routines or triggers that its client may read otherwise", misread) {
        return Ok(Some(reason));
    }
    if let Some(reason) = said("triggers on columns that are gone", triggers::broken(conn).await?) {
        return Ok(Some(reason));
    }
    Ok(said("views that cannot be read", views::broken(conn).await?))
}

fn said(reason: &str, names: Vec<(String, String)>) -> Option<String> {
    let more = names.len().checked_sub(1)?.saturating_sub(NAMED - 1);
    let shown: Vec<String> = names
        .into_iter()
        .take(NAMED)
        .map(|(db, name)| match name.is_empty() {
            true => identifier(&db),
            false => format!("{}.{}", identifier(&db), identifier(&name)),
        })
        .collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{reason} ({}{more})", shown.join(", ")))
}
