//! The append-only file, followed across rewrites: log → archive.
//!
//! What is archived is the bytes of the incremental files, one after the other, each with a line before its first byte that
//! names it (`aof::begin_line`; the server skips it, so the whole is an append-only file). Bytes are handed over up to the
//! last whole command or transaction: what a crash leaves half-written, the server cuts off at its next start, with the stamp
//! before it, and neither must stand in the archive. The server writes its log before it answers (`appendfsync no`; with
//! `everysec` it does not always), so whatever was acknowledged at an instant lies below the length that the file has after
//! it. Bringing the file to disk once a second is the reader's, then.

use std::convert::Infallible;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::OptionFuture;
use holdfast_core::Timestamp;
use holdfast_core::causes::chain;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::aof::{Item, Malformed, Walker, begin_line};
use super::config::{Own, hex};
use super::cursor::{Cursor, TAIL};
use super::{rewrite, spool};
use crate::{EngineError, FeedItem, Instance, LogCursor, LogFeed, Result};

const UNKNOWN: &str = "where the archived log ends is not known any more";
/// Between two looks at a file that has not grown.
const POLL: Duration = Duration::from_millis(100);
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Read, and handed over, at once.
const PIECE: u64 = 1 << 20;
/// A transaction longer than this is handed over in pieces; a crash of the server in the middle of one is then a gap.
const LONGEST_WHOLE: u64 = 8 << 20;
/// The log is rewritten when it is longer than this and twice as long as its base: it would take ever longer to load.
const REWRITE_BYTES: u64 = 256 << 20;
const REWRITE_LOOK: Duration = Duration::from_secs(10);

pub(super) async fn follow(
    instance: &Instance,
    from: Option<&LogCursor>,
    feed: &LogFeed,
) -> Result<Infallible> {
    // From a position that is not understood reading begins anew, behind a gap.
    let from = from.map(|from| Cursor::parse(from).map_err(|_| UNKNOWN.to_owned()));
    let owned = instance.clone();
    let (mut follower, begin) = blocking(move || Follower::open(owned, from)).await??;
    if let Some(begin) = begin {
        feed.send(begin).await?;
    }
    let (mut looked, mut synced) = (Instant::now(), Instant::now());
    let mut syncing: Option<JoinHandle<std::io::Result<()>>> = None;
    loop {
        let (back, step) = blocking(move || {
            let step = follower.step();
            (follower, step)
        })
        .await?;
        follower = back;
        let Step { items, idle } = step?;
        for item in items {
            feed.send(item).await?;
        }
        if idle {
            tokio::time::sleep(POLL).await;
        }
        if synced.elapsed() > SYNC_EVERY && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            synced = Instant::now();
            if let Some(Ok(ended)) = OptionFuture::from(syncing.take()).await {
                ended.map_err(EngineError::io("bring the append-only file to disk"))?;
            }
            let file = follower.file.try_clone().map_err(EngineError::io(follower.doing()))?;
            syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        }
        if looked.elapsed() > REWRITE_LOOK {
            looked = Instant::now();
            if let Err(error) = rewrite_long_log(instance).await {
                tracing::warn!(error = %chain(&error), "a long log was not rewritten");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EngineError::Unexpected {
        doing: "read the log".to_owned(),
        what: error.to_string(),
    })
}

async fn rewrite_long_log(instance: &Instance) -> Result<()> {
    let files = spool::server_files(instance)?;
    let manifest = spool::manifest_of(&files)?;
    let length = |name: &str| files.length(name).unwrap_or(0);
    let log: u64 = manifest.incremental.iter().map(|(_, name)| length(name)).sum();
    let base = manifest.base.as_deref().map_or(0, length);
    if log > REWRITE_BYTES.max(2 * base) { rewrite::begin(instance).await } else { Ok(()) }
}

/// What one look at the file gave.
struct Step {
    items: Vec<FeedItem>,
    /// Everything that was there has been read.
    idle: bool,
}

struct Follower {
    instance: Instance,
    dataset: String,
    seq: u64,
    file: File,
    begun: bool,
    /// Stands where the next byte to hand over is.
    walker: Walker,
    /// The last bytes before it.
    tail: Vec<u8>,
    /// Grows when a transaction does not fit.
    piece: u64,
    linked: Option<u64>,
}

impl Follower {
    /// Goes on behind `from` if what follows is still there; otherwise begins anew, and says so.
    fn open(
        instance: Instance,
        from: Option<std::result::Result<Cursor, String>>,
    ) -> Result<(Self, Option<FeedItem>)> {
        let manifest = spool::keep(&instance)?;
        let own = Own::read(&instance)?;
        let cause = match from {
            None => None,
            Some(Err(cause)) => Some(cause),
            Some(Ok(cursor)) => match Self::resume(&instance, &own, &cursor)? {
                Ok(follower) => return Ok((follower, None)),
                Err(cause) => Some(cause),
            },
        };
        let live = manifest.live().expect("a manifest without a live file is refused");
        let Some(file) = spool::open(&instance, live)? else {
            return Err(missing(live));
        };
        // What a restore wrote into a new instance's log is not the tenant's.
        let offset = match own.begins_at {
            Some((seq, offset)) if seq == live && cause.is_none() => offset,
            _ => 0,
        };
        let mut follower = Self::new(instance, own.dataset, live, file);
        follower.walker = Walker::at(offset);
        follower.tail = follower.bytes(offset.saturating_sub(TAIL), offset)?;
        let begin = FeedItem::Begin { cursor: follower.cursor(), cause };
        Ok((follower, Some(begin)))
    }

    fn new(instance: Instance, dataset: String, seq: u64, file: File) -> Self {
        let (walker, tail) = (Walker::default(), Vec::new());
        Self { instance, dataset, seq, file, begun: false, walker, tail, piece: PIECE, linked: None }
    }

    /// The follower, or why what follows is not what was archived.
    fn resume(instance: &Instance, own: &Own, cursor: &Cursor) -> Result<std::result::Result<Self, String>> {
        if cursor.dataset != own.dataset {
            return Ok(Err("the log belongs to another data set than the one archived".to_owned()));
        }
        let Some(file) = spool::open(instance, cursor.seq)? else {
            let cause = format!("append-only file {} was removed before all of it was archived", cursor.seq);
            return Ok(Err(cause));
        };
        let mut follower = Self::new(instance.clone(), own.dataset.clone(), cursor.seq, file);
        follower.begun = cursor.begun;
        if follower.length()? < cursor.offset {
            let cause = format!(
                "append-only file {} ends before what was archived of it: the database lost writes that it had acknowledged",
                cursor.seq
            );
            return Ok(Err(cause));
        }
        follower.tail = follower.bytes(cursor.offset.saturating_sub(TAIL), cursor.offset)?;
        if follower.digest() != cursor.tail {
            let cause = format!("append-only file {} is not the one that was archived", cursor.seq);
            return Ok(Err(cause));
        }
        follower.walker = Walker::at(cursor.unit);
        while follower.walker.position() < cursor.offset {
            let from = follower.walker.position();
            let bytes = follower.bytes(from, cursor.offset.min(from + PIECE))?;
            follower.walk(&bytes)?;
        }
        Ok(Ok(follower))
    }

    fn cursor(&self) -> LogCursor {
        let cursor = Cursor {
            dataset: self.dataset.clone(),
            seq: self.seq,
            begun: self.begun,
            offset: self.walker.position(),
            unit: self.walker.boundary(),
            tail: self.digest(),
        };
        cursor.public()
    }

    fn digest(&self) -> String {
        hex(&Sha256::digest(&self.tail)[..16])
    }

    fn doing(&self) -> String {
        format!("read append-only file {}", self.seq)
    }

    fn length(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(EngineError::io(self.doing()))?;
        if meta.nlink() == 0 {
            return Err(missing(self.seq));
        }
        Ok(meta.len())
    }

    fn bytes(&self, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to - from).expect("a piece fits in memory")];
        self.file.read_exact_at(&mut bytes, from).map_err(EngineError::io(self.doing()))?;
        Ok(bytes)
    }

    fn walk(&mut self, bytes: &[u8]) -> Result<()> {
        walk(&mut self.walker, bytes).map_err(|error| malformed(self.doing(), error))
    }

    /// Hands over what is there, at most one piece of it. The clock is read first, then the list of files, then the length.
    fn step(&mut self) -> Result<Step> {
        let at = Timestamp::now();
        let live = self.live()?;
        if !self.begun {
            self.begun = true;
            let line = Bytes::from(begin_line(self.seq));
            return Ok(Step {
                items: vec![FeedItem::Log { bytes: line, cursor: self.cursor() }],
                idle: false,
            });
        }
        let length = self.length()?;
        let from = self.walker.position();
        if length < from {
            return Err(EngineError::Unexpected { doing: self.doing(), what: "it was cut off".to_owned() });
        }
        let to = length.min(from + self.piece);
        let bytes = self.bytes(from, to)?;
        let handed = self.take(bytes, to == length && live != self.seq)?;
        let mut items: Vec<FeedItem> =
            handed.map(|bytes| FeedItem::Log { bytes, cursor: self.cursor() }).into_iter().collect();
        let all_read = to == length;
        if all_read && live == self.seq {
            items.push(FeedItem::CaughtUp { at });
            return Ok(Step { items, idle: true });
        }
        // A file that has a successor grows no more; its length was taken after that was seen.
        if all_read {
            items.extend(self.next(live)?);
        }
        Ok(Step { items, idle: false })
    }

    /// The number of the file that the server writes to. New files are kept before they are read.
    fn live(&mut self) -> Result<u64> {
        let manifest = spool::read_manifest(&self.instance)?;
        let live = manifest.live().expect("a manifest without a live file is refused");
        if self.linked != Some(live) {
            spool::keep(&self.instance)?;
            self.linked = Some(live);
        }
        Ok(live)
    }

    /// Of the bytes that follow, those that end with a whole command or transaction, or all if one is too long to wait for.
    /// The rest is read again: the server may cut it off and write something else there. `last` bytes of a file that grows no
    /// more may also end with a line that the server skips.
    fn take(&mut self, mut bytes: Vec<u8>, last: bool) -> Result<Option<Bytes>> {
        let (from, unit) = (self.walker.position(), self.walker.boundary());
        let mut walker = self.walker.clone();
        let mut end = unit;
        let walked = walker.feed(&bytes, |range, item| {
            if last || item == Item::Commands {
                end = range.end;
            }
            ControlFlow::Continue(())
        });
        let _goes_on = walked.map_err(|error| malformed(self.doing(), error))?;
        if end > unit {
            let whole = usize::try_from(end - from).expect("a piece fits in memory");
            bytes.truncate(whole);
            walker = Walker::at(end);
            self.piece = PIECE;
        } else if walker.position() - unit < LONGEST_WHOLE {
            self.piece = LONGEST_WHOLE;
            return Ok(None);
        }
        self.walker = walker;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL as usize)..]);
        let surplus = self.tail.len().saturating_sub(TAIL as usize);
        self.tail.drain(..surplus);
        Ok((!bytes.is_empty()).then(|| Bytes::from(bytes)))
    }

    /// Goes on with the file after this one.
    fn next(&mut self, live: u64) -> Result<Option<FeedItem>> {
        let whole =
            self.walker.position() == self.walker.boundary() && self.length()? == self.walker.position();
        let seq = self.seq + 1;
        let cause = match (whole, spool::open(&self.instance, seq)?) {
            (true, Some(file)) => {
                self.file.sync_data().map_err(EngineError::io("bring the append-only file to disk"))?;
                *self = Self {
                    linked: self.linked,
                    ..Self::new(self.instance.clone(), self.dataset.clone(), seq, file)
                };
                return Ok(None);
            }
            (true, None) => format!("append-only file {seq} was removed before all of it was archived"),
            (false, _) => format!("append-only file {} ends in the middle of a command", self.seq),
        };
        let file = spool::open(&self.instance, live)?.ok_or_else(|| missing(live))?;
        *self = Self {
            linked: self.linked,
            ..Self::new(self.instance.clone(), self.dataset.clone(), live, file)
        };
        Ok(Some(FeedItem::Begin { cursor: self.cursor(), cause: Some(cause) }))
    }
}

fn walk(walker: &mut Walker, bytes: &[u8]) -> std::result::Result<(), Malformed> {
    walker.feed(bytes, |_, _| ControlFlow::Continue(())).map(drop)
}

fn malformed(doing: String, error: Malformed) -> EngineError {
    EngineError::Unexpected { doing, what: error.to_string() }
}

fn missing(seq: u64) -> EngineError {
    EngineError::Unexpected {
        doing: format!("read append-only file {seq}"),
        what: "it was removed before all of it was archived".to_owned(),
    }
}
