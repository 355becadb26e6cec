//! Expressions of tables that the server shows as others than it keeps: of generated columns, defaults and keys. It folds their constants
//! as it opens the table, and `SHOW CREATE TABLE`, which a dump is made of, tells what came of it: `t < '10:00'` of a TIME is
//! `t < TIME'10:00:00'`, `y = 99` is `y = 1999`, `_latin1'…'` is in another character set. Most are worth the same; some
//! (`ts = 0.1`) make tables that the server cannot open any more. A CHECK is shown as it is kept.
//!
//! Source: tried on 9.7.4, some 400 expressions in each of the three places, with clients of nine settings: a dump has made
//! another table wherever a kept expression is not in what is shown, and nowhere else.

use std::collections::BTreeMap;

use mysql_async::Conn;

use super::sql::{identifier, rows, run, text};
use crate::Result;

const DOING: &str = "look for expressions that are shown as others";
const KEPT: &str = "SELECT table_schema AS db, table_name AS name, generation_expression AS kept, 'generated' AS place FROM information_schema.columns \
      WHERE generation_expression <> '' AND table_schema NOT IN {own} \
    UNION ALL SELECT table_schema, table_name, column_default, 'default' FROM information_schema.columns \
      WHERE extra LIKE '%DEFAULT_GENERATED%' AND column_default NOT LIKE 'CURRENT_TIMESTAMP%' AND table_schema NOT IN {own} \
    UNION ALL SELECT table_schema, table_name, expression, 'key' FROM information_schema.statistics \
      WHERE expression IS NOT NULL AND table_schema NOT IN {own}";
const OWN: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

type Table = (String, String);

/// Database and name of tables with such an expression, and of those whose expressions are not shown at all. The caller holds the backup
/// lock. One question for each table that has an expression.
pub(super) async fn shown_otherwise(conn: &mut Conn) -> Result<Vec<Table>> {
    let mut kept: BTreeMap<Table, Vec<(String, String)>> = BTreeMap::new();
    for row in rows(conn, DOING, &KEPT.replace("{own}", OWN)).await? {
        let table = (text(&row, "db"), text(&row, "name"));
        kept.entry(table).or_default().push((text(&row, "place"), text(&row, "kept")));
    }
    // An expression holds bytes of several character sets.
    run(conn, DOING, "SET SESSION character_set_results = binary").await?;
    let mut found = Vec::new();
    for (table, expressions) in kept {
        let shown = shown(conn, &table).await;
        if !expressions
            .iter()
            .all(|(place, kept)| shown.as_deref().is_some_and(|shown| is_shown(shown, place, kept)))
        {
            found.push(table);
        }
    }
    run(conn, DOING, "SET SESSION character_set_results = utf8mb4").await?;
    Ok(found)
}

/// The statement that makes the table, as a dump has it; `None` where the server cannot tell.
async fn shown(conn: &mut Conn, (database, name): &Table) -> Option<Vec<u8>> {
    let query = format!("SHOW CREATE TABLE {}.{}", identifier(database), identifier(name));
    let told = rows(conn, DOING, &query).await.ok()?;
    told.first()?.get_opt::<Vec<u8>, _>(1)?.ok()
}

/// Whether a statement has this expression in such a place.
fn is_shown(statement: &[u8], place: &str, kept: &str) -> bool {
    let Some(kept) = bytes_of(kept) else { return false };
    let has = |before: &str, after: &str| {
        let wanted = [before.as_bytes(), &kept, after.as_bytes()].concat();
        statement.windows(wanted.len()).any(|part| part == wanted)
    };
    match place {
        "generated" => has("GENERATED ALWAYS AS (", ") "),
        "default" => has("DEFAULT (", ")"),
        _ => has("(", ")"),
    }
}

/// What is kept: the information schema tells each byte as the character of that number, behind a backslash where it escapes it.
/// `None` for what it cannot have told.
fn bytes_of(told: &str) -> Option<Vec<u8>> {
    let mut characters = told.chars();
    let mut bytes = Vec::with_capacity(told.len());
    while let Some(character) = characters.next() {
        let byte = if character == '\\' { characters.next()? } else { character };
        bytes.push(u8::try_from(u32::from(byte)).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{bytes_of, is_shown};

    #[test]
    fn what_is_kept_is_read_as_bytes() {
        for (told, bytes) in [
            ("(`d` > 20200101)", &b"(`d` > 20200101)"[..]),
            (r"_utf8mb4\'it\\\'s\'", br"_utf8mb4'it\'s'"),
            ("_latin1\\'\u{e9}\\'", b"_latin1'\xe9'"),
            ("_utf8mb4\\'\u{c3}\u{a4}\\'", "_utf8mb4'ä'".as_bytes()),
        ] {
            assert_eq!(bytes_of(told).as_deref(), Some(bytes), "{told}");
        }
        assert_eq!(bytes_of("\u{20ac}"), None);
        assert_eq!(bytes_of("x\\"), None);
    }

    #[test]
    fn an_expression_is_looked_for_in_its_place() {
        let statement = b"`g` int GENERATED ALWAYS AS ((`y` = 1999)) VIRTUAL,\n `n` int DEFAULT (pi()), KEY `k` (((`i` + 1)))";
        for (place, kept, expected) in [
            ("generated", "(`y` = 1999)", true),
            ("generated", "(`y` = 99)", false),
            ("generated", "pi()", false),
            ("default", "pi()", true),
            ("default", "pi", false),
            ("key", "(`i` + 1)", true),
            ("key", "(`i` + 2)", false),
        ] {
            assert_eq!(is_shown(statement, place, kept), expected, "{place} {kept}");
        }
    }
}
