//! Engines' processes, as the kernel tells of them.
//!
//! A process of many threads ends one by one: its first thread may be gone, and with it the command line and the program's name,
//! while others still hold its sockets and locks (tried with `mongod` on a busy machine: up to 80 ms). So what was seen to
//! run is waited for by its number until the last thread has ended.
//!
//! Source: proc(5), `/proc/pid/stat`, fields `state`, `num_threads`, `starttime`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::RunAs;

const POLL: Duration = Duration::from_millis(20);

/// A process, by its number and its start: numbers are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pid: Pid,
    started: u64,
}

impl Process {
    /// `None` when there is none of this number.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        Some(Self { pid, started: Stat::read(pid)?.started })
    }

    /// Whether any thread of it is left.
    pub(crate) fn is_left(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && !stat.has_ended())
    }
}

/// Processes of the engine's user that were started with this argument, such as its settings file. Not by a pid file, which is
/// written late and by the engine's user.
pub(crate) fn with_argument(user: Option<&RunAs>, argument: &OsStr) -> Vec<Pid> {
    let uid = user.map_or(nix::unistd::geteuid().as_raw(), |user| user.uid);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process)))
        .filter(|(_, process)| process.metadata().is_ok_and(|found| found.uid() == uid))
        .filter(|(_, process)| {
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
        })
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect()
}

/// Waits until nothing is left of any of them; whether that is so.
pub(crate) async fn all_ended(processes: &[Process], limit: Duration) -> bool {
    let began = Instant::now();
    while processes.iter().any(|process| process.is_left()) {
        if began.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

struct Stat {
    state: char,
    threads: u64,
    started: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name, in brackets, may hold anything; fields count from the one behind it, the state.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self { state: fields.first()?.chars().next()?, threads: number(17)?, started: number(19)? })
    }

    /// A dead process stays in the list until its parent has asked for it.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_cannot_pass_for_the_fields_behind_it() {
        let line = |state: &str, threads: u32| {
            format!("77 (x) Z 1 (y) {state} 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 {threads} 0 12345 0 0")
        };
        let stat = Stat::parse(&line("Z", 9)).expect("a line");
        assert_eq!((stat.state, stat.threads, stat.started), ('Z', 9, 12345));
        assert!(!stat.has_ended(), "eight threads are left");
        assert!(Stat::parse(&line("Z", 1)).expect("a line").has_ended());
        assert!(!Stat::parse(&line("S", 1)).expect("a line").has_ended());
        assert!(Stat::parse("77 (x").is_none());
    }

    #[tokio::test]
    async fn a_process_is_left_until_it_has_ended() {
        let mut sleeper = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("started");
        let pid = Pid::from_raw(i32::try_from(sleeper.id()).expect("a number"));
        let process = Process::of(pid).expect("it runs");
        assert!(process.is_left() && !all_ended(&[process], Duration::from_millis(50)).await);
        sleeper.kill().expect("killed");
        assert!(all_ended(&[process], Duration::from_secs(20)).await, "before its parent has asked for it");
        sleeper.wait().expect("ended");
        assert!(!process.is_left() && Process::of(pid).is_none_or(|other| other != process));
    }
}
