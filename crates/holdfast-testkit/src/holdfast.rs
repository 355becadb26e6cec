//! A whole Holdfast: the real binary, a data folder of its own, real engines. Everything it started is gone when it is
//! dropped, also after a failed test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Client;
use crate::ports;
use crate::volume::Volume;

pub const PASSWORD: &str = "correct horse battery staple";
const ADMIN_PASSWORD: &str = "HOLDFAST_ADMIN_PASSWORD";

pub struct Holdfast {
    pub folder: PathBuf,
    pub instances: PathBuf,
    pub port: u16,
    binary: PathBuf,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    volumes: Vec<Volume>,
}

/// The virtual machine for engines on Java: `make test` names one that compiles less.
#[must_use]
pub fn java() -> PathBuf {
    std::env::var_os("HOLDFAST_TEST_JAVA").map_or_else(|| "/usr/bin/java".into(), PathBuf::from)
}

/// Where the engines are, or `None` after saying on the test's output why the test is skipped.
///
/// # Panics
/// When `HOLDFAST_REQUIRE_ENGINES=1` and there are none.
#[must_use]
pub fn engines() -> Option<PathBuf> {
    let folder =
        std::env::var("HOLDFAST_ENGINES").unwrap_or_else(|_| "/var/cache/holdfast/engines".to_owned());
    let folder = PathBuf::from(folder);
    if folder.join("postgresql-17/bin/postgres").is_file() {
        return Some(folder);
    }
    assert!(
        std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"),
        "no engines in {}; run `make engines`",
        folder.display()
    );
    println!("SKIPPED: no engines in {}; run `make engines`", folder.display());
    None
}

impl Holdfast {
    /// Starts the binary with a fresh data folder below the cache folder, where services' users can reach it.
    ///
    /// # Errors
    /// When it does not answer within half a minute.
    pub async fn start(binary: &str, name: &str) -> Result<Self> {
        Self::start_with(binary, name, &[]).await
    }

    /// As [`Self::start`], with more environment; an empty value takes a variable away.
    ///
    /// # Errors
    /// As there.
    pub async fn start_with(binary: &str, name: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let mut holdfast = Self::prepare(binary, name, environment)?;
        holdfast.spawn().await?;
        Ok(holdfast)
    }

    /// Makes its folder and nothing else; [`Self::spawn`] starts it.
    ///
    /// # Errors
    /// When there are no engines, or no folder can be made.
    pub fn prepare(binary: &str, name: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let cache = engines().and_then(|folder| folder.parent().map(Path::to_owned)).context("no engines")?;
        let folder = cache.join(format!("run/{name}-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&folder)?;
        for passable in [&cache.join("run"), &folder] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(passable, std::fs::Permissions::from_mode(0o711))?;
        }
        Ok(Self {
            instances: folder.join("i"),
            port: ports::reserve()?,
            binary: binary.into(),
            child: None,
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            volumes: Vec::new(),
            folder,
        })
    }

    /// One more variable.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Mounts a small file system at one of its folders, before it is started. It goes with the rest.
    ///
    /// # Errors
    /// When that is not permitted.
    pub fn mount(&mut self, path: &Path, mib: u64) -> Result<()> {
        self.volumes.push(Volume::mount(path, mib)?);
        Ok(())
    }

    /// What was mounted at `path`.
    ///
    /// # Panics
    /// When nothing was.
    #[must_use]
    pub fn volume(&self, path: &Path) -> &Volume {
        self.volumes.iter().find(|volume| volume.path() == path).expect("it was mounted")
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.data().join("objects")
    }

    /// What it and its agent have logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What it has printed for the person who started it.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.join("printed")).unwrap_or_default()
    }

    /// Logs in as admin, with [`PASSWORD`] unless the environment says another.
    #[must_use]
    pub fn client(&self) -> Client {
        let own = self.environment.iter().find(|(name, value)| name == ADMIN_PASSWORD && !value.is_empty());
        Client::new(&self.base(), own.map_or(PASSWORD, |(_, password)| password))
    }

    /// Where it listens.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Another setting for the next [`Self::spawn`].
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn spawn(&mut self) -> Result<()> {
        let append =
            |name| std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join(name));
        let engines = engines().context("no engines")?;
        let child = Command::new(&self.binary)
            .arg("serve")
            .env(ADMIN_PASSWORD, PASSWORD)
            .env("HOLDFAST_DATA", self.data())
            .env("HOLDFAST_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("HOLDFAST_INSTANCES", &self.instances)
            .env("HOLDFAST_ENGINES", engines)
            .env("HOLDFAST_KAFKA_JAVA", java())
            .env("HOLDFAST_OPENSEARCH_JAVA", java())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(append("printed")?)
            .stderr(append("log")?)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        self.child = Some(child);
        let client = self.client();
        let waited = crate::wait_for("the control plane answers", 30, || async {
            Ok(client.get("/health").await.ok().map(drop))
        });
        waited.await.with_context(|| format!("its log says:\n{}", tail(&self.log())))
    }

    /// Waits until the agent has said what it can run: until then everything is offered that the release knows, such as a
    /// PostgreSQL that the tests do not have.
    ///
    /// # Errors
    /// When it has not within a minute.
    pub async fn wait_for_agent(&self) -> Result<()> {
        let client = self.client();
        crate::wait_for("the agent says what it can run", 60, || async {
            let offered = client.get("/database-versions").await?;
            let all = offered["versions"].as_array().cloned().unwrap_or_default();
            let old = all.iter().filter(|one| one["database_type"] == "postgresql").count();
            Ok((old == 1).then_some(()))
        })
        .await
    }

    /// The control plane's process id.
    #[must_use]
    pub fn serve_pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// The embedded agent's process id, if one lives.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        let parent = self.serve_pid()?;
        children_of(parent).into_iter().next()
    }

    /// SIGKILL to the control plane. The agent dies with it (and only it: engines go on).
    ///
    /// # Errors
    /// When there is no process.
    pub fn kill_serve(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the control plane has died of something else than [`Self::kill_serve`].
    ///
    /// # Errors
    /// When it lives on.
    pub async fn wait_dead(&mut self, seconds: u64) -> Result<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
        while self.child.as_mut().context("it does not run")?.try_wait()?.is_none() {
            ensure!(tokio::time::Instant::now() < deadline, "the control plane lives after {seconds} s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.child = None;
        Ok(())
    }

    /// SIGKILL to the agent alone; the control plane starts a new one.
    ///
    /// # Errors
    /// When no agent lives.
    pub fn kill_agent(&self) -> Result<()> {
        let pid = self.agent_pid().context("no agent lives")?;
        Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
    }

    /// Postmasters of this Holdfast's instances, by their lock files.
    #[must_use]
    pub fn postmasters(&self) -> Vec<i32> {
        let entries = std::fs::read_dir(&self.instances).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("data/postmaster.pid")).ok())
            .filter_map(|text| text.lines().next()?.trim().parse().ok())
            .filter(|pid| Path::new(&format!("/proc/{pid}")).exists())
            .collect()
    }

    /// Processes of this Holdfast's instances, whatever the engine: they work in an instance's folder, or name one.
    #[must_use]
    pub fn engine_processes(&self) -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let works_here = |pid: &i32| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            cwd.is_ok_and(|cwd| cwd.starts_with(&self.instances))
                || command.contains(&self.instances.display().to_string())
        };
        let others = [std::process::id().try_into().ok(), self.serve_pid(), self.agent_pid()];
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| !others.contains(&Some(*pid)) && works_here(pid)).collect()
    }

    /// SIGKILL to every process of every engine.
    pub fn kill_engines(&self) {
        for pid in self.engine_processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // gone already is fine
        }
    }

    /// Folders of instances on disk.
    #[must_use]
    pub fn instance_folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.instances).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

impl Holdfast {
    /// Ends every process of every engine, whatever it is doing.
    fn end_engines(&self) {
        for pid in &self.postmasters() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGQUIT); // immediate shutdown, which gives shared memory back
        }
        for round in 0..200 {
            let left = self.engine_processes();
            if left.is_empty() {
                return;
            }
            let patient = round < 40; // two seconds for PostgreSQL
            for pid in left.into_iter().filter(|pid| !(patient && is_named(*pid, "postgres"))) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // gone already is fine
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        // What a test has to say of an orderly end it has said; here nothing is left to lose.
        let _ = self.kill_serve(); // it may be dead already
        // Shown when the test fails, however it does.
        for line in self
            .log()
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .rev()
            .take(20)
        {
            println!("log: {line}");
        }
        self.end_engines();
        // The folders of their sockets, where the instances' own paths are too long for one.
        for name in self.instance_folders() {
            let _ = std::fs::remove_dir_all(std::env::temp_dir().join(format!("holdfast-{name}")));
        }
        self.volumes.clear();
        if std::thread::panicking() || std::env::var("HOLDFAST_KEEP").is_ok() {
            println!("kept for a look: {}\n{}", self.folder.display(), tail(&self.log()));
            // The data goes (it is large); log and catalog stay.
            let _ = std::fs::remove_dir_all(&self.instances);
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn is_named(pid: i32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

fn children_of(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The fields after the command's name in brackets: state, parent, …
            status
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1))
                .and_then(|p| p.parse().ok())
                == Some(parent)
        })
        .collect()
}

/// # Errors
/// When the file's mode differs.
pub fn assert_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    ensure!(found == mode, "{} has mode {found:o}, not {mode:o}", path.display());
    Ok(())
}
