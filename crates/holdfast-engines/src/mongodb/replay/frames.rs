//! Cuts a stream of concatenated BSON documents into documents: the form of `mongodump`'s files and of the archived log.

use bson::RawDocumentBuf;
use bytes::{Buf as _, Bytes, BytesMut};

use super::{ReplayError, malformed};

/// mongod's own limit of an oplog entry is 16 MiB and 16 KiB; twice that is no document of its.
const LONGEST_BYTES: usize = 32 << 20;
/// A length and a final zero.
const SHORTEST_BYTES: usize = 5;

/// Bytes in, documents out.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

impl Frames {
    pub fn push(&mut self, bytes: &Bytes) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole document, if its bytes are there.
    ///
    /// # Errors
    /// What is there begins no document.
    pub fn next_document(&mut self) -> Result<Option<RawDocumentBuf>, ReplayError> {
        let Some(length) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(i32::from_le_bytes(*length)).unwrap_or(0);
        if !(SHORTEST_BYTES..=LONGEST_BYTES).contains(&length) {
            return Err(malformed(format!("a document of {length} bytes")));
        }
        if self.0.len() < length {
            self.0.reserve(length - self.0.len());
            return Ok(None);
        }
        let document = RawDocumentBuf::from_bytes(self.0[..length].to_vec()).map_err(malformed)?;
        self.0.advance(length);
        Ok(Some(document))
    }

    /// # Errors
    /// When a document has begun and its rest never came.
    pub fn finish(&self) -> Result<(), ReplayError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(malformed(format!("it ends {left} bytes into a document"))),
        }
    }
}
