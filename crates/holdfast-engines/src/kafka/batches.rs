//! Batches of records as they lie in a topic's log and travel over the wire: only their headers are read, never what is in them.
//!
//! Source: Kafka documentation, "Record Batch" (magic 2); Kafka 3.9, `DefaultRecordBatch`, `ControlRecordType`.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

/// Up to the records themselves.
const HEADER: usize = 61;
/// Offset and length, which the length does not count.
const BEFORE_LENGTH: usize = 12;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
/// Of the key of a control record: that a transaction is ended as if it had never been, and that it is committed.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const NONE: i64 = -1;

/// Where in a header something stands.
mod at {
    use std::ops::Range;

    pub(super) const BASE_OFFSET: Range<usize> = 0..8;
    pub(super) const LENGTH: Range<usize> = 8..12;
    pub(super) const LEADER_EPOCH: Range<usize> = 12..16;
    pub(super) const MAGIC: usize = 16;
    pub(super) const CRC: Range<usize> = 17..21;
    pub(super) const ATTRIBUTES: Range<usize> = 21..23;
    pub(super) const LAST_OFFSET_DELTA: Range<usize> = 23..27;
    pub(super) const BASE_TIMESTAMP: Range<usize> = 27..35;
    pub(super) const MAX_TIMESTAMP: Range<usize> = 35..43;
    pub(super) const PRODUCER_ID: Range<usize> = 43..51;
    pub(super) const PRODUCER_EPOCH: Range<usize> = 51..53;
    pub(super) const BASE_SEQUENCE: Range<usize> = 53..57;
    pub(super) const COUNT: Range<usize> = 57..61;
}

/// A batch, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch(Bytes);

/// What a mark says of its producer's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Committed,
    GivenUp,
}

/// Bytes that are no batch of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoBatch(&'static str);

impl Batch {
    /// The first batch of `bytes`, which it is taken from; `None` when not all of it is there.
    pub(super) fn take(bytes: &mut Bytes) -> Result<Option<Self>, NoBatch> {
        whole(bytes)?.map(|length| Self::new(bytes.split_to(length))).transpose()
    }

    /// As [`Batch::take`], of a buffer that is filled on.
    pub(super) fn take_from(buffer: &mut BytesMut) -> Result<Option<Self>, NoBatch> {
        whole(buffer)?.map(|length| Self::new(buffer.split_to(length).freeze())).transpose()
    }

    fn new(bytes: Bytes) -> Result<Self, NoBatch> {
        let batch = Self(bytes);
        if batch.0[at::MAGIC] != 2 {
            return Err(NoBatch("a batch is of another format than that of Kafka 0.11 and later"));
        }
        if batch.last_offset() < batch.base_offset() {
            return Err(NoBatch("a batch ends before it begins"));
        }
        Ok(batch)
    }

    fn i16(&self, at: std::ops::Range<usize>) -> i16 {
        i16::from_be_bytes(self.0[at].try_into().expect("two bytes"))
    }

    fn i32(&self, at: std::ops::Range<usize>) -> i32 {
        i32::from_be_bytes(self.0[at].try_into().expect("four bytes"))
    }

    fn i64(&self, at: std::ops::Range<usize>) -> i64 {
        i64::from_be_bytes(self.0[at].try_into().expect("eight bytes"))
    }

    pub(super) fn base_offset(&self) -> i64 {
        self.i64(at::BASE_OFFSET)
    }

    pub(super) fn last_offset(&self) -> i64 {
        self.base_offset().saturating_add(self.i32(at::LAST_OFFSET_DELTA).into())
    }

    /// How many records are in it; compaction may have taken all of them.
    pub(super) fn count(&self) -> i32 {
        self.i32(at::COUNT)
    }

    /// The epoch of the leader that wrote it.
    pub(super) fn leader(&self) -> i32 {
        self.i32(at::LEADER_EPOCH)
    }

    pub(super) fn producer_id(&self) -> i64 {
        self.i64(at::PRODUCER_ID)
    }

    fn has(&self, attribute: i16) -> bool {
        self.i16(at::ATTRIBUTES) & attribute != 0
    }

    /// Whether it belongs to a transaction.
    pub(super) fn is_transactional(&self) -> bool {
        self.has(TRANSACTIONAL)
    }

    /// Whether it is a mark of the server's, which clients do not see.
    pub(super) fn is_control(&self) -> bool {
        self.has(CONTROL)
    }

    /// What it says of its producer's transaction, if it says anything.
    pub(super) fn ending(&self) -> Option<Ending> {
        if !self.is_control() {
            return None;
        }
        match control_kind(&self.0[HEADER..]) {
            Some(COMMIT) => Some(Ending::Committed),
            Some(ABORT) => Some(Ending::GivenUp),
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As another cluster's log takes it: of no producer and no transaction (their numbers mean others there), of the first leader. What
    /// is in it, its offsets and its times stay.
    pub(super) fn of_nobody(&self) -> Bytes {
        let mut bytes = BytesMut::from(&self.0[..]);
        let attributes = self.i16(at::ATTRIBUTES) & !TRANSACTIONAL;
        bytes[at::ATTRIBUTES].copy_from_slice(&attributes.to_be_bytes());
        of_nobody(&mut bytes);
        bytes.freeze()
    }

    /// A mark that ends a transaction of nobody's, at `offset`: clients show nothing of it and go on behind it, as they do behind the marks
    /// that were left out. (Behind an empty batch librdkafka 2.12 does not.)
    pub(super) fn mark(offset: i64) -> Bytes {
        let mut bytes = BytesMut::zeroed(HEADER);
        bytes.extend_from_slice(&MARK);
        let length = i32::try_from(bytes.len() - BEFORE_LENGTH).expect("it is short");
        bytes[at::BASE_OFFSET].copy_from_slice(&offset.to_be_bytes());
        bytes[at::LENGTH].copy_from_slice(&length.to_be_bytes());
        bytes[at::MAGIC] = 2;
        bytes[at::ATTRIBUTES].copy_from_slice(&CONTROL.to_be_bytes());
        for no_time in [at::BASE_TIMESTAMP, at::MAX_TIMESTAMP] {
            bytes[no_time].copy_from_slice(&NONE.to_be_bytes());
        }
        bytes[at::COUNT].copy_from_slice(&1_i32.to_be_bytes());
        of_nobody(&mut bytes);
        bytes.freeze()
    }
}

/// Its record: 16 bytes long, without attributes, time and offset those of its batch; a key of version 0 and kind 1 (commit), a value of version 0
/// and the coordinator's first epoch, no headers.
const MARK: [u8; 17] = [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 0];

/// Takes producer and leader out of a header, and computes its checksum anew.
fn of_nobody(bytes: &mut BytesMut) {
    bytes[at::LEADER_EPOCH].copy_from_slice(&0_i32.to_be_bytes());
    bytes[at::PRODUCER_ID].copy_from_slice(&NONE.to_be_bytes());
    bytes[at::PRODUCER_EPOCH].copy_from_slice(&(-1_i16).to_be_bytes());
    bytes[at::BASE_SEQUENCE].copy_from_slice(&(-1_i32).to_be_bytes());
    seal(bytes);
}

/// How long the first batch is, when all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>, NoBatch> {
    let Some(length) = bytes.get(at::LENGTH) else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(length.try_into().expect("four bytes")));
    let length = length.ok().and_then(|length| length.checked_add(BEFORE_LENGTH));
    let length = length.filter(|length| *length >= HEADER);
    let length = length.ok_or(NoBatch("a batch is shorter than its header"))?;
    Ok((bytes.len() >= length).then_some(length))
}

/// Computes the checksum, of what lies behind it.
fn seal(bytes: &mut BytesMut) {
    let checksum = crc32c::crc32c(&bytes[at::ATTRIBUTES.start..]);
    bytes[at::CRC].copy_from_slice(&checksum.to_be_bytes());
}

/// Of a control batch's only record: length, attributes, time and offset (varints but the second), then its key, of two numbers: the
/// version of the format, and the kind.
fn control_kind(record: &[u8]) -> Option<i16> {
    let mut rest = record;
    varint(&mut rest)?;
    rest = rest.get(1..)?;
    varint(&mut rest)?;
    varint(&mut rest)?;
    let key_length = usize::try_from(varint(&mut rest)?).ok()?;
    let key = rest.get(..key_length)?;
    Some(i16::from_be_bytes(key.get(2..4)?.try_into().ok()?))
}

/// A number of up to ten bytes, seven bits each, in zigzag.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

/// Tells batches of transactions that were given up, as a client does that reads what is committed: by what the broker says of the
/// batches that it hands over at once.
pub(super) struct Aborted {
    /// First offset and producer, by offset.
    to_come: VecDeque<(i64, i64)>,
    open: BTreeSet<i64>,
}

impl Aborted {
    pub(super) fn new(told: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut to_come: Vec<_> = told.into_iter().collect();
        to_come.sort_unstable();
        Self { to_come: to_come.into(), open: BTreeSet::new() }
    }

    /// Whether the next batch holds records that clients see.
    pub(super) fn shows(&mut self, batch: &Batch) -> bool {
        let begun = |(first, _): &&(i64, i64)| *first <= batch.last_offset();
        let begun = self.to_come.iter().take_while(begun).count();
        self.open.extend(self.to_come.drain(..begun).map(|(_, producer)| producer));
        if batch.is_control() {
            if batch.ending() == Some(Ending::GivenUp) {
                self.open.remove(&batch.producer_id());
            }
            return false;
        }
        let is_aborted = batch.is_transactional() && self.open.contains(&batch.producer_id());
        !is_aborted && batch.count() > 0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::kafka) const TRANSACTIONAL: i16 = super::TRANSACTIONAL;

    pub(in crate::kafka) fn mark(offset: i64, producer: i64, ending: Ending) -> Batch {
        let Batch(bytes) = batch(offset, offset, TRANSACTIONAL | CONTROL, producer);
        let mut bytes = BytesMut::from(&bytes[..]);
        bytes[HEADER + 8] = u8::from(ending == Ending::Committed);
        seal(&mut bytes);
        Batch::take(&mut bytes.freeze()).expect("a batch").expect("whole")
    }

    pub(in crate::kafka) fn batch(base: i64, last: i64, attributes: i16, producer: i64) -> Batch {
        let mut bytes = BytesMut::from(&Batch::mark(base)[..HEADER]);
        let length = i32::try_from(HEADER - BEFORE_LENGTH).expect("short");
        bytes[at::LENGTH].copy_from_slice(&length.to_be_bytes());
        bytes[at::ATTRIBUTES].copy_from_slice(&attributes.to_be_bytes());
        bytes[at::PRODUCER_ID].copy_from_slice(&producer.to_be_bytes());
        let delta = i32::try_from(last - base).expect("short");
        bytes[at::LAST_OFFSET_DELTA].copy_from_slice(&delta.to_be_bytes());
        if attributes & CONTROL != 0 {
            // Length, attributes, time, offset, key of four bytes: version 0, kind 0 (abort); no value, no headers.
            bytes.extend_from_slice(&[20, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
            let length = i32::try_from(bytes.len() - BEFORE_LENGTH).expect("short");
            bytes[at::LENGTH].copy_from_slice(&length.to_be_bytes());
        }
        seal(&mut bytes);
        Batch::take(&mut bytes.freeze()).expect("a batch").expect("whole")
    }

    #[test]
    fn a_batch_is_taken_when_it_is_whole() {
        let all = [batch(5, 9, 0, 7).0, batch(10, 10, CONTROL, 7).0].concat();
        for cut in 0..all.len() {
            let mut bytes = Bytes::copy_from_slice(&all[..cut]);
            let mut found = 0;
            while Batch::take(&mut bytes).expect("a batch").is_some() {
                found += 1;
            }
            assert_eq!(found, usize::from(cut >= HEADER), "{cut}");
        }
        let mut short = BytesMut::from(&all[..]);
        short[at::LENGTH].copy_from_slice(&1_i32.to_be_bytes());
        assert!(Batch::take(&mut short.freeze()).is_err());
        let mut old = BytesMut::from(&all[..]);
        old[at::MAGIC] = 1;
        assert!(Batch::take(&mut old.freeze()).is_err());
    }

    #[test]
    fn what_was_given_up_is_not_shown() {
        let mut aborted = Aborted::new([(4, 1), (2, 2), (9, 1)]);
        for (next, shown) in [
            (batch(0, 1, TRANSACTIONAL, 1), true),
            (batch(2, 3, TRANSACTIONAL, 2), false),
            (batch(4, 4, TRANSACTIONAL, 1), false),
            (batch(5, 5, TRANSACTIONAL, 3), true),
            (batch(6, 6, 0, 1), true),
            (batch(7, 7, TRANSACTIONAL | CONTROL, 1), false),
            (batch(8, 8, TRANSACTIONAL, 1), true),
            (batch(9, 9, TRANSACTIONAL, 1), false),
            (batch(10, 10, TRANSACTIONAL, 2), false),
            (batch(11, 11, TRANSACTIONAL | CONTROL, 2), false),
            (batch(12, 12, TRANSACTIONAL, 2), true),
        ] {
            assert_eq!(aborted.shows(&next), shown, "{}", next.base_offset());
        }
    }

    #[test]
    fn a_mark_is_shown_to_nobody_and_ends_nothing() {
        let mark = Batch::take(&mut Batch::mark(131)).expect("a batch").expect("whole");
        assert_eq!((mark.base_offset(), mark.last_offset(), mark.count()), (131, 131, 1));
        assert!(!Aborted::new([]).shows(&mark));
        assert_eq!(mark.ending(), Some(Ending::Committed));
        assert_eq!(usize::from(MARK[0]) / 2, MARK.len() - 1, "a number in zigzag");
    }

    #[test]
    fn a_batch_of_nobody_keeps_what_clients_see() {
        let source = batch(7, 12, TRANSACTIONAL | 0x08, 99);
        let copy = Batch::take(&mut source.of_nobody()).expect("a batch").expect("whole");
        assert_eq!((copy.base_offset(), copy.last_offset(), copy.count()), (7, 12, 1));
        assert!(copy.has(0x08) && !copy.has(TRANSACTIONAL));
        assert_eq!(copy.producer_id(), NONE);
        let checksum = crc32c::crc32c(&copy.0[at::ATTRIBUTES.start..]);
        assert_eq!(copy.0[at::CRC], checksum.to_be_bytes());
    }

    #[test]
    fn numbers_of_any_size_are_read() {
        for (bytes, expected) in [
            (&[0][..], 0),
            (&[1], -1),
            (&[2], 1),
            (&[0xd0, 0x0f], 1000),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], -2_147_483_648),
        ] {
            assert_eq!(varint(&mut &*bytes), Some(expected));
        }
        assert_eq!(varint(&mut &[0x80_u8; 11][..]), None);
        assert_eq!(varint(&mut &[0x80_u8][..]), None);
    }
}
