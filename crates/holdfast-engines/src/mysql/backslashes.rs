//! Statements of sessions in which a backslash is a letter (`NO_BACKSLASH_ESCAPES`). What the server itself has written of them into the
//! binlog escapes backslashes all the same: replayed as it stands, each comment, default and member of an `ENUM` has twice as many.
//!
//! A table like a temporary one is the server's too, but looks as a client may write it, and stays as it is.
//!
//! Source: tried on 9.7.4: tables that get an invisible key, tables of a query's result, routines.

use super::recode::written_of_routine;
use super::scan::Scan;

/// Whether the server wrote the whole definition of a table, and nobody else can have.
pub(super) fn is_servers_table(text: &[u8]) -> bool {
    let mut scan = Scan::new(text);
    if !scan.take(b"CREATE TABLE ") {
        return false;
    }
    scan.take(b"IF NOT EXISTS ");
    if !scan.name() || !scan.take(b" (\n  ") {
        return false;
    }
    let invisible_key = b" bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */";
    is_of_query(text)
        || ((scan.take(b"`my_row_id`") || scan.take(b"\"my_row_id\"")) && scan.take(invisible_key))
}

/// Whether it is of a table that took its columns from a query; its options follow.
pub(super) fn is_of_query(text: &[u8]) -> bool {
    text.starts_with(b"CREATE TABLE ") && Scan::new(text).find(b"\n) START TRANSACTION").is_some()
}

/// A routine's statement with what the server wrote of it without escapes; `None` where it may stay as it is.
pub(super) fn without_escapes(text: &[u8], charset: &str) -> Option<Vec<u8>> {
    let range = written_of_routine(text, charset)?;
    let mut plain = text[..range.start].to_vec();
    let mut letters = text[range.clone()].iter();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            b'\\' => match letters.next()? {
                b'0' => b'\0',
                b'n' => b'\n',
                b'r' => b'\r',
                other => *other,
            },
            other => *other,
        });
    }
    plain.extend_from_slice(&text[range.end..]);
    (plain != text).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_servers_only_where_nobody_else_can_have_written_it() {
        for (text, expected) in [
            (
                "CREATE TABLE `t` (\n  `my_row_id` bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */,\n  `a` int\n)",
                true,
            ),
            (
                "CREATE TABLE \"t\" (\n  \"my_row_id\" bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */\n)",
                true,
            ),
            ("CREATE TABLE `d`.`t` (\n  `a` int\n) START TRANSACTION COMMENT='k\\\\l'", true),
            ("CREATE TABLE `t` (\n  `a` int COMMENT '\n) START TRANSACTION'\n)", false),
            ("CREATE TABLE `t` (\n  `a` int NOT NULL,\n  PRIMARY KEY (`a`)\n) ENGINE=InnoDB", false),
            ("CREATE TABLE t (a INT PRIMARY KEY) COMMENT 'o\\o'", false),
            ("ALTER TABLE `t` COMMENT 'o\\o'", false),
        ] {
            assert_eq!(is_servers_table(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn of_a_routine_the_servers_words_lose_their_escapes() {
        for (text, expected) in [
            (
                "CREATE DEFINER=`a`@`%` PROCEDURE `p`(e enum('x\\y'))\n    COMMENT 'a\\\\b\\nc'\nselect 'c\\\\d'",
                Some(
                    "CREATE DEFINER=`a`@`%` PROCEDURE `p`(e enum('x\\y'))\n    COMMENT 'a\\b\nc'\nselect 'c\\\\d'",
                ),
            ),
            (
                "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS enum('q\\\\r') CHARSET utf8mb4\n    DETERMINISTIC\nreturn 'q\\\\r'",
                Some(
                    "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS enum('q\\r') CHARSET utf8mb4\n    DETERMINISTIC\nreturn 'q\\\\r'",
                ),
            ),
            ("CREATE DEFINER=`a`@`%` PROCEDURE `p`()\nselect 'c\\\\d'", None),
            ("CREATE DEFINER=`a`@`%` EVENT ev ON SCHEDULE EVERY 1 DAY COMMENT 'a\\\\b' DO SELECT 1", None),
        ] {
            let found = without_escapes(text.as_bytes(), "utf8mb4");
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }
}
