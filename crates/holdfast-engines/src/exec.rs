//! The one place where processes of engines and their tools are started.
//!
//! Each runs with an empty environment of its own making, as the service's user where the agent is privileged
//! (`setpriv` of util-linux: no group of the agent's, no new privileges), and dies with the agent unless it is an engine,
//! which detaches itself. Secrets go through files of mode 0600, never through arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio_util::io::ReaderStream;

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

/// What a process writes to its standard output, as it comes. The last item is an error when it could not be started to its
/// end: failed, was stopped, or took too long. Dropping the stream ends the process.
///
/// # Errors
/// When it cannot be started.
pub fn output_of(spec: &ProcessSpec) -> Result<BoxStream<'static, std::io::Result<Bytes>>, ExecError> {
    let program = spec.name();
    let mut command = spec.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|source| ExecError::Start { program: program.clone(), source })?;
    let stdout = child.stdout.take().expect("standard output was piped");
    let stderr = child.stderr.take().expect("standard error was piped");
    let errors = tokio::spawn(async move {
        let mut tail = Tail::default();
        each_line(stderr, |line| tail.push(line)).await;
        tail
    });
    let output = ReaderStream::with_capacity(stdout, PIPE_BYTES);
    let state = Some((output, child, errors, tokio::time::Instant::now() + spec.timeout));
    let (seconds, limit) = (spec.timeout.as_secs(), spec.timeout);
    Ok(futures::stream::try_unfold(state, move |state| {
        let program = program.clone();
        async move {
            let Some((mut output, mut child, errors, deadline)) = state else { return Ok(None) };
            let ended = async {
                match output.next().await {
                    Some(chunk) => chunk.map(Some),
                    None => Ok(None),
                }
            };
            match tokio::time::timeout_at(deadline, ended).await {
                Err(_) => {
                    Err(std::io::Error::other(ExecError::Timeout { program, seconds, tail: String::new() }))
                }
                Ok(Err(error)) => Err(error),
                Ok(Ok(Some(chunk))) => Ok(Some((chunk, Some((output, child, errors, deadline))))),
                Ok(Ok(None)) => {
                    let status =
                        tokio::time::timeout(limit, child.wait()).await.map_err(std::io::Error::other)??;
                    if status.success() {
                        return Ok(None);
                    }
                    let tail = Tail::joined(&errors.await.unwrap_or_default(), &Tail::default());
                    Err(std::io::Error::other(ExecError::Failed {
                        program,
                        status: ExitCode(status.code()),
                        tail,
                    }))
                }
            }
        }
    })
    .boxed())
}

const PIPE_BYTES: usize = 256 << 10;

/// Why a process that is fed did not end well.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("what was to be read cannot be read")]
    Input(#[source] std::io::Error),
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// Runs to the end with `input` as standard input. Returns how many bytes it took.
///
/// # Errors
/// As [`run`], and when `input` fails: the process is ended then.
pub async fn run_fed(
    spec: ProcessSpec,
    input: &mut (dyn AsyncRead + Send + Unpin),
    mut on_bytes: impl FnMut(u64) + Send,
) -> Result<u64, FeedError> {
    let program = spec.name();
    let start = |source| ExecError::Start { program: program.clone(), source };
    let mut command = spec.command();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    let mut stdin = child.stdin.take().expect("standard input was piped");
    let stderr = child.stderr.take().expect("standard error was piped");
    let mut tail = Tail::default();
    let work = async {
        let feed = async {
            let fed = feed(input, &mut stdin, &mut on_bytes).await;
            if fed.is_err() {
                let _ = child.start_kill(); // it may have ended
            }
            drop(stdin);
            fed
        };
        let (fed, ()) = tokio::join!(feed, each_line(stderr, |line| tail.push(line)));
        let status = child.wait().await.map_err(start)?;
        Ok::<_, FeedError>((fed?, status))
    };
    match tokio::time::timeout(spec.timeout, work).await {
        Ok(Ok((total, status))) if status.success() => Ok(total),
        Ok(Ok((_, status))) => {
            let tail = Tail::joined(&tail, &Tail::default());
            Err(ExecError::Failed { program, status: ExitCode(status.code()), tail }.into())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let _ = child.kill().await; // it may have ended meanwhile
            let seconds = spec.timeout.as_secs();
            Err(ExecError::Timeout { program, seconds, tail: Tail::joined(&tail, &Tail::default()) }.into())
        }
    }
}

async fn feed(
    input: &mut (dyn AsyncRead + Send + Unpin),
    stdin: &mut ChildStdin,
    on_bytes: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, FeedError> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut buffer, mut total) = (vec![0; PIPE_BYTES], 0_u64);
    loop {
        let read = input.read(&mut buffer).await.map_err(FeedError::Input)?;
        // It may end before its input does: its exit code and its last words say why.
        if read == 0 || stdin.write_all(&buffer[..read]).await.is_err() {
            return Ok(total);
        }
        total += read as u64;
        on_bytes(total);
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
