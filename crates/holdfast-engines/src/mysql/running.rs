//! What uses tables for long. mysqldump's snapshot begins with `FLUSH TABLES` and `FLUSH TABLES WITH READ LOCK`. These wait for
//! every table that is in use, and what they have marked as old stays so after they gave up: until whoever uses a table is
//! done with it, everybody else's statements on it wait too. So no dump is begun beside a statement that runs for long, or
//! beside a session that keeps tables locked or open.
//!
//! Sources: MySQL 9.7 manual, FLUSH TABLES, SHOW OPEN TABLES, SHOW PROCESSLIST, General Thread States; tried on 9.7.4.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mysql_async::{Conn, Row};

use super::sql::{number, rows, text};
use crate::{ProgressSink, Result};

const DOING: &str = "look for what uses tables for long";
/// The server tells whole seconds: what it calls 0 may have begun just now.
const LONG_SECONDS: u64 = 1;
/// How long a moment without anything long is waited for.
const WAIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// So many looks tell of a table in use whether a session keeps it or statements come and go on it.
const LOOKS: u32 = 10;
/// What stands in the server's list and uses no tables of tenants: idle sessions, the server's own, readers of the binlog.
const OTHERS: [&str; 4] = ["Sleep", "Daemon", "Binlog Dump", "Binlog Dump GTID"];
/// States of statements that do not use the tables that they name, yet: they wait for somebody who does.
const WAITING: [&str; 2] = ["Waiting for table metadata lock", "Waiting for table flush"];
/// A session that has not said who it is.
const NOBODY: &str = "unauthenticated user";

/// Waits for at most 20 s until a dump would hold up nobody. In words: what it would wait for still. A statement is borne then
/// that has run for less than `bearable` seconds.
pub(super) async fn in_the_way(
    conn: &mut Conn,
    bearable: u64,
    progress: &ProgressSink,
) -> Result<Option<String>> {
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut waits = false;
    loop {
        let statements = statements(conn).await?;
        seen.look(rows(conn, DOING, "SHOW OPEN TABLES WHERE In_use > 0").await?, &statements);
        let longest = statements.into_iter().max_by_key(|statement| statement.seconds);
        let longest = longest.filter(|longest| longest.seconds >= LONG_SECONDS);
        if longest.is_none() && seen.nothing_is_kept() {
            return Ok(None);
        }
        if began.elapsed() > WAIT {
            let longest = longest.filter(|longest| longest.seconds >= bearable);
            return Ok(longest.map(|longest| longest.said()).or_else(|| seen.kept()));
        }
        if !std::mem::replace(&mut waits, true) {
            progress.phase("waiting for statements to end");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Statement {
    connection: String,
    user: String,
    seconds: u64,
    text: String,
    is_waiting: bool,
}

impl Statement {
    fn uses(&self, table: &str) -> bool {
        !self.is_waiting && self.text.contains(table)
    }

    /// Without its text, which is the tenant's.
    fn said(&self) -> String {
        let Self { connection, user, seconds, .. } = self;
        format!("a statement that has run for {seconds} s (connection {connection} of user {user:?})")
    }
}

/// What runs, but for this.
async fn statements(conn: &mut Conn) -> Result<Vec<Statement>> {
    let own = conn.id().to_string();
    let sessions = rows(conn, DOING, "SHOW FULL PROCESSLIST").await?;
    let statements =
        sessions.iter().filter(|row| !OTHERS.contains(&&*text(row, "Command"))).map(|row| Statement {
            connection: text(row, "Id"),
            user: text(row, "User"),
            seconds: number(row, "Time"),
            text: text(row, "Info").to_lowercase(),
            is_waiting: WAITING.contains(&&*text(row, "State")),
        });
    Ok(statements.filter(|found| found.connection != own && found.user != NOBODY).collect())
}

/// Tables that were in use at every look since they first were. One that is free at a look is kept by nobody.
#[derive(Default)]
struct Seen(BTreeMap<(String, String), Looks>);

#[derive(Default)]
struct Looks {
    all: u32,
    /// It was in use more often than there were statements that name it.
    unnamed: u32,
}

impl Looks {
    /// Statements begin and end between the two lists of a look, so some looks are wrong.
    fn mostly_unnamed(&self) -> bool {
        self.unnamed * 2 >= self.all
    }
}

impl Seen {
    fn look(&mut self, in_use: Vec<Row>, statements: &[Statement]) {
        let mut before = std::mem::take(&mut self.0);
        for row in in_use {
            let table = (text(&row, "Database"), text(&row, "Table"));
            let name = table.1.to_lowercase();
            let naming = statements.iter().filter(|statement| statement.uses(&name)).count();
            let mut looks = before.remove(&table).unwrap_or_default();
            looks.all += 1;
            looks.unnamed += u32::from(number(&row, "In_use") > naming as u64);
            self.0.insert(table, looks);
        }
    }

    /// It is known of every table.
    fn nothing_is_kept(&self) -> bool {
        self.0.values().all(|looks| looks.all >= LOOKS && !looks.mostly_unnamed())
    }

    fn kept(&self) -> Option<String> {
        let mut kept = self.0.iter().filter(|(_, looks)| looks.all >= LOOKS && looks.mostly_unnamed());
        let ((database, table), _) = kept.next()?;
        let more = kept.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("a session that keeps {database}.{table}{more} locked or open"))
    }
}
