//! Members of an `ENUM` or `SET` that no statement can make. `ALTER TABLE … CONVERT TO CHARACTER SET` gives the column another character
//! set and leaves the bytes of its members as they are (9.7.4, `latin1` to `utf8mb4`), so what they are then is no text (the server shows `''`), other
//! text, or what another member is in the column's collation. Of equal ones a dump's values name the first.

use std::collections::HashSet;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::sql::{rows, text};
use crate::{EngineError, Result};

const DOING: &str = "look for members of an ENUM or SET that are equal";
const COLUMNS: &str = "SELECT table_schema AS db, CONCAT(table_name, '.', column_name) AS name, column_type AS members, \
    character_set_name AS charset, collation_name AS collation FROM information_schema.columns \
    WHERE data_type IN ('enum', 'set') AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Columns with members that are equal: database, and table and column. One question for each column: some seconds for 10,000 of them.
pub(super) async fn equal(conn: &mut Conn) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for row in rows(conn, DOING, COLUMNS).await? {
        let members = members(&text(&row, "members"));
        if members.len() < 2 {
            continue;
        }
        let (charset, collation) = (text(&row, "charset"), text(&row, "collation"));
        let distinct = match charset.as_str() {
            // The server's way to tell of `binary`.
            "" => members.iter().collect::<HashSet<_>>().len(),
            charset => distinct(conn, &members, charset, &collation).await?,
        };
        if distinct != members.len() {
            found.push((text(&row, "db"), text(&row, "name")));
        }
    }
    Ok(found)
}

/// How many of them the server tells apart.
async fn distinct(conn: &mut Conn, members: &[String], charset: &str, collation: &str) -> Result<usize> {
    let query = format!(
        "SELECT COUNT(DISTINCT CONVERT(member USING {charset}) COLLATE {collation}) \
         FROM JSON_TABLE(?, '$[*]' COLUMNS (member LONGTEXT PATH '$')) AS t"
    );
    let all = serde_json::to_string(members).expect("strings");
    let told: Option<usize> = conn.exec_first(query, (all,)).await.map_err(EngineError::client(DOING))?;
    Ok(told.unwrap_or_default())
}

/// Of a type as the server writes it: `enum('a','it''s')`.
fn members(column_type: &str) -> Vec<String> {
    let (mut members, mut rest) = (Vec::new(), column_type);
    while let Some(begin) = rest.find('\'') {
        let (mut member, mut left) = (String::new(), &rest[begin + 1..]);
        while let Some(end) = left.find('\'') {
            member.push_str(&left[..end]);
            left = &left[end + 1..];
            let Some(more) = left.strip_prefix('\'') else { break };
            member.push('\'');
            left = more;
        }
        members.push(member);
        rest = left;
    }
    members
}

#[cfg(test)]
mod tests {
    #[test]
    fn members_are_read_from_their_type() {
        for (column_type, expected) in [
            ("enum('a')", &["a"][..]),
            ("set('','it''s','''','(',',')", &["", "it's", "'", "(", ","]),
            (r"enum('a\b','ä')", &[r"a\b", "ä"]),
        ] {
            assert_eq!(super::members(column_type), expected, "{column_type}");
        }
    }
}
