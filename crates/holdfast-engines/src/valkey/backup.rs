//! A base backup: the server writes its data set anew, and the base that comes of it is streamed to the store. There is no
//! copy on disk but this base, which the server keeps as its own.
//!
//! Clients' writes wait for a moment while the server forks: so the fingerprint and the instant belong to exactly what the
//! base holds. They wait no longer than [`PAUSE`], though: a base that the server may have begun later is given up.

use std::fs::File;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_core::Timestamp;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, ReadBuf};

use super::client::{Info, ask, connect, words};
use super::config::Own;
use super::users::{self, User};
use super::verify::{self, Fingerprint};
use super::{rewrite, spool};
use crate::{BackupSink, EngineError, Instance, ProgressSink, Result, StreamBackup};

/// The base's name in the backup.
pub(super) const BASE: &str = "base.rdb";
/// How long writes wait at the most, should the agent die in between.
const PAUSE: &str = "CLIENT PAUSE 3000 WRITE";
/// Begun so long after the pause was asked for, a snapshot may hold writes that came behind it.
const FORK_LIMIT: Duration = Duration::from_millis(2500);
/// How often a snapshot that was begun too late is tried again.
const TRIES: u32 = 5;

/// What a restore needs to know of a base. Stored with the backup: fields may be added, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The server that wrote it; an older one cannot read it.
    pub version: String,
    /// The base's own instant: what was acknowledged until then is in it, and nothing that was sent later.
    pub at: Timestamp,
    pub dataset: String,
    /// The incremental file that begins where the base ends.
    pub seq: u64,
    pub base_bytes: u64,
    pub fingerprint: Fingerprint,
    /// The tenant's users, with their passwords' hashes.
    pub users: Vec<User>,
}

pub(super) async fn run(
    instance: &Instance,
    sink: &dyn BackupSink,
    progress: &ProgressSink,
) -> Result<StreamBackup> {
    progress.phase("writing a snapshot");
    let mut client = connect(instance).await?;
    let info = Info::read(&mut client, "server memory").await?;
    let version = info.version().to_owned();
    let database_bytes = info.number("used_memory_dataset");
    let Begun { at, fingerprint, seq } = begin(instance, &mut client).await?;
    rewrite::wait_end(&mut client, progress).await?;
    let base = open_base(instance, seq)?;
    let base_bytes = base.metadata().map_err(EngineError::io("read the snapshot"))?.len();

    progress.phase("storing the snapshot");
    let mut reader = Reported { file: tokio::fs::File::from_std(base), done: 0, total: base_bytes, progress };
    let stored = sink.store(BASE, &mut reader).await?;
    if stored != base_bytes {
        let what = format!("{stored} of {base_bytes} bytes were stored");
        return Err(EngineError::Unexpected { doing: "store the snapshot".to_owned(), what });
    }
    // The log knows whole seconds: the first instant that it can be replayed to is the next one.
    let consistent_at = next_second(at);
    let ahead = consistent_at.as_millisecond() - Timestamp::now().as_millisecond();
    tokio::time::sleep(Duration::from_millis(u64::try_from(ahead).unwrap_or(0))).await;
    let facts = Facts {
        version,
        at,
        dataset: Own::read(instance)?.dataset,
        seq,
        base_bytes,
        fingerprint,
        users: users::read(instance)?,
    };
    let facts = serde_json::to_value(facts).expect("facts have only string keys");
    Ok(StreamBackup { consistent_at, database_bytes: database_bytes.max(base_bytes), facts, instead: None })
}

fn next_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_microsecond().div_euclid(1_000_000) + 1).unwrap_or(at)
}

/// A snapshot that is being written.
struct Begun {
    at: Timestamp,
    fingerprint: Fingerprint,
    seq: u64,
}

/// Has the server begin a snapshot, and again while it was too slow to do so before writes went on.
async fn begin(instance: &Instance, client: &mut MultiplexedConnection) -> Result<Begun> {
    for _ in 0..TRIES {
        rewrite::wait_idle(client).await?;
        let before = spool::keep(instance)?.live();
        let forked = fork(instance, client).await?;
        let live = spool::keep(instance)?.live();
        if let Some((at, fingerprint)) = forked {
            let seq = live.filter(|live| Some(*live) > before).ok_or_else(other_rewrite)?;
            return Ok(Begun { at, fingerprint, seq });
        }
        tracing::warn!(instance = %instance.stanza, "the engine was too slow to begin a snapshot while writes waited; once more");
    }
    Err(EngineError::Unexpected {
        doing: "write a snapshot".to_owned(),
        what: format!("the engine was too slow {TRIES} times to begin one while writes waited"),
    })
}

/// Forks the process that writes the base; tells the instant at which it did and what there was then. `None` if writes may
/// have gone on before it forked.
async fn fork(
    instance: &Instance,
    client: &mut MultiplexedConnection,
) -> Result<Option<(Timestamp, Fingerprint)>> {
    // The server's pause begins later than this.
    let began = Instant::now();
    ask::<()>(client, &words(PAUSE), "hold writes for a moment").await?;
    let forked = async {
        let (seconds, micros): (i64, i64) = ask(client, &words("TIME"), "read the engine's clock").await?;
        let fingerprint = verify::take(client).await?;
        let answer: String = ask(client, &words("BGREWRITEAOF"), "begin a snapshot").await?;
        // It answers once it has forked, or that it will do so later (Valkey 9.1, `bgrewriteaofCommand`).
        let in_time = answer.contains("started") && began.elapsed() < FORK_LIMIT;
        let at =
            Timestamp::from_microsecond(seconds * 1_000_000 + micros).unwrap_or_else(|_| Timestamp::now());
        Ok(in_time.then_some((at, fingerprint)))
    };
    let forked = forked.await;
    // By another connection if this one broke; otherwise the pause ends by itself.
    if ask::<()>(client, &words("CLIENT UNPAUSE"), "let writes go on").await.is_err()
        && let Ok(mut other) = connect(instance).await
    {
        let _ = ask::<()>(&mut other, &words("CLIENT UNPAUSE"), "let writes go on").await;
    }
    forked
}

/// Opened at once: another rewrite would remove it, but not what is open.
fn open_base(instance: &Instance, seq: u64) -> Result<File> {
    let files = spool::server_files(instance)?;
    let manifest = spool::manifest_of(&files)?;
    let first = manifest.incremental.first().map(|(first, _)| *first);
    let (Some(base), true) = (manifest.base, first == Some(seq)) else { return Err(other_rewrite()) };
    files.file(&base).map_err(EngineError::io(format!("open {}", files.path(&base).display())))
}

fn other_rewrite() -> EngineError {
    EngineError::Unexpected {
        doing: "write a snapshot".to_owned(),
        what: "the append-only file was rewritten by somebody else meanwhile".to_owned(),
    }
}

/// Tells how much of the base has been read.
struct Reported<'a> {
    file: tokio::fs::File,
    done: u64,
    total: u64,
    progress: &'a ProgressSink,
}

impl AsyncRead for Reported<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.file).poll_read(context, buffer);
        self.done += (buffer.filled().len() - before) as u64;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        if self.total > 0 {
            self.progress.percent(100.0 * self.done as f64 / self.total as f64, Some(self.total));
        }
        polled
    }
}
