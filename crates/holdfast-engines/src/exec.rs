//! The one place where processes of engines and their tools are started.
//!
//! Each runs with an empty environment of its own making, as the service's user where the agent is privileged
//! (`setpriv` of util-linux: no group of the agent's, no new privileges), and dies with the agent unless it is an engine,
//! which detaches itself. Secrets go through files of mode 0600, never through arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::bulk_sync::BulkSync;
use crate::unsynced;

/// A system user that an engine runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} ended with {status}: {tail}")]
    Failed { program: String, status: ExitCode, tail: String },
    #[error("{program} did not end within {seconds} s and was stopped: {tail}")]
    Timeout { program: String, seconds: u64, tail: String },
}

impl ExecError {
    /// The exit code, where the process ended by itself.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Failed { status, .. } => status.0,
            _ => None,
        }
    }
}

/// How a process ended: its code, or none when a signal ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub Option<i32>);

impl std::fmt::Display for ExitCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(code) => write!(f, "exit code {code}"),
            None => f.write_str("a signal"),
        }
    }
}

/// What to run. Drivers say it; this module does it.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub run_as: Option<RunAs>,
    pub cwd: PathBuf,
    pub timeout: Duration,
    /// `false` for what must outlive the agent.
    pub dies_with_agent: bool,
    /// Lines of standard output that hold this report progress and say nothing about a failure.
    pub progress_mark: Option<&'static str>,
    /// Its `fsync` does nothing: the caller brings to disk what it wrote, all at once.
    pub(crate) unsynced: bool,
}

impl ProcessSpec {
    pub fn new(program: impl Into<PathBuf>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            run_as: None,
            cwd: cwd.into(),
            timeout: Duration::from_secs(60),
            dies_with_agent: true,
            progress_mark: None,
            unsynced: false,
        }
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn run_as(mut self, user: Option<&RunAs>) -> Self {
        self.run_as = user.cloned();
        self
    }

    #[must_use]
    pub fn timeout_seconds(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    #[must_use]
    pub fn outlives_agent(mut self) -> Self {
        self.dies_with_agent = false;
        self
    }

    #[must_use]
    pub fn progress_mark(mut self, mark: &'static str) -> Self {
        self.progress_mark = Some(mark);
        self
    }

    /// For tools whose files a [`BulkSync`] brings to disk; without one they sync each by themselves.
    #[must_use]
    pub(crate) fn synced_by(mut self, bulk: Option<&BulkSync>) -> Self {
        self.unsynced = bulk.is_some();
        self
    }

    fn name(&self) -> String {
        self.program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where processes start")]
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(user) = &self.run_as {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.args(["--clear-groups", "--no-new-privs"]);
        }
        if self.dies_with_agent {
            command.args(["--pdeathsig", "TERM"]);
        }
        command.arg("--").arg(&self.program).args(&self.args);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("HOME", &self.cwd)
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .kill_on_drop(self.dies_with_agent);
        command
    }
}

/// Standard output of a finished process, at most [`OUTPUT_LIMIT`] bytes.
pub type Output = String;

const OUTPUT_LIMIT: usize = 4 << 20;
const TAIL_LINES: usize = 12;

/// Runs to the end and returns standard output.
///
/// # Errors
/// [`ExecError`] with the last lines of both outputs when it cannot be started, fails, or takes too long.
pub async fn run(spec: ProcessSpec) -> Result<Output, ExecError> {
    let mut out = String::new();
    run_lines(spec, |line| {
        if out.len() + line.len() < OUTPUT_LIMIT {
            out.push_str(line);
            out.push('\n');
        }
    })
    .await?;
    Ok(out)
}

/// Runs to the end, handing over standard output line by line.
///
/// # Errors
/// As [`run`].
pub async fn run_lines(spec: ProcessSpec, mut on_line: impl FnMut(&str)) -> Result<(), ExecError> {
    let program = spec.name();
    let start = |source| ExecError::Start { program: program.clone(), source };
    let mut command = spec.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, _starter) = match spec.unsynced {
        true => unsynced::spawn(command).map(|(child, starter)| (child, Some(starter))).map_err(start)?,
        false => (command.spawn().map_err(start)?, None),
    };
    let stdout = child.stdout.take().expect("standard output was piped");
    let stderr = child.stderr.take().expect("standard error was piped");

    let mut tail = Tail::default();
    let mut error_tail = Tail::default();
    let work = async {
        let read_out = each_line(stdout, |line| {
            if spec.progress_mark.is_none_or(|mark| !line.contains(mark)) {
                tail.push(line);
            }
            on_line(line);
        });
        let read_err = each_line(stderr, |line| error_tail.push(line));
        tokio::join!(read_out, read_err);
        child.wait().await
    };
    let ended = tokio::time::timeout(spec.timeout, work).await;
    let tail = || Tail::joined(&error_tail, &tail);
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            Err(ExecError::Failed { program: program.clone(), status: ExitCode(status.code()), tail: tail() })
        }
        Ok(Err(source)) => Err(start(source)),
        Err(_) => {
            let seconds = spec.timeout.as_secs();
            let _ = child.kill().await; // it may have ended meanwhile
            Err(ExecError::Timeout { program: program.clone(), seconds, tail: tail() })
        }
    }
}

/// Starts a process that detaches itself and waits for the starter to end. Its outputs go nowhere: a pipe held open by
/// the detached process would never end.
///
/// # Errors
/// As [`run`], without the outputs' tail.
pub async fn run_detaching(spec: ProcessSpec) -> Result<(), ExecError> {
    let program = spec.name();
    let start = |source| ExecError::Start { program: program.clone(), source };
    let mut child = spec.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(start)?;
    match tokio::time::timeout(spec.timeout, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ExecError::Failed {
            program,
            status: ExitCode(status.code()),
            tail: "see the engine's own log".to_owned(),
        }),
        Ok(Err(source)) => Err(start(source)),
        Err(_) => Err(ExecError::Timeout { program, seconds: spec.timeout.as_secs(), tail: String::new() }),
    }
}

async fn each_line(stream: impl AsyncRead + Unpin, mut take: impl FnMut(&str)) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        take(&String::from_utf8_lossy(&line));
    }
}

/// The last lines, for error texts.
#[derive(Default)]
struct Tail(std::collections::VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        const LONGEST: usize = 1000;
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(LONGEST).collect());
    }

    fn joined(first: &Self, second: &Self) -> String {
        let lines: Vec<&str> = first.0.iter().chain(&second.0).map(|line| line.trim_end()).collect();
        lines.join("; ")
    }
}
