//! Routines, triggers and events: texts of tenants, which a dump carries as they are. The client `mysql`, which loads it, tells
//! statements apart by rules of its own: it knows no `ANSI_QUOTES`, obeys `\C` and `delimiter`, and sends what it takes for one
//! statement as the agent, several at once where the server sees more. A text that the two may read differently is in no dump.
//!
//! Sources: MySQL 9.7 manual, "mysql Client Commands", `--binary-mode`; "Comments"; each rule was tried on 9.7.4.

use mysql_async::Conn;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::sql::{identifier, rows, text};
use crate::{EngineError, Result};

const DOING: &str = "read routines, triggers and events";
const ALL: &str = "SELECT routine_type AS kind, routine_schema AS db, routine_name AS name FROM information_schema.routines \
    WHERE routine_schema NOT IN ('mysql', 'sys') \
    UNION ALL SELECT 'TRIGGER', trigger_schema, trigger_name FROM information_schema.triggers WHERE trigger_schema NOT IN ('mysql', 'sys') \
    UNION ALL SELECT 'EVENT', event_schema, event_name FROM information_schema.events WHERE event_schema NOT IN ('mysql', 'sys')";

/// Database and name of those that a dump cannot carry. The caller holds the backup lock.
pub(super) async fn misread(conn: &mut Conn) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for row in rows(conn, DOING, ALL).await? {
        let (kind, db, name) = (text(&row, "kind"), text(&row, "db"), text(&row, "name"));
        let query = format!("SHOW CREATE {kind} {}.{}", identifier(&db), identifier(&name));
        let shown = rows(conn, DOING, &query).await?;
        let column = match &*kind {
            "PROCEDURE" => "Create Procedure",
            "FUNCTION" => "Create Function",
            "TRIGGER" => "SQL Original Statement",
            _ => "Create Event",
        };
        let is_wrapped = matches!(&*kind, "TRIGGER" | "EVENT");
        let plain = shown
            .first()
            .is_some_and(|row| is_plain(text(row, column).as_bytes(), &text(row, "sql_mode"), is_wrapped));
        if !plain {
            found.push((db, name));
        }
    }
    Ok(found)
}

/// Looks at a dump of before these rules: what could turn the client's reading of it into another one is refused.
pub(super) async fn require_plain(dump: Box<dyn AsyncRead + Send + Unpin>) -> Result<()> {
    const MODE: &[u8] = b"/*!50003 SET sql_mode";
    let failed = |error: std::io::Error| EngineError::Unexpected {
        doing: "read the base".to_owned(),
        what: error.to_string(),
    };
    let (mut lines, mut line) = (BufReader::new(dump), Vec::new());
    let (mut is_inside, mut has_ansi) = (false, false);
    while lines.read_until(b'\n', &mut line).await.map_err(failed)? > 0 {
        let is_end = line == b"DELIMITER ;\n";
        if line.starts_with(MODE) {
            has_ansi = line.windows(4).any(|word| word == b"ANSI");
        }
        let has_control = line.iter().any(|byte| is_control(*byte));
        if is_end && !is_inside || is_inside && (has_control || has_ansi && line.contains(&b'\\')) {
            return Err(EngineError::Unfit {
                doing: "load the base".to_owned(),
                what: "it is of before 2026-12, and has a routine, trigger or event that the client may read otherwise than the server: \
                       restore a later backup, or open this one and read its dump before you load it"
                    .to_owned(),
            });
        }
        is_inside = if line == b"DELIMITER ;;\n" { true } else { is_inside && !is_end };
        line.clear();
    }
    Ok(())
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !b"\t\n\r".contains(&byte)
}

/// Whether client and server read a text alike. `is_wrapped`: mysqldump puts it into a comment that the server executes, in
/// which the client does not tell comments apart.
fn is_plain(text: &[u8], mode: &str, is_wrapped: bool) -> bool {
    if text.is_empty()
        || text.iter().any(|byte| is_control(*byte))
        || mode.contains("NO_BACKSLASH_ESCAPES") && text.contains(&b'\\')
    {
        return false;
    }
    // Of several statements at once the server keeps the mark behind the first; loaded, it is none of the text.
    let mut ends = false;
    let mut rest = text;
    while let Some(first) = rest.first() {
        let after = match first {
            b'`' => quoted(rest, false),
            b'\'' => quoted(rest, true),
            b'"' if mode.contains("ANSI") => quoted(rest, false).filter(|after| {
                let name = &rest[..rest.len() - after.len()];
                !name.contains(&b'\\')
            }),
            b'"' => quoted(rest, true),
            b'#' => line(rest),
            b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(u8::is_ascii_whitespace) => line(rest),
            b'/' if rest.starts_with(b"/*") => comment(rest).filter(|_| !is_wrapped),
            b'\\' => None,
            b';' if rest.starts_with(b";;") => None,
            b'd' | b'D' if is_word(rest, b"delimiter") => None,
            _ => Some(&rest[1..]),
        };
        let Some(after) = after else { return false };
        let is_comment = matches!(first, b'#' | b'-' | b'/') && after.len() + 1 < rest.len();
        if !first.is_ascii_whitespace() && !is_comment {
            ends = *first == b';';
        }
        rest = after;
    }
    !ends
}

/// Behind the closing quote; `None` without one.
fn quoted(text: &[u8], escapes: bool) -> Option<&[u8]> {
    let quote = *text.first()?;
    let mut at = 1;
    loop {
        match *text.get(at)? {
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return text.get(at + 1..),
            b'\\' if escapes => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the line; `None` where the text ends with it: the mark behind the text would be part of the comment.
fn line(text: &[u8]) -> Option<&[u8]> {
    text.iter().position(|byte| *byte == b'\n').map(|end| &text[end..])
}

/// Behind a comment that neither executes.
fn comment(text: &[u8]) -> Option<&[u8]> {
    if text.get(2).is_some_and(|byte| b"!+".contains(byte)) {
        return None;
    }
    let end = text[2..].windows(2).position(|end| end == b"*/")?;
    Some(&text[end + 4..])
}

fn is_word(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_old_dump_whose_text_may_be_misread_is_refused() {
        let dump = |mode: &str, text: &str| {
            let dump = format!(
                "USE `d`;\n/*!50003 SET sql_mode              = '{mode}' */ ;\nDELIMITER ;;\n{text} ;;\nDELIMITER ;\nINSERT INTO `t` VALUES ('\\\\');\n"
            );
            require_plain(Box::new(std::io::Cursor::new(dump.into_bytes())))
        };
        for text in ["SELECT '\\C', \"it's\"", "SELECT 1\n, 2"] {
            dump("", text).await.expect(text);
        }
        dump("ANSI_QUOTES", "SELECT \"a\"").await.expect("no backslash");
        for (mode, text) in [
            ("REAL_AS_FLOAT,ANSI_QUOTES", "declare \"a\\\" int"),
            ("", "SELECT 1 --\u{1}'\n"),
            ("ANSI", "SELECT '\nDELIMITER ;\n', \"a\\\""),
        ] {
            dump(mode, text).await.expect_err(text);
        }
    }

    #[test]
    fn what_client_and_server_read_differently_is_found() {
        let plain = [
            ("CREATE PROCEDURE p() BEGIN -- it's\n SELECT 'a\\'b;', \"x\\\"\", `q\\` /* don't */; END", ""),
            ("CREATE PROCEDURE p() SELECT \"a\"\"'b\" # it's\n, 1--1", "ANSI_QUOTES"),
            ("CREATE PROCEDURE p() SELECT 'delimiter ;; \\\\C'", ""),
        ];
        for (text, mode) in plain {
            assert!(is_plain(text.as_bytes(), mode, false), "{text}");
        }
        let other = [
            ("BEGIN declare \"a\\\" int; END", "REAL_AS_FLOAT,ANSI_QUOTES"),
            ("SELECT '\\'", "NO_BACKSLASH_ESCAPES"),
            ("SELECT 1 -- nightly", ""),
            ("SELECT 1 --", ""),
            ("SELECT 1 # nightly", ""),
            ("SELECT 1 --\u{1}'\n", ""),
            ("SELECT '\0'", ""),
            ("SELECT 1 as delimiter , 2", ""),
            ("BEGIN SELECT 1;; END", ""),
            ("SELECT \\N", ""),
            ("SELECT 1 /*! + 1 */", ""),
            ("SELECT /*+ x */ 1", ""),
            ("SELECT 1 /* open", ""),
            ("SELECT 'open", ""),
            ("SELECT 'open\\", ""),
            ("CREATE PROCEDURE p() SELECT 1; ", ""),
            ("SELECT 1; /* x */\n", ""),
            ("", ""),
        ];
        for (text, mode) in other {
            assert!(!is_plain(text.as_bytes(), mode, false), "{text}");
        }
        assert!(!is_plain(b"SELECT 1 /* x */", "", true), "a comment in a comment");
        assert!(is_plain(b"SELECT '/* x */'", "", true));
    }
}
