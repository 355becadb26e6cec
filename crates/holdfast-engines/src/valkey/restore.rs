//! A base and its log into a new instance, at the latest whole second that is not later than the instant asked for.
//!
//! The base is laid where the server looks for the base of its own log, with the archived log behind it, cut where the
//! second begins. While the server reads that, nothing expires. It then stands still (`import-mode`, Valkey 8.1: what is
//! past its deadline stays): the fingerprint is compared, what was past its deadline at the point that was restored goes, and
//! every other deadline is moved by as much as time has passed since. So what was alive then is alive now, lives as long as it
//! had left, and nothing else is there.

use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use holdfast_core::Timestamp;
use holdfast_core::engine::TimeUnit;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::aof::{AofManifest, Item, Walker};
use super::backup::{BASE, Facts};
use super::client::{self, Info, ask, connect_for, words};
use super::config::{self, AOF_NAME, Own, aof_folder};
use super::cursor::Cursor;
use super::users::{self, User};
use super::{Valkey, process, verify};
use crate::files::{make_folder, recent_log};
use crate::{
    EngineError, Instance, LogPart, ProgressSink, RestoreSource, Result, StreamRestore, StreamRestored,
};

/// Files of the new instance: what is restored, and where the server goes on.
const RESTORED_LOG: u64 = 1;
const OWN_LOG: u64 = 2;

/// The deadlines of one page of a database's keys are moved by `ARGV[2]` milliseconds, those of hash fields too if `ARGV[3]`
/// says that there are any; one that is some 285,000 years away, which a script's numbers do not hold exactly, stays as it is. What was past its own at `ARGV[4]` goes: the server had not reclaimed it yet. Returns where the
/// next page begins; "0" at the end.
const MOVE_DEADLINES: &str = r"
local passed, reached = tonumber(ARGV[2]), tonumber(ARGV[4])
local last = 9007199254740991 - passed
local page = redis.call('SCAN', ARGV[1], 'COUNT', 2000)
for _, key in ipairs(page[2]) do
  local at = redis.call('PEXPIRETIME', key)
  if at > 0 and at <= reached then
    redis.call('UNLINK', key)
  else
    if at > 0 and at < last then redis.call('PEXPIREAT', key, string.format('%.0f', at + passed)) end
    if ARGV[3] == '1' and redis.call('TYPE', key).ok == 'hash' then
      local names = redis.call('HKEYS', key)
      for from = 1, #names, 500 do
        local to = math.min(from + 499, #names)
        local times = redis.call('HPEXPIRETIME', key, 'FIELDS', to - from + 1, unpack(names, from, to))
        for index, time in ipairs(times) do
          local name = names[from + index - 1]
          if time > 0 and time <= reached then
            redis.call('HDEL', key, name)
          elseif time > 0 and time < last then
            redis.call('HPEXPIREAT', key, string.format('%.0f', time + passed), 'FIELDS', 1, name)
          end
        end
      end
    end
  end
end
return page[1]";
/// How long a page may take: hashes of many millions of fields are moved in one go.
const PAGE_LIMIT: Duration = Duration::from_secs(3600);
/// Deadlines moved a second at the least, on a slow host: what the moving itself takes is added to them.
const MOVED_PER_SECOND: u64 = 20_000;

impl Valkey {
    pub(super) async fn restore_instance(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        let facts: Facts = serde_json::from_value(request.facts.clone()).map_err(|error| {
            EngineError::Unexpected { doing: "read the backup's facts".to_owned(), what: error.to_string() }
        })?;
        refuse_older(instance, &facts)?;
        config::make_folders(instance)?;
        config::write_all(instance)?;
        users::write(instance, &[])?; // nobody but the agent until all is there

        progress.phase("copying the snapshot");
        let folder = aof_folder(instance);
        make_folder(&folder, 0o700, instance.run_as.as_ref())?;
        let base_name = format!("{AOF_NAME}.1.base.rdb");
        let (base_file, base) =
            copy_base(instance, &folder.join(&base_name), source, &facts, progress).await?;
        let (reached, (log_file, log)) = match request.target {
            Some(target) => {
                progress.phase("reading log");
                let second = TimeUnit::Second.floor(target);
                refuse_hole(second, request.complete_until)?;
                let path = folder.join(log_name(RESTORED_LOG));
                (second, lay_log(instance, &path, source, facts.seq, second).await?)
            }
            None => (facts.at, (create(instance, &folder.join(log_name(RESTORED_LOG)))?, 0)),
        };
        let own_log = create(instance, &folder.join(log_name(OWN_LOG)))?;
        let manifest = AofManifest {
            base: Some(base_name),
            incremental: [RESTORED_LOG, OWN_LOG].map(|seq| (seq, log_name(seq))).to_vec(),
        };
        let list_path = folder.join(format!("{AOF_NAME}.manifest"));
        let mut list = create(instance, &list_path)?;
        write(&mut list, manifest.text().as_bytes(), &list_path).await?;
        flush(&mut list, &list_path).await?;

        progress.phase("loading");
        let still = [("import-mode", "yes"), ("maxmemory", "0"), ("aof-load-truncated", "no")];
        // A restore that is cut off is thrown away: its files may reach the disk while the server reads them.
        let files = [base_file, log_file, own_log, list];
        let (launched, synced) = tokio::join!(self.launch(instance, &still), sync(&files, &folder));
        synced.map_err(EngineError::io("bring the restored files to disk"))?;
        launched?;
        let mut client = connect_for(instance, PAGE_LIMIT).await?;
        ask::<()>(&mut client, &words("CLIENT IMPORT-SOURCE ON"), "see what is past its deadline").await?;
        let loaded = Info::read(&mut client, "persistence").await?.number("aof_current_size");
        if loaded != base + log {
            let (reached, expected) = (format!("byte {loaded}"), format!("byte {}", base + log));
            return Err(EngineError::Hole { reached, expected });
        }
        if request.target.is_none() {
            verify::compare(&mut client, &facts.fingerprint, skipped(instance)).await?;
        }
        progress.phase("moving deadlines");
        move_deadlines(&mut client, reached).await?;
        let engine_version = open_to_clients(instance, &mut client, &facts, request).await?;
        let position = format!("append-only file {} of {}, {log} bytes", facts.seq, facts.dataset);
        Ok(StreamRestored { engine_version, reached, position, left_out: Vec::new() })
    }
}

fn log_name(seq: u64) -> String {
    format!("{AOF_NAME}.{seq}.incr.aof")
}

/// Keys of the base that the server left out as it loaded them, for there was nothing in them: it has hashes without a field
/// where all fields of what was copied were past their deadlines (Valkey 9.1, `COPY`). Nothing else tells how many.
fn skipped(instance: &Instance) -> u64 {
    let log = recent_log(instance, 16 << 10);
    let told = log.iter().rev().find_map(|line| line.split_once("empty keys skipped: "));
    let digits = told.and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A server reads what its own release wrote, and what older ones did.
fn refuse_older(instance: &Instance, facts: &Facts) -> Result<()> {
    if process::numbers(&instance.version) >= process::numbers(&facts.version) {
        return Ok(());
    }
    Err(EngineError::Unfit {
        doing: format!("restore into Valkey {}", instance.version),
        what: format!(
            "the backup was made by {}, whose files only that release or a newer one reads",
            facts.version
        ),
    })
}

fn refuse_hole(second: Timestamp, complete_until: Option<Timestamp>) -> Result<()> {
    match complete_until {
        Some(until) if until < second => {
            Err(EngineError::Hole { reached: until.to_string(), expected: second.to_string() })
        }
        _ => Ok(()),
    }
}

/// An empty file that belongs to the engine's user.
fn create(instance: &Instance, path: &Path) -> Result<tokio::fs::File> {
    let make = || -> std::io::Result<std::fs::File> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Some(user) = &instance.run_as {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        Ok(file)
    };
    make().map(tokio::fs::File::from_std).map_err(EngineError::io(format!("make {}", path.display())))
}

async fn copy_base(
    instance: &Instance,
    path: &Path,
    source: &dyn RestoreSource,
    facts: &Facts,
    progress: &ProgressSink,
) -> Result<(tokio::fs::File, u64)> {
    let mut file = create(instance, path)?;
    let mut base = source.read(BASE).await?;
    let (mut copied, mut buffer) = (0, vec![0; 256 << 10]);
    loop {
        let read = read_some(&mut base, &mut buffer).await.map_err(EngineError::io("read the snapshot"))?;
        if read == 0 {
            break;
        }
        write(&mut file, &buffer[..read], path).await?;
        copied += read as u64;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        progress.percent(100.0 * copied as f64 / facts.base_bytes.max(1) as f64, Some(facts.base_bytes));
    }
    flush(&mut file, path).await?;
    if copied == facts.base_bytes {
        return Ok((file, copied));
    }
    let what = format!("{copied} of {} bytes came", facts.base_bytes);
    Err(EngineError::Damaged { doing: "copy the snapshot".to_owned(), what })
}

async fn read_some(from: &mut (dyn AsyncRead + Send + Unpin), buffer: &mut [u8]) -> std::io::Result<usize> {
    tokio::io::AsyncReadExt::read(from, buffer).await
}

async fn write(file: &mut tokio::fs::File, bytes: &[u8], path: &Path) -> Result<()> {
    file.write_all(bytes).await.map_err(|error| not_written(error, path))
}

/// Waits until the kernel has what was written, so that whoever reads the file sees it all.
async fn flush(file: &mut tokio::fs::File, path: &Path) -> Result<()> {
    file.flush().await.map_err(|error| not_written(error, path))
}

fn not_written(error: std::io::Error, path: &Path) -> EngineError {
    let doing = format!("write {}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull => EngineError::DiskFull { doing, what: error.to_string() },
        _ => EngineError::io(doing)(error),
    }
}

async fn sync(files: &[tokio::fs::File], folder: &Path) -> std::io::Result<()> {
    for file in files {
        file.sync_all().await?;
    }
    tokio::fs::File::open(folder).await?.sync_all().await
}

/// Lays the archived log from the base's end up to the first command that was executed in `second` or later. Returns the
/// file, and how many bytes that is.
async fn lay_log(
    instance: &Instance,
    path: &Path,
    source: &dyn RestoreSource,
    seq: u64,
    second: Timestamp,
) -> Result<(tokio::fs::File, u64)> {
    let mut file = create(instance, path)?;
    let mut cut = Cut::new(seq, second.as_second());
    let mut parts = source.log().await?;
    let mut reading = false;
    while let Some(part) = parts.try_next().await? {
        match part {
            // Only where a command begins can the bytes be understood.
            LogPart::Segment { from, .. } if !reading => {
                let from = Cursor::parse(&from)?;
                reading = from.unit == from.offset;
            }
            LogPart::Segment { .. } => {}
            LogPart::Bytes(_) if !reading => {}
            LogPart::Bytes(bytes) => {
                let (kept, done) = cut.take(&bytes)?;
                write(&mut file, kept, path).await?;
                if done {
                    break;
                }
            }
        }
    }
    let Some(length) = cut.length() else {
        let reached = "another part of the log".to_owned();
        return Err(EngineError::Hole {
            reached,
            expected: format!("the beginning of append-only file {seq}"),
        });
    };
    let end = async {
        file.flush().await?;
        file.set_len(length).await // without the beginning of a command that did not come to its end
    };
    end.await.map_err(|error| not_written(error, path))?;
    Ok((file, length))
}

/// Cuts a piece out of the archived log: from where a file begins to where a second does.
struct Cut {
    seq: u64,
    second: i64,
    walker: Walker,
    from: Option<u64>,
    to: Option<u64>,
}

impl Cut {
    fn new(seq: u64, second: i64) -> Self {
        Self { seq, second, walker: Walker::default(), from: None, to: None }
    }

    /// What of `bytes` belongs to the piece, and whether it is whole now.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], bool)> {
        let start = self.walker.position();
        let (seq, second) = (self.seq, self.second);
        let (from, to) = (&mut self.from, &mut self.to);
        let walked = self.walker.feed(bytes, |range, item| {
            match item {
                Item::Begin(begun) if from.is_none() && begun == seq => *from = Some(range.end),
                Item::Stamp(stamp) if from.is_some() && stamp >= second => {
                    *to = Some(range.start);
                    return ControlFlow::Break(());
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let _ends = walked.map_err(|error| EngineError::Damaged {
            doing: "read the archived log".to_owned(),
            what: error.to_string(),
        })?;
        let end = start + bytes.len() as u64;
        let inside = |at: u64| usize::try_from(at.clamp(start, end) - start).expect("it lies inside");
        let kept =
            self.from.map_or(0..0, |from| inside(from)..inside(self.to.unwrap_or(end)).max(inside(from)));
        Ok((&bytes[kept], self.to.is_some()))
    }

    /// How long the piece is, cut behind its last whole command. `None` when its beginning never came.
    fn length(&self) -> Option<u64> {
        Some(self.to.unwrap_or(self.walker.boundary()) - self.from?)
    }
}

/// Moves every deadline by the time that has passed since `reached`, and removes what was past its own then. Each page is one transaction in the new instance's log.
async fn move_deadlines(client: &mut MultiplexedConnection, reached: Timestamp) -> Result<()> {
    let databases = verify::databases(&Info::read(client, "keyspace").await?);
    let affected = |keys: &verify::Keys| keys.with_deadline + keys.with_field_deadlines;
    let total: u64 = databases.values().map(affected).sum();
    if total == 0 {
        return Ok(());
    }
    let passed = Timestamp::now().as_millisecond() - reached.as_millisecond();
    let own_time = i64::try_from(1000 * (1 + total / MOVED_PER_SECOND)).unwrap_or(0);
    // A table that shrinks between two pages could show a key twice.
    ask::<()>(client, &words("DEBUG DICT-RESIZING 0"), "hold the key tables still").await?;
    for (database, keys) in databases.iter().filter(|(_, keys)| affected(keys) > 0) {
        ask::<()>(client, &words(&format!("SELECT {database}")), "choose a database").await?;
        let fields = u8::from(keys.with_field_deadlines > 0);
        let mut page = "0".to_owned();
        loop {
            let mut command = redis::cmd("EVAL");
            command.arg(MOVE_DEADLINES).arg(0).arg(&page).arg(passed.max(0) + own_time).arg(fields);
            command.arg(reached.as_millisecond());
            page = ask(client, &command, "move the deadlines").await?;
            if page == "0" {
                break;
            }
        }
    }
    ask::<()>(client, &words("SELECT 0"), "choose a database").await?;
    ask(client, &words("DEBUG DICT-RESIZING 1"), "let the key tables go").await
}

/// The users as they were, those that were asked for with their new passwords; then the clock goes on.
async fn open_to_clients(
    instance: &Instance,
    client: &mut MultiplexedConnection,
    facts: &Facts,
    request: &StreamRestore<'_>,
) -> Result<String> {
    let mut all: Vec<User> = request.users.iter().map(User::of).collect::<Result<_>>()?;
    let others =
        facts.users.iter().filter(|user| request.users.iter().all(|own| own.username != user.username));
    all.extend(others.cloned());
    client::set(client, "import-mode", "no").await?;
    client::set(client, "aof-load-truncated", "yes").await?;
    client::set(client, "maxmemory", &config::max_memory_bytes(instance).to_string()).await?;
    // What stands in the new log so far is what was done here, not the tenant's.
    let written = std::fs::symlink_metadata(aof_folder(instance).join(log_name(OWN_LOG)));
    let written = written.map_err(EngineError::io("look at the new log"))?.len();
    Own { begins_at: Some((OWN_LOG, written)), ..Own::read(instance)? }.write(instance)?;
    users::write(instance, &all)?;
    users::tell(instance, client, &all).await?;
    Ok(Info::read(client, "server").await?.version().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";

    fn piece(log: &str, seq: u64, second: i64, step: usize) -> Option<String> {
        let mut cut = Cut::new(seq, second);
        let mut text = String::new();
        for bytes in log.as_bytes().chunks(step) {
            let (kept, done) = cut.take(bytes).expect("a log");
            text += std::str::from_utf8(kept).expect("text");
            if done {
                break;
            }
        }
        let length = usize::try_from(cut.length()?).expect("short");
        text.truncate(length);
        Some(text)
    }

    #[test]
    fn the_log_is_cut_where_the_second_begins() {
        let log = format!(
            "{SET}#HF:incr=7\r\n{SET}#TS:100\r\n{SET}{SET}#TS:102\r\n{SET}#HF:incr=8\r\n{SET}#TS:103\r\n{SET}*2\r\n"
        );
        let rows = [
            (100, SET.to_owned()),
            (101, format!("{SET}#TS:100\r\n{SET}{SET}")),
            (102, format!("{SET}#TS:100\r\n{SET}{SET}")),
            (103, format!("{SET}#TS:100\r\n{SET}{SET}#TS:102\r\n{SET}#HF:incr=8\r\n{SET}")),
            (200, format!("{SET}#TS:100\r\n{SET}{SET}#TS:102\r\n{SET}#HF:incr=8\r\n{SET}#TS:103\r\n{SET}")),
        ];
        for (second, expected) in rows {
            for step in [1, 3, 16, 4096] {
                assert_eq!(
                    piece(&log, 7, second, step).as_ref(),
                    Some(&expected),
                    "{second} in steps of {step}"
                );
            }
        }
        assert_eq!(piece(&log, 9, 200, 16), None, "that file never began");
    }
}
