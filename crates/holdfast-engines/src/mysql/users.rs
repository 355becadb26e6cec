//! The accounts of a server as a backup carries them: all but the server's own and the agent's.
//!
//! `SHOW CREATE USER` and `SHOW GRANTS` word them, so a restore needs nothing but to run them: first all accounts, since roles
//! and definers are accounts too; then what they may do, again once the tables are there, for rights can be on tables.

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::accounts::account;
use super::config;
use super::sql::{literal, rows, run, text};
use crate::{EngineError, Result};

/// Object of a backup that holds them, as JSON.
pub(super) const NAME: &str = "accounts.json";
const DOING: &str = "restore the accounts";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedAccount {
    pub user: String,
    pub host: String,
    /// The statement that makes it, with the password's hash.
    pub create: String,
    /// In the server's order: a revocation follows what it takes from.
    pub grants: Vec<String>,
    /// Statements for rights on tables and columns that are not there any more: the server keeps those, and grants none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<String>,
}

impl SavedAccount {
    fn name(&self) -> String {
        account(&self.user, &self.host)
    }

    /// May run single routines only; a view may need that while it is made, before there are any.
    fn runs_routines(&self) -> bool {
        self.grants.iter().any(|grant| grant.contains(" ON FUNCTION ") || grant.contains(" ON PROCEDURE "))
    }
}

/// Reads all accounts. The caller holds the backup lock: accounts are in no snapshot.
pub(super) async fn save(conn: &mut Conn) -> Result<Vec<SavedAccount>> {
    let doing = "read the accounts";
    run(conn, doing, "SET SESSION print_identified_with_as_hex = ON").await?;
    let query = format!(
        "SELECT user AS name, host AS host FROM mysql.user WHERE (user, host) NOT IN (('{}', 'localhost'), \
         ('mysql.sys', 'localhost'), ('mysql.session', 'localhost'), ('mysql.infoschema', 'localhost')) ORDER BY user, host",
        config::ADMIN
    );
    let mut saved = Vec::new();
    for row in rows(conn, doing, &query).await? {
        let (user, host) = (text(&row, "name"), text(&row, "host"));
        let account = account(&user, &host);
        let create = first_column(conn, doing, &format!("SHOW CREATE USER {account}")).await?.concat();
        let grants = first_column(conn, doing, &format!("SHOW GRANTS FOR {account}")).await?;
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
        ("tables_priv", &["host", "db", "user", "table_name", "grantor", "table_priv", "column_priv"][..]),
        ("columns_priv", &["host", "db", "user", "table_name", "column_name", "column_priv"]),
    ] {
        let names = columns.join(", ");
        let query = format!("SELECT {names} FROM mysql.{table} p WHERE {of} AND {is_orphan}");
        for row in rows(conn, "read the accounts", &query).await? {
            let values: Vec<String> = (0..columns.len()).map(|at| literal(&text_at(&row, at))).collect();
            statements.push(format!("REPLACE INTO mysql.{table} ({names}) VALUES ({})", values.join(", ")));
        }
    }
    Ok(statements)
}

fn text_at(row: &mysql_async::Row, at: usize) -> String {
    let bytes = row.get_opt::<Option<Vec<u8>>, _>(at).and_then(std::result::Result::ok).flatten();
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

async fn first_column(conn: &mut Conn, doing: &str, query: &str) -> Result<Vec<String>> {
    let found = rows(conn, doing, query).await?;
    Ok(found.into_iter().filter_map(|mut row| row.take::<String, _>(0)).collect())
}

/// Makes the accounts, with as many of their rights as can be given before there are databases. An account may need another
/// that is its default role: those that fail are tried again as long as some succeed.
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
        run(conn, DOING, format!("GRANT EXECUTE ON *.* TO {}", account.name())).await?; // nobody can connect meanwhile
    }
    Ok(())
}

/// Gives all rights, and checks that each account is as it was.
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
    let same = |a: &[SavedAccount], b: &[SavedAccount]| {
        a.len() == b.len()
            && a.iter().zip(b).all(|(a, b)| (&a.user, &a.host, &a.grants) == (&b.user, &b.host, &b.grants))
    };
    if !same(&save(conn).await?, saved) {
        return Err(EngineError::Unexpected {
            doing: DOING.to_owned(),
            what: "their rights are not what they were".to_owned(),
        });
    }
    Ok(())
}

/// ER_BAD_FIELD_ERROR and ER_NO_SUCH_TABLE.
fn is_about_missing(error: &EngineError) -> bool {
    let EngineError::Mysql { source, .. } = error else { return false };
    matches!(&**source, mysql_async::Error::Server(server) if [1054, 1146].contains(&server.code))
}
