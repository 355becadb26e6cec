//! Whether scheduled events are to run after a replay: the applier disables each event that it makes or alters, and only the
//! statements in the log tell whether it was to run (MySQL 9.7 manual, "Replication of Invoked Features").

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::sql::{identifier, literal, rows, run, text};
use crate::{EngineError, Result};

/// Database and name, the latter in small letters: the server takes `Nightly` and `nightly` for one event.
type Event = (String, String);

fn named(database: String, name: &str) -> Event {
    (database, name.to_lowercase())
}

/// What the statements of a log say, the last one counting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EventStatus {
    enabled: BTreeMap<Event, bool>,
    /// New name to old, where only the name changed.
    renamed: BTreeMap<Event, Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A name in backticks or double quotes, or a string.
    Quoted(String),
    Mark(char),
}

impl EventStatus {
    /// Whether the bytes of a statement's event may be one about scheduled events; cheap, and true too often.
    pub(super) fn may_concern(bytes: &[u8]) -> bool {
        bytes.windows(5).any(|window| window.eq_ignore_ascii_case(b"EVENT"))
    }

    /// Takes a statement that was executed in `database`.
    pub(super) fn see(&mut self, database: &str, statement: &str) {
        let tokens = tokens(statement);
        let word = |at: usize| match tokens.get(at) {
            Some(Token::Word(word)) => word.to_ascii_uppercase(),
            _ => String::new(),
        };
        let Some(at) = (1..tokens.len()).find(|at| word(*at) == "EVENT") else { return };
        let creates = match &*word(0) {
            "CREATE" => true,
            "ALTER" => false,
            _ => return,
        };
        let mut at = at + 1;
        while ["IF", "NOT", "EXISTS"].contains(&&*word(at)) {
            at += 1;
        }
        let Some((event, mut at)) = name(&tokens, at, database) else { return };
        let (mut enabled, mut renamed) = (creates.then_some(true), None);
        while at < tokens.len() && word(at) != "DO" {
            match &*word(at) {
                "ENABLE" => enabled = Some(true),
                "DISABLE" => enabled = Some(false),
                "RENAME" => renamed = name(&tokens, at + 2, database).map(|(event, _)| event),
                // The text of a comment is no clause.
                _ => {}
            }
            at += 1;
        }
        let known =
            enabled.or_else(|| renamed.is_some().then(|| self.enabled.get(&event).copied()).flatten());
        let new = renamed.clone().unwrap_or_else(|| event.clone());
        match known {
            Some(enabled) => drop(self.enabled.insert(new, enabled)),
            None if renamed.is_some() => {
                let old = self.renamed.remove(&event).unwrap_or(event);
                self.renamed.insert(new, old);
            }
            None => {}
        }
    }

    fn runs(&self, event: &Event, disabled_in_base: &[Event]) -> bool {
        self.enabled.get(event).copied().unwrap_or_else(|| {
            let name = self.renamed.get(event).unwrap_or(event);
            !disabled_in_base.iter().any(|(database, disabled)| named(database.clone(), disabled) == *name)
        })
    }

    /// Gives the events that replay disabled the status that they had, each with the definer that it has.
    pub(super) async fn apply(&self, conn: &mut Conn, disabled_in_base: &[Event]) -> Result<()> {
        let doing = "enable the events";
        for row in rows(conn, doing, &listed("status NOT IN ('ENABLED', 'DISABLED')")).await? {
            let event = named(text(&row, "db"), &text(&row, "name"));
            let status = if self.runs(&event, disabled_in_base) { "ENABLE" } else { "DISABLE" };
            if let Err(error) = alter(conn, doing, &row, status).await {
                // Its time has passed: it would not run any more on the source either.
                tracing::info!(%error, db = event.0, event = event.1, "an event stays disabled");
            }
        }
        Ok(())
    }
}

/// Events that were to run once, at an instant that has passed since, would run as soon as the copy starts, on data that is not
/// of that instant. They are there, and disabled.
pub(super) async fn disable_passed(conn: &mut Conn) -> Result<()> {
    let doing = "disable events whose time has passed";
    // There are no zones by name here, so all are offsets.
    let passed = "event_type = 'ONE TIME' AND status = 'ENABLED' \
        AND COALESCE(CONVERT_TZ(execute_at, REPLACE(time_zone, 'SYSTEM', '+00:00'), '+00:00'), execute_at) <= UTC_TIMESTAMP()";
    for row in rows(conn, doing, &listed(passed)).await? {
        tracing::info!(
            db = text(&row, "db"),
            event = text(&row, "name"),
            "an event whose time has passed is disabled"
        );
        alter(conn, doing, &row, "DISABLE").await?;
    }
    Ok(())
}

fn listed(which: &str) -> String {
    format!(
        "SELECT event_schema AS db, event_name AS name, definer AS definer, character_set_client AS client, \
         collation_connection AS connection FROM information_schema.events WHERE {which}"
    )
}

/// Gives an event a status and leaves it its definer and its character set: the server takes the session's, so the session has
/// the event's, and the statement is written in it.
async fn alter(conn: &mut Conn, doing: &str, row: &mysql_async::Row, status: &str) -> Result<()> {
    let definer = text(row, "definer");
    let (user, host) = definer.rsplit_once('@').unwrap_or((&*definer, "%"));
    let statement = format!(
        "ALTER DEFINER = {}@{} EVENT {}.{} {status}",
        literal(user),
        literal(host),
        identifier(&text(row, "db")),
        identifier(&text(row, "name"))
    );
    let client = text(row, "client");
    let written = format!("SELECT HEX(CONVERT({} USING {}))", literal(&statement), identifier(&client));
    let written: String = super::sql::one(conn, doing, &written).await?;
    let session = format!(
        "SET character_set_client = {}, collation_connection = {}",
        literal(&client),
        literal(&text(row, "connection"))
    );
    run(conn, doing, session).await?;
    let altered = conn.query_drop(hex::decode(written).unwrap_or_default()).await;
    run(conn, doing, "SET NAMES utf8mb4").await?; // plain letters in every character set of clients
    altered.map_err(EngineError::mysql(doing))
}

/// The name at `at`, with its database, and where the statement goes on.
fn name(tokens: &[Token], at: usize, database: &str) -> Option<(Event, usize)> {
    let part = |at: usize| match tokens.get(at) {
        Some(Token::Word(name) | Token::Quoted(name)) => Some(name.clone()),
        _ => None,
    };
    let first = part(at)?;
    match tokens.get(at + 1) {
        Some(Token::Mark('.')) => Some((named(first, &part(at + 2)?), at + 3)),
        _ => Some((named(database.to_owned(), &first), at + 1)),
    }
}

/// Words, names and strings up to the body of the event; comments are left out, but what MySQL executes in them is not.
fn tokens(statement: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("/*!") {
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if rest.starts_with("*/") {
            rest = &rest[2..];
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if ['`', '"', '\''].contains(&first) {
            let (quoted, after) = quoted(&rest[1..], first);
            tokens.push(Token::Quoted(quoted));
            rest = after;
        } else if first.is_alphanumeric() || first == '_' || first == '$' {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            if word.eq_ignore_ascii_case("DO") {
                return tokens;
            }
            rest = after;
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut content = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return (content, &text[at + c.len_utf8()..]);
            }
        } else if c == '\\' && quote != '`' {
            content.extend(chars.next().map(|(_, escaped)| escaped));
            continue;
        }
        content.push(c);
    }
    (content, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_statement_tells_whether_an_event_runs() {
        let rows: [(&[&str], bool); 10] = [
            (&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1"], true),
            (&["CREATE DEFINER=`u`@`%` EVENT `e` ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1"], false),
            (
                &[
                    "create event if not exists d.e on schedule at now() comment 'DISABLE' do begin set @x = 'DISABLE'; end",
                ],
                true,
            ),
            (
                &[
                    "CREATE /*!50117 DEFINER=`EVENT`@`%`*/ /*!50106 EVENT `d`.`e` ON SCHEDULE EVERY 1 DAY DISABLE */ DO x",
                ],
                false,
            ),
            (&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO x", "ALTER EVENT E DISABLE"], false),
            (&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO x", "ALTER EVENT d.e ENABLE"], true),
            (
                &["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO x", "ALTER EVENT e COMMENT 'ENABLE'"],
                false,
            ),
            (&["CREATE EVENT o ON SCHEDULE EVERY 1 DAY DISABLE DO x", "ALTER EVENT o RENAME TO e"], false),
            (&["ALTER EVENT IN_BASE RENAME TO e"], false),
            (&["ALTER EVENT other RENAME TO d.e", "INSERT INTO event VALUES ('DISABLE')"], true),
        ];
        for (statements, expected) in rows {
            let mut status = EventStatus::default();
            statements.iter().for_each(|statement| status.see("d", statement));
            assert_eq!(
                status.runs(&named("d".to_owned(), "E"), &[("d".to_owned(), "In_base".to_owned())]),
                expected,
                "{statements:?}"
            );
        }
    }
}
