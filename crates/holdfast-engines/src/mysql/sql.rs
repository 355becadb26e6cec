//! Statements that the agent runs in an instance, over its socket, as the admin, one at a time ([`super::single_statement`]).

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row};
use tokio::net::UnixStream;

use super::config;
use super::gtid::GtidSet;
use super::single_statement::Door;
use crate::{EngineError, Instance, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, closed when it is dropped. Its statements wait at most 20 s for locks; it may stand idle beside a long dump.
pub(super) async fn connect(instance: &Instance) -> Result<Conn> {
    let doing = || format!("connect to instance {}", instance.stanza);
    let door = Door::open(instance)?;
    let options = OptsBuilder::default()
        .socket(Some(door.path().to_string_lossy()))
        .user(Some(config::ADMIN))
        .pass(Some(config::admin_password(instance)?))
        .max_allowed_packet(Some(1 << 30))
        .init(vec![
            "SET NAMES utf8mb4, SESSION lock_wait_timeout = 20, innodb_lock_wait_timeout = 20, sql_mode = '', \
             wait_timeout = 31536000",
        ]);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options))
        .await
        .map_err(|_| EngineError::NotReady { seconds: CONNECT_TIMEOUT.as_secs(), last: doing() })?;
    match connected {
        Ok(conn) => Ok(conn),
        // Behind the door nobody hears why the server did not answer.
        Err(error) => {
            UnixStream::connect(config::socket(instance)).await.map_err(EngineError::io(doing()))?;
            Err(EngineError::client(doing())(error))
        }
    }
}

/// Runs one statement without an answer.
pub(super) async fn run(conn: &mut Conn, doing: &str, statement: impl AsRef<str>) -> Result<()> {
    conn.query_drop(statement.as_ref()).await.map_err(EngineError::client(doing))
}

/// The first column of the first row.
pub(super) async fn one<T: mysql_async::prelude::FromValue>(
    conn: &mut Conn,
    doing: &str,
    query: &str,
) -> Result<T> {
    let row: Option<Row> = conn.query_first(query).await.map_err(EngineError::client(doing))?;
    row.and_then(|mut row| row.take_opt(0)).and_then(std::result::Result::ok).ok_or_else(|| {
        EngineError::Unexpected { doing: doing.to_owned(), what: "the server did not tell".to_owned() }
    })
}

/// All rows.
pub(super) async fn rows(conn: &mut Conn, doing: &str, query: &str) -> Result<Vec<Row>> {
    conn.query(query).await.map_err(EngineError::client(doing))
}

/// A column of a row by its name, as text; empty where it is missing or null.
pub(super) fn text(row: &Row, column: &str) -> String {
    row.get_opt::<Option<Vec<u8>>, _>(column)
        .and_then(std::result::Result::ok)
        .flatten()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

pub(super) fn number(row: &Row, column: &str) -> u64 {
    text(row, column).parse().unwrap_or(0)
}

/// The transactions that the server has executed.
pub(super) async fn executed(conn: &mut Conn) -> Result<GtidSet> {
    gtids(conn, "gtid_executed").await
}

/// One of the server's sets of transactions.
pub(super) async fn gtids(conn: &mut Conn, variable: &str) -> Result<GtidSet> {
    let doing = "read the executed transactions";
    let text: String = one(conn, doing, &format!("SELECT @@GLOBAL.{variable}")).await?;
    text.parse().map_err(|error: super::gtid::BadGtidSet| EngineError::Unexpected {
        doing: doing.to_owned(),
        what: error.to_string(),
    })
}

/// A name in backticks.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string in quotes; backslashes are escapes in our sessions.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
