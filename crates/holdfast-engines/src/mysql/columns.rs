//! Columns of a dump's tables as two servers with the same columns write them alike.
//!
//! A server writes a column's character set down if whoever made the column named it, or its collation; the collation it writes
//! down wherever it is not the character set's first. So a column with its table's `utf8mb4_bin` is `` `a` char(10) COLLATE
//! utf8mb4_bin `` in the dump, and once that was loaded it is `` `a` char(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin `` (tried on
//! 9.7.4). The collation says it all.

use sha2::digest::Update;
use sha2::{Digest as _, Sha256};

/// A longer line is no column.
const LONGEST: usize = 1 << 20;
const CHARSET: &[u8] = b" CHARACTER SET ";
const COLLATION: &[u8] = b" COLLATE ";

/// Of a dump, with columns alike, and as it was taken before 2026-12: every byte as it is.
#[derive(Default)]
pub(super) struct Fingerprints {
    hash: Sha256,
    before: Option<Sha256>,
    line: Vec<u8>,
    is_long: bool,
}

impl Fingerprints {
    /// Takes a part of a line that may be a column.
    pub(super) fn take_column(&mut self, part: &[u8]) {
        if self.is_long {
            return self.update(part);
        }
        let (taken, more) = part.split_at(part.len().min(LONGEST - self.line.len()));
        self.line.extend_from_slice(taken);
        if !more.is_empty() {
            self.is_long = true;
            let line = std::mem::take(&mut self.line);
            self.update(&line);
            self.update(more);
        }
    }

    pub(super) fn line_ends(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.is_long = false;
        let alike = without_charsets(&line);
        if alike == line {
            return self.update(&line);
        }
        let before = self.before.get_or_insert_with(|| self.hash.clone());
        Update::update(before, &line);
        Update::update(&mut self.hash, &alike);
    }

    /// Both, the second only where they differ.
    pub(super) fn finish(self) -> (Vec<u8>, Option<Vec<u8>>) {
        (self.hash.finalize().to_vec(), self.before.map(|hash| hash.finalize().to_vec()))
    }
}

impl Update for Fingerprints {
    fn update(&mut self, bytes: &[u8]) {
        Update::update(&mut self.hash, bytes);
        if let Some(before) = &mut self.before {
            Update::update(before, bytes);
        }
    }
}

/// Without each character set that a collation follows.
fn without_charsets(line: &[u8]) -> Vec<u8> {
    let (mut made, mut rest) = (Vec::with_capacity(line.len()), line);
    while let Some(at) = rest.windows(CHARSET.len()).position(|words| words == CHARSET) {
        let (head, tail) = rest.split_at(at);
        made.extend_from_slice(head);
        let name = tail[CHARSET.len()..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let (charset, behind) = tail.split_at(CHARSET.len() + name);
        if !behind.starts_with(COLLATION) {
            made.extend_from_slice(charset);
        }
        rest = behind;
    }
    made.extend_from_slice(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprints(line: &str, step: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut made = Fingerprints::default();
        Update::update(&mut made, b"CREATE TABLE `t` (\n");
        line.as_bytes().chunks(step).for_each(|part| made.take_column(part));
        made.line_ends();
        Update::update(&mut made, b")\n");
        made.finish()
    }

    #[test]
    fn a_column_is_the_same_with_and_without_the_character_set_of_its_collation() {
        let short = "  `a` char(10) COLLATE utf8mb4_bin NOT NULL,\n";
        let long = "  `a` char(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,\n";
        let expected = fingerprints(short, 1000);
        assert_eq!(expected.1, None, "as it was before");
        for step in 1..80 {
            assert_eq!(fingerprints(long, step).0, expected.0, "in parts of {step}");
        }
        let as_it_is = Sha256::digest(format!("CREATE TABLE `t` (\n{long})\n")).to_vec();
        assert_eq!(fingerprints(long, 7).1, Some(as_it_is), "as it was before");
        for other in [
            "  `a` char(10) COLLATE utf8mb4_0900_bin NOT NULL,\n",
            "  `a` char(10) CHARACTER SET utf8mb4 NOT NULL,\n",
            "  `a` char(10) NOT NULL,\n",
        ] {
            assert_ne!(fingerprints(other, 7).0, expected.0, "{other}");
        }
    }

    #[test]
    fn a_line_that_is_no_column_counts_as_it_is() {
        let line = format!(
            "  {} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin{}\n",
            "x".repeat(LONGEST),
            "y".repeat(LONGEST)
        );
        let expected = Sha256::digest(format!("CREATE TABLE `t` (\n{line})\n")).to_vec();
        for step in [1000, 1 << 16, line.len()] {
            assert_eq!(fingerprints(&line, step), (expected.clone(), None));
        }
    }
}
