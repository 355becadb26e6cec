//! The text of an append-only file, walked without keeping it: where a command or a transaction ends, and which second it is
//! stamped with. Pure; memory does not grow with the length of a value.
//!
//! An incremental file is a row of commands in RESP (`*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n`), `MULTI` … `EXEC` around what belongs
//! together, and of lines that begin with `#`, which the server skips: `#TS:1795381728` says in which second what follows was
//! executed (Valkey 9.1, `aof.c`: a new one whenever the second has changed, never inside a transaction).

use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};

/// What a file of this seq begins with in the archive; the server skips it like any line of this kind.
const BEGIN: &str = "#HF:incr=";
/// Longest line that is no value; numbers and our own lines are far shorter.
const LONGEST_LINE: usize = 1024;

/// A whole piece of the file, after which it could be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// One command, or one transaction with all that is in it.
    Commands,
    /// What follows was executed in this second of Unix time, or in a later one.
    Stamp(i64),
    /// In the archive: an incremental file of this number begins.
    Begin(u64),
    /// Another line that the server skips.
    Remark,
}

/// The bytes are no append-only file, from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} does not belong in an append-only file")]
pub struct Malformed {
    pub at: u64,
}

/// Walks over a file's bytes, in pieces of any size.
#[derive(Debug, Clone, Default)]
pub struct Walker {
    position: u64,
    boundary: u64,
    in_transaction: bool,
    state: State,
}

#[derive(Debug, Clone, Default)]
enum State {
    /// A command or a remark begins.
    #[default]
    Start,
    Remark(Vec<u8>),
    /// How many words the command has.
    Count(Vec<u8>),
    /// How long the next word is, and how many are left with it.
    Length {
        words: u64,
        first: bool,
        line: Vec<u8>,
    },
    /// So many bytes of a word and its line end are left. `word` holds the first one as far as it matters.
    Word {
        words: u64,
        left: u64,
        word: Option<Vec<u8>>,
        alone: bool,
    },
}

/// The longest first word that means something here is `MULTI`.
const LONGEST_WORD: usize = 5;

impl Walker {
    /// Begins where an item begins, at this position of the file.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self { position, boundary: position, ..Self::default() }
    }

    /// The end of the last whole item: behind it the file may be cut.
    #[must_use]
    pub fn boundary(&self) -> u64 {
        self.boundary
    }

    /// Bytes walked over.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Walks on, handing over each item that ends in `bytes` with its first byte's position and its end. When `on_item` breaks off, the
    /// walk ends behind that item.
    ///
    /// # Errors
    /// [`Malformed`]; the walker is of no use any more then.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut on_item: impl FnMut(Range<u64>, Item) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (used, item) = self.advance(rest)?;
            rest = &rest[used..];
            if let Some(item) = item {
                let start = std::mem::replace(&mut self.boundary, self.position);
                if on_item(start..self.position, item).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, Option<Item>), Malformed> {
        let bad = Malformed { at: self.position };
        let (used, item) = match &mut self.state {
            State::Start => {
                self.state = match bytes[0] {
                    b'#' => State::Remark(vec![b'#']),
                    b'*' => State::Count(Vec::new()),
                    _ => return Err(bad),
                };
                (1, None)
            }
            State::Remark(line) => {
                let (used, whole) = take_line(line, bytes).ok_or(bad)?;
                let item = whole.then(|| remark(line));
                if whole {
                    self.state = State::Start;
                }
                (used, item.filter(|_| !self.in_transaction))
            }
            State::Count(line) => {
                let (used, whole) = take_line(line, bytes).ok_or(bad)?;
                if whole {
                    let words = number(line).filter(|words| *words > 0).ok_or(bad)?;
                    self.state = State::Length { words, first: true, line: Vec::new() };
                }
                (used, None)
            }
            State::Length { words, first, line } => {
                let (used, whole) = take_line(line, bytes).ok_or(bad)?;
                if whole {
                    let length = line.strip_prefix(b"$").and_then(number).ok_or(bad)?;
                    let left = length.checked_add(2).ok_or(bad)?;
                    let alone = *first && *words == 1;
                    let word = (alone && length <= LONGEST_WORD as u64).then(Vec::new);
                    self.state = State::Word { words: *words, left, word, alone };
                }
                (used, None)
            }
            State::Word { words, left, word, alone } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                // What is left of the word itself; behind it comes the line's end.
                let inside = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX).min(used);
                if let Some(word) = word {
                    word.extend_from_slice(&bytes[..inside]);
                }
                for (index, byte) in bytes[inside..used].iter().enumerate() {
                    let expected = if *left - (inside + index) as u64 == 2 { b'\r' } else { b'\n' };
                    if *byte != expected {
                        return Err(Malformed { at: self.position + (inside + index) as u64 });
                    }
                }
                *left -= used as u64;
                let mut item = None;
                if *left == 0 {
                    *words -= 1;
                    if *words > 0 {
                        self.state = State::Length { words: *words, first: false, line: Vec::new() };
                    } else {
                        match word.as_deref().filter(|_| *alone) {
                            Some(word) if word.eq_ignore_ascii_case(b"MULTI") => self.in_transaction = true,
                            Some(word) if word.eq_ignore_ascii_case(b"EXEC") => self.in_transaction = false,
                            _ => {}
                        }
                        item = (!self.in_transaction).then_some(Item::Commands);
                        self.state = State::Start;
                    }
                }
                (used, item)
            }
        };
        self.position += used as u64;
        Ok((used, item))
    }
}

/// Adds to `line` up to its end. Returns how many bytes that took, and whether the line is whole; it is without its end then.
fn take_line(line: &mut Vec<u8>, bytes: &[u8]) -> Option<(usize, bool)> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let used = end.map_or(bytes.len(), |end| end + 1);
    line.extend_from_slice(&bytes[..used]);
    if line.len() > LONGEST_LINE {
        return None;
    }
    if end.is_none() {
        return Some((used, false));
    }
    let whole = line.strip_suffix(b"\r\n")?.len();
    line.truncate(whole);
    Some((used, true))
}

fn number(digits: &[u8]) -> Option<u64> {
    let text =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

fn remark(line: &[u8]) -> Item {
    let text = std::str::from_utf8(line).unwrap_or_default();
    if let Some(second) = text.strip_prefix("#TS:").and_then(|text| text.trim().parse().ok()) {
        return Item::Stamp(second);
    }
    match text.strip_prefix(BEGIN).and_then(|text| text.parse().ok()) {
        Some(seq) => Item::Begin(seq),
        None => Item::Remark,
    }
}

/// The line that stands in the archive before the first byte of an incremental file.
#[must_use]
pub fn begin_line(seq: u64) -> String {
    format!("{BEGIN}{seq}\r\n")
}

/// `appendonly.aof.manifest`: which files make up the data set, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AofManifest {
    pub base: Option<String>,
    /// Number and name, the one that is written to last.
    pub incremental: Vec<(u64, String)>,
}

impl AofManifest {
    /// `None` when a line is not understood. Files that the server is about to remove are left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut manifest = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let value = |name| {
                words.iter().step_by(2).position(|word| *word == name).and_then(|at| words.get(2 * at + 1))
            };
            let (name, seq, kind) = (value("file")?, value("seq")?.parse().ok()?, value("type")?);
            if name.contains('/') || name.starts_with('.') {
                return None;
            }
            match *kind {
                "b" => manifest.base = Some((*name).to_owned()),
                "i" => manifest.incremental.push((seq, (*name).to_owned())),
                "h" => {}
                _ => return None,
            }
        }
        Some(manifest)
    }

    /// The file that the server writes to.
    #[must_use]
    pub fn live(&self) -> Option<u64> {
        self.incremental.last().map(|(seq, _)| *seq)
    }

    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(base) = &self.base {
            let _ = writeln!(text, "file {base} seq 1 type b");
        }
        for (seq, name) in &self.incremental {
            let _ = writeln!(text, "file {name} seq {seq} type i");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    /// A piece of log and what the walker should say of it.
    fn piece() -> impl Strategy<Value = (Vec<u8>, Item)> {
        let word = prop::collection::vec(any::<u8>(), 0..40);
        let commands = prop::collection::vec(word, 2..5).prop_map(|words| command(&words));
        let transaction = prop::collection::vec(commands.clone(), 0..4).prop_map(|inner| {
            [command(&[b"MULTI".to_vec()]), inner.concat(), command(&[b"EXEC".to_vec()])].concat()
        });
        prop_oneof![
            commands.prop_map(|bytes| (bytes, Item::Commands)),
            transaction.prop_map(|bytes| (bytes, Item::Commands)),
            (0_i64..1 << 40)
                .prop_map(|second| (format!("#TS:{second}\r\n").into_bytes(), Item::Stamp(second))),
            (1_u64..1000).prop_map(|seq| (begin_line(seq).into_bytes(), Item::Begin(seq))),
            Just((b"#anything else\r\n".to_vec(), Item::Remark)),
        ]
    }

    proptest! {
        /// Whatever the values hold, however the bytes come in, and wherever the file is torn off.
        #[test]
        fn every_item_is_found_and_nothing_half(
            pieces in prop::collection::vec(piece(), 1..12),
            step in 1_usize..64,
            torn in any::<prop::sample::Index>(),
        ) {
            let log: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let cut = torn.index(log.len() + 1);
            let (mut ends, mut end) = (Vec::new(), 0);
            for (bytes, item) in &pieces {
                let start = end;
                end += bytes.len() as u64;
                if end <= cut as u64 {
                    ends.push((start..end, *item));
                }
            }
            let (mut walker, mut found) = (Walker::default(), Vec::new());
            for bytes in log[..cut].chunks(step) {
                let walked = walker.feed(bytes, |range, item| {
                    found.push((range, item));
                    ControlFlow::Continue(())
                });
                prop_assert_eq!(walked, Ok(ControlFlow::Continue(())));
            }
            prop_assert_eq!(walker.boundary(), ends.last().map_or(0, |(range, _)| range.end));
            prop_assert_eq!(walker.position(), cut as u64);
            prop_assert_eq!(found, ends);
        }

        #[test]
        fn no_bytes_make_it_fail_otherwise_than_by_saying_so(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Walker::default().feed(&bytes, |_, _| ControlFlow::Continue(()));
        }
    }

    #[test]
    fn what_is_no_log_is_refused_where_it_begins() {
        for (log, at) in [
            ("nonsense", 0),
            ("*x\r\n", 1),
            ("*0\r\n", 1),
            ("*1\r\nGET\r\n", 4),
            ("*1\r\n$-1\r\n", 4),
            ("*1\r\n$99999999999999999999\r\n", 4),
            ("*1\r\n$1\r\nabc", 9),
            ("*1\n$1\r\n", 1),
        ] {
            let walked = Walker::default().feed(log.as_bytes(), |_, _| ControlFlow::Continue(()));
            assert_eq!(walked, Err(Malformed { at }), "{log:?}");
        }
        let endless = [b"#".as_slice(), &[b'x'; 5000]].concat();
        assert!(Walker::default().feed(&endless, |_, _| ControlFlow::Continue(())).is_err());
    }

    #[test]
    fn a_list_of_files_is_read_as_the_server_writes_it() {
        let text = "file appendonly.aof.2.base.rdb seq 2 type b\n\
                    file appendonly.aof.1.incr.aof seq 1 type h\n\
                    file appendonly.aof.2.incr.aof seq 2 type i\nfile appendonly.aof.3.incr.aof seq 3 type i\n";
        let manifest = AofManifest::parse(text).expect("well-formed");
        assert_eq!(manifest.base.as_deref(), Some("appendonly.aof.2.base.rdb"));
        assert_eq!(manifest.live(), Some(3));
        assert_eq!(manifest.incremental.len(), 2);
        assert_eq!(AofManifest::parse("file ../../etc/passwd seq 1 type i"), None);
        assert_eq!(AofManifest::parse("nonsense"), None);
    }
}
