//! Follows the oplog: entries, whole, in the server's order, as far as a majority has them.
//!
//! A tailable cursor reads on from the last entry that was handed over, whether that is an hour or a millisecond old. A read
//! forwards shows no entry before all older ones are there, and what is overwritten ahead of the cursor kills it; so one look at
//! its first entry tells whether anything is missing.

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
use super::client;
use super::config::Account;
use super::oplog::{self, Mark};
use super::replay::{Entry, Stamp};
use crate::{EngineError, FeedItem, Instance, LogCursor, LogFeed, Result};

/// How long the server waits for an entry before it says that there is none.
const AWAIT: Duration = Duration::from_millis(500);
/// Least time between two questions how far the server is.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are handed over at once.
const PIECE_BYTES: usize = 1 << 20;
/// Only the oldest and the newest promises matter while the reader is behind.
const PROMISES: usize = 64;

impl Mongodb {
    pub(super) async fn follow_oplog(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible> {
        let client = self.clients.get(instance, Account::Reader)?;
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
            let gap = Follower { client: &client, feed, last, promises: VecDeque::new() }.run().await?;
            tracing::warn!(instance = instance.stanza, gap, "the oplog's archive begins anew");
            cause = Some(gap);
        }
    }
}

/// What ended the following of one unbroken piece of oplog: why it is not unbroken any more.
type Gap = String;

struct Follower<'a> {
    client: &'a Client,
    feed: &'a LogFeed,
    /// The last entry that was handed over.
    last: Mark,
    /// Instants that are covered once the entry at the timestamp beside them is handed over.
    promises: VecDeque<(Timestamp, Stamp)>,
}

impl Follower<'_> {
    async fn run(mut self) -> Result<Gap> {
        oplog::tip(self.client).await?; // of a server that has just started a majority may not have its last entries yet
        let mut tail = self.open_tail().await?;
        let mut first = next_answer(&mut tail).await?;
        let Some(at) = self.last.find_in(&first) else {
            return Ok(missing(&self.last, first.first()));
        };
        self.hand_over(first.split_off(at + 1)).await?;
        let mut asked: Option<Instant> = None;
        loop {
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_PAUSE) {
                asked = Some(Instant::now());
                self.ask().await?;
            }
            let entries = {
                let answer = next_answer(&mut tail);
                tokio::pin!(answer);
                loop {
                    tokio::select! {
                        entries = &mut answer => break entries?,
                        () = self.feed.asked() => self.ask().await?,
                    }
                }
            };
            self.hand_over(entries).await?;
            self.say_caught_up().await?;
        }
    }

    /// How far the server is. The clock first: all that is acknowledged by then is at or before what the server has applied.
    async fn ask(&mut self) -> Result<()> {
        let now = Timestamp::now();
        self.promises.push_back((now, oplog::applied(self.client).await?));
        self.say_caught_up().await
    }

    /// A cursor that waits for entries behind the last one, and brings that one first.
    async fn open_tail(&self) -> Result<RawBatchCursor> {
        oplog::collection(self.client)
            .find(doc! { "ts": { "$gte": Bson::Timestamp(self.last.ts.into()) } })
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(AWAIT)
            .batch_size(10_000)
            .batch()
            .await
            .map_err(EngineError::client("follow the oplog"))
    }

    async fn hand_over(&mut self, entries: Vec<Entry>) -> Result<()> {
        let mut piece = BytesMut::new();
        let count = entries.len();
        for (n, entry) in entries.into_iter().enumerate() {
            self.last = self.last.next(&entry);
            piece.extend_from_slice(entry.bytes());
            if piece.len() >= PIECE_BYTES || n + 1 == count {
                let bytes: Bytes = std::mem::take(&mut piece).freeze();
                self.feed.send(FeedItem::Log { bytes, cursor: self.last.cursor() }).await?;
            }
        }
        Ok(())
    }

    async fn say_caught_up(&mut self) -> Result<()> {
        let mut reached = None;
        while self.promises.front().is_some_and(|(_, stamp)| *stamp <= self.last.ts) {
            reached = self.promises.pop_front().map(|(at, _)| at);
        }
        if self.promises.len() >= PROMISES {
            self.promises.truncate(PROMISES - 1);
        }
        match reached {
            Some(at) => self.feed.send(FeedItem::CaughtUp { at }).await,
            None => Ok(()),
        }
    }
}

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

async fn next_answer(tail: &mut RawBatchCursor) -> Result<Vec<Entry>> {
    let doing = "follow the oplog";
    let Some(batch) = tail.try_next().await.map_err(EngineError::client(doing))? else {
        return Err(unexpected("the server closed the oplog's cursor"));
    };
    client::batch_of(&batch, doing)?.into_iter().map(oplog::entry).collect()
}

fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected { doing: "follow the oplog".to_owned(), what: what.to_owned() }
}
