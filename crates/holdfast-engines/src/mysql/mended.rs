//! Statements of the binlog that a server does not understand as they stand there, mended.

use std::borrow::Cow;

use mysql_async::binlog::events::{QueryEvent, StatusVarVal};
use mysql_async::consts::SqlMode;
use mysql_common::collations::{Collation, CollationId};

use super::backslashes::{is_of_query, is_servers_table, without_escapes};
use super::language;
use super::log::HEADER_BYTES;
use super::recode::{Recoded, decoded, recoded};
use super::requote::requoted;

/// Of a statement's event: session, duration, length of the schema, error, length of the variables.
const POST_HEADER_BYTES: usize = 13;
/// `utf8mb4`, as the event's number for a client's character set.
pub(super) const UTF8: u16 = UTF8_ID as u16;
const UTF8_ID: CollationId = CollationId::UTF8MB4_0900_AI_CI;

pub(super) struct Mended<'a> {
    pub text: Cow<'a, [u8]>,
    client: Collation<'static>,
    /// Where in the event the client's character set stands, if it is to be [`UTF8`].
    pub utf8_at: Option<usize>,
    /// Where in the event the session's mode stands, and what it is to be.
    pub mode: Option<(usize, u64)>,
}

impl<'a> Mended<'a> {
    pub(super) fn new(query: &'a QueryEvent<'_>) -> Self {
        let logged = query.query_raw();
        let escapes = backslash_escapes(query);
        let by = charset(query);
        let by = by.as_ref().map_or("utf8mb4", |(_, client)| client.charset());
        let plain = || (!escapes).then(|| without_escapes(logged, by)).flatten();
        let quoted = requoted(logged, escapes).or_else(|| language::quoted(logged)).or_else(plain);
        let mut text = quoted.map_or(Cow::Borrowed(logged), Cow::Owned);
        let (mut client, mut utf8_at) = (Collation::resolve(UTF8_ID), None);
        if let Some((at, logged)) = charset(query) {
            match recoded(&text, logged.charset()) {
                Some(Recoded::Utf8) => utf8_at = Some(at),
                Some(Recoded::Utf8Text(recoded)) => (text, utf8_at) = (Cow::Owned(recoded), Some(at)),
                Some(Recoded::Text(recoded)) => (text, client) = (Cow::Owned(recoded), logged),
                None => client = logged,
            }
        }
        let mode = mode_of_server(query);
        Self { text, client, utf8_at, mode }
    }

    /// Whether the log has it otherwise.
    pub(super) fn differs(&self) -> bool {
        self.utf8_at.is_some() || self.mode.is_some() || matches!(self.text, Cow::Owned(_))
    }

    pub(super) fn decoded(&self) -> Cow<'_, str> {
        decoded(&self.text, self.client.charset())
    }
}

/// By the mode of the session that ran it.
fn backslash_escapes(query: &QueryEvent<'_>) -> bool {
    let mode = query.status_vars().iter().find_map(|variable| match variable.get_value() {
        Ok(StatusVarVal::SqlMode(mode)) => Some(mode.get()),
        _ => None,
    });
    mode.is_none_or(|mode| !mode.contains(SqlMode::MODE_NO_BACKSLASH_ESCAPES))
}

/// Of a table's definition that the server wrote, another mode than the session's: there a backslash escapes; and a table that took its
/// columns from a query it made whatever the session demands of the like, such as members of an `ENUM` that differ (they need not after
/// `ALTER TABLE … CONVERT`, 9.7.4).
fn mode_of_server(query: &QueryEvent<'_>) -> Option<(usize, u64)> {
    let text = query.query_raw();
    if !is_servers_table(text) {
        return None;
    }
    let at = variable(query, 1)?;
    let mode = u64::from_le_bytes(query.status_vars_raw().get(at..at + 8)?.try_into().ok()?);
    let mut without = SqlMode::MODE_NO_BACKSLASH_ESCAPES;
    if is_of_query(text) {
        without = without.union(SqlMode::MODE_STRICT_TRANS_TABLES).union(SqlMode::MODE_STRICT_ALL_TABLES);
    }
    let other = mode & !without.bits();
    (other != mode).then_some((HEADER_BYTES + POST_HEADER_BYTES + at, other))
}

/// The client's character set, and where in the event its number stands.
fn charset(query: &QueryEvent<'_>) -> Option<(usize, Collation<'static>)> {
    let at = variable(query, 4)?;
    let number = u16::from_le_bytes(query.status_vars_raw().get(at..at + 2)?.try_into().ok()?);
    Some((HEADER_BYTES + POST_HEADER_BYTES + at, Collation::resolve(CollationId::from(number))))
}

/// Where among the variables the value of `wanted` stands: they come as 0, 1, 6, 3 and 4, of which any may be missing, before all others
/// (MySQL's `Query_event`).
fn variable(query: &QueryEvent<'_>, wanted: u8) -> Option<usize> {
    let variables = query.status_vars_raw();
    let mut at = 0;
    loop {
        let key = *variables.get(at)?;
        at += 1;
        if key == wanted {
            return Some(at);
        }
        at += match key {
            0 | 3 => 4,
            1 => 8,
            6 => 1 + usize::from(*variables.get(at)?),
            _ => return None,
        };
    }
}
