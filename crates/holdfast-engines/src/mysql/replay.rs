//! Archived log on its way back into a server: written as relay logs up to the exact transaction, then applied in parallel
//! by the server's own replica threads.
//!
//! The cut: the first transaction in the log's order that was committed after the instant asked for, and all that follow it,
//! stay out. (A clock that was set back makes stamps descend; the first one later counts.) What must be there at the end is
//! known before a statement runs: the transactions of the base and those before the cut.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use holdfast_core::Timestamp;
use mysql_async::binlog::BinlogVersion;
use mysql_async::binlog::events::{Event, FormatDescriptionEvent, QueryEvent};

use super::archive::{gtid_of, previous_gtids};
use super::events::EventStatus;
use super::gtid::GtidSet;
use super::log::{Cursor, HEADER_BYTES, Header, MAGIC, Open, Record, Records, events};
use super::mended::{Mended, UTF8};
use crate::{EngineError, Instance, LogPart, Paths, Result};

const FORMAT: u8 = 15;
const QUERY: u8 = 2;
const GTID: u8 = 33;
const PREVIOUS_GTIDS: u8 = 35;
const GTID_TAGGED: u8 = 42;
/// At the end of every event.
const CHECKSUM_BYTES: usize = 4;
/// The relay logs' common name; the settings have it too.
const RELAY: &str = "relay-bin";

/// What is to be reached.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Everything that must have been executed at the end, and nothing else.
    pub expected: GtidSet,
    /// Transactions to apply.
    pub transactions: u64,
    /// Scheduled events at the target.
    pub events: EventStatus,
    /// The transaction at which the log was cut, for people.
    pub cut_at: Option<(String, Timestamp)>,
}

/// Writes the log as relay logs into the data folder of `instance`, up to `target`; `base` and `events` are those of the base.
///
/// # Errors
/// [`EngineError::Hole`] where transactions are missing between the base and the target.
pub(super) async fn write_relay_logs(
    instance: &Instance,
    base: &GtidSet,
    events: EventStatus,
    target: Timestamp,
    mut log: BoxStream<'static, Result<LogPart>>,
) -> Result<Replay> {
    let mut writer = Writer::new(instance, base, events, target);
    while let Some(part) = log.next().await {
        match part? {
            LogPart::Segment { from, to: _ } => writer.segment(&Cursor::of(&from)?)?,
            LogPart::Bytes(bytes) => writer.bytes(&bytes)?,
        }
        if writer.cut_at.is_some() {
            break; // what follows is later
        }
    }
    writer.finish()
}

struct Writer<'a> {
    instance: &'a Instance,
    base: &'a GtidSet,
    target_us: u64,
    records: Records,
    /// Where the log is that was taken; `None` before the first segment.
    at: Option<At>,
    format: FormatDescriptionEvent<'static>,
    relay: Option<BufWriter<File>>,
    relay_bytes: u64,
    /// Bytes of the relay log behind the last whole transaction.
    whole_bytes: u64,
    files: usize,
    applied: GtidSet,
    events: EventStatus,
    cut_at: Option<(String, Timestamp)>,
}

struct At {
    file: String,
    position: u64,
    gtids: GtidSet,
    /// What no file tells of.
    outside: GtidSet,
    open: Option<Open>,
    /// The transaction began before the log that we have: it is in the base, and not written.
    skipping: bool,
}

impl<'a> Writer<'a> {
    fn new(instance: &'a Instance, base: &'a GtidSet, events: EventStatus, target: Timestamp) -> Self {
        Self {
            instance,
            base,
            target_us: u64::try_from(target.as_microsecond()).unwrap_or(0),
            records: Records::default(),
            at: None,
            format: FormatDescriptionEvent::new(BinlogVersion::Version4),
            relay: None,
            relay_bytes: 0,
            whole_bytes: 0,
            files: 0,
            applied: GtidSet::default(),
            events,
            cut_at: None,
        }
    }

    /// The first segment says where the log begins; each other continues the one before.
    fn segment(&mut self, from: &Cursor) -> Result<()> {
        if let Some(at) = &self.at {
            let continues = at.file == from.file && at.position == from.position || from.position == 0;
            return if continues && !self.records.is_cut() {
                Ok(())
            } else {
                Err(hole(format!("{} {}", at.file, at.position), format!("{} {}", from.file, from.position)))
            };
        }
        let mut before = from.gtids.clone();
        if let Some(open) = &from.open {
            before.insert(&open.gtid);
        }
        if !self.base.contains(&before) {
            return Err(hole(self.base.to_string(), before.to_string()));
        }
        if from.position > 0 {
            self.begin_relay_log()?;
            let format = from.format_event()?;
            self.read_event(&format)?;
            self.write(&format)?;
            self.write_no_previous_gtids()?;
        }
        self.at = Some(At {
            file: from.file.clone(),
            position: from.position,
            gtids: from.gtids.clone(),
            outside: from.outside.clone(),
            open: from.open.clone(),
            skipping: from.open.is_some(),
        });
        Ok(())
    }

    /// The server wants a relay log to say what stands before it; the applier goes by what is executed.
    fn write_no_previous_gtids(&mut self) -> Result<()> {
        const EMPTY_SET_BYTES: usize = 8;
        let size = HEADER_BYTES + EMPTY_SET_BYTES + CHECKSUM_BYTES;
        let mut bytes = vec![0; size];
        bytes[4] = PREVIOUS_GTIDS;
        bytes[9] = u8::try_from(size).expect("small");
        let written = self.with_checksum(&bytes)?;
        self.write(&written)
    }

    fn bytes(&mut self, bytes: &Bytes) -> Result<()> {
        self.records.push(bytes);
        while let Some(record) = self.records.next()? {
            match record {
                Record::File(begins) => self.file(begins.file)?,
                Record::Bytes(mut bytes) => {
                    if bytes.starts_with(&MAGIC) {
                        self.write(&MAGIC)?;
                        self.advance(MAGIC.len())?;
                        let _ = bytes.split_to(MAGIC.len());
                    }
                    for event in events(bytes)? {
                        if self.cut_at.is_none() {
                            self.event(&event)?;
                        }
                    }
                }
            }
            if self.cut_at.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn file(&mut self, file: String) -> Result<()> {
        let at = self.at.as_mut().ok_or_else(|| damaged("bytes before the first segment"))?;
        (at.file, at.position, at.skipping) = (file, 0, false);
        self.begin_relay_log()
    }

    fn event(&mut self, event: &[u8]) -> Result<()> {
        let header = Header::read(event).ok_or_else(|| damaged("an event without a header"))?;
        let mut mended = None;
        match header.kind {
            FORMAT => drop(self.read_event(event)?),
            PREVIOUS_GTIDS => {
                let mut previous = previous_gtids(&self.read_event(event)?)?;
                let at = self.at.as_mut().ok_or_else(|| damaged("bytes before the first segment"))?;
                previous.union(&at.outside);
                if at.gtids != previous {
                    return Err(hole(at.gtids.to_string(), previous.to_string()));
                }
            }
            GTID | GTID_TAGGED if !self.transaction(event)? => return Ok(()),
            QUERY => mended = self.query(event)?,
            _ => {}
        }
        let skipping = self.at.as_ref().is_some_and(|at| at.skipping);
        if !skipping {
            self.write(mended.as_deref().unwrap_or(event))?;
        }
        self.advance(event.len())
    }

    /// A transaction begins. Returns whether it is to be replayed.
    fn transaction(&mut self, event: &[u8]) -> Result<bool> {
        let (gtid, facts) = gtid_of(&self.read_event(event)?)?;
        let at = self.at.as_mut().ok_or_else(|| damaged("bytes before the first segment"))?;
        close(at, &mut self.applied);
        at.skipping = false;
        self.whole_bytes = self.relay_bytes;
        let committed_us = facts.immediate_commit_timestamp();
        if committed_us > self.target_us {
            let committed =
                i64::try_from(committed_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
            self.cut_at = Some((gtid.to_string(), committed.unwrap_or(Timestamp::MAX)));
            return Ok(false);
        }
        at.open = Some(Open { gtid, ends_at: at.position + facts.tx_length() });
        Ok(true)
    }

    /// Looks at a statement. Returns the event to replay in its place, if any.
    fn query(&mut self, event: &[u8]) -> Result<Option<Vec<u8>>> {
        let replayed = self.at.as_ref().and_then(|at| at.open.as_ref()).is_some_and(|open| {
            let mut one = GtidSet::default();
            one.insert(&open.gtid);
            !self.base.contains(&one)
        });
        if !replayed {
            return Ok(None);
        }
        let read = self.read_event(event)?;
        let query: QueryEvent<'_> = read.read_event().map_err(|error| damaged(&error.to_string()))?;
        let mended = Mended::new(&query);
        if EventStatus::may_concern(&mended.text) {
            self.events.see(&query.schema(), &mended.decoded());
        }
        mended.differs().then(|| self.with_statement(event, query.query_raw().len(), &mended)).transpose()
    }

    /// The event with another statement, which is its end.
    fn with_statement(&mut self, event: &[u8], length: usize, mended: &Mended<'_>) -> Result<Vec<u8>> {
        let kept = event.len().checked_sub(length + CHECKSUM_BYTES);
        let kept = kept.ok_or_else(|| damaged("a statement that is longer than its event"))?;
        let mut bytes = [&event[..kept], &mended.text, &[0; CHECKSUM_BYTES]].concat();
        let size = u32::try_from(bytes.len()).map_err(|_| damaged("a statement that is too long"))?;
        bytes[9..13].copy_from_slice(&size.to_le_bytes());
        if let Some(at) = mended.utf8_at {
            bytes[at..at + 2].copy_from_slice(&UTF8.to_le_bytes());
        }
        if let Some((at, mode)) = mended.mode {
            bytes[at..at + 8].copy_from_slice(&mode.to_le_bytes());
        }
        self.with_checksum(&bytes)
    }

    /// Reading leaves the checksum open, writing makes it.
    fn with_checksum(&mut self, event: &[u8]) -> Result<Vec<u8>> {
        let mut written = Vec::new();
        let event = self.read_event(event)?;
        event.write(BinlogVersion::Version4, &mut written).map_err(|error| damaged(&error.to_string()))?;
        Ok(written)
    }

    fn read_event(&mut self, bytes: &[u8]) -> Result<Event> {
        let whole = Header::read(bytes).is_some_and(|header| header.size as usize == bytes.len());
        if !whole || bytes.len() < HEADER_BYTES {
            return Err(damaged("an event that is cut off"));
        }
        let event = Event::read(&self.format, bytes).map_err(|error| damaged(&error.to_string()))?;
        self.format = event.fde().clone();
        Ok(event)
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        let at = self.at.as_mut().ok_or_else(|| damaged("bytes before the first segment"))?;
        at.position += bytes as u64;
        if at.open.as_ref().is_none_or(|open| at.position >= open.ends_at) {
            close(at, &mut self.applied);
            at.skipping = false;
            self.whole_bytes = self.relay_bytes;
        }
        Ok(())
    }

    fn relay_path(&self, number: usize) -> PathBuf {
        Paths(&self.instance.folder).data().join(format!("{RELAY}.{number:06}"))
    }

    fn begin_relay_log(&mut self) -> Result<()> {
        self.close_relay_log()?;
        self.files += 1;
        let path = self.relay_path(self.files);
        let made = File::options().write(true).create_new(true).open(&path);
        let file = made.and_then(|file| {
            if let Some(user) = &self.instance.run_as {
                std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
            }
            Ok(file)
        });
        self.relay = Some(BufWriter::with_capacity(
            1 << 20,
            file.map_err(EngineError::io(format!("write {}", path.display())))?,
        ));
        (self.relay_bytes, self.whole_bytes) = (0, 0);
        if self.at.is_none() {
            self.write(&MAGIC)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let relay = self.relay.as_mut().ok_or_else(|| damaged("bytes before the first file"))?;
        relay.write_all(bytes).map_err(EngineError::io("write a relay log"))?;
        self.relay_bytes += bytes.len() as u64;
        Ok(())
    }

    /// A transaction whose end the log does not have stays out: the applier would wait for it.
    fn close_relay_log(&mut self) -> Result<()> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        let doing = "write a relay log";
        let file = relay.into_inner().map_err(|error| EngineError::io(doing)(error.into_error()))?;
        file.set_len(self.whole_bytes).map_err(EngineError::io(doing))
    }

    fn finish(mut self) -> Result<Replay> {
        self.close_relay_log()?;
        if self.cut_at.is_none() && self.records.is_cut() {
            return Err(damaged("the log ends inside a record"));
        }
        // Nothing was written since the base, so no log was archived.
        let Some(at) = self.at.take() else {
            return Ok(Replay { expected: self.base.clone(), ..Replay::default() });
        };
        // Everything in the base was committed before the instant: the log up to the cut must hold it.
        if !at.gtids.contains(self.base) {
            return Err(hole(at.gtids.to_string(), self.base.to_string()));
        }
        let transactions = self.applied.count() - self.applied.count_in(self.base);
        let mut expected = self.base.clone();
        expected.union(&self.applied);
        let index = (1..=self.files).map(|number| format!("./{RELAY}.{number:06}\n")).collect::<String>();
        let path = Paths(&self.instance.folder).data().join(format!("{RELAY}.index"));
        crate::files::write_private(&path, index.as_bytes(), self.instance.run_as.as_ref())?;
        Ok(Replay { expected, transactions, events: self.events, cut_at: self.cut_at })
    }
}

/// The open transaction is whole.
fn close(at: &mut At, applied: &mut GtidSet) {
    if let Some(open) = at.open.take() {
        at.gtids.insert(&open.gtid);
        applied.insert(&open.gtid);
    }
}

fn hole(reached: String, expected: String) -> EngineError {
    EngineError::Hole { reached, expected }
}

fn damaged(what: &str) -> EngineError {
    EngineError::Unexpected { doing: "read the archived binlog".to_owned(), what: what.to_owned() }
}

/// Name of the first relay log.
pub(super) const FIRST: &str = "relay-bin.000001";
