//! What is asked of a local folder only.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nix::sys::statfs::{self, TMPFS_MAGIC};

use super::Report;
use super::probe::Probe;
use crate::error::{Result, StoreError};
use crate::store::local::{LocalFolder, io_error, run_blocking};

/// Less free space than this is worth a word.
const LITTLE_SPACE: u64 = 1 << 30;
const SAMPLES: usize = 9;

pub(super) async fn check(folder: &Arc<LocalFolder>, probe: &Probe, report: &mut Report) {
    let asked = Arc::clone(folder);
    match run_blocking(move || facts(&asked)).await {
        Err(error) => report.error("folder", &error),
        Ok(facts) => {
            if facts.mode & 0o077 == 0 {
                report.ok("permissions", format!("mode {:o}: nobody else reads it", facts.mode));
            } else {
                let next = "chmod 700, so that others on this host do not even see the names in it";
                report.note("permissions", format!("mode {:o}", facts.mode), next);
            }
            let free = format!("{} MiB free", facts.free_bytes >> 20);
            if facts.free_bytes < LITTLE_SPACE {
                report.note("free space", free, "make room, or use a larger disk");
            } else {
                report.ok("free space", free);
            }
            if facts.in_memory {
                let next = "use a folder on a disk: a restart of this host empties this one";
                report.note("disk", "the folder lies in memory (tmpfs)", next);
            }
        }
    }
    speed(probe, report).await;
}

struct Facts {
    mode: u32,
    free_bytes: u64,
    in_memory: bool,
}

fn facts(folder: &LocalFolder) -> Result<Facts> {
    let root = folder.root();
    let mode = std::fs::metadata(root).map_err(io_error("looking at", root))?.permissions().mode() & 0o7777;
    let disk = statfs::statfs(root).map_err(|errno| StoreError::Io {
        operation: "asking for free space",
        path: root.to_owned(),
        source: errno.into(),
    })?;
    let block_bytes = u64::try_from(disk.block_size()).unwrap_or(0);
    Ok(Facts {
        mode,
        free_bytes: disk.blocks_available().saturating_mul(block_bytes),
        in_memory: disk.filesystem_type() == TMPFS_MAGIC,
    })
}

/// A write counts when file and folders are flushed; this is what every log segment pays.
async fn speed(probe: &Probe, report: &mut Report) {
    let path = probe.path("latency");
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let began = Instant::now();
        if let Err(error) = probe.put(&path, Bytes::from_static(&[7; 1024]), false).await {
            return report.error("flush", &error);
        }
        samples.push(began.elapsed());
    }
    samples.sort();
    let median = samples[SAMPLES / 2].as_micros();
    report.ok(
        "flush",
        format!(
            "1 KiB is written, named and flushed in {}.{} ms (median)",
            median / 1000,
            median % 1000 / 100
        ),
    );
}
