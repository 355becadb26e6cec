//! What a dump says while it streams by: from where its snapshot is, whether it is whole, and its fingerprint (R24).
//!
//! The fingerprint is SHA-256 over the text of the dump that two servers with the same content write alike: everything from
//! the first database on, tables with all their rows in the order of their keys, views, triggers and routines. Left out are
//! the events' sections: one whose time has passed is dropped when it is loaded. Of tables with JSON, rows count by what their
//! numbers are worth ([`Rows`]), and columns by their collation ([`Fingerprints`]).

use sha2::digest::Update as _;

use super::canonical::Rows;
use super::columns::Fingerprints;
use super::gtid::GtidSet;
use super::log::hexadecimal;
use crate::{EngineError, Result};

const FIRST_DATABASE: &[u8] = b"-- Current Database:";
const EVENTS: &[u8] = b"-- Dumping events for database";
const ROUTINES: &[u8] = b"-- Dumping routines for database";
/// Only in the dump of a server that writes a binlog.
const LOGS: &[u8] = b"SET @@SESSION.SQL_LOG_BIN";
const COMPLETED: &[u8] = b"-- Dump completed";
const TABLE: &[u8] = b"CREATE TABLE";
const COLUMN: &[u8] = b"  `";
const JSON: &[u8] = b"` json";
const INSERT: &[u8] = b"INSERT INTO";
/// A column's name and type; names have 64 characters at the most.
const COLUMN_BYTES: usize = 300;
/// No line's meaning needs more.
const PREFIX_BYTES: usize = 40;
/// No server takes a longer statement: `max_allowed_packet` is 1 GiB at the most. A row's values are twice as long in a dump as they
/// are, and each row is in one statement, on a line.
const LONGEST_STATEMENT: u64 = (1 << 30) - (1 << 20);
/// The transactions of the snapshot stand at the beginning.
const HEAD_LIMIT: usize = 4 << 20;

/// The snapshot of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub gtids: GtidSet,
    pub file: String,
    pub position: u64,
}

/// Watches a dump go by.
#[derive(Default)]
pub(super) struct DumpWatch {
    head: Option<Vec<u8>>,
    in_body: bool,
    hashing: bool,
    completed: bool,
    hash: Fingerprints,
    /// The beginning of the current line, until its meaning is known.
    prefix: Vec<u8>,
    line_is_known: bool,
    leave_out: bool,
    /// The line's beginning, for what it says of a table.
    definition: Vec<u8>,
    has_json: bool,
    /// The line is an `INSERT` into a table with JSON.
    is_json_rows: bool,
    rows: Rows,
    line_bytes: u64,
    /// Table with a row whose statement no server takes.
    pub too_long: Option<String>,
    pub bytes: u64,
}

impl DumpWatch {
    pub(super) fn new() -> Self {
        Self { head: Some(Vec::new()), ..Self::default() }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(head) = self.head.as_mut().filter(|head| !self.in_body && head.len() < HEAD_LIMIT) {
            head.extend_from_slice(bytes);
        }
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            let (line, rest) = bytes.split_at(end);
            self.part_of_line(line);
            self.measure(line.len());
            if line.ends_with(b"\n") {
                self.line_ends();
            }
            bytes = rest;
        }
    }

    fn measure(&mut self, more: usize) {
        self.line_bytes += more as u64;
        if self.line_bytes > LONGEST_STATEMENT && self.too_long.is_none() {
            let line = String::from_utf8_lossy(&self.definition);
            let table = line.strip_prefix("INSERT INTO ").and_then(|line| line.split(" VALUES ").next());
            self.too_long = Some(table.unwrap_or("a statement").to_owned());
        }
    }

    fn part_of_line(&mut self, mut part: &[u8]) {
        let taken = part.len().min(COLUMN_BYTES - self.definition.len());
        self.definition.extend_from_slice(&part[..taken]);
        if !self.line_is_known {
            let taken = part.len().min(PREFIX_BYTES - self.prefix.len());
            self.prefix.extend_from_slice(&part[..taken]);
            part = &part[taken..];
            if self.prefix.first().is_some_and(|first| !b"-SI".contains(first))
                || self.prefix.len() == PREFIX_BYTES
            {
                self.know_line();
            }
        }
        if !part.is_empty() {
            self.count_in(part);
        }
    }

    fn count_in(&mut self, part: &[u8]) {
        if !self.hashing || self.leave_out {
            return;
        }
        if self.is_json_rows {
            self.rows.take(part, &mut self.hash);
        } else if self.definition.starts_with(b" ") {
            self.hash.take_column(part);
        } else {
            self.hash.update(part);
        }
    }

    fn line_ends(&mut self) {
        self.know_line();
        self.line_is_known = false;
        self.line_bytes = 0;
        self.hash.line_ends();
        if self.definition.starts_with(TABLE) {
            self.has_json = false;
        } else if self.definition.starts_with(COLUMN) {
            self.has_json |= self.definition.windows(JSON.len()).any(|window| window == JSON);
        }
        self.definition.clear();
    }

    /// Decides what the line is, and counts its beginning in.
    fn know_line(&mut self) {
        if self.line_is_known {
            return;
        }
        self.line_is_known = true;
        let is = |words: &[u8]| self.prefix.starts_with(words);
        self.completed = is(COMPLETED);
        self.leave_out = is(LOGS);
        self.is_json_rows = self.has_json && is(INSERT);
        if is(FIRST_DATABASE) {
            (self.in_body, self.hashing) = (true, true);
        } else if self.in_body && is(ROUTINES) {
            self.hashing = true;
        } else if is(EVENTS) || self.completed {
            self.hashing = false;
        }
        let prefix = std::mem::take(&mut self.prefix);
        self.count_in(&prefix);
    }

    /// The snapshot, once its lines have gone by; `None` before.
    pub(super) fn snapshot(&mut self) -> Option<Snapshot> {
        let head = self.head.as_ref()?;
        let text = String::from_utf8_lossy(head);
        let found = snapshot_in(&text)?;
        self.head = None;
        Some(found)
    }

    /// The fingerprint of a whole dump.
    pub(super) fn finish(self) -> Result<String> {
        Ok(self.finish_both()?.0)
    }

    /// And the one that it had before 2026-12, if that is another.
    pub(super) fn finish_both(mut self) -> Result<(String, Option<String>)> {
        if !self.prefix.is_empty() {
            self.know_line();
        }
        if !self.completed {
            return Err(EngineError::Unexpected {
                doing: "dump the databases".to_owned(),
                what: "the dump has no end".to_owned(),
            });
        }
        let (hash, before) = self.hash.finish();
        let told = |hash: Vec<u8>| format!("sha256:{}", hexadecimal(&hash));
        Ok((told(hash), before.map(told)))
    }
}

fn snapshot_in(head: &str) -> Option<Snapshot> {
    let between = |from: &str, to: &str| Some(head.split_once(from)?.1.split_once(to)?.0);
    let file = between("SOURCE_LOG_FILE='", "'")?;
    let position = between("SOURCE_LOG_POS=", ";")?.trim().parse().ok()?;
    let gtids = match between("SET @@GLOBAL.GTID_PURGED=", ";") {
        Some(set) => set.rsplit_once("*/").map_or(set, |(_, set)| set).trim().trim_matches('\''),
        None => "",
    };
    Some(Snapshot { gtids: gtids.parse().ok()?, file: file.to_owned(), position })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "-- MySQL dump 10.13\n-- Host: localhost\nSET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ \
        '458b864c-e6b8-11f1-b4d9-02fc00000001:1-3,\n558b864c-e6b8-11f1-b4d9-02fc00000001:1';\n\n\
        -- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000001', SOURCE_LOG_POS=858;\n--\n\
        -- Current Database: `d`\n--\nCREATE TABLE `t`;\n-- x\nINSERT INTO `t` VALUES (1);\n--\n\
        -- Dumping events for database 'd'\n--\nCREATE EVENT e;\n--\n-- Dumping routines for database 'd'\n--\nr\n\
        SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n-- Dump completed on 2026-11-22 21:00:00\n";

    fn fingerprint(text: &str, step: usize) -> Result<String> {
        let mut watch = DumpWatch::new();
        text.as_bytes().chunks(step).for_each(|chunk| watch.take(chunk));
        watch.finish()
    }

    #[test]
    fn the_snapshot_is_read_from_the_head() {
        let mut watch = DumpWatch::new();
        watch.take(&DUMP.as_bytes()[..100]);
        assert_eq!(watch.snapshot(), None);
        watch.take(&DUMP.as_bytes()[100..]);
        let found = watch.snapshot().expect("it has gone by");
        assert_eq!((found.file.as_str(), found.position, found.gtids.count()), ("binlog.000001", 858, 4));
    }

    #[test]
    fn numbers_in_json_count_by_their_value() {
        let json =
            DUMP.replace("CREATE TABLE `t`;", "CREATE TABLE `t` (\n  `j` json DEFAULT NULL,\n  `k` int\n);");
        let other = json.replace("CREATE TABLE `t` (\n  `j` json", "CREATE TABLE `t` (\n  `j` text");
        for (text, same) in [(json, true), (other, false)] {
            let (a, b) = (text.replace("(1)", "('[1.10]',1)"), text.replace("(1)", "('[1.1]',1)"));
            for step in [1, 7, 1000] {
                let (a, b) = (fingerprint(&a, step).expect("whole"), fingerprint(&b, 1000).expect("whole"));
                assert_eq!(a == b, same, "{text}");
            }
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_content_alone() {
        let expected = fingerprint(DUMP, 1000).expect("whole");
        for step in 1..60 {
            assert_eq!(fingerprint(DUMP, step).expect("whole"), expected, "in chunks of {step}");
        }
        let same = [
            "SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n",
            "858",
            "21:00:00",
            "CREATE EVENT e",
            "Host: localhost",
        ]
        .map(|text| DUMP.replace(text, if text.ends_with('\n') { "" } else { "7" }));
        for text in same {
            assert_eq!(fingerprint(&text, 7).expect("whole"), expected, "{text}");
        }
        for text in [
            DUMP.replace("VALUES (1)", "VALUES (2)"),
            DUMP.replace("\nr\n", "\ns\n"),
            DUMP.replace("-- x", "-- y"),
        ] {
            assert_ne!(fingerprint(&text, 7).expect("whole"), expected, "{text}");
        }
        assert!(
            fingerprint(DUMP.split("-- Dump completed").next().expect("the first part"), 7).is_err(),
            "cut off"
        );
    }
}
