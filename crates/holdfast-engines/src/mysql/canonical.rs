//! Rows of a dump as two servers with the same JSON write them alike.
//!
//! A number in a JSON column that came from a DECIMAL is dumped with all its digits (`1.10`), and is a DOUBLE once the dump
//! was loaded (`1.1`); a DOUBLE may differ in its last digit (MySQL 9.7 manual, "The JSON Data Type"). Rows are then of another
//! length, and statements end at other rows. So numbers count by their value to 15 digits, and statements not at all.

use sha2::digest::Update;

/// A longer row of digits is no number.
const LONGEST: usize = 400;

/// Takes the `INSERT` statements of one dump, in pieces that end anywhere.
#[derive(Default)]
pub(super) struct Rows {
    place: Place,
    in_name: bool,
    in_string: bool,
    escaped: bool,
    depth: u32,
    /// How much of the word before the rows was seen.
    seen: usize,
    number: Vec<u8>,
}

#[derive(Default, PartialEq)]
enum Place {
    #[default]
    Head,
    Rows,
}

const BEFORE_ROWS: &[u8] = b" VALUES ";

impl Rows {
    pub(super) fn take(&mut self, bytes: &[u8], hash: &mut impl Update) {
        for byte in bytes {
            match self.place {
                Place::Head => self.head(*byte),
                Place::Rows => self.row(*byte, hash),
            }
        }
    }

    fn head(&mut self, byte: u8) {
        if byte == b'`' {
            self.in_name = !self.in_name;
        }
        let goes_on = !self.in_name && byte == BEFORE_ROWS[self.seen];
        self.seen = if goes_on { self.seen + 1 } else { usize::from(!self.in_name && byte == b' ') };
        if self.seen == BEFORE_ROWS.len() {
            (self.seen, self.place) = (0, Place::Rows);
        }
    }

    fn row(&mut self, byte: u8, hash: &mut impl Update) {
        if !self.in_string && self.depth == 0 && byte == b'\n' {
            self.place = Place::Head;
            return;
        }
        let digit = byte.is_ascii_digit() || byte == b'-' && self.number.is_empty();
        if digit || !self.number.is_empty() && b".eE+-".contains(&byte) {
            if self.number.len() == LONGEST {
                self.end_number(hash);
            }
            self.number.push(byte);
            return;
        }
        self.end_number(hash);
        if self.in_string {
            let ends = byte == b'\'' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !ends;
        } else {
            match byte {
                b'\'' => self.in_string = true,
                b'(' => self.depth += 1,
                b')' => self.depth = self.depth.saturating_sub(1),
                _ if self.depth == 0 => return, // between rows, and the statement's end
                _ => {}
            }
        }
        hash.update(&[byte]);
    }

    fn end_number(&mut self, hash: &mut impl Update) {
        if self.number.is_empty() {
            return;
        }
        // What was escaped was the first digit.
        self.escaped = false;
        let text = std::str::from_utf8(&self.number).unwrap_or_default();
        let is_fraction = text.contains(['.', 'e', 'E']);
        match text.parse::<f64>() {
            Ok(value) if is_fraction => hash.update(format!("{value:.14e}").as_bytes()),
            _ => hash.update(text.as_bytes()),
        }
        self.number.clear();
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(text: &str, step: usize) -> Vec<u8> {
        let (mut rows, mut hash) = (Rows::default(), Sha256::new());
        text.as_bytes().chunks(step).for_each(|part| rows.take(part, &mut hash));
        hash.finalize().to_vec()
    }

    const DUMP: &str = "INSERT INTO `t VALUES (` VALUES (1,'{\\\"p\\\": 1.10, \\\"q\\\": \\\"it\\'s (1,2)\\\"}'),(2,NULL);\n\
        INSERT INTO `t VALUES (` VALUES (3,'[3.0, -2.5e10]');\n";

    #[test]
    fn numbers_count_by_their_value_and_statements_not_at_all() {
        let expected = digest(DUMP, 1000);
        for step in 1..50 {
            assert_eq!(digest(DUMP, step), expected, "in pieces of {step}");
        }
        for (from, to) in [
            ("1.10", "1.1"),
            ("1.10", "1.1000000000000001"),
            ("3.0", "3.00"),
            ("-2.5e10", "-25000000000.0"),
            (");\nINSERT INTO `t VALUES (` VALUES (3", "),(3"),
            ("),(2", ");\nINSERT INTO `t VALUES (` VALUES (2"),
        ] {
            assert_eq!(digest(&DUMP.replace(from, to), 7), expected, "{to}");
        }
    }

    #[test]
    fn everything_else_counts() {
        let expected = digest(DUMP, 1000);
        for (from, to) in [
            ("1.10", "1.11"),
            ("(2,NULL)", "(2,'')"),
            ("(2,NULL)", "(2,0)"),
            ("it\\'s", "its"),
            ("(1,2)", "(1.2)"),
            ("),(2,NULL)", ""),
            ("3.0", "3"),
        ] {
            assert_ne!(digest(&DUMP.replace(from, to), 7), expected, "{to}");
        }
    }
}
