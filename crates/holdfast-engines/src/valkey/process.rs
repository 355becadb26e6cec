//! How an instance is made, starts, stops and is found again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_core::causes::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Info, connect, words};
use super::{Valkey, client, config, users};
use crate::exec::{self, ProcessSpec};
use crate::files::last_log_lines;
use crate::process::Process;
use crate::{EngineError, Instance, Paths, ProgressSink, Result, UserSpec};

const START_SECONDS: u64 = 60;
/// Reading the append-only file back may take long; it is bounded by its progress, this is the last bound.
const LOAD_LIMIT: Duration = Duration::from_secs(6 * 3600);
pub(super) const SERVER: &str = "valkey-server";

/// Releases that a restore can hold the clock still for (`import-mode`), so that keys which were alive then are alive now.
const OLDEST: (u32, u32) = (8, 1);

/// `8.1.4` as numbers.
pub(super) fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Releases below `engines_dir`, ascending.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(engines_dir).into_iter().flatten().flatten();
    let mut versions: Vec<String> = entries
        .filter(|entry| entry.path().join("bin").join(SERVER).is_file())
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("valkey-")?.to_owned()))
        .filter(|version| numbers(version) >= OLDEST)
        .collect();
    versions.sort_by_key(|version| numbers(version));
    versions
}

impl Valkey {
    fn program(&self, instance: &Instance) -> Result<PathBuf> {
        let path = self.engines_dir.join(format!("valkey-{}/bin/{SERVER}", instance.version));
        if path.is_file() {
            return Ok(path);
        }
        Err(EngineError::Missing { engine: "Valkey", version: instance.version.clone() })
    }

    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        specs: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("starting the engine");
        config::make_folders(instance)?;
        config::write_all(instance)?;
        users::write(instance, &specs.iter().map(users::User::of).collect::<Result<Vec<_>>>()?)?;
        self.start_instance(instance).await?;
        version(instance).await
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        config::make_folders(instance)?;
        config::write_all(instance)?;
        {
            let _changing = users::lock(instance).await;
            users::write(instance, &users::read(instance)?)?;
        }
        self.launch(instance, &[]).await
    }

    /// Starts the server unless it runs, with settings that go before those of its file, and waits until it has read its
    /// data.
    pub(super) async fn launch(&self, instance: &Instance, settings: &[(&str, &str)]) -> Result<()> {
        let program = self.program(instance)?;
        if processes(instance).is_empty() {
            let settings =
                settings.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
            let spec = ProcessSpec::new(program, &instance.folder)
                .args([config::conf_path(instance)])
                .args(settings)
                .run_as(instance.run_as.as_ref())
                .timeout_seconds(START_SECONDS)
                .outlives_agent();
            exec::run_detaching(spec).await.map_err(|error| {
                let said = last_log_lines(instance);
                EngineError::exec(format!("start the engine; its log says: {said}"))(error)
            })?;
        }
        wait_ready(instance).await
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        let began = Instant::now();
        let running: Vec<Process> = processes(instance).into_iter().filter_map(Process::of).collect();
        if running.is_empty() {
            return Ok(());
        }
        // It closes the connection instead of answering.
        if let Ok(mut client) = connect(instance).await {
            let _ = words("SHUTDOWN NOSAVE NOW FORCE").query_async::<()>(&mut client).await;
        }
        let limit = Duration::from_secs(timeout_seconds);
        loop {
            let left = processes(instance);
            if left.is_empty() && running.iter().all(|process| !process.is_left()) {
                return Ok(());
            }
            // It hangs on something: whatever was acknowledged stands in its log.
            let signal = match began.elapsed() > limit {
                true => Some(Signal::SIGKILL),
                false if began.elapsed() > limit / 2 => Some(Signal::SIGTERM),
                false => None,
            };
            for pid in left.into_iter().filter(|_| signal.is_some()) {
                let _ = kill(pid, signal); // it may have ended meanwhile
            }
            if began.elapsed() > limit + Duration::from_secs(20) {
                let last = "its process does not end".to_owned();
                return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        config::make_folders(instance)?;
        config::write_all(instance)?;
        if processes(instance).is_empty() {
            return Ok(());
        }
        let mut client = connect(instance).await?;
        client::set(&mut client, "maxmemory", &config::max_memory_bytes(instance).to_string()).await?;
        client::set(&mut client, "maxclients", &instance.max_connections.to_string()).await?;
        client::set(&mut client, "bind", &instance.bind().to_string()).await
    }
}

pub(super) async fn version(instance: &Instance) -> Result<String> {
    let mut client = connect(instance).await?;
    Ok(Info::read(&mut client, "server").await?.version().to_owned())
}

/// Processes of the instance's server, its snapshot writer among them. Found by what the kernel says of each process, never
/// by a file that the engine's user could write another's number into.
pub(super) fn processes(instance: &Instance) -> Vec<Pid> {
    let data = Paths(&instance.folder).data();
    let Ok(data) = data.canonicalize() else { return Vec::new() };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            let program = std::fs::read_link(folder.join("exe")).ok()?;
            // A program that was replaced meanwhile is called `valkey-server (deleted)`.
            let is_server = program.file_name()?.to_str()?.starts_with(SERVER);
            let works_here = is_server && std::fs::read_link(folder.join("cwd")).ok()? == data;
            works_here.then(|| Pid::from_raw(pid))
        })
        .collect()
}

/// Waits until the engine answers, as long as it reads its data, or until its process is gone.
async fn wait_ready(instance: &Instance) -> Result<()> {
    let began = Instant::now();
    loop {
        let state = async {
            let mut client = connect(instance).await?;
            Info::read(&mut client, "persistence").await
        };
        let (loading, last) = match state.await {
            Ok(info) if info.number("loading") == 0 => return Ok(()),
            Ok(info) => (true, format!("it reads its data, {} %", info.text("loading_loaded_perc"))),
            Err(error) => (false, chain(&error)),
        };
        let gone = began.elapsed() > Duration::from_secs(2) && processes(instance).is_empty();
        let limit = if loading { LOAD_LIMIT } else { Duration::from_secs(START_SECONDS) };
        if gone || began.elapsed() > limit {
            let last = format!("{last}; its log says: {}", last_log_lines(instance));
            return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
