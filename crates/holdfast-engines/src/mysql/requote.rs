//! What an account must show of itself, as the server writes it down. The values of `REQUIRE SUBJECT 'S' ISSUER 'I' CIPHER 'C'`, in
//! `CREATE USER` and `ALTER USER`, stand in the binlog without any escaping: a quote in one ends a replay with a syntax error, a
//! backslash changes the value. So they are quoted before the statement is replayed.
//!
//! A value that reads like the clauses behind it is told from them by nobody; it ends where the first reading ends that
//! makes a whole statement.
//!
//! Source: tried on 9.7.4, whose order of clauses this is.

use std::sync::LazyLock;

use regex::bytes::Regex;

/// Names, hashes and roles before the requirements. Their quotes are escaped.
const HEAD: &str =
    r#"(?:CREATE|ALTER) USER (?:[^'"`]|'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`)*? REQUIRE"#;
/// The same where a backslash is a letter.
const HEAD_PLAIN: &str = r#"(?:CREATE|ALTER) USER (?:[^'"`]|'[^']*'|"[^"]*"|`[^`]*`)*? REQUIRE"#;
const VALUES: &str = "( SUBJECT '(.*?)')?( ISSUER '(.*?)')?( CIPHER '(.*?)')?";
const TAIL: &str = r"(?: WITH(?: MAX_[A-Z_]+ [0-9]+)+)?(?: PASSWORD [A-Z ]+(?: [0-9]+(?: DAY)?)?| ACCOUNT (?:UN)?LOCK| FAILED_LOGIN_ATTEMPTS [0-9]+| PASSWORD_LOCK_TIME (?:[0-9]+|UNBOUNDED))*";
const NOTE: &str = r"(?: (?:COMMENT|ATTRIBUTE) '(?:[^'\\]|\\.|'')*')?";
const NOTE_PLAIN: &str = "(?: (?:COMMENT|ATTRIBUTE) '(?:[^']|'')*')?";
const END: &str = r"(?: /\* xid=[0-9]+ \*/)?";

static ESCAPED: LazyLock<Regex> = LazyLock::new(|| statement(HEAD, NOTE));
static PLAIN: LazyLock<Regex> = LazyLock::new(|| statement(HEAD_PLAIN, NOTE_PLAIN));

fn statement(head: &str, note: &str) -> Regex {
    Regex::new(&format!("(?s-u)^({head}){VALUES}({TAIL}{note}{END})$")).expect("a constant")
}

/// A statement of the log with its requirements quoted; `None` where it may stay as it is. `escapes`: a backslash escapes, as
/// it does but for the mode `NO_BACKSLASH_ESCAPES`.
pub(super) fn requoted(text: &[u8], escapes: bool) -> Option<Vec<u8>> {
    if !text.starts_with(b"CREATE USER ") && !text.starts_with(b"ALTER USER ") {
        return None;
    }
    let parts = if escapes { ESCAPED.captures(text)? } else { PLAIN.captures(text)? };
    let mut quoted = parts[1].to_vec();
    for (at, word) in [(3, " SUBJECT '"), (5, " ISSUER '"), (7, " CIPHER '")] {
        let Some(value) = parts.get(at) else { continue };
        quoted.extend_from_slice(word.as_bytes());
        for byte in value.as_bytes() {
            if *byte == b'\'' || *byte == b'\\' && escapes {
                quoted.push(*byte); // doubled
            }
            quoted.push(*byte);
        }
        quoted.push(b'\'');
    }
    quoted.extend_from_slice(&parts[8]);
    (quoted != text).then_some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_quoted_and_nothing_else_is() {
        let both =
            "CREATE USER 'a'@'%' IDENTIFIED WITH 'x','b'@'%' IDENTIFIED WITH 'x' AS '$\\'\\\\' REQUIRE";
        let tail = "WITH MAX_QUERIES_PER_HOUR 3 MAX_USER_CONNECTIONS 7 PASSWORD EXPIRE INTERVAL 3 DAY ACCOUNT LOCK PASSWORD HISTORY 4 \
             PASSWORD REUSE INTERVAL 3 DAY PASSWORD REQUIRE CURRENT FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME UNBOUNDED \
             COMMENT 'it\\'s REQUIRE SUBJECT' /* xid=207 */";
        for (written, expected) in [
            (
                format!("{both} SUBJECT 'sub'j' ISSUER 'iss\\' CIPHER 'ci'pher' {tail}"),
                Some(format!("{both} SUBJECT 'sub''j' ISSUER 'iss\\\\' CIPHER 'ci''pher' {tail}")),
            ),
            ("ALTER USER '\\' REQUIRE SUBJECT '@'%' REQUIRE ISSUER ''".to_owned(), None),
            (
                "ALTER USER 'a'@'%' DISCARD OLD PASSWORD REQUIRE SUBJECT ''' PASSWORD EXPIRE NEVER"
                    .to_owned(),
                Some(
                    "ALTER USER 'a'@'%' DISCARD OLD PASSWORD REQUIRE SUBJECT '''' PASSWORD EXPIRE NEVER"
                        .to_owned(),
                ),
            ),
            (
                "ALTER USER 'a'@'%' REQUIRE CIPHER 'two\nlines' ATTRIBUTE '{\\\"a\\\": \\\"it\\'s\\\"}'"
                    .to_owned(),
                None,
            ),
            (
                "ALTER USER 'a'@'%' REQUIRE SUBJECT 'x'; DROP USER u; -- '".to_owned(),
                Some("ALTER USER 'a'@'%' REQUIRE SUBJECT 'x''; DROP USER u; -- '".to_owned()),
            ),
            ("ALTER USER 'a'@'%' REQUIRE X509 COMMENT 'it\\'s'".to_owned(), None),
            ("ALTER USER 'a'@'%' ACCOUNT LOCK".to_owned(), None),
            ("SELECT ' REQUIRE SUBJECT '' '".to_owned(), None),
        ] {
            let found =
                requoted(written.as_bytes(), true).map(|bytes| String::from_utf8(bytes).expect("text"));
            assert_eq!(found, expected, "{written}");
        }
    }

    #[test]
    fn a_backslash_may_be_a_letter() {
        let written = b"CREATE USER 'n\\'@'%' REQUIRE SUBJECT 'a\\' ISSUER 'it's\\' COMMENT 'c\\'";
        let expected = b"CREATE USER 'n\\'@'%' REQUIRE SUBJECT 'a\\' ISSUER 'it''s\\' COMMENT 'c\\'";
        assert_eq!(requoted(written, false).as_deref(), Some(&expected[..]));
    }
}
