//! Follows the oplog: entries, whole, in the server's order, as far as a majority has them.
//!
//! A tailable cursor brings new entries within milliseconds. It is not trusted with continuity: when it is opened, and
//! every few seconds from then on, the range since an entry that was handed over long ago is read anew and compared, entry
//! by entry. An entry that is missing, that differs or that came between two that were handed over is a gap.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use bson::{Bson, doc};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use mongodb::Client;
use mongodb::options::CursorType;
use mongodb::raw_batch_cursor::RawBatchCursor;

use super::Mongodb;
use super::client::admin;
use super::config::{Account, Flavor, Secrets};
use super::oplog::{self, Counter, Hash, Mark, hash};
use super::replay::{Entry, Stamp};
use crate::{EngineError, FeedItem, Instance, LogCursor, LogFeed, Result};

/// How long the server waits for an entry before it says that there is none.
const AWAIT: Duration = Duration::from_millis(100);
/// Time between two comparisons of what was handed over with what the server has.
const RECHECK: Duration = Duration::from_secs(2);
/// The stand-in reads its whole oplog for each comparison, and serves nobody meanwhile: one part in so many of its time.
const RECHECK_SHARE: u32 = 200;
/// Entries that were handed over are compared until there are so many.
const REMEMBERED: usize = 200_000;
/// An answer with fewer entries ends where the oplog ends.
const WHOLE_ANSWER: usize = 500;
const WHOLE_ANSWER_BYTES: usize = 1 << 20;
/// Bytes that are handed over at once.
const PIECE_BYTES: usize = 1 << 20;
/// Catching up is over when it took no longer than this, or found no more than a piece: the stand-in takes long over nothing.
const SHORT: Duration = Duration::from_secs(2);
/// What came between the end of catching up and the cursor may take so much memory.
const BETWEEN_BYTES: usize = 64 << 20;
/// The stand-in may acknowledge a write a moment before the cursor shows it, while an older one is under way.
const STAND_IN_LAG: Duration = Duration::from_millis(300);

impl Mongodb {
    pub(super) async fn follow_oplog(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible> {
        let client = self.clients.get(instance, Account::Reader)?;
        let flavor = Secrets::read(instance)?.flavor;
        let mut start = from.and_then(|cursor| Mark::parse(cursor).ok());
        let lost = from.is_some() && start.is_none();
        let mut cause = lost.then(|| "it is not known where the archive of the oplog ends".to_owned());
        loop {
            let last = match start.take() {
                Some(mark) => mark,
                None => {
                    let tip = oplog::tip(&client).await?;
                    feed.send(FeedItem::Begin { cursor: tip.cursor(), cause: cause.take() }).await?;
                    tip
                }
            };
            let gap = Follower::new(&client, flavor, last, feed).run().await?;
            tracing::warn!(instance = instance.stanza, gap, "the oplog's archive begins anew");
            cause = Some(gap);
        }
    }
}

/// What ended the following of one unbroken piece of oplog: why it is not unbroken any more.
type Gap = String;

struct Follower<'a> {
    client: &'a Client,
    flavor: Flavor,
    feed: &'a LogFeed,
    /// The last entry that was handed over.
    last: Mark,
    /// Where the next comparison begins, and what was handed over since.
    anchor: Mark,
    since_anchor: VecDeque<Hash>,
    checked: Instant,
    check_pause: Duration,
    /// Instants that are covered once the entry at the timestamp beside them is handed over.
    promises: VecDeque<(Timestamp, Stamp)>,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, flavor: Flavor, last: Mark, feed: &'a LogFeed) -> Self {
        Self {
            client,
            flavor,
            feed,
            anchor: last.clone(),
            last,
            since_anchor: VecDeque::new(),
            checked: Instant::now(),
            check_pause: RECHECK,
            promises: VecDeque::new(),
        }
    }

    async fn run(mut self) -> Result<Gap> {
        let (mut tail, between) = loop {
            let began = Instant::now();
            let found = match self.catch_up().await? {
                Ok(found) => found,
                Err(gap) => return Ok(gap),
            };
            // While the store was slow the server wrote on, perhaps as much again.
            if began.elapsed() > SHORT && found > PIECE_BYTES {
                continue;
            }
            let mut tail = self.open_tail().await?;
            // What the server had when the cursor was opened came with it, and is read below as a range: the stand-in may
            // skip entries between the two.
            let _ = next_answer(&mut tail).await?;
            if let Some(between) = oplog::rest(self.client, self.last.ts, BETWEEN_BYTES).await? {
                break (tail, between);
            }
        };
        let Some(at) = self.last.find_in(&between) else {
            return Ok(missing(&self.last, between.first()));
        };
        let mut range: VecDeque<Entry> = between.into_iter().skip(at + 1).collect();
        loop {
            let at = Timestamp::now();
            let promise = self.promise().await?;
            let Some(answer) = next_answer(&mut tail).await? else {
                return Err(unexpected("the server closed the oplog's cursor"));
            };
            let whole = answer.len() < WHOLE_ANSWER
                && answer.iter().map(|entry| entry.bytes().len()).sum::<usize>() < WHOLE_ANSWER_BYTES;
            let entries = self.joined(&mut range, answer);
            self.hand_over(entries).await?;
            self.say_caught_up(at, promise, whole && range.is_empty()).await?;
            if (self.checked.elapsed() >= self.check_pause || self.since_anchor.len() > REMEMBERED)
                && let Some(gap) = self.recheck().await?
            {
                return Ok(gap);
            }
        }
    }

    /// Hands over what the server has behind the last entry, however much that is, and looks whether it has that entry.
    /// Returns how many bytes that were.
    async fn catch_up(&mut self) -> Result<std::result::Result<usize, Gap>> {
        let at = Timestamp::now();
        let promise = self.promise().await?;
        let newest = oplog::newest(self.client).await?;
        tokio::time::sleep(oplog::SETTLE).await;
        let mut cursor = oplog::open(self.client, self.last.ts, newest).await?;
        let mut counter = Counter::default();
        let (mut found, mut first) = (false, None);
        let (mut piece, mut size, mut all) = (Vec::new(), 0, 0);
        while let Some(document) = cursor.try_next().await.map_err(EngineError::mongo("read the oplog"))? {
            let entry = oplog::entry(document)?;
            if !found {
                found = counter.mark(&entry) == self.last;
                if !found && entry.stamp() > self.last.ts {
                    return Ok(Err(missing(&self.last, first.as_ref().or(Some(&entry)))));
                }
                first.get_or_insert(entry);
                continue;
            }
            size += entry.bytes().len();
            all += entry.bytes().len();
            piece.push(entry);
            if size >= PIECE_BYTES {
                self.hand_over(std::mem::take(&mut piece)).await?;
                self.begin_comparing_here();
                size = 0;
            }
        }
        if !found {
            return Ok(Err(missing(&self.last, first.as_ref())));
        }
        self.hand_over(piece).await?;
        self.begin_comparing_here();
        self.say_caught_up(at, promise, true).await?;
        Ok(Ok(all))
    }

    fn begin_comparing_here(&mut self) {
        self.anchor = self.last.clone();
        self.since_anchor.clear();
    }

    /// A cursor that waits for entries behind the last one.
    async fn open_tail(&self) -> Result<RawBatchCursor> {
        oplog::collection(self.client)
            .find(doc! { "ts": { "$gte": Bson::Timestamp(self.last.ts.into()) } })
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(AWAIT)
            .batch_size(10_000)
            .batch()
            .await
            .map_err(EngineError::mongo("follow the oplog"))
    }

    /// What follows the last entry: at first the range, up to where the cursor goes on, then what the cursor brings.
    fn joined(&self, range: &mut VecDeque<Entry>, answer: Vec<Entry>) -> Vec<Entry> {
        if range.is_empty() {
            return answer;
        }
        let Some(first) = answer.first() else {
            // Nothing came behind the range for a while: all of it is final, unless the stand-in may still fill a hole.
            return match self.flavor {
                Flavor::Mongod => range.drain(..).collect(),
                Flavor::Surrogate => Vec::new(),
            };
        };
        let first = hash(first);
        let until = range.iter().position(|entry| hash(entry) == first).unwrap_or(range.len());
        let mut entries: Vec<Entry> = range.drain(..until).collect();
        range.clear();
        entries.extend(answer);
        entries
    }

    async fn hand_over(&mut self, entries: Vec<Entry>) -> Result<()> {
        let mut piece = BytesMut::new();
        let count = entries.len();
        for (n, entry) in entries.into_iter().enumerate() {
            self.last = self.last.next(&entry);
            self.since_anchor.push_back(self.last.sha256);
            piece.extend_from_slice(entry.bytes());
            if piece.len() >= PIECE_BYTES || n + 1 == count {
                let bytes: Bytes = std::mem::take(&mut piece).freeze();
                self.feed.send(FeedItem::Log { bytes, cursor: self.last.cursor() }).await?;
            }
        }
        Ok(())
    }

    /// The newest entry that the server has applied, asked after the clock was read; the stand-in does not tell it.
    async fn promise(&self) -> Result<Option<Stamp>> {
        if self.flavor == Flavor::Surrogate {
            return Ok(None);
        }
        let hello = admin(self.client, doc! { "hello": 1 }, "ask how far the server is").await?;
        let newest = hello.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
        newest
            .and_then(|optime| optime.get_timestamp("ts"))
            .map(|ts| Some(Stamp::from(ts)))
            .map_err(|error| unexpected(&error.to_string()))
    }

    async fn say_caught_up(&mut self, at: Timestamp, promise: Option<Stamp>, whole: bool) -> Result<()> {
        let reached = match promise {
            Some(newest) => {
                self.promises.push_back((at, newest));
                let mut reached = None;
                while self.promises.front().is_some_and(|(_, stamp)| *stamp <= self.last.ts) {
                    reached = self.promises.pop_front().map(|(at, _)| at);
                }
                // Only the oldest and the newest matter while the reader is behind.
                self.promises.truncate(64);
                reached
            }
            None if whole => {
                at.checked_sub(jiff::SignedDuration::try_from(STAND_IN_LAG).unwrap_or_default()).ok()
            }
            None => None,
        };
        match reached {
            Some(at) => self.feed.send(FeedItem::CaughtUp { at }).await,
            None => Ok(()),
        }
    }

    /// Reads again what was handed over. The next comparison begins at the end of this one.
    async fn recheck(&mut self) -> Result<Option<Gap>> {
        let began = Instant::now();
        let mut cursor = oplog::open(self.client, self.anchor.ts, Some(self.last.ts)).await?;
        let mut counter = Counter::default();
        let (mut found, mut first) = (false, None);
        let mut expected = self.since_anchor.iter();
        while let Some(document) = cursor.try_next().await.map_err(EngineError::mongo("read the oplog"))? {
            let entry = oplog::entry(document)?;
            let mark = counter.mark(&entry);
            if found {
                match expected.next() {
                    Some(hash) if *hash == mark.sha256 => {}
                    // What came since with the last one's timestamp.
                    None => break,
                    Some(_) => return Ok(Some(format!("{DIFFERS} at {}", mark.ts))),
                }
            } else if mark == self.anchor {
                found = true;
            } else if mark.ts > self.anchor.ts {
                return Ok(Some(missing(&self.anchor, first.as_ref().or(Some(&entry)))));
            }
            first.get_or_insert(entry);
        }
        if !found {
            return Ok(Some(missing(&self.anchor, first.as_ref())));
        }
        if expected.next().is_some() {
            return Ok(Some(format!("{DIFFERS} before {}", self.last.ts)));
        }
        if self.flavor == Flavor::Surrogate {
            self.check_pause = RECHECK.max(began.elapsed() * RECHECK_SHARE);
        }
        self.begin_comparing_here();
        self.checked = Instant::now();
        Ok(None)
    }
}

const DIFFERS: &str = "the server's oplog differs from what was read of it a moment ago (an entry came late or was rolled back)";

/// Why the entry that should be there is not; `first` is the first one that is.
fn missing(wanted: &Mark, first: Option<&Entry>) -> Gap {
    match first {
        Some(entry) if entry.stamp() > wanted.ts => format!(
            "the server's oplog begins after {}, the last entry that was archived: it was overwritten while archiving \
             was behind",
            wanted.ts
        ),
        _ => format!(
            "the server's oplog does not have the entry at {} that was archived: it was rolled back or reset",
            wanted.ts
        ),
    }
}

async fn next_answer(tail: &mut RawBatchCursor) -> Result<Option<Vec<Entry>>> {
    let doing = "follow the oplog";
    let Some(batch) = tail.try_next().await.map_err(EngineError::mongo(doing))? else { return Ok(None) };
    let mut entries = Vec::new();
    for document in batch.doc_slices().map_err(EngineError::mongo(doing))? {
        let document = document.map_err(|error| unexpected(&error.to_string()))?;
        let document = document.as_document().ok_or_else(|| unexpected("an entry that is no document"))?;
        entries.push(oplog::entry(document.to_owned())?);
    }
    Ok(Some(entries))
}

fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected { doing: "follow the oplog".to_owned(), what: what.to_owned() }
}
