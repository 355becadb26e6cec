//! The binlog on its way to the archive: read as a replica would, while it is written (R9).
//!
//! The server sends the events of its files, and some that stand in none: rotations with the next file's name, heartbeats,
//! a copy of the first event for readers that begin in a file's middle. What stands in the file is told by its place: an
//! event belongs where it says that it ends. The log continues what was archived if the server is the same, its file is the
//! same, and each new file begins with exactly the transactions that were read (R12).

use std::convert::Infallible;
use std::time::Duration;

use bytes::BytesMut;
use futures::{FutureExt as _, StreamExt as _};
use holdfast_core::Timestamp;
use mysql_async::binlog::BinlogVersion;
use mysql_async::binlog::events::{Event, GtidEvent, PreviousGtidsEvent, RotateEvent};
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn};
use tokio::time::{Instant, MissedTickBehavior};

use super::gtid::{Gtid, GtidSet, uuid_text};
use super::log::{Cursor, FileBegins, MAGIC, Open, Record, hexadecimal};
use super::{config, disk, sql};
use crate::{EngineError, FeedItem, Instance, LogCursor, LogFeed, Result};

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// What is handed over at once, at the most, but for a larger event.
const BATCH_BYTES: usize = 1 << 20;
/// The server sends something at least once a second; without anything that it says it has, for so long, it is asked anew.
const SILENCE: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Types of events (MySQL source, `binlog_event.h`).
mod kind {
    pub(super) const ROTATE: u8 = 4;
    pub(super) const FORMAT: u8 = 15;
    pub(super) const HEARTBEAT: u8 = 27;
    pub(super) const GTID: u8 = 33;
    pub(super) const PREVIOUS_GTIDS: u8 = 35;
    pub(super) const HEARTBEAT_V2: u8 = 41;
    pub(super) const GTID_TAGGED: u8 = 42;
}

pub(super) async fn follow(
    instance: &Instance,
    from: Option<&LogCursor>,
    feed: &LogFeed,
) -> Result<Infallible> {
    // From a position that is not understood reading begins anew, behind a gap.
    let mut cause = from.is_some_and(|from| Cursor::of(from).is_err()).then(|| UNKNOWN.to_owned());
    let mut from = from.and_then(|from| Cursor::of(from).ok());
    loop {
        let mut asking = sql::connect(instance).await?;
        let reader = Reader::begin(&mut asking, from.take(), cause.take()).await?;
        // It returns where the file that was to be read on turned out to be another one.
        let Err(error) = read(instance, &mut asking, reader, feed).await else {
            cause = Some(RESET.to_owned());
            continue;
        };
        if !is_too_long(&error) {
            return Err(error);
        }
        // No reader ever gets past it: what comes behind it begins in a file of its own.
        sql::run(&mut asking, "begin a binlog file", "FLUSH BINARY LOGS").await?;
        cause = Some(TOO_LONG.to_owned());
    }
}

async fn read(
    instance: &Instance,
    asking: &mut Conn,
    start: (Reader, String, u64),
    feed: &LogFeed,
) -> Result<()> {
    let (mut reader, file, position) = start;
    let mut stream = open_stream(instance, &file, position).await?;
    let mut asks = tokio::time::interval(ASK_EVERY);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due: Option<(Timestamp, GtidSet)> = None;
    let mut heard = Instant::now();
    while !reader.other_file {
        // As long as more is there, it goes on in one batch.
        while let Some(event) = stream.next().now_or_never() {
            heard = if reader.take(event, feed).await? { Instant::now() } else { heard };
        }
        if reader.flush(feed).await? {
            heard = Instant::now();
        }
        if let Some((at, executed)) = due.take() {
            if reader.has(&executed)? {
                feed.send(FeedItem::CaughtUp { at }).await?;
            } else if heard.elapsed() > SILENCE {
                return Err(unexpected("the server does not send what it has executed"));
            } else {
                due = Some((at, executed));
            }
        }
        tokio::select! {
            event = stream.next() => {
                heard = if reader.take(event, feed).await? { Instant::now() } else { heard };
            }
            _ = asks.tick(), if due.is_none() => {
                // The clock first: what was acknowledged until then has been executed when the server is asked.
                let at = Timestamp::now();
                let executed = tokio::time::timeout(ANSWER_LIMIT, sql::executed(asking)).await;
                due = Some((at, executed.map_err(|_| unexpected("the server does not say how far it is"))??));
            }
            () = tokio::time::sleep(SILENCE) => {}
        }
    }
    Ok(())
}

async fn open_stream(instance: &Instance, file: &str, position: u64) -> Result<BinlogStream> {
    let mut conn = sql::connect(instance).await?;
    let heartbeat = "SET @source_heartbeat_period = 1000000000, @source_binlog_checksum = 'ALL'";
    sql::run(&mut conn, "set up the reading of the binlog", heartbeat).await?;
    let request = BinlogStreamRequest::new(config::reader_id(instance))
        .with_filename(file.as_bytes())
        .with_pos(position);
    conn.get_binlog_stream(request).await.map_err(EngineError::client("read the binlog"))
}

/// What was read, and what of it has not been handed over yet.
struct Reader {
    server_uuid: String,
    /// Transactions that the server has executed and has in no file, as reading began.
    outside: GtidSet,
    /// Why what comes does not continue what was archived; `Some(None)` for an archive that was empty. Told with the first
    /// file.
    begins: Option<Option<String>>,
    cursor: Option<Cursor>,
    /// A file whose first events are not complete: its name.
    new_file: Option<String>,
    position: u64,
    buffer: BytesMut,
    /// The records before `buffer`.
    ready: BytesMut,
    executed_seen: GtidSet,
    /// The server has sent the first event of the file that it reads, and it is the one that the cursor stands in. Before,
    /// nothing is known to be archived: after a reset there may be another file of the same name, with as many transactions.
    knows_file: bool,
    /// The server reads another file of the same name.
    other_file: bool,
}

impl Reader {
    /// Decides where to read on: behind `from` if that is possible, otherwise anew. Returns file and position for the server.
    /// With a `cause` it is anew.
    async fn begin(
        asking: &mut Conn,
        from: Option<Cursor>,
        cause: Option<String>,
    ) -> Result<(Self, String, u64)> {
        let server_uuid: String =
            sql::one(asking, "read the server's identity", "SELECT @@server_uuid").await?;
        let executed = sql::executed(asking).await?;
        let outside = sql::gtids(asking, "gtid_purged").await?;
        let files = disk::binlogs(asking).await?;
        let trouble = cause.or_else(|| {
            from.as_ref().and_then(|from| cannot_continue(from, &server_uuid, &executed, &files))
        });
        let reader = |begins, cursor| Self {
            server_uuid,
            outside,
            begins,
            cursor,
            new_file: None,
            position: 0,
            buffer: BytesMut::new(),
            ready: BytesMut::new(),
            executed_seen: GtidSet::default(),
            knows_file: false,
            other_file: false,
        };
        let name = |file: Option<&(String, u64)>| {
            file.map(|(name, _)| name.clone()).ok_or_else(|| unexpected("the server writes no binlog"))
        };
        match (from, trouble) {
            (Some(from), None) => {
                let (file, position) = (from.file.clone(), from.position.max(MAGIC.len() as u64));
                Ok((reader(None, Some(from)), file, position))
            }
            // From before a gap no base reaches across it; the file that is being written is enough.
            (_, Some(cause)) => {
                let file = name(files.last())?;
                Ok((reader(Some(Some(cause)), None), file, MAGIC.len() as u64))
            }
            (None, None) => Ok((reader(Some(None), None), name(files.first())?, MAGIC.len() as u64)),
        }
    }

    /// Takes one event. Returns whether it stands in the log.
    async fn take(
        &mut self,
        event: Option<std::result::Result<Event, mysql_async::Error>>,
        feed: &LogFeed,
    ) -> Result<bool> {
        let event = event
            .ok_or_else(|| unexpected("the server ended the stream"))?
            .map_err(EngineError::client("read the binlog"))?;
        let header = event.header();
        match header.event_type_raw() {
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => return Ok(false),
            kind::ROTATE if header.log_pos() == 0 => {
                self.rotate(&event, feed).await?;
                return Ok(false);
            }
            kind::FORMAT if header.log_pos() == 0 => {
                // The copy of a file's first event, for reading on in its middle: it tells when the file was begun.
                self.other_file =
                    self.cursor.as_ref().is_some_and(|cursor| cursor.created != header.timestamp());
                self.knows_file = !self.other_file;
                return Ok(false);
            }
            _ => {}
        }
        // Positions are told in 32 bits. What ends elsewhere stands in no file: events inside a compressed transaction.
        let end = self.position + u64::from(header.event_size());
        #[expect(clippy::cast_possible_truncation, reason = "compared as the server counts")]
        if end as u32 != header.log_pos() {
            return Ok(false);
        }
        self.append(&event)?;
        match header.event_type_raw() {
            kind::FORMAT => self.format(header.timestamp())?,
            kind::PREVIOUS_GTIDS => self.file_begins(&event, feed).await?,
            kind::GTID | kind::GTID_TAGGED => self.transaction_begins(&event)?,
            _ => {}
        }
        self.position = end;
        if let Some(cursor) = self.cursor.as_mut().filter(|_| self.new_file.is_none()) {
            cursor.position = end;
            if cursor.open.as_ref().is_some_and(|open| end >= open.ends_at) {
                close(cursor);
            }
        }
        if self.buffer.len() >= BATCH_BYTES {
            self.flush(feed).await?;
        }
        Ok(true)
    }

    /// The server names the file that it reads from here on.
    async fn rotate(&mut self, event: &Event, feed: &LogFeed) -> Result<()> {
        let rotate: RotateEvent<'_> = event.read_event().map_err(damaged)?;
        let file = rotate.name().into_owned();
        if let Some(cursor) = self
            .cursor
            .as_ref()
            .filter(|cursor| cursor.file == file && self.new_file.is_none() && cursor.position > 0)
        {
            self.position = cursor.position; // where we asked to go on
            return Ok(());
        }
        self.flush(feed).await?;
        self.buffer.clear(); // a file whose first events did not come
        self.buffer.extend_from_slice(&MAGIC);
        self.position = MAGIC.len() as u64;
        self.new_file = Some(file);
        Ok(())
    }

    fn format(&mut self, created: u32) -> Result<()> {
        let file = self.new_file.clone().ok_or_else(|| unexpected("a file begins twice"))?;
        let format = hexadecimal(self.buffer.get(MAGIC.len()..).unwrap_or_default());
        let known = self.cursor.take().map(|mut cursor| {
            close(&mut cursor);
            (cursor.gtids, cursor.outside)
        });
        let (gtids, outside) = known.unwrap_or_default();
        self.knows_file = true;
        self.cursor = Some(Cursor {
            server_uuid: self.server_uuid.clone(),
            file,
            position: 0,
            gtids,
            outside,
            open: None,
            created,
            format,
        });
        Ok(())
    }

    /// A file's first events are complete: they tell whether it continues what was read.
    async fn file_begins(&mut self, event: &Event, feed: &LogFeed) -> Result<()> {
        let mut previous = previous_gtids(event)?;
        let (Some(cursor), Some(file)) = (self.cursor.as_mut(), self.new_file.take()) else {
            return Err(unexpected("a file without a beginning"));
        };
        if self.begins.is_none() {
            previous.union(&cursor.outside);
        }
        if self.begins.is_none() && cursor.gtids != previous {
            let was_reset = !previous.contains(&cursor.gtids);
            let missing =
                format!("{file} does not continue the binlog before it: transactions are missing from it");
            self.begins = Some(Some(if was_reset { RESET.to_owned() } else { missing }));
        }
        if let Some(cause) = self.begins.take() {
            cursor.outside.clone_from(&self.outside);
            previous.union(&self.outside);
            cursor.gtids = previous;
            feed.send(FeedItem::Begin { cursor: cursor.to_log(), cause }).await?;
        }
        let begins = FileBegins { server_uuid: self.server_uuid.clone(), file };
        Record::File(begins).write(&mut self.ready);
        Ok(())
    }

    fn transaction_begins(&mut self, event: &Event) -> Result<()> {
        let (gtid, facts) = gtid_of(event)?;
        let cursor = self.cursor.as_mut().ok_or_else(|| unexpected("a transaction outside of a file"))?;
        close(cursor); // by its length it ended earlier; the next one says so too
        cursor.open = Some(Open { gtid, ends_at: self.position + facts.tx_length() });
        Ok(())
    }

    /// The event as it stands in the file; its checksum is the server's.
    fn append(&mut self, event: &Event) -> Result<()> {
        let start = self.buffer.len();
        let mut bytes = Vec::with_capacity(event.header().event_size() as usize);
        event.write(BinlogVersion::Version4, &mut bytes).map_err(damaged)?;
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() - start != event.header().event_size() as usize {
            return Err(unexpected("an event is not as long as it says"));
        }
        match event.checksum() {
            Some(checksum) if !bytes.ends_with(&checksum) => Err(unexpected("an event's checksum is wrong")),
            _ => Ok(()),
        }
    }

    /// Hands over what is complete; a file's first events wait for one another. Returns whether there was anything.
    async fn flush(&mut self, feed: &LogFeed) -> Result<bool> {
        let Some(cursor) = self.cursor.as_ref().filter(|_| self.new_file.is_none()) else { return Ok(false) };
        if !self.buffer.is_empty() {
            Record::Bytes(self.buffer.split().freeze()).write(&mut self.ready);
        }
        if self.ready.is_empty() {
            return Ok(false);
        }
        feed.send(FeedItem::Log { bytes: self.ready.split().freeze(), cursor: cursor.to_log() }).await?;
        Ok(true)
    }

    /// Whether all of `executed` was read and handed over. What was read and never executed: the log was reset.
    fn has(&mut self, executed: &GtidSet) -> Result<bool> {
        let read = self.cursor.as_ref().filter(|_| self.knows_file && self.new_file.is_none());
        let Some(cursor) = read else { return Ok(false) };
        self.executed_seen.union(executed);
        if !executed.contains(&self.executed_seen) {
            return Err(unexpected(RESET));
        }
        Ok(cursor.gtids.contains(executed))
    }
}

const UNKNOWN: &str = "where the archived binlog ends is not known any more";
const TOO_LONG: &str = "the binlog has an event of more than 1 GiB, which a server writes and no reader gets: a row of more than 512 MiB was changed";
const RESET: &str = "the binlog was reset (RESET BINARY LOGS AND GTIDS) and begins anew";

/// Why the log behind `from` cannot be read any more, if so.
fn cannot_continue(
    from: &Cursor,
    server_uuid: &str,
    executed: &GtidSet,
    files: &[(String, u64)],
) -> Option<String> {
    let size = files.iter().find(|(name, _)| *name == from.file).map(|(_, size)| *size);
    if from.server_uuid != server_uuid {
        Some(format!("the binlog is that of another server ({server_uuid}) than the one archived so far"))
    } else if !executed.contains(&from.gtids)
        || size.is_some_and(|size| size < from.position)
        // Numbers begin anew with a reset, and the new transactions may be as many as the old ones were.
        || files.last().is_some_and(|(newest, _)| *newest < from.file)
    {
        Some(RESET.to_owned())
    } else if size.is_none() {
        Some(format!("{} was removed from the server before it was archived", from.file))
    } else {
        None
    }
}

/// Whether the server does not send an event because of its length (ER_SOURCE_FATAL_ERROR_READING_BINLOG).
fn is_too_long(error: &EngineError) -> bool {
    matches!(error.said(), Some(mysql_async::Error::Server(error)) if error.code == 1236 && error.message.contains("exceeded max_allowed_packet"))
}

fn close(cursor: &mut Cursor) {
    if let Some(open) = cursor.open.take() {
        cursor.gtids.insert(&open.gtid);
    }
}

/// Which transaction begins, and its event's other facts. Both layouts are known: with and without a tag.
pub(super) fn gtid_of(event: &Event) -> Result<(Gtid, GtidEvent)> {
    let facts: GtidEvent = event.read_event().map_err(damaged)?;
    let tag = facts.tag().map(|tag| tag.to_string()).unwrap_or_default();
    Ok((Gtid::new(facts.sid(), &tag, facts.gno()), facts))
}

pub(super) fn previous_gtids(event: &Event) -> Result<GtidSet> {
    let previous: PreviousGtidsEvent<'_> = event.read_event().map_err(damaged)?;
    let mut set = GtidSet::default();
    for source in previous.sids() {
        let tag = source.tag().map(|tag| tag.to_string()).unwrap_or_default();
        for interval in source.intervals() {
            set.insert_range(
                &uuid_text(source.uuid()),
                &tag,
                interval.start(),
                interval.end().saturating_sub(1),
            );
        }
    }
    Ok(set)
}

/// Removes the files before the one that the archive ends in.
pub(super) async fn release(instance: &Instance, archived: &LogCursor) -> Result<()> {
    let archived = Cursor::of(archived)?;
    let mut conn = sql::connect(instance).await?;
    let server_uuid: String =
        sql::one(&mut conn, "read the server's identity", "SELECT @@server_uuid").await?;
    let files = disk::binlogs(&mut conn).await?;
    let first_is_older = files.first().is_some_and(|(name, _)| *name != archived.file);
    if archived.server_uuid != server_uuid
        || !first_is_older
        || !files.iter().any(|(name, _)| *name == archived.file)
    {
        return Ok(());
    }
    let purge = format!("PURGE BINARY LOGS TO {}", sql::literal(&archived.file));
    match sql::run(&mut conn, "remove archived binlogs", purge).await {
        // A base backup runs: the next call removes them.
        Err(error) if is_locked_for_a_backup(&error) => Ok(()),
        done => done,
    }
}

fn is_locked_for_a_backup(error: &EngineError) -> bool {
    error
        .said::<mysql_async::Error>()
        .is_some_and(|said| said.to_string().contains("LOCK INSTANCE FOR BACKUP"))
}

fn damaged(error: std::io::Error) -> EngineError {
    unexpected(&format!("an event cannot be read: {error}"))
}

fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected { doing: "read the binlog".to_owned(), what: what.to_owned() }
}
