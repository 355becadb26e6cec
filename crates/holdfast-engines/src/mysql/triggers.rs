//! Triggers that name a column which their table has no more. The server lets a column go that a trigger writes or reads, and fails what
//! fires it from then on; made anew, as a dump makes it, such a trigger is refused.
//!
//! Source: tried on 9.7.4: `ALTER TABLE … DROP COLUMN`, `CHANGE` and `RENAME COLUMN`; MySQL 9.7 manual, "Schema Object Names".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mysql_async::Conn;
use regex::Regex;

use super::sql::{literal, rows, text};
use crate::Result;

const DOING: &str = "look for triggers on columns that are gone";
const TRIGGERS: &str = "SELECT trigger_schema AS db, trigger_name AS name, event_object_table AS on_table, action_statement AS body \
    FROM information_schema.triggers WHERE trigger_schema NOT IN ('mysql', 'sys')";
/// Also in texts and comments, and where a query has an alias of that name: then a base is a physical one for nothing.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    let name = r#"`(?:[^`]|``)*`|"(?:[^"]|"")*"|[0-9A-Za-z$_\u{80}-\u{ffff}]+"#;
    Regex::new(&format!(r"(?i)\b(?:NEW|OLD)\s*\.\s*({name})")).expect("a constant")
});

/// Database and name of each. The caller holds the backup lock. One question for each table with a trigger, none where there is none.
pub(super) async fn broken(conn: &mut Conn) -> Result<Vec<(String, String)>> {
    let mut known: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut broken = Vec::new();
    for row in rows(conn, DOING, TRIGGERS).await? {
        let table = (text(&row, "db"), text(&row, "on_table"));
        if !known.contains_key(&table) {
            let columns = columns(conn, &table).await?;
            known.insert(table.clone(), columns);
        }
        if named(&text(&row, "body")).any(|name| !known[&table].contains(&name)) {
            broken.push((table.0, text(&row, "name")));
        }
    }
    Ok(broken)
}

/// A table's, in small letters.
async fn columns(conn: &mut Conn, (database, table): &(String, String)) -> Result<BTreeSet<String>> {
    let query = format!(
        "SELECT column_name AS name FROM information_schema.columns WHERE table_schema = {} AND table_name = {}",
        literal(database),
        literal(table)
    );
    let found = rows(conn, DOING, &query).await?;
    Ok(found.iter().map(|row| text(row, "name").to_lowercase()).collect())
}

/// Columns of the row before or after the change that a trigger names, in small letters: case does not tell them apart.
fn named(body: &str) -> impl Iterator<Item = String> {
    NAMED.captures_iter(body).map(|found| {
        let name = &found[1];
        let plain = match name.as_bytes()[0] {
            b'`' => name[1..name.len() - 1].replace("``", "`"),
            b'"' => name[1..name.len() - 1].replace("\"\"", "\""),
            _ => name.to_owned(),
        };
        plain.to_lowercase()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_read_from_a_triggers_body() {
        for (body, expected) in [
            ("SET NEW.a = OLD.`B``b` + new . c", &["a", "b`b", "c"][..]),
            (
                "BEGIN SET NEW.\n`ä` = 1; INSERT INTO t VALUES (OLD.\"x y\", NEW.$1_); END",
                &["ä", "x y", "$1_"],
            ),
            ("INSERT INTO renew.a SELECT 1", &[]),
            ("SET @new = 1", &[]),
        ] {
            assert_eq!(super::named(body).collect::<Vec<_>>(), expected, "{body}");
        }
    }
}
