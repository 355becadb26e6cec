//! A path inside a backup tool's repository, and how it is written into an object's name.

use std::fmt;

/// Longest encoded part of a path in bytes: what local file systems take (NAME_MAX of Linux).
const MAX_PART_BYTES: usize = 255;
/// Longest encoded path in bytes. S3 keys end at 1024; the layout's own folders, a generation and a store's prefix
/// need the rest.
const MAX_PATH_BYTES: usize = 768;

/// A relative path of one or more non-empty parts, as the tool names it (`repo/archive/db/archive.info`).
///
/// Written into a name, each byte of a part other than `A-Z a-z 0-9 . _ - + , = @` becomes `%XX`, and the parts `.` and
/// `..` become `%2E` and `%2E%2E`. So no path leaves its folder, whatever characters it has, and two paths never
/// share a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryPath(String);

/// The text is no path of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    #[error("{0:?} is no path of a repository: empty, or with an empty part")]
    Empty(String),
    #[error("{0:?} is too long for a name in the object store")]
    TooLong(String),
    #[error("{0:?} is no encoded path of a repository")]
    Encoding(String),
}

impl RepositoryPath {
    /// Takes the tool's own spelling; one leading slash is ignored.
    pub fn new(text: &str) -> Result<Self, InvalidPath> {
        let path = text.strip_prefix('/').unwrap_or(text);
        if path.split('/').any(str::is_empty) {
            return Err(InvalidPath::Empty(text.to_owned()));
        }
        let path = Self(path.to_owned());
        let encoded = path.to_string();
        if encoded.len() > MAX_PATH_BYTES || encoded.split('/').any(|part| part.len() > MAX_PART_BYTES) {
            return Err(InvalidPath::TooLong(text.to_owned()));
        }
        Ok(path)
    }

    /// The tool's own spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the spelling used in object names, the one that [`fmt::Display`] writes.
    pub fn decode(encoded: &str) -> Result<Self, InvalidPath> {
        let invalid = || InvalidPath::Encoding(encoded.to_owned());
        let mut bytes = Vec::with_capacity(encoded.len());
        let mut rest = encoded.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            if first == b'%' {
                let (digits, tail) = tail.split_at_checked(2).ok_or_else(invalid)?;
                let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| invalid())?);
                rest = tail;
            } else {
                bytes.push(first);
                rest = tail;
            }
        }
        let path = Self::new(&String::from_utf8(bytes).map_err(|_| invalid())?)?;
        if path.to_string() == encoded { Ok(path) } else { Err(invalid()) }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b',' | b'=' | b'@')
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('/').enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            let only_dots = matches!(part, "." | "..");
            for byte in part.bytes() {
                if is_plain(byte) && !only_dots {
                    write!(f, "{}", char::from(byte))?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}
