//! Servers on a Java virtual machine: started without their own launchers (each would be a virtual machine more), watched until they answer,
//! and stopped.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use holdfast_core::causes::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec::{self, ProcessSpec};
use crate::files::last_log_lines;
use crate::process::{self, Process, all_ended};
use crate::{EngineError, Instance, Paths, Result};

const POLL: Duration = Duration::from_millis(50);
/// A server that reads its data may take long before it answers; one that has written nothing to its own log for so long is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(120);
const DETACH_SECONDS: u64 = 20;
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// How often a server is started anew whose ports were taken meanwhile.
pub(crate) const TRIES: u32 = 3;

/// Where the virtual machine unpacks its libraries.
pub(crate) fn temporary(instance: &Instance) -> PathBuf {
    instance.folder.join("tmp")
}

/// What every virtual machine of an instance's is told.
pub(crate) fn options(instance: &Instance, heap_mib: u64) -> Vec<OsString> {
    let named = |name: &str, path: PathBuf| {
        let mut option = OsString::from(format!("{name}="));
        option.push(path);
        option
    };
    vec![
        format!("-Xmx{heap_mib}m").into(),
        "-XX:+UseSerialGC".into(),
        "-XX:+ExitOnOutOfMemoryError".into(),
        named("-XX:ErrorFile", Paths(&instance.folder).log().join("java-error.txt")),
        "-XX:-UsePerfData".into(), // a file for other users to read
        "-Djava.awt.headless=true".into(),
        named("-Djava.io.tmpdir", temporary(instance)),
    ]
}

/// A port on the loopback address that nothing listens on now. Something may, a moment later: then the server does not start, and
/// another is tried.
pub(crate) fn free_port() -> Result<u16> {
    let found = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    found().map(|address| address.port()).map_err(EngineError::io("find a port for the engine's own"))
}

/// Says what is missing before an instance's server is ready, if anything is.
pub(crate) type Ready = for<'a> fn(&'a Instance) -> BoxFuture<'a, Result<Option<String>>>;

/// A server of an instance's.
#[derive(Clone, Copy)]
pub(crate) struct Server<'a> {
    pub instance: &'a Instance,
    /// An argument that no other process has.
    pub argument: &'a std::ffi::OsStr,
    /// Its own log file's name.
    pub log: &'static str,
}

impl Server<'_> {
    pub(crate) fn pids(self) -> Vec<Pid> {
        process::with_argument(self.instance.run_as.as_ref(), self.argument)
    }

    /// The server does not detach itself.
    pub(crate) async fn launch(self, java: &Path, arguments: Vec<OsString>) -> Result<()> {
        let spec = ProcessSpec::new("setsid", &self.instance.folder)
            .args([PathBuf::from("--fork"), java.to_owned()])
            .args(arguments)
            .run_as(self.instance.run_as.as_ref())
            .timeout_seconds(DETACH_SECONDS)
            .outlives_agent();
        exec::run_detaching(spec).await.map_err(EngineError::exec("start the engine"))
    }

    /// Waits until `ready` says so (or what is missing), or until the server is gone or stuck.
    pub(crate) async fn wait(self, ready: Ready) -> Result<()> {
        let began = Instant::now();
        loop {
            let last = match ready(self.instance).await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => missing,
                Err(error) => chain(&error),
            };
            let gone = began.elapsed() > Duration::from_secs(2) && self.pids().is_empty();
            if gone || (began.elapsed() > STALL_LIMIT && self.is_silent()) {
                let last = format!("{last}; its log says: {}", last_log_lines(self.instance));
                return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether the server has written nothing to its log for long.
    fn is_silent(self) -> bool {
        let log = Paths(&self.instance.folder).log().join(self.log);
        let written = std::fs::symlink_metadata(log).and_then(|meta| meta.modified());
        let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        age.is_none_or(|age| age > STALL_LIMIT)
    }

    /// Whether it ended for a reason that another start does not meet: something else listened on one of its ports, or it was `found`
    /// running and was just about to end.
    pub(crate) fn may_start_anew(self, found: bool) -> bool {
        self.pids().is_empty() && (found || last_log_lines(self.instance).contains("Address already in use"))
    }

    pub(crate) async fn stop(self, timeout_seconds: u64) -> Result<()> {
        let running: Vec<Process> = self.pids().into_iter().filter_map(Process::of).collect();
        self.signal(Signal::SIGTERM);
        if all_ended(&running, Duration::from_secs(timeout_seconds)).await {
            return Ok(());
        }
        // It hangs on something: at the next start it looks through its log.
        self.signal(Signal::SIGKILL);
        if all_ended(&running, KILL_LIMIT).await {
            return Ok(());
        }
        Err(EngineError::Unexpected {
            doing: "stop the engine".to_owned(),
            what: "its process does not end".to_owned(),
        })
    }

    fn signal(self, signal: Signal) {
        for pid in self.pids() {
            let _ = kill(pid, signal); // it may have ended
        }
    }
}
