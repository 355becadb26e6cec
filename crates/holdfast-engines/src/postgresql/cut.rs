//! Where a restore to an instant ends: behind the last commit or abort that is not later.
//!
//! A *time* as target stops at the first commit or abort that is later, and by then PostgreSQL has replayed all that it logs
//! ahead of it: the removal of a dropped database's folder above all, which nothing takes back. So the log around the instant
//! is read before anything is replayed, and recovery goes to the place of a record (barman #723, pgBackRest #1350).
//!
//! Only what was read is counted: without a later record in what was read nobody knows whether reading ended early, and the
//! time stays the target.

use holdfast_core::Timestamp;
use holdfast_core::position::Position;

use super::position::{SEGMENT_BYTES, format_lsn, parse_lsn, segment_start, wal_name};
use super::{Postgresql, config};
use crate::exec::{self, ProcessSpec};
use crate::{EngineError, Instance, Paths, RestoreRequest, RestoreTo, Result, files};

/// Segments read ahead of the one up to which the log is proven for the instant, and back from it.
const AHEAD: u64 = 2;
const BACK: u64 = 16;
const FETCH_SECONDS: u64 = 120;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Behind the commit or abort that starts here.
    Behind(u64),
    /// At the base's own end: nothing was committed between it and the instant.
    Base,
    /// The log that was read does not tell.
    Unknown,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    lsn: u64,
    at: Timestamp,
}

impl Postgresql {
    /// `reader`: the instance with its source's stanza, whose configuration is written.
    pub(super) async fn find_cut(
        &self,
        reader: &Instance,
        request: &RestoreRequest<'_>,
        to: &RestoreTo,
    ) -> Result<Cut> {
        let folder = Paths(&reader.folder).run().join("cut");
        files::make_folder(&folder, 0o700, reader.run_as.as_ref())?;
        let found = self.search(reader, request, to).await;
        std::fs::remove_dir_all(&folder).map_err(EngineError::io("remove what was read of the log"))?;
        found
    }

    async fn search(&self, reader: &Instance, request: &RestoreRequest<'_>, to: &RestoreTo) -> Result<Cut> {
        let (base, timeline) = (request.base_stop.offset, request.base_stop.timeline);
        let newest = segment_start(to.covered_to.offset.saturating_sub(1));
        let at = |offset| Position { timeline, offset };
        let (mut ends, mut to_byte) = (Vec::new(), newest);
        for _ in 0..=AHEAD {
            if !self.fetch(reader, at(to_byte)).await? {
                return Ok(Cut::Unknown);
            }
            to_byte += SEGMENT_BYTES;
            ends = self.ends_between(reader, at(newest), to_byte, base).await?;
            if cut(&ends, to.point) != Cut::Unknown {
                break;
            }
        }
        let mut from = newest;
        for _ in 0..BACK {
            match cut(&ends, to.point) {
                // Nothing is earlier in what was read, and that begins behind the base.
                Cut::Base if from > segment_start(base) => {}
                found => return Ok(found),
            }
            from -= SEGMENT_BYTES;
            if !self.fetch(reader, at(from)).await? {
                break;
            }
            ends = self.ends_between(reader, at(from), to_byte, base).await?;
        }
        Ok(Cut::Unknown)
    }

    /// Brings a segment into the folder as a recovery would; `false` where the archive does not have it.
    async fn fetch(&self, reader: &Instance, segment: Position) -> Result<bool> {
        const MISSING: i32 = 1; // of the tool, and of the copying from the tail
        let name = wal_name(segment);
        let path = Paths(&reader.folder).run().join("cut").join(&name);
        let command = config::restore_command(&self.pgbackrest()?, reader);
        let command = command.replace("%f", &name).replace("%p", &path.to_string_lossy());
        let spec = ProcessSpec::new("/bin/sh", &reader.folder)
            .args(["-c", &command])
            .run_as(reader.run_as.as_ref())
            .timeout_seconds(FETCH_SECONDS);
        match exec::run(spec).await {
            Ok(_) => Ok(true),
            Err(error) if error.exit_code() == Some(MISSING) => Ok(false),
            Err(error) => Err(EngineError::exec("read the log around the restore point")(error)),
        }
    }

    /// Ends of transactions in the fetched log, which ends at `to`, in its order, none before the base. Reading ends with an error where
    /// the log does. Without its end the program would wait 5 s for the next file (PostgreSQL 17, `WALDumpOpenSegment`).
    async fn ends_between(&self, reader: &Instance, from: Position, to: u64, base: u64) -> Result<Vec<End>> {
        const LOG_ENDS: i32 = 1;
        let mut ends = Vec::new();
        let spec = ProcessSpec::new(self.program(reader, "pg_waldump")?, &reader.folder)
            .args([format!("--path={}", Paths(&reader.folder).run().join("cut").display())])
            .args([format!("--timeline={}", from.timeline), format!("--start={}", format_lsn(from.offset))])
            .args([format!("--end={}", format_lsn(to))])
            .args(["--rmgr=Transaction"])
            .run_as(reader.run_as.as_ref())
            .timeout_seconds(FETCH_SECONDS);
        let read =
            exec::run_lines(spec, |line| ends.extend(end_of(line).filter(|end| end.lsn >= base))).await;
        match read {
            Err(error) if error.exit_code() != Some(LOG_ENDS) => {
                Err(EngineError::exec("read the log around the restore point")(error))
            }
            _ => Ok(ends),
        }
    }
}

/// The last end before the first one that is later.
fn cut(ends: &[End], point: Timestamp) -> Cut {
    let Some(later) = ends.iter().position(|end| end.at > point) else { return Cut::Unknown };
    match ends[..later].last() {
        Some(end) => Cut::Behind(end.lsn),
        None => Cut::Base,
    }
}

/// A line of `pg_waldump`'s about the end of a transaction: `… lsn: 0/03000128, prev 0/030000F0, desc: COMMIT 2026-11-29
/// 01:20:11.123456 UTC; …`.
fn end_of(line: &str) -> Option<End> {
    let (head, what) = line.split_once(", desc: ")?;
    let lsn = parse_lsn(head.split_once("lsn: ")?.1.split(',').next()?)?;
    let stamp = what.strip_prefix("COMMIT ").or_else(|| what.strip_prefix("ABORT "))?;
    let stamp = stamp.split(" UTC").next()?;
    let at = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", stamp).ok()?;
    Some(End { lsn, at: at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "rmgr: Transaction len (rec/tot):     34/    34, tx:        745, lsn: 0/03000128, prev 0/030000F0, desc: COMMIT 2026-11-29 01:20:11.123456 UTC";

    #[test]
    fn ends_of_transactions_are_read_and_nothing_else() {
        let at: Timestamp = "2026-11-29T01:20:11.123456Z".parse().expect("a timestamp");
        assert_eq!(end_of(COMMIT), Some(End { lsn: 0x300_0128, at }));
        let longer = format!("{COMMIT}; inval msgs: catcache 55 catcache 54; sync");
        assert_eq!(end_of(&longer), end_of(COMMIT));
        assert!(end_of(&COMMIT.replace("COMMIT", "ABORT")).is_some());
        for other in ["ASSIGNMENT xtop 745: subxacts: 746", "INVALIDATION ; inval msgs: x"] {
            assert_eq!(end_of(&COMMIT.replace("COMMIT 2026-11-29 01:20:11.123456 UTC", other)), None);
        }
    }

    #[test]
    fn the_cut_is_behind_the_last_end_before_the_first_later_one() {
        let end = |lsn, second| End { lsn, at: Timestamp::from_second(second).expect("a second") };
        let point = Timestamp::from_second(10).expect("a second");
        assert_eq!(cut(&[end(1, 8), end(2, 10), end(3, 11), end(4, 9)], point), Cut::Behind(2));
        assert_eq!(cut(&[end(3, 11)], point), Cut::Base);
        assert_eq!(cut(&[end(1, 8), end(2, 10)], point), Cut::Unknown, "reading may have ended early");
        assert_eq!(cut(&[], point), Cut::Unknown);
    }
}
