//! How an instance is made, starts, stops and is found again.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Mysql, accounts, clone, config, probe, sql};
use crate::exec::{self, ProcessSpec};
use crate::files::{self, last_log_lines};
use crate::process::{self, Process, all_ended};
use crate::{EngineError, Instance, Paths, ProgressSink, Result, UserSpec};

/// The starter waits until the server has recovered and takes connections.
const START_SECONDS: u64 = 300;
const KILL_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Versions below `engines_dir`, ascending.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(engines_dir).into_iter().flatten().flatten();
    let mut versions: Vec<String> = entries
        .filter(|entry| entry.path().join("bin/mysqld").is_file())
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("mysql-")?.to_owned()))
        .collect();
    versions.sort();
    versions
}

impl Mysql {
    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("creating the data folder");
        self.make_data_folder(instance).await?;
        progress.phase("starting the engine");
        self.first_start(instance, &[]).await?;
        progress.phase("creating users");
        let mut conn = sql::connect(instance).await?;
        accounts::make_default_database(&mut conn).await?;
        accounts::make_tenant(&mut conn, instance, users).await?;
        probe::version(instance).await
    }

    /// A copy of the template that was initialised when the engine was installed; its server gets an identity and
    /// certificates of its own at the first start.
    pub(super) async fn make_data_folder(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        let template = self.folder(instance).join("template");
        if !template.is_dir() {
            return Err(EngineError::Missing { engine: "MySQL", version: instance.version.clone() });
        }
        let spec = ProcessSpec::new("cp", &instance.folder)
            .args(["--recursive", "--sparse=always", "--no-preserve=mode,ownership"])
            .args([template.join("."), Paths(&instance.folder).data()])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(120);
        exec::run(spec).await.map(drop).map_err(EngineError::exec("create the data folder"))
    }

    /// The start at which the admin gets its password.
    pub(super) async fn first_start(&self, instance: &Instance, options: &[&str]) -> Result<()> {
        let statements = config::first_statements(instance)?;
        let init_file = format!("--init-file={}", statements.path().display());
        let options: Vec<&str> = options.iter().copied().chain([&*init_file]).collect();
        self.start_with(instance, &options).await
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        if pids(instance).is_empty() {
            clone::remove_copy_of_stopped(instance)?;
            self.start_with(instance, &[]).await?;
        }
        self.wait_ready(instance, Duration::from_secs(START_SECONDS)).await
    }

    /// Starts the server, which must not run, with `options` besides its settings; it detaches itself and outlives the agent.
    pub(super) async fn start_with(&self, instance: &Instance, options: &[&str]) -> Result<()> {
        config::write_settings(instance)?;
        remove_socket_lock(instance)?;
        let spec = ProcessSpec::new(self.program(instance, "mysqld")?, &instance.folder)
            .args([settings_argument(instance), "--daemonize".to_owned()])
            .args(options)
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(START_SECONDS)
            .outlives_agent();
        exec::run_detaching(spec).await.map_err(|source| {
            let last = format!("{source}; its log says: {}", last_log_lines(instance));
            EngineError::NotReady { seconds: START_SECONDS, last }
        })
    }

    async fn wait_ready(&self, instance: &Instance, limit: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let last = match sql::connect(instance).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if pids(instance).is_empty() || began.elapsed() > limit {
                let last = format!("{last}; its log says: {}", last_log_lines(instance));
                return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        let limit = Duration::from_secs(timeout_seconds);
        let asked =
            async { sql::run(&mut sql::connect(instance).await?, "stop the engine", "SHUTDOWN").await };
        let running: Vec<Process> = pids(instance).into_iter().filter_map(Process::of).collect();
        if running.is_empty() || (asked.await.is_ok() && all_ended(&running, limit).await) {
            return Ok(());
        }
        // It hangs on something, or does not answer: its log brings everything back at the next start.
        signal(instance, Signal::SIGTERM);
        if all_ended(&running, limit.min(KILL_LIMIT)).await {
            return Ok(());
        }
        signal(instance, Signal::SIGKILL);
        if all_ended(&running, KILL_LIMIT).await {
            return Ok(());
        }
        Err(EngineError::Unexpected {
            doing: "stop the engine".to_owned(),
            what: "its process does not end".to_owned(),
        })
    }

    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        config::write_settings(instance)?;
        if pids(instance).is_empty() {
            return Ok(());
        }
        let mut conn = sql::connect(instance).await?;
        let doing = "apply the settings";
        for (name, value) in config::wants(instance) {
            sql::run(&mut conn, doing, format!("SET GLOBAL {name} = {value}")).await?;
        }
        accounts::restrict(&mut conn, instance).await
    }
}

/// A server that was killed leaves the lock of its socket, with its process number. By then another process or thread may
/// have that number, and then the server refuses to start: it does not ask whether that is a server. (The data have a
/// lock of the kernel's, which ends with the process.)
fn remove_socket_lock(instance: &Instance) -> Result<()> {
    let lock = config::socket_lock(instance);
    match std::fs::remove_file(&lock) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io(format!("remove {}", lock.display()))(error))
        }
        _ => Ok(()),
    }
}

fn settings_argument(instance: &Instance) -> String {
    format!("--defaults-file={}", config::settings_file(instance).display())
}

/// The server's processes.
pub(super) fn pids(instance: &Instance) -> Vec<Pid> {
    process::with_argument(instance.run_as.as_ref(), settings_argument(instance).as_ref())
}

fn signal(instance: &Instance, signal: Signal) {
    for pid in pids(instance) {
        let _ = kill(pid, signal); // it may have ended
    }
}
