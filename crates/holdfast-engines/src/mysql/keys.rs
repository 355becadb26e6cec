//! Keys that the server made for foreign keys, out of the way of the log.
//!
//! A foreign key without a key on its columns gets one, which goes once a client makes another that serves. Which of a table's
//! keys are of that kind is in the server's dictionary alone: a dump has them as a client's, and so has the log where the server
//! writes `CREATE TABLE` itself (tables without a primary key). There `CREATE INDEX` of the same name, which was well in the
//! source, is one key too many. So the key in the copy gets another name, and goes at the end.
//!
//! One that has another name than the client's is in nobody's way and stays: nothing tells it from a client's own.
//!
//! Source: MySQL 9.7 manual, "FOREIGN KEY Constraints" ("this index might be silently dropped later"); tried on 9.7.4.

use mysql_async::Conn;

use super::sql::{identifier, literal, rows, run, text};
use crate::Result;

const DOING: &str = "make way for a key of the log";
/// ER_DUP_KEYNAME
const DUPLICATE_KEY: &str = "1061";

/// Keys that were in the way.
pub(super) struct Keys {
    /// How their names begin now; nobody else's do.
    mark: String,
    moved: Vec<Key>,
    /// The transaction that was stopped last, and what else may be in its way.
    last: Option<(String, Vec<Key>)>,
}

struct Key {
    database: String,
    table: String,
    name: String,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { mark: format!("holdfast {:016x} ", rand::random::<u64>()), moved: Vec::new(), last: None }
    }

    /// Renames what the statement is at odds with that the applier stopped at. Returns whether there was anything. Where several
    /// tables may be meant, one after the other is tried.
    pub(super) async fn make_way(&mut self, conn: &mut Conn) -> Result<bool> {
        let ask = "SELECT LAST_ERROR_NUMBER AS number, LAST_ERROR_MESSAGE AS words FROM performance_schema.replication_applier_status_by_worker \
                   WHERE LAST_ERROR_NUMBER <> 0 ORDER BY LAST_ERROR_TIMESTAMP LIMIT 1";
        let stopped = rows(conn, DOING, ask).await?;
        let words =
            stopped.first().filter(|row| text(row, "number") == DUPLICATE_KEY).map(|row| text(row, "words"));
        let Some(refused) = words.as_deref().and_then(Refused::read) else { return Ok(false) };
        run(conn, DOING, "STOP REPLICA SQL_THREAD").await?;
        let meant = match self.last.take().filter(|(id, _)| id == refused.transaction) {
            None => refused.meant(conn).await?,
            Some((_, others)) => {
                self.move_back(conn).await?;
                others
            }
        };
        let mut meant = meant.into_iter();
        let Some(key) = meant.next() else { return Ok(false) };
        rename(conn, &key, &key.name, &self.aside(self.moved.len())).await?;
        self.moved.push(key);
        self.last = Some((refused.transaction.to_owned(), meant.collect()));
        Ok(true)
    }

    async fn move_back(&mut self, conn: &mut Conn) -> Result<()> {
        let Some(key) = self.moved.pop() else { return Ok(()) };
        rename(conn, &key, &self.aside(self.moved.len()), &key.name).await
    }

    fn aside(&self, number: usize) -> String {
        format!("{}{number}", self.mark)
    }

    /// What made way goes, wherever its table is by now.
    pub(super) async fn settle(self, conn: &mut Conn) -> Result<()> {
        for number in 0..self.moved.len() {
            let aside = self.aside(number);
            let query = format!(
                "SELECT DISTINCT table_schema AS db, table_name AS name FROM information_schema.statistics WHERE index_name = {}",
                literal(&aside)
            );
            for row in rows(conn, DOING, &query).await? {
                let (db, table) = (identifier(&text(&row, "db")), identifier(&text(&row, "name")));
                run(conn, DOING, format!("ALTER TABLE {db}.{table} DROP KEY {}", identifier(&aside))).await?;
            }
        }
        Ok(())
    }
}

async fn rename(conn: &mut Conn, key: &Key, from: &str, to: &str) -> Result<()> {
    let (db, table) = (identifier(&key.database), identifier(&key.table));
    let (from, to) = (identifier(from), identifier(to));
    run(conn, DOING, format!("ALTER TABLE {db}.{table} RENAME KEY {from} TO {to}")).await
}

/// What the applier says of a key that there is already. The statement is a tenant's text, and may be cut off: it is looked
/// into, no more.
#[derive(Debug, PartialEq, Eq)]
struct Refused<'a> {
    transaction: &'a str,
    key: &'a str,
    database: &'a str,
    statement: &'a str,
}

impl<'a> Refused<'a> {
    fn read(words: &'a str) -> Option<Self> {
        let (transaction, words) = words.split_once("executing transaction '")?.1.split_once('\'')?;
        let (_, words) = words.split_once("Error 'Duplicate key name '")?;
        let (key, words) = words.split_once("'' on query. Default database: '")?;
        let (database, statement) = words.split_once("'. Query: '")?;
        Some(Self { transaction, key, database, statement })
    }

    /// Keys of the name that foreign keys use, in tables that the statement may be about.
    async fn meant(&self, conn: &mut Conn) -> Result<Vec<Key>> {
        let query = format!(
            "SELECT DISTINCT s.table_schema AS db, s.table_name AS name FROM information_schema.statistics AS s \
             JOIN information_schema.key_column_usage AS k ON k.table_schema = s.table_schema AND k.table_name = s.table_name \
             AND k.column_name = s.column_name WHERE s.seq_in_index = 1 AND s.non_unique = 1 AND k.ordinal_position = 1 \
             AND k.referenced_table_name IS NOT NULL AND s.index_name = {}",
            literal(self.key)
        );
        let found = rows(conn, DOING, &query).await?;
        let tables = found.iter().map(|row| (text(row, "db"), text(row, "name")));
        let meant = tables.filter(|(database, table)| self.may_be_about(database, table));
        Ok(meant.map(|(database, table)| Key { database, table, name: self.key.to_owned() }).collect())
    }

    fn may_be_about(&self, db: &str, table: &str) -> bool {
        let statement = self.statement.to_lowercase();
        let names = |name: &str| statement.contains(&name.replace('`', "``").to_lowercase());
        names(table) && (self.database.eq_ignore_ascii_case(db) || names(db))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appliers_words_tell_key_and_statement() {
        let words = "Worker 1 failed executing transaction '817a9f3c-ec0a-11f1-b017-02fc00000001:23' at source log , end_log_pos 6923; \
            Error 'Duplicate key name 'a'' on query. Default database: 'd'. Query: 'CREATE INDEX a ON `C``c` (a) COMMENT 'it''";
        let refused = Refused::read(words).expect("all of it is there");
        assert_eq!((refused.key, refused.database), ("a", "d"));
        assert_eq!(refused.transaction, "817a9f3c-ec0a-11f1-b017-02fc00000001:23");
        assert!(refused.may_be_about("d", "c`c"));
        assert!(!refused.may_be_about("d", "other"));
        assert!(!refused.may_be_about("other", "c`c"));
        assert_eq!(Refused::read("Worker 1 failed; Error 'Table 't' already exists' on query."), None);
    }
}
