//! The accounts of a server as a backup carries them: all but the server's own and the agent's.
//!
//! `SHOW CREATE USER` and `SHOW GRANTS` word them, so a restore needs nothing but to run them: first all accounts, since roles
//! and definers are accounts too; then what they may do, again once the tables are there, for rights can be on tables.

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::accounts::account;
use super::config;
use super::sql::{rows, run, text};
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
}

/// Reads all accounts. The caller holds the backup lock: accounts are in no snapshot.
pub(super) async fn save(conn: &mut Conn) -> Result<Vec<SavedAccount>> {
    let doing = "read the accounts";
    run(conn, doing, "SET SESSION print_identified_with_as_hex = ON").await?;
    let query = format!(
        "SELECT user AS name, host AS host FROM mysql.user WHERE user NOT IN \
         ('{}', 'mysql.sys', 'mysql.session', 'mysql.infoschema') ORDER BY user, host",
        config::ADMIN
    );
    let mut saved = Vec::new();
    for row in rows(conn, doing, &query).await? {
        let (user, host) = (text(&row, "name"), text(&row, "host"));
        let account = account(&user, &host);
        let create = first_column(conn, doing, &format!("SHOW CREATE USER {account}")).await?.concat();
        let grants = first_column(conn, doing, &format!("SHOW GRANTS FOR {account}")).await?;
        saved.push(SavedAccount { user, host, create, grants });
    }
    Ok(saved)
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
    Ok(())
}

/// Gives all rights, and checks that each account is as it was.
pub(super) async fn grant(conn: &mut Conn, saved: &[SavedAccount]) -> Result<()> {
    for grant in saved.iter().flat_map(|account| &account.grants) {
        run(conn, DOING, grant).await?;
    }
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
