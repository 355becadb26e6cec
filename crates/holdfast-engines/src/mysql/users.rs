//! The accounts of a server as a backup carries them: all but the server's own and the agent's, as rows of the grant tables.
//!
//! What the server prints about accounts is a tenant's text: `SHOW CREATE USER` does not escape what `REQUIRE` names, `SHOW
//! GRANTS` names what is gone. So values travel, each for itself, and no statement of theirs ever runs. A row says all that
//! there is: passwords and second ones, requirements, locks, limits, comments, partial revocations, rights on what is gone.
//!
//! Source: MySQL 9.7 manual, "Grant Tables".

use std::collections::BTreeMap;

use mysql_async::{Conn, Value};
use serde::{Deserialize, Serialize};

use super::config;
use super::sql::{identifier, literal, rows, run, text};
use crate::{EngineError, Result};

/// Object of a backup that holds them, as JSON.
pub(super) const NAME: &str = "accounts.json";
const DOING: &str = "restore the accounts";
const READING: &str = "read the accounts";

/// The grant tables, and the columns by which a row belongs to an account: it is left out if one of the pairs is an account of the
/// server's own.
const TABLES: [(&str, &[(&str, &str)]); 10] = [
    ("user", &[("User", "Host")]),
    ("db", &[("User", "Host")]),
    ("tables_priv", &[("User", "Host")]),
    ("columns_priv", &[("User", "Host")]),
    ("procs_priv", &[("User", "Host")]),
    ("proxies_priv", &[("User", "Host")]),
    ("global_grants", &[("USER", "HOST")]),
    ("role_edges", &[("FROM_USER", "FROM_HOST"), ("TO_USER", "TO_HOST")]),
    ("default_roles", &[("USER", "HOST")]),
    ("password_history", &[("User", "Host")]),
];

/// What a backup says of the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Saved {
    Rows(Accounts),
    /// As backups of before 2026-12 have it.
    Statements(Vec<SavedAccount>),
}

/// By grant table: names of columns.
pub(super) type Columns = BTreeMap<String, Vec<String>>;

/// By grant table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accounts {
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    columns: Vec<String>,
    /// Values as their text's bytes in hexadecimal digits; null is null.
    rows: Vec<Vec<Option<String>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedAccount {
    user: String,
    host: String,
    /// The statement that makes it, with the password's hash.
    create: String,
    /// In the server's order: a revocation follows what it takes from.
    grants: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    orphans: Vec<String>,
}

/// Accounts that every server has.
fn own() -> String {
    format!(
        "(('{}', 'localhost'), ('mysql.sys', 'localhost'), ('mysql.session', 'localhost'), ('mysql.infoschema', 'localhost'))",
        config::ADMIN
    )
}

/// Reads all accounts. The caller holds the backup lock: accounts are in no snapshot.
pub(super) async fn save(conn: &mut Conn) -> Result<Accounts> {
    let mut all = Columns::new();
    for (table, _) in TABLES {
        let columns = columns(conn, table).await?.into_iter().map(|(name, _)| name).collect();
        all.insert(table.to_owned(), columns);
    }
    save_columns(conn, all).await
}

async fn save_columns(conn: &mut Conn, mut all: Columns) -> Result<Accounts> {
    run(conn, READING, "SET SESSION time_zone = '+00:00'").await?; // of a password's last change
    let mut tables = BTreeMap::new();
    for (table, keys) in TABLES {
        let Some(columns) = all.remove(table) else { continue };
        let rows = read(conn, table, keys, &columns).await?;
        tables.insert(table.to_owned(), Table { columns, rows });
    }
    Ok(Accounts { tables })
}

impl Accounts {
    pub(super) fn columns(&self) -> Columns {
        self.tables.iter().map(|(name, table)| (name.clone(), table.columns.clone())).collect()
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings")
    }
}

/// The accounts as [`Accounts::to_json`] of a server with these columns has them. A release may know more columns than the one
/// before it. Without any: as the server words them, for bases of before 2026-12.
pub(super) async fn to_compare(conn: &mut Conn, columns: Columns) -> Result<Vec<u8>> {
    if columns.is_empty() {
        return Ok(serde_json::to_vec(&statements::read(conn).await?).expect("strings"));
    }
    Ok(save_columns(conn, columns).await?.to_json())
}

/// What the grant tables say of the server's own accounts: table, and a row of it.
pub(super) async fn own_rights(conn: &mut Conn) -> Result<Vec<(String, String)>> {
    run(conn, READING, "SET SESSION time_zone = '+00:00'").await?;
    let mut all = Vec::new();
    for (table, keys) in TABLES {
        let columns: Vec<String> = columns(conn, table).await?.into_iter().map(|(name, _)| name).collect();
        let of_one: Vec<String> =
            keys.iter().map(|(user, host)| format!("({user}, {host}) IN {}", own())).collect();
        let found = select(conn, table, &columns, &of_one.join(" OR ")).await?;
        all.extend(found.into_iter().map(|row| (format!("mysql.{table}"), format!("{row:?}"))));
    }
    Ok(all)
}

/// The grant tables' names, in quotes.
pub(super) fn tables() -> String {
    TABLES.map(|(table, _)| literal(table)).join(", ")
}

/// The rows of all accounts but the server's own, in an order.
async fn read(
    conn: &mut Conn,
    table: &str,
    keys: &[(&str, &str)],
    columns: &[String],
) -> Result<Vec<Vec<Option<String>>>> {
    let others: Vec<String> =
        keys.iter().map(|(user, host)| format!("({user}, {host}) NOT IN {}", own())).collect();
    select(conn, table, columns, &others.join(" AND ")).await
}

async fn select(
    conn: &mut Conn,
    table: &str,
    columns: &[String],
    which: &str,
) -> Result<Vec<Vec<Option<String>>>> {
    let names: Vec<String> = columns.iter().map(|name| identifier(name)).collect();
    let query = format!("SELECT {0} FROM mysql.{table} WHERE {which} ORDER BY {0}", names.join(", "));
    let found = rows(conn, READING, &query).await?;
    Ok(found.into_iter().map(|row| row.unwrap().into_iter().map(hexadecimal).collect()).collect())
}

/// Names and types, in their order.
async fn columns(conn: &mut Conn, table: &str) -> Result<Vec<(String, String)>> {
    let query = format!(
        "SELECT column_name AS name, data_type AS type FROM information_schema.columns WHERE table_schema = 'mysql' \
         AND table_name = {} ORDER BY ordinal_position",
        literal(table)
    );
    let found = rows(conn, READING, &query).await?;
    Ok(found.iter().map(|row| (text(row, "name"), text(row, "type"))).collect())
}

fn hexadecimal(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(hex::encode(bytes)),
        other => Some(hex::encode(other.as_sql(true).trim_matches('\''))),
    }
}

impl Saved {
    /// Makes the accounts with all their rights, also on what is not there yet: nothing but the rows is looked at.
    pub(super) async fn make(&self, conn: &mut Conn) -> Result<()> {
        match self {
            Self::Rows(accounts) => accounts.put(conn).await,
            Self::Statements(accounts) => statements::make(conn, accounts).await,
        }
    }

    /// The same once everything is there, and checks that each account is as it was.
    pub(super) async fn check(&self, conn: &mut Conn) -> Result<()> {
        match self {
            Self::Rows(accounts) => {
                accounts.put(conn).await?;
                accounts.compare(conn).await
            }
            Self::Statements(accounts) => statements::grant(conn, accounts).await,
        }
    }
}

impl Accounts {
    async fn compare(&self, conn: &mut Conn) -> Result<()> {
        for (table, keys) in TABLES {
            let Some(saved) = self.tables.get(table) else { continue };
            if read(conn, table, keys, &saved.columns).await? != saved.rows {
                let what = format!("what mysql.{table} says of the accounts is not what it said");
                return Err(EngineError::Unexpected { doing: DOING.to_owned(), what });
            }
        }
        Ok(())
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        run(conn, DOING, "SET SESSION time_zone = '+00:00'").await?;
        for (table, _) in TABLES {
            let Some(saved) = self.tables.get(table) else { continue };
            let known = columns(conn, table).await?;
            let names: Vec<String> = saved.columns.iter().map(|name| identifier(name)).collect();
            for row in &saved.rows {
                let mut values = Vec::new();
                for (name, value) in saved.columns.iter().zip(row) {
                    let kind = known.iter().find(|(known, _)| known == name).map(|(_, kind)| kind.as_str());
                    values.push(as_sql(kind, value.as_deref(), name)?);
                }
                let put = format!(
                    "REPLACE INTO mysql.{table} ({}) VALUES ({})",
                    names.join(", "),
                    values.join(", ")
                );
                run(conn, DOING, put).await?;
            }
        }
        run(conn, DOING, "FLUSH PRIVILEGES").await
    }
}

/// A value as digits: none of it is read as text of a statement.
fn as_sql(kind: Option<&str>, value: Option<&str>, column: &str) -> Result<String> {
    let damaged = |what: &str| EngineError::Damaged { doing: DOING.to_owned(), what: what.to_owned() };
    let Some(kind) = kind else {
        return match value {
            // Of a later release; what it does not use need not be there.
            None => Ok("DEFAULT".to_owned()),
            Some(_) => Err(damaged(&format!("this release of MySQL has no column {column} for an account"))),
        };
    };
    let Some(digits) = value else { return Ok("NULL".to_owned()) };
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || digits.len() % 2 == 1 {
        return Err(damaged("a value that is no hexadecimal number"));
    }
    Ok(match kind {
        "blob" | "tinyblob" | "mediumblob" | "longblob" | "binary" | "varbinary" => format!("x'{digits}'"),
        _ => format!("CONVERT(x'{digits}' USING utf8mb4)"),
    })
}

/// Accounts as statements, as backups of before 2026-12 have them. Each runs for itself: one that is more than one is none.
mod statements {
    use mysql_async::Conn;

    use super::super::accounts::account;
    use super::super::sql::{literal, rows, run, text};
    use super::{DOING, READING, SavedAccount, own};
    use crate::{EngineError, Result};

    impl SavedAccount {
        fn name(&self) -> String {
            account(&self.user, &self.host)
        }

        /// May run single routines only; a view may need that while it is made, before there are any.
        fn runs_routines(&self) -> bool {
            self.grants
                .iter()
                .any(|grant| grant.contains(" ON FUNCTION ") || grant.contains(" ON PROCEDURE "))
        }
    }

    /// The accounts as such a backup words them, to compare with it.
    pub(super) async fn read(conn: &mut Conn) -> Result<Vec<SavedAccount>> {
        run(conn, READING, "SET SESSION print_identified_with_as_hex = ON").await?;
        let query = format!(
            "SELECT user AS name, host AS host FROM mysql.user WHERE (user, host) NOT IN {} ORDER BY user, host",
            own()
        );
        let mut saved = Vec::new();
        for row in rows(conn, READING, &query).await? {
            let (user, host) = (text(&row, "name"), text(&row, "host"));
            let account = account(&user, &host);
            let create = first_column(conn, &format!("SHOW CREATE USER {account}")).await?.concat();
            let grants = first_column(conn, &format!("SHOW GRANTS FOR {account}")).await?;
            let orphans = orphans(conn, &user, &host).await?;
            saved.push(SavedAccount { user, host, create, grants, orphans });
        }
        Ok(saved)
    }

    /// Rows of the grant tables for tables that are gone or lack a column that a right is on, as statements.
    async fn orphans(conn: &mut Conn, user: &str, host: &str) -> Result<Vec<String>> {
        let of = format!("p.user = {} AND p.host = {}", literal(user), literal(host));
        let is_orphan = "(NOT EXISTS (SELECT 1 FROM information_schema.tables t WHERE t.table_schema = p.db AND t.table_name = p.table_name) \
            OR EXISTS (SELECT 1 FROM mysql.columns_priv q WHERE (q.user, q.host, q.db, q.table_name) = (p.user, p.host, p.db, p.table_name) \
            AND NOT EXISTS (SELECT 1 FROM information_schema.columns c WHERE c.table_schema = q.db AND c.table_name = q.table_name \
            AND c.column_name = q.column_name)))";
        let mut statements = Vec::new();
        for (table, columns) in [
            (
                "tables_priv",
                &["host", "db", "user", "table_name", "grantor", "table_priv", "column_priv"][..],
            ),
            ("columns_priv", &["host", "db", "user", "table_name", "column_name", "column_priv"]),
        ] {
            let names = columns.join(", ");
            let query = format!("SELECT {names} FROM mysql.{table} p WHERE {of} AND {is_orphan}");
            for row in rows(conn, READING, &query).await? {
                let values: Vec<String> = columns.iter().map(|column| literal(&text(&row, column))).collect();
                statements
                    .push(format!("REPLACE INTO mysql.{table} ({names}) VALUES ({})", values.join(", ")));
            }
        }
        Ok(statements)
    }

    async fn first_column(conn: &mut Conn, query: &str) -> Result<Vec<String>> {
        let found = rows(conn, READING, query).await?;
        Ok(found.into_iter().filter_map(|mut row| row.take::<String, _>(0)).collect())
    }

    /// An account may need another that is its default role: those that fail are tried again as long as some succeed.
    pub(super) async fn make(conn: &mut Conn, saved: &[SavedAccount]) -> Result<()> {
        let mut left: Vec<&SavedAccount> = saved.iter().collect();
        while !left.is_empty() {
            let (before, mut failed, mut last) = (left.len(), Vec::new(), None);
            for account in left {
                if let Err(error) = run(conn, DOING, &account.create).await {
                    failed.push(account);
                    last = Some(error);
                }
            }
            if let Some(error) = last.filter(|_| failed.len() == before) {
                return Err(error);
            }
            left = failed;
        }
        for grant in saved.iter().flat_map(|account| &account.grants) {
            let _ = run(conn, DOING, grant).await; // on a table that is not there yet; `grant` tells
        }
        for account in saved.iter().filter(|account| account.runs_routines()) {
            // Nobody can connect meanwhile.
            run(conn, DOING, format!("GRANT EXECUTE ON *.* TO {}", account.name())).await?;
        }
        Ok(())
    }

    pub(super) async fn grant(conn: &mut Conn, saved: &[SavedAccount]) -> Result<()> {
        for account in saved.iter().filter(|account| account.runs_routines()) {
            run(conn, DOING, format!("REVOKE EXECUTE ON *.* FROM {}", account.name())).await?;
        }
        for account in saved {
            for grant in &account.grants {
                match run(conn, DOING, grant).await {
                    Err(error) if is_about_missing(&error) && !account.orphans.is_empty() => {}
                    given => given?,
                }
            }
            for orphan in &account.orphans {
                run(conn, DOING, orphan).await?;
            }
        }
        run(conn, DOING, "FLUSH PRIVILEGES").await?;
        let rights = |all: &[SavedAccount]| {
            let rights = all.iter().map(|one| (one.user.clone(), one.host.clone(), one.grants.clone()));
            rights.collect::<Vec<_>>()
        };
        if rights(&read(conn).await?) == rights(saved) {
            return Ok(());
        }
        let what = "their rights are not what they were".to_owned();
        Err(EngineError::Unexpected { doing: DOING.to_owned(), what })
    }

    /// ER_BAD_FIELD_ERROR and ER_NO_SUCH_TABLE.
    fn is_about_missing(error: &EngineError) -> bool {
        matches!(error.said(), Some(mysql_async::Error::Server(server)) if [1054, 1146].contains(&server.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_digits_whatever_it_says() {
        let evil = hex::encode("x'; DROP DATABASE d; -- ");
        assert_eq!(as_sql(Some("blob"), Some(&evil), "c").expect("digits"), format!("x'{evil}'"));
        assert_eq!(as_sql(Some("json"), None, "c").expect("null"), "NULL");
        assert!(as_sql(Some("char"), Some("'; DROP"), "c").is_err());
        assert!(as_sql(None, Some("00"), "new").is_err(), "nothing is left out silently");
    }

    #[test]
    fn backups_of_both_kinds_are_read() {
        let old = r#"[{"user":"u","host":"%","create":"CREATE USER `u`@`%`","grants":[]}]"#;
        assert!(matches!(serde_json::from_str(old), Ok(Saved::Statements(all)) if all.len() == 1));
        let new = r#"{"tables":{"user":{"columns":["User"],"rows":[["75"],[null]]}}}"#;
        assert!(matches!(serde_json::from_str(new), Ok(Saved::Rows(_))));
    }
}
