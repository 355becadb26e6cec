//! The language of a library or of a routine that is not SQL. Any name is one, in backticks (`` LANGUAGE `my own` ``); the server
//! writes it into the binlog without them, and a replay ends there with a syntax error. So it is quoted before it is replayed.
//!
//! A name that reads like the line behind it is told from it by nobody; it ends where the first reading ends.
//!
//! Source: tried on 9.7.4, whose order of clauses this is.

use std::sync::LazyLock;

use regex::bytes::Regex;

/// Names, parameters and clauses before the language. What stands in quotes is passed over as a whole.
const HEAD: &str = r"CREATE (?:DEFINER=`(?:[^`]|``)*`@`(?:[^`]|``)*` )?(?:LIBRARY|FUNCTION|PROCEDURE|AGGREGATE FUNCTION) (?:[^'\x22`$]|`(?:[^`]|``)*`|'(?:[^'\\]|\\.|'')*')*?";
static STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"(?s-u)^({HEAD}\n    LANGUAGE )(.*?)(\n(?:    COMMENT '|    USING \(|AS [$']).*)$"))
        .expect("a constant")
});

/// A statement of the log with its language quoted; `None` where it may stay as it is.
pub(super) fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    if !text.starts_with(b"CREATE ") {
        return None;
    }
    let parts = STATEMENT.captures(text)?;
    let name = &parts[2];
    if name.eq_ignore_ascii_case(b"JAVASCRIPT") {
        return None;
    }
    let mut quoted = [&parts[1], b"`"].concat();
    for byte in name {
        quoted.extend_from_slice(if *byte == b'`' { b"``" } else { std::slice::from_ref(byte) });
    }
    Some([&quoted, &b"`"[..], &parts[3]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_quoted_and_nothing_else_is() {
        let rows = [
            (
                "CREATE LIBRARY `l`\n    COMMENT 'it''s\n    LANGUAGE x'\n    LANGUAGE 123\nAS $$f$$",
                "CREATE LIBRARY `l`\n    COMMENT 'it''s\n    LANGUAGE x'\n    LANGUAGE `123`\nAS $$f$$",
            ),
            (
                "CREATE DEFINER=`a`@`%` PROCEDURE `p`()\n    LANGUAGE my `own\n    USING (`d`.`l` AS `x`)\nAS $$f$$",
                "CREATE DEFINER=`a`@`%` PROCEDURE `p`()\n    LANGUAGE `my ``own`\n    USING (`d`.`l` AS `x`)\nAS $$f$$",
            ),
            (
                "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS int\n    LANGUAGE my own\n    COMMENT 'x\nAS $$'\nAS $$f$$",
                "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS int\n    LANGUAGE `my own`\n    COMMENT 'x\nAS $$'\nAS $$f$$",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(quoted(text.as_bytes()).as_deref(), Some(expected.as_bytes()), "{text}");
        }
        for same in [
            "CREATE LIBRARY `l`\n    LANGUAGE JavaScript\nAS $$f$$",
            "CREATE DEFINER=`a`@`%` PROCEDURE `p`()\nSELECT 'x\n    LANGUAGE y\nAS $$'",
            "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS int\n    LANGUAGE JAVASCRIPT\nAS $$\n    LANGUAGE y\nAS $$",
            "INSERT INTO t VALUES ('CREATE LIBRARY `l`\n    LANGUAGE 123\nAS $$f$$')",
        ] {
            assert_eq!(quoted(same.as_bytes()), None, "{same}");
        }
    }
}
