//! PostgreSQL's positions: LSNs and WAL segment names.

use holdfast_core::position::Position;

/// Size of a WAL segment.
pub(super) const SEGMENT_BYTES: u64 = holdfast_core::engine::WAL_SEGMENT_BYTES;

/// A page of log opens with a header (`SizeOfXLogShortPHD`), the first one of a segment with a longer one
/// (`SizeOfXLogLongPHD`): an insert position right behind one means that nothing has been written into the page.
const PAGE_BYTES: u64 = 8192;
const PAGE_HEADER_BYTES: u64 = 24;
const LONG_PAGE_HEADER_BYTES: u64 = 40;

/// Reads an LSN as PostgreSQL prints it, `16/B374D848`.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.trim().split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// An LSN as PostgreSQL prints it.
#[must_use]
pub(super) fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// The start of the segment that holds `lsn`.
#[must_use]
pub(super) fn segment_start(lsn: u64) -> u64 {
    lsn - lsn % SEGMENT_BYTES
}

/// The insert position without the header of a page into which nothing was written yet.
#[must_use]
pub(super) fn without_empty_page(lsn: u64) -> u64 {
    if lsn % SEGMENT_BYTES <= LONG_PAGE_HEADER_BYTES {
        segment_start(lsn)
    } else if lsn % PAGE_BYTES <= PAGE_HEADER_BYTES {
        lsn - lsn % PAGE_BYTES
    } else {
        lsn
    }
}

/// Timeline and first byte of a segment from its file name: 24 hex digits, timeline, high and segment number.
#[must_use]
pub fn wal_name_start(name: &str) -> Option<Position> {
    let digits = name.get(..24).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let part = |from: usize| u32::from_str_radix(&digits[from..from + 8], 16).ok();
    let (timeline, high, segment) = (part(0)?, part(8)?, part(16)?);
    Some(Position { timeline, offset: (u64::from(high) << 32) | (u64::from(segment) * SEGMENT_BYTES) })
}

/// The file name of the segment that begins there.
#[must_use]
pub(super) fn wal_name(start: Position) -> String {
    let segment = (start.offset & 0xFFFF_FFFF) / SEGMENT_BYTES;
    format!("{:08X}{:08X}{segment:08X}", start.timeline, start.offset >> 32)
}

/// The position that follows `words` in a line of the engine's or a tool's.
pub(super) fn lsn_after(line: &str, words: &str) -> Option<u64> {
    let rest = line.split_once(words)?.1;
    parse_lsn(rest.split_whitespace().next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_the_server_prints_them() {
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(format_lsn(0x16_B374_D848), "16/B374D848");
        for bad in ["", "16", "/", "x/1", "1/100000000"] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
        let start = wal_name_start("00000002000000160000B3").or(wal_name_start("0000000200000016000000B3"));
        assert_eq!(start, Some(Position { timeline: 2, offset: 0x16_B300_0000 }));
        assert_eq!(start.map(wal_name).as_deref(), Some("0000000200000016000000B3"));
        for (insert, written) in [
            (0x300_0028, 0x300_0000),
            (0x300_0060, 0x300_0060),
            (0x300_2018, 0x300_2000),
            (0x300_2028, 0x300_2028),
        ] {
            assert_eq!(without_empty_page(insert), written);
        }
    }
}
