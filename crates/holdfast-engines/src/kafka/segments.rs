//! A partition's log laid down on the disk of a server that is not running, with the offsets of its source.
//!
//! Source: Kafka 3.9, `UnifiedLog`, `LogLoader`, `OffsetCheckpointFile`: a file is called after an offset that nothing in it lies before;
//! indexes that are missing are made anew; without a mark of a clean end, and without checkpoints, the server looks through all of it
//! and checks each batch.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufWriter};

use super::batches::Batch;
use super::pieces::Piece;
use super::snapshot::{Description, PartitionCopy};
use crate::{EngineError, Instance, Paths, Result};

/// What is kept of a partition that the server made: it names the topic's number.
const KEPT: &str = "partition.metadata";
/// What the server remembers of its logs, in its data folder; all of it would be of others.
const REMEMBERED: [&str; 4] = [
    ".kafka_cleanshutdown",
    "recovery-point-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
];
const STARTS: &str = "log-start-offset-checkpoint";
/// A file holds as much unless its topic says otherwise (`segment.bytes`).
const SEGMENT_BYTES: u64 = 1 << 30;
const READ_BYTES: usize = 1 << 20;

pub(super) fn folder(instance: &Instance, topic: &str, index: i32) -> PathBuf {
    Paths(&instance.folder).data().join(format!("{topic}-{index}"))
}

/// Takes away what the server wrote of a partition, and what it remembers of it.
pub(super) fn clear(folder: &Path) -> Result<()> {
    let cleared = || -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() != KEPT {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    cleared().map_err(EngineError::io(format!("clear {}", folder.display())))
}

/// Makes the server look through all logs at its next start, and begin each where its source does.
pub(super) fn forget(instance: &Instance, description: &Description) -> Result<()> {
    let data = Paths(&instance.folder).data();
    for name in REMEMBERED {
        match fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EngineError::io(format!("remove {name}"))(error));
            }
            _ => {}
        }
    }
    let topics = description.topics.iter();
    let starts = topics.flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)));
    let lines: Vec<String> = starts
        .filter(|(_, partition)| partition.start > 0)
        .map(|(name, partition)| format!("{name} {} {}\n", partition.index, partition.start))
        .collect();
    let text = format!("0\n{}\n{}", lines.len(), lines.concat());
    let path = data.join(STARTS);
    let write = || -> io::Result<()> {
        use io::Write as _;
        let _ = fs::remove_file(&path); // it may not be there
        let mut file = create(instance, &path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(EngineError::io(format!("write {}", path.display())))
}

/// A new file of the engine's user.
fn create(instance: &Instance, path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(user) = &instance.run_as {
        fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    Ok(file)
}

/// Lays one partition's batches down.
pub(super) struct Layer<'a> {
    instance: &'a Instance,
    folder: PathBuf,
    copy: &'a PartitionCopy,
    segment_bytes: u64,
    segment: Option<Segment>,
    next: i64,
}

struct Segment {
    base: i64,
    file: BufWriter<tokio::fs::File>,
    bytes: u64,
}

impl<'a> Layer<'a> {
    /// `segment_bytes` as the topic has it, if it has.
    pub(super) fn new(
        instance: &'a Instance,
        folder: PathBuf,
        copy: &'a PartitionCopy,
        segment_bytes: Option<u64>,
    ) -> Self {
        let segment_bytes = segment_bytes.unwrap_or(SEGMENT_BYTES);
        Self { instance, folder, copy, segment_bytes, segment: None, next: copy.start }
    }

    /// Lays down a piece that was copied. The length of each batch is told to `laid`.
    pub(super) async fn lay(
        &mut self,
        piece: &Piece,
        mut data: Box<dyn AsyncRead + Send + Unpin>,
        mut laid: impl FnMut(u64),
    ) -> Result<()> {
        let mut buffer = BytesMut::new();
        let (mut batches, mut bytes) = (0, 0);
        loop {
            buffer.reserve(READ_BYTES);
            let read = data.read_buf(&mut buffer).await.map_err(EngineError::io("read the backup"))?;
            while let Some(batch) = Batch::take_from(&mut buffer).map_err(|error| self.damaged(error))? {
                (batches, bytes) = (batches + 1, bytes + batch.len() as u64);
                laid(batch.len() as u64);
                self.put(&batch).await?;
            }
            if read == 0 {
                break;
            }
        }
        if !buffer.is_empty() {
            return Err(self.damaged("its last batch is cut off"));
        }
        if (batches, bytes) != (piece.batches, piece.bytes) {
            return Err(self.damaged(format!("{batches} of {} batches came", piece.batches)));
        }
        Ok(())
    }

    fn damaged(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::Damaged { doing: format!("lay {}", self.folder.display()), what: what.to_string() }
    }

    async fn put(&mut self, batch: &Batch) -> Result<()> {
        if batch.last_offset() < self.copy.start {
            return Ok(()); // retention has taken it since the piece was stored
        }
        if batch.last_offset() < self.next {
            return Err(self.damaged("a batch lies before its predecessor"));
        }
        self.next = batch.last_offset() + 1;
        self.write(batch.base_offset(), &batch.of_nobody()).await
    }

    /// Goes on to where the source's log ends. Clients that read to the end wait for the last offset, so something must lie there.
    pub(super) async fn end(mut self) -> Result<()> {
        if self.next < self.copy.end {
            self.write(self.copy.end - 1, &Batch::mark(self.copy.end - 1)).await?;
        }
        if self.segment.is_none() {
            self.roll(self.copy.end).await?;
        }
        self.close().await
    }

    async fn write(&mut self, base: i64, bytes: &[u8]) -> Result<()> {
        let full = |segment: &Segment| {
            segment.bytes > 0
                && (segment.bytes + bytes.len() as u64 > self.segment_bytes
                    || base - segment.base > i64::from(i32::MAX) / 2)
        };
        if self.segment.as_ref().is_none_or(full) {
            // What lies before the first batch is gone from the source, too, or was never shown.
            let base = if self.segment.is_some() { base } else { base.min(self.copy.start) };
            self.roll(base).await?;
        }
        let segment = self.segment.as_mut().expect("it was just made");
        segment.bytes += bytes.len() as u64;
        let written = segment.file.write_all(bytes).await;
        written.map_err(|error| not_written(error, &self.folder))
    }

    async fn roll(&mut self, base: i64) -> Result<()> {
        self.close().await?;
        let path = self.folder.join(format!("{base:020}.log"));
        let file = create(self.instance, &path).map_err(|error| not_written(error, &path))?;
        let file = BufWriter::with_capacity(READ_BYTES, tokio::fs::File::from_std(file));
        self.segment = Some(Segment { base, file, bytes: 0 });
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        let closed = async {
            segment.file.flush().await?;
            segment.file.get_ref().sync_all().await
        };
        closed.await.map_err(|error| not_written(error, &self.folder))
    }
}

fn not_written(error: io::Error, path: &Path) -> EngineError {
    let doing = format!("write {}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull => EngineError::DiskFull { doing, what: error.to_string() },
        _ => EngineError::io(doing)(error),
    }
}
