//! How much memory processes took at their peak.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The largest resident set that a living process ever had, in MiB (`VmHWM`, proc(5)).
#[must_use]
pub fn peak_mib(pid: i32) -> Option<u64> {
    kib_of(Path::new(&format!("/proc/{pid}/status")), "VmHWM:").map(|kib| kib >> 10)
}

fn kib_of(status: &Path, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// Looks every 50 ms at all processes of one name: those of a tool live too short to be asked at their end.
pub struct Watch {
    stop: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch; `name` as the kernel keeps it (at most 15 characters).
    #[must_use]
    pub fn start(name: &'static str) -> Self {
        let (stop, peak_kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, peak) = (Arc::clone(&stop), Arc::clone(&peak_kib));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                peak.fetch_max(together_kib(name), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, peak_kib, thread: Some(thread) }
    }

    /// The largest sum of their resident sets so far, in MiB; pages that they share count for each.
    #[must_use]
    pub fn peak_mib(&self) -> u64 {
        self.peak_kib.load(Ordering::Relaxed) >> 10
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn together_kib(name: &str) -> u64 {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_one = |folder: &Path| {
        std::fs::read_to_string(folder.join("comm")).is_ok_and(|found| found.trim_end() == name)
    };
    entries
        .map(|entry| entry.path())
        .filter(|folder| is_one(folder))
        .filter_map(|folder| kib_of(&folder.join("status"), "VmRSS:"))
        .sum()
}
