//! What the archived log of an instance consists of, and where reading it goes on (`docs/format.md`, "MySQL log").
//!
//! The stream is a row of records, each `kind (1) ‖ length (4, big-endian) ‖ bytes`:
//! - kind 1, *a file begins*: JSON with `server_uuid` and `file`;
//! - kind 2, *bytes of the file*, as they stand in the server's binlog: the first begin with its magic, each ends behind an
//!   event. So the files can be written back byte for byte.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::gtid::{Gtid, GtidSet};
use crate::{EngineError, LogCursor, Result};

/// What every binlog file begins with.
pub(super) const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const FILE: u8 = 1;
const BYTES: u8 = 2;
const RECORD_HEADER: usize = 5;
/// An event is at most 1 GiB (`max_allowed_packet`), and a record ends behind the first event that makes it large.
const LONGEST: u32 = (1 << 30) + (64 << 20);

/// Where reading goes on: the server's own coordinates, and everything that tells whether it is still the same log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub server_uuid: String,
    pub file: String,
    /// Bytes of the file that are archived; 0 when not even its magic is.
    pub position: u64,
    /// Transactions executed before `position`, from the server's first on.
    pub gtids: GtidSet,
    /// Those of them that no file tells of: what a restored server began with, and what was removed before the archive
    /// began.
    #[serde(default, skip_serializing_if = "GtidSet::is_empty")]
    pub outside: GtidSet,
    /// The transaction that `position` lies in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Open>,
    /// When the file was begun (seconds since 1970, by its first event): after a reset another file has its name.
    pub created: u32,
    /// The file's first event, in hexadecimal: what is needed to read on in its middle.
    pub format: String,
}

/// A transaction whose events have not all been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub gtid: Gtid,
    /// Position in the file behind its last event.
    pub ends_at: u64,
}

impl Cursor {
    pub(super) fn of(cursor: &LogCursor) -> Result<Self> {
        serde_json::from_value(cursor.0.clone())
            .map_err(|error| unexpected(format!("a cursor that no release wrote: {error}")))
    }

    pub(super) fn to_log(&self) -> LogCursor {
        LogCursor(serde_json::to_value(self).expect("strings and numbers"))
    }

    pub(super) fn format_event(&self) -> Result<Vec<u8>> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        self.format
            .as_bytes()
            .chunks(2)
            .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| unexpected("a cursor's first event is not hexadecimal".to_owned()))
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileBegins {
    pub server_uuid: String,
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    File(FileBegins),
    Bytes(Bytes),
}

impl Record {
    pub(super) fn write(&self, into: &mut BytesMut) {
        let json;
        let (kind, bytes) = match self {
            Self::File(begins) => {
                json = serde_json::to_vec(begins).expect("strings");
                (FILE, &*json)
            }
            Self::Bytes(bytes) => (BYTES, &**bytes),
        };
        into.extend_from_slice(&[kind]);
        into.extend_from_slice(&u32::try_from(bytes.len()).expect("records are bounded").to_be_bytes());
        into.extend_from_slice(bytes);
    }
}

/// Takes bytes as they come and gives records.
#[derive(Debug, Default)]
pub(super) struct Records(BytesMut);

impl Records {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole record, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let Some((kind, rest)) = self.0.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length)) else {
            return Ok(None);
        };
        if length > LONGEST || ![FILE, BYTES].contains(kind) {
            return Err(unexpected(format!("a record of kind {kind} with {length} bytes")));
        }
        let length = length as usize;
        if self.0.len() < RECORD_HEADER + length {
            return Ok(None);
        }
        let kind = *kind;
        self.0.advance(RECORD_HEADER);
        let bytes = self.0.split_to(length).freeze();
        if kind == BYTES {
            return Ok(Some(Record::Bytes(bytes)));
        }
        serde_json::from_slice(&bytes)
            .map(|begins| Some(Record::File(begins)))
            .map_err(|error| unexpected(error.to_string()))
    }

    /// Whether a record was cut off.
    pub(super) fn is_cut(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The common header of an event (MySQL source, `libs/mysql/binlog/event/binlog_event.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub timestamp: u32,
    pub kind: u8,
    pub size: u32,
}

pub(super) const HEADER_BYTES: usize = 19;

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let header = Self { timestamp: number(0)?, kind: *bytes.get(4)?, size: number(9)? };
        (bytes.len() >= HEADER_BYTES && header.size as usize >= HEADER_BYTES).then_some(header)
    }
}

/// Splits the bytes of a record into events; each is whole.
pub(super) fn events(mut bytes: Bytes) -> Result<Vec<Bytes>> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let size =
            Header::read(&bytes).map(|header| header.size as usize).filter(|size| *size <= bytes.len());
        let size = size.ok_or_else(|| unexpected("an event that ends behind its record".to_owned()))?;
        events.push(bytes.split_to(size));
    }
    Ok(events)
}

fn unexpected(what: String) -> EngineError {
    EngineError::Unexpected { doing: "read the archived binlog".to_owned(), what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back_however_they_are_cut(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12), step in 1..30_usize) {
            let mut records = Vec::new();
            for (index, part) in parts.into_iter().enumerate() {
                records.push(Record::File(FileBegins { server_uuid: "u".to_owned(), file: format!("binlog.{index}") }));
                records.push(Record::Bytes(Bytes::from(part)));
            }
            let mut stream = BytesMut::new();
            records.iter().for_each(|record| record.write(&mut stream));
            let (mut reader, mut found) = (Records::default(), Vec::new());
            for chunk in stream.chunks(step) {
                reader.push(chunk);
                while let Some(record) = reader.next().expect("well formed") {
                    found.push(record);
                }
            }
            prop_assert!(!reader.is_cut());
            prop_assert_eq!(found, records);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [&[3, 0, 0, 0, 0][..], &[2, 0xff, 0, 0, 0], &[1, 0, 0, 0, 1, b'x']] {
            let mut records = Records::default();
            records.push(bytes);
            assert!(records.next().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_cursor_keeps_what_it_was() {
        let cursor = Cursor {
            server_uuid: "458b864c-e6b8-11f1-b4d9-02fc00000001".to_owned(),
            file: "binlog.000007".to_owned(),
            position: 1234,
            gtids: "458b864c-e6b8-11f1-b4d9-02fc00000001:1-7".parse().expect("a set"),
            outside: GtidSet::default(),
            open: Some(Open { gtid: Gtid::new([7; 16], "", 8), ends_at: 2000 }),
            created: 5,
            format: hexadecimal(&[0, 255, 16]),
        };
        assert_eq!(Cursor::of(&cursor.to_log()).expect("its own"), cursor);
        assert_eq!(cursor.format_event().expect("hexadecimal"), [0, 255, 16]);
    }
}
