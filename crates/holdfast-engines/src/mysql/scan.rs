//! A statement of the log, read past its quotes.

/// From `at` on.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    pub text: &'a [u8],
    pub at: usize,
    /// Letters of this set count as one: their second bytes may look like a quote or a backslash. None do in UTF-8.
    charset: &'a str,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, charset: "utf8mb4" }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Goes past `word` if it is next.
    pub(super) fn take(&mut self, word: &[u8]) -> bool {
        let is_next = self.rest().starts_with(word);
        self.at += if is_next { word.len() } else { 0 };
        is_next
    }

    /// Goes past a quoted name (in double quotes under `ANSI_QUOTES`), with its database if it has one.
    pub(super) fn name(&mut self) -> bool {
        loop {
            if !matches!(self.rest().first(), Some(b'`' | b'"')) || self.step().is_none() {
                return false;
            }
            if !self.take(b".") {
                return true;
            }
        }
    }

    /// Where `word` is next outside of quotes and comments.
    pub(super) fn find(mut self, word: &[u8]) -> Option<usize> {
        while self.at < self.text.len() {
            if self.rest().starts_with(word) {
                return Some(self.at);
            }
            self.step()?;
        }
        None
    }

    /// Goes past what stands in parentheses, in a client's `charset`.
    pub(super) fn parentheses(&mut self, charset: &'a str) -> Option<()> {
        let (mut within, mut depth) = (Self { charset, ..*self }, 0);
        loop {
            match within.rest().first()? {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            within.step()?;
            if depth == 0 {
                self.at = within.at;
                return Some(());
            }
        }
    }

    /// Goes past a letter, a quoted text or a comment; `None` where one has no end.
    fn step(&mut self) -> Option<()> {
        let rest = self.rest();
        let bytes = match *rest.first()? {
            quote @ (b'`' | b'\'' | b'"') => 1 + self.quoted(&rest[1..], quote)?,
            b'/' if rest.starts_with(b"/*") => 4 + position(&rest[2..], b"*/")?,
            b'#' => position(rest, b"\n")?,
            b'-' if rest.starts_with(b"-- ") => position(rest, b"\n")?,
            first => self.letter(first),
        };
        self.at = (self.at + bytes).min(self.text.len());
        Some(())
    }

    /// Bytes up to the closing quote, with it.
    fn quoted(&self, text: &[u8], quote: u8) -> Option<usize> {
        let mut at = 0;
        loop {
            let byte = *text.get(at)?;
            if byte == quote {
                if text.get(at + 1) != Some(&quote) {
                    return Some(at + 1);
                }
                at += 2;
            } else if byte == b'\\' && quote != b'`' {
                at += 2;
            } else {
                at += self.letter(byte);
            }
        }
    }

    /// Bytes of the letter that begins with `first`.
    fn letter(&self, first: u8) -> usize {
        let is_lead = match self.charset {
            "sjis" | "cp932" => matches!(first, 0x81..=0x9F | 0xE0..=0xFC),
            "gbk" | "gb18030" | "big5" => matches!(first, 0x81..=0xFE),
            _ => false,
        };
        1 + usize::from(is_lead)
    }
}

fn position(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}
