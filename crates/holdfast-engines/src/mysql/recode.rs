//! Statements of clients whose character set is not UTF-8. The binlog names the client's set, but what the server itself has
//! written into a statement is UTF-8 all the same: whole statements in some cases, the heads of others. Replayed as they are
//! they fail, or make objects, accounts and values of other names. So the server's words are written anew in the client's set,
//! which views, routines and events keep; a statement that is the server's as a whole is replayed as UTF-8.
//!
//! Character sets that the library does not know (`dec8`, `hp8`, `swe7`, `cp850`, `cp852` and four more) are left as they are
//! in heads.
//!
//! Source: tried on 9.7.4, the bytes of its binlog statement by statement.

use std::borrow::Cow;
use std::ops::Range;

use encoding_rs::Encoding;

use super::scan::Scan;

/// What is to be replayed in place of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recoded {
    /// The same bytes, of a client of UTF-8.
    Utf8,
    /// Others, of a client of UTF-8: its own character set has no letter for something that the server wrote, such as the name of
    /// the account that it runs as.
    Utf8Text(Vec<u8>),
    Text(Vec<u8>),
}

/// A statement of the log by a client of `charset`; `None` where it may stay as it is.
pub(super) fn recoded(text: &[u8], charset: &str) -> Option<Recoded> {
    if text.is_ascii() || ["utf8mb4", "utf8mb3", "utf8", "ascii", "binary"].contains(&charset) {
        return None;
    }
    let words = match servers(Scan::new(text), charset)? {
        Servers::All => return std::str::from_utf8(text).is_ok().then_some(Recoded::Utf8),
        Servers::Parts(words) => words,
    };
    let encoding = encoding(charset)?;
    let (mut recoded, mut at) = (Vec::with_capacity(text.len()), 0);
    for range in &words {
        let servers = std::str::from_utf8(&text[range.clone()]).ok()?;
        let (bytes, _, is_lossy) = encoding.encode(servers);
        // A yen sign becomes a backslash in Japanese sets, which would undo quotes.
        if is_lossy || encoding.decode_without_bom_handling(&bytes).0 != servers {
            return as_utf8(text, &words, encoding).map(Recoded::Utf8Text);
        }
        recoded.extend_from_slice(&text[at..range.start]);
        recoded.extend_from_slice(&bytes);
        at = range.end;
    }
    recoded.extend_from_slice(&text[at..]);
    (recoded != text).then_some(Recoded::Text(recoded))
}

/// The client's parts in the server's words' character set; `None` where they are in none.
fn as_utf8(text: &[u8], words: &[Range<usize>], encoding: &'static Encoding) -> Option<Vec<u8>> {
    let (mut recoded, mut at) = (Vec::with_capacity(2 * text.len()), 0);
    let end = text.len()..text.len();
    for range in words.iter().chain([&end]) {
        let clients = encoding.decode_without_bom_handling_and_without_replacement(&text[at..range.start])?;
        recoded.extend_from_slice(clients.as_bytes());
        recoded.extend_from_slice(&text[range.clone()]);
        at = range.end;
    }
    Some(recoded)
}

/// A statement's text.
pub(super) fn decoded<'a>(text: &'a [u8], charset: &str) -> Cow<'a, str> {
    match encoding(charset) {
        Some(encoding) => encoding.decode_without_bom_handling(text).0,
        None => String::from_utf8_lossy(text),
    }
}

/// The server's names of character sets.
fn encoding(charset: &str) -> Option<&'static Encoding> {
    Some(match charset {
        "latin1" => encoding_rs::WINDOWS_1252,
        "latin2" => encoding_rs::ISO_8859_2,
        "latin5" => encoding_rs::WINDOWS_1254,
        "latin7" => encoding_rs::ISO_8859_13,
        "cp1250" => encoding_rs::WINDOWS_1250,
        "cp1251" => encoding_rs::WINDOWS_1251,
        "cp1256" => encoding_rs::WINDOWS_1256,
        "cp1257" => encoding_rs::WINDOWS_1257,
        "cp866" => encoding_rs::IBM866,
        "koi8r" => encoding_rs::KOI8_R,
        "koi8u" => encoding_rs::KOI8_U,
        "greek" => encoding_rs::ISO_8859_7,
        "hebrew" => encoding_rs::ISO_8859_8,
        "macroman" => encoding_rs::MACINTOSH,
        "tis620" => encoding_rs::WINDOWS_874,
        "sjis" | "cp932" => encoding_rs::SHIFT_JIS,
        "ujis" | "eucjpms" => encoding_rs::EUC_JP,
        "euckr" => encoding_rs::EUC_KR,
        "gb2312" | "gbk" => encoding_rs::GBK,
        "gb18030" => encoding_rs::GB18030,
        "big5" => encoding_rs::BIG5,
        _ => return None,
    })
}

/// What of a statement the server wrote.
enum Servers {
    All,
    Parts(Vec<Range<usize>>),
}

fn servers<'a>(scan: Scan<'a>, charset: &'a str) -> Option<Servers> {
    match scan.text {
        text if text.starts_with(b"GRANT ") => scan.find(b" ON ").map(|_| Servers::All),
        text if text.starts_with(b"CREATE USER ") || text.starts_with(b"ALTER USER ") => account(scan),
        text if text.starts_with(b"CREATE TABLE ") => table(scan).then_some(Servers::All),
        text if text.starts_with(b"CREATE DEFINER=") => made_by(scan, charset).map(Servers::Parts),
        _ => view(scan).map(|head| Servers::Parts(vec![head])),
    }
}

/// Names are the server's; what is required of the account, and a comment, are the client's. `DEFAULT ROLE`, a statement of its
/// own, is the client's as a whole.
fn account(scan: Scan<'_>) -> Option<Servers> {
    if scan.text.starts_with(b"ALTER") && scan.find(b" DEFAULT ROLE ").is_some() {
        return None;
    }
    let clients = [&b" REQUIRE "[..], b" COMMENT '", b" ATTRIBUTE '"];
    let names = clients.into_iter().filter_map(|word| scan.find(word)).min().map(|end| 0..end);
    Some(match names {
        Some(names) if !scan.text[names.end..].is_ascii() => Servers::Parts(vec![names]),
        _ => Servers::All,
    })
}

/// Whether a table's definition is the server's: of one that got an invisible key, of a query's result, of one like a
/// temporary table. A dump's, which looks alike, names a character set.
fn table(mut scan: Scan<'_>) -> bool {
    scan.take(b"CREATE TABLE ");
    scan.take(b"IF NOT EXISTS ");
    if !scan.name() || !scan.take(b" (\n  ") {
        return false;
    }
    scan.take(b"`my_row_id` bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */")
        || scan.text.ends_with(b" START TRANSACTION")
        || scan.find(b" DEFAULT CHARSET=").is_none()
}

/// The definer of a trigger and an event; of a routine also its name, what it returns and its comment.
fn made_by<'a>(mut scan: Scan<'a>, charset: &'a str) -> Option<Vec<Range<usize>>> {
    scan.take(b"CREATE DEFINER=");
    if !scan.name() || !scan.take(b"@") || !scan.name() {
        return None;
    }
    let definer = 0..scan.at;
    if !scan.take(b" PROCEDURE ") && !scan.take(b" FUNCTION ") {
        return Some(vec![definer]);
    }
    scan.at = scan.find(b"(")?;
    let head = 0..scan.at;
    scan.parentheses(charset)?;
    let traits = scan.at;
    if scan.take(b" RETURNS ") {
        scan.at = scan.find(b"\n")?;
    }
    scan.take(b"\n");
    while scan.take(b"    ") {
        scan.at = scan.find(b"\n")? + 1;
    }
    Some(vec![head, traits..scan.at])
}

/// What the server wrote of a routine's statement behind its parameters, up to its body.
pub(super) fn written_of_routine(text: &[u8], charset: &str) -> Option<Range<usize>> {
    let scan = Scan::new(text);
    let parts = text.starts_with(b"CREATE DEFINER=").then(|| made_by(scan, charset)).flatten()?;
    (parts.len() == 2).then(|| parts[1].clone())
}

/// All but the query.
fn view(mut scan: Scan<'_>) -> Option<Range<usize>> {
    let begins = scan.take(b"CREATE ") || scan.take(b"ALTER ");
    scan.take(b"OR REPLACE ");
    if !begins || !scan.take(b"ALGORITHM=") {
        return None;
    }
    scan.find(b" VIEW ")?;
    scan.find(b" AS ").map(|end| 0..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A statement, `«…»` being what the server wrote, and how the log has it.
    fn logged(statement: &str, encoding: &'static Encoding) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in statement.split_inclusive(['«', '»']) {
            match part.strip_suffix('»') {
                Some(servers) => bytes.extend_from_slice(servers.as_bytes()),
                None => bytes.extend_from_slice(&encoding.encode(part.trim_end_matches('«')).0),
            }
        }
        bytes
    }

    #[test]
    fn what_the_server_wrote_gets_the_clients_character_set() {
        for statement in [
            "«CREATE ALGORITHM=UNDEFINED DEFINER=`ü AS `@`%` SQL SECURITY DEFINER VIEW `d`.`vé`(`xå`)» AS SELECT `cè` AS `xå` FROM `tå`",
            "«CREATE OR REPLACE ALGORITHM=MERGE DEFINER=`u`@`%` SQL SECURITY INVOKER VIEW `vé`» AS SELECT 'é'",
            "«ALTER ALGORITHM=UNDEFINED DEFINER=`u`@`%` SQL SECURITY DEFINER VIEW `vé`» AS SELECT ' AS é'",
            "«CREATE DEFINER=`ü`@`%` PROCEDURE `d`.`p(é`»(IN `a)é` INT, b ENUM('\\')é', 'ö') -- it's )\n, /* ) é */ c INT)«\n    COMMENT 'pcé\\'\n'\n»BEGIN SELECT 'é'; END",
            "«CREATE DEFINER=`ü`@`%` FUNCTION IF NOT EXISTS `fé`»(`aé` VARCHAR(20))« RETURNS enum('é\n',')') CHARSET utf8mb4\n    NO SQL\n    DETERMINISTIC\n    SQL SECURITY INVOKER\n    COMMENT 'fcé'\n»RETURN CONCAT(`aé`, 'é')",
            "«CREATE DEFINER=`ü`@`%`» EVENT `eé` ON SCHEDULE EVERY 1 DAY COMMENT 'é' DO SELECT 'é'",
            "«CREATE DEFINER=`ü`@`%`» TRIGGER `trgé` BEFORE INSERT ON `tå` FOR EACH ROW SET NEW.`cè` = 'é'",
            "«CREATE USER 'ü COMMENT \\''@'%' IDENTIFIED WITH 'x' AS '$\\''» COMMENT 'é'",
            "«ALTER USER 'ü'@'%'» REQUIRE SUBJECT 'é' COMMENT 'ascii'",
            "«ALTER USER 'ü'@'%'» ATTRIBUTE '{\\\"é\\\": 1}'",
        ] {
            for (charset, encoding) in
                [("latin1", encoding_rs::WINDOWS_1252), ("cp1250", encoding_rs::WINDOWS_1250)]
            {
                let statement = if charset == "latin1" {
                    statement.to_owned()
                } else {
                    statement.replace(['è', 'å'], "ő")
                };
                let plain = statement.replace(['«', '»'], "");
                let expected = Recoded::Text(encoding.encode(&plain).0.into_owned());
                assert_eq!(recoded(&logged(&statement, encoding), charset), Some(expected), "{statement}");
            }
        }
    }

    #[test]
    fn a_second_byte_is_no_quote() {
        // 0x5C, a backslash; 0x60, a backtick.
        for (charset, encoding, name) in
            [("sjis", encoding_rs::SHIFT_JIS, "表ソ"), ("gbk", encoding_rs::GBK, "誠乣")]
        {
            let statement = format!(
                "«CREATE DEFINER=`{name}`@`%` PROCEDURE `{name}`»(a ENUM('{name}', ')'))«\n    COMMENT '{name}'\n»SELECT '{name}'"
            );
            let plain = encoding.encode(&statement.replace(['«', '»'], "")).0.into_owned();
            assert_eq!(recoded(&logged(&statement, encoding), charset), Some(Recoded::Text(plain)));
        }
    }

    #[test]
    fn what_the_clients_character_set_cannot_say_is_said_in_utf8() {
        for (charset, encoding, statement) in [
            ("gbk", encoding_rs::GBK, "«CREATE DEFINER=`x각`@`%` PROCEDURE `表`»(`表` INT)«\n»SELECT '表'"),
            ("sjis", encoding_rs::SHIFT_JIS, "«ALTER USER 'x¥'@', root@localhost'» COMMENT '表'"),
            ("ujis", encoding_rs::EUC_JP, "«ALTER USER 'x¥'@', root@localhost'» COMMENT '表'"),
        ] {
            let plain = statement.replace(['«', '»'], "").into_bytes();
            let logged = logged(statement, encoding);
            assert_eq!(recoded(&logged, charset), Some(Recoded::Utf8Text(plain)), "{statement}");
        }
    }

    #[test]
    fn a_statement_may_be_the_servers_as_a_whole_or_the_clients() {
        let whole = [
            "GRANT SELECT (`cè`) ON `dé`.`tå` TO 'ü'@'%'",
            "GRANT PROXY ON 'rolé'@'%' TO 'ü'@'%'",
            "CREATE USER 'ü'@'%' IDENTIFIED WITH 'x' AS '$A$' DEFAULT ROLE 'é' COMMENT 'ascii'",
            "ALTER USER 'ü'@'%' ACCOUNT LOCK",
            "CREATE TABLE `å` (\n  `my_row_id` bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */,\n  `cè` varchar(20)\n) ENGINE=InnoDB DEFAULT CHARSET=latin1",
            "CREATE TABLE IF NOT EXISTS `d`.`å` (\n  `cè` int\n) DEFAULT CHARSET=latin1 START TRANSACTION",
            "CREATE TABLE `å` (\n  `cè` int\n) ENGINE=InnoDB",
        ];
        for statement in whole {
            assert_eq!(recoded(statement.as_bytes(), "latin1"), Some(Recoded::Utf8), "{statement}");
            assert_eq!(recoded(statement.as_bytes(), "utf8mb4"), None, "{statement}");
        }
        // As clients of latin1 send what is UTF-8 in truth.
        for statement in [
            "GRANT `é` TO `ü`@`%`",
            "GRANT ` ON é` TO `ü`@`%`",
            "ALTER USER 'ü'@'%' DEFAULT ROLE NONE",
            "CREATE ROLE `é`",
            "REVOKE INSERT ON `dé`.`tå` FROM `ü`@`%`",
            "CREATE TABLE `å` (\n  `id` int NOT NULL,\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
            "CREATE TABLE `å` (id INT PRIMARY KEY COMMENT 'é')",
            "DROP VIEW `é`",
        ] {
            assert_eq!(recoded(statement.as_bytes(), "latin1"), None, "{statement}");
        }
    }
}
