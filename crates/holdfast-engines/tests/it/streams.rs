//! A real server in a folder of its own and a store in memory, for engines whose drivers hand over streams and have no log.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use futures::stream::BoxStream;
use holdfast_engines::{
    BackupSink, Driver, Instance, LogPart, ProgressSink, RestoreSource, RunAs, StreamBackup,
    StreamBackupRequest, StreamDriver, StreamRestore, StreamRestored, UserSpec,
};
use holdfast_testkit::holdfast;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Passwords of an engine's users are at least as strong as it insists on.
pub(crate) const PASSWORD: &str = "tenant-Xq7-Lm2-93vK";

/// An engine.
pub(crate) trait Kind: Driver + StreamDriver + Sized {
    const NAME: &'static str;
    const METHOD: &'static str;
    const MEMORY_MIB: u64;
    /// A tenant in Python, below the workspace.
    const TENANT: &'static str;
    fn driver(engines: &Path) -> Self;
}

/// A running instance; the server ends and its folder goes with it.
pub(crate) struct Server<K> {
    pub driver: K,
    pub instance: Instance,
    _folder: tempfile::TempDir,
}

impl<K: Kind> Server<K> {
    /// A folder for an instance, with nothing in it. `None` where there are no engines.
    pub(crate) fn plan(version: &str) -> Result<Option<Self>> {
        let Some(engines) = holdfast::engines() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix(&format!("hf-{}-", K::NAME)).tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        let nobody = || RunAs { name: "nobody".to_owned(), uid: 65534, gid: 65534 };
        let instance = Instance {
            folder: folder.path().join("instance"),
            stanza: "hf-test".to_owned(),
            version: version.to_owned(),
            listen: "127.0.0.1".parse()?,
            port: holdfast_testkit::ports::reserve()?,
            run_as: nix::unistd::geteuid().is_root().then(nobody),
            memory_mib: K::MEMORY_MIB,
            max_connections: 200,
            allowed_cidrs: Vec::new(),
            repository: None,
        };
        Ok(Some(Self { driver: K::driver(&engines), instance, _folder: folder }))
    }

    pub(crate) async fn start(version: &str) -> Result<Option<Self>> {
        let Some(server) = Self::plan(version)? else { return Ok(None) };
        let told = server.driver.create(&server.instance, &users(), &ProgressSink::default()).await?;
        ensure!(told.starts_with(version), "{told}");
        Ok(Some(server))
    }

    pub(crate) async fn backup(&self) -> Result<Base> {
        self.backup_after(&Base::default()).await
    }

    /// One that may take over what an earlier one shares.
    pub(crate) async fn backup_after(&self, earlier: &Base) -> Result<Base> {
        let shared = earlier.shared.lock().expect("unpoisoned").clone();
        let base = Base { earlier: shared, ..Base::default() };
        let request = StreamBackupRequest { method: K::METHOD };
        let made = self.driver.backup(&self.instance, &request, &base, &ProgressSink::default()).await?;
        Ok(Base { made: Some(made), ..base })
    }

    /// As if the host had lost its power, but for what lies in its cache.
    pub(crate) fn kill(&self) {
        kill_all_of(&self.instance.folder);
    }

    /// Restores into an instance of its own.
    pub(crate) async fn restore(base: &Base, version: &str) -> Result<(Self, StreamRestored)> {
        let server = Self::plan(version)?.context("engines are there")?;
        let restored = server.restore_here(base).await?;
        Ok((server, restored))
    }

    /// Restores into this instance, in which there is nothing yet.
    pub(crate) async fn restore_here(&self, base: &Base) -> Result<StreamRestored> {
        let made = base.made.as_ref().context("the backup is made")?;
        let request = StreamRestore {
            users: &users(),
            facts: &made.facts,
            database_bytes: made.database_bytes,
            target: None,
            complete_until: None,
            archives: true,
        };
        let progress = ProgressSink::default();
        Ok(self.driver.restore(&self.instance, &request, base, &progress).await?)
    }

    /// Has the tenant do something, and says what it found.
    pub(crate) async fn tenant(&self, command: &str) -> Result<Value> {
        self.client("app_user", PASSWORD, command).await
    }

    pub(crate) async fn client(&self, user: &str, password: &str, command: &str) -> Result<Value> {
        let python = std::env::var("HOLDFAST_PYTHON").context("set HOLDFAST_PYTHON (scripts/python.sh)")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(K::TENANT);
        let port = self.instance.port.to_string();
        let done = Command::new(PathBuf::from(python))
            .arg(script)
            .args([&port, user, password, command])
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{command}: {said}");
        serde_json::from_slice(&done.stdout).with_context(|| format!("what {command} said"))
    }
}

impl<K> Drop for Server<K> {
    /// Also when a test fails half-way.
    fn drop(&mut self) {
        kill_all_of(&self.instance.folder);
    }
}

fn kill_all_of(folder: &Path) {
    let folder = folder.to_string_lossy();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_it = String::from_utf8_lossy(&arguments).contains(&*folder);
        if let (true, Some(pid)) = (is_it, process.file_name().to_str().and_then(|name| name.parse().ok())) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub(crate) fn users() -> Vec<UserSpec> {
    let user = |name: &str, role: &str| UserSpec {
        username: name.to_owned(),
        role: role.to_owned(),
        password: PASSWORD.to_owned(),
    };
    vec![user("app_user", "admin"), user("reader", "readonly")]
}

/// What differs, by its path.
fn differences(found: &Value, expected: &Value, path: &str, into: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let names: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
            for name in names {
                let of =
                    |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                differences(&of(found), &of(expected), &format!("{path}/{name}"), into);
            }
        }
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                differences(found, expected, &format!("{path}/{index}"), into);
            }
        }
        _ if found == expected => {}
        _ => into.push(format!("{path}: {found} instead of {expected}")),
    }
}

/// Two complete readings.
pub(crate) fn same(found: &Value, expected: &Value) -> Result<()> {
    let mut all = Vec::new();
    differences(found, expected, "", &mut all);
    let shown: Vec<String> = all.iter().take(20).map(|line| line.chars().take(300).collect()).collect();
    ensure!(all.is_empty(), "{} differences:\n{}", all.len(), shown.join("\n"));
    Ok(())
}

/// The objects of a base backup, in memory.
#[derive(Clone, Default)]
pub(crate) struct Base {
    pub objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Those of them that later ones may take over.
    shared: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    earlier: BTreeMap<String, Vec<u8>>,
    /// Bytes that were not taken over.
    stored: Arc<AtomicU64>,
    pub made: Option<StreamBackup>,
}

impl Base {
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl BackupSink for Base {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.expect("the driver's data can be read");
        let length = bytes.len() as u64;
        self.stored.fetch_add(length, Ordering::Relaxed);
        self.objects.lock().expect("unpoisoned").insert(name.to_owned(), bytes);
        Ok(length)
    }

    async fn share(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let length = self.store(name, data).await?;
        let bytes = self.objects.lock().expect("unpoisoned")[name].clone();
        self.shared.lock().expect("unpoisoned").insert(name.to_owned(), bytes);
        Ok(length)
    }

    fn rename(&self, name: &str, to: &str) -> holdfast_engines::Result<()> {
        for objects in [&self.objects, &self.shared] {
            let mut objects = objects.lock().expect("unpoisoned");
            if let Some(bytes) = objects.remove(name) {
                objects.insert(to.to_owned(), bytes);
            }
        }
        Ok(())
    }

    fn shared(&self) -> Vec<String> {
        self.earlier.keys().cloned().collect()
    }

    fn reuse(&self, name: &str) -> holdfast_engines::Result<()> {
        let bytes = self.earlier.get(name).expect("it is one of those that are shared").clone();
        for objects in [&self.objects, &self.shared] {
            objects.lock().expect("unpoisoned").insert(name.to_owned(), bytes.clone());
        }
        Ok(())
    }
}

#[async_trait]
impl RestoreSource for Base {
    fn names(&self) -> Vec<String> {
        self.objects.lock().expect("unpoisoned").keys().cloned().collect()
    }

    async fn read(&self, name: &str) -> holdfast_engines::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let bytes = self.objects.lock().expect("unpoisoned").get(name).cloned().expect("it was stored");
        Ok(Box::new(std::io::Cursor::new(bytes)))
    }

    async fn log(&self) -> holdfast_engines::Result<BoxStream<'static, holdfast_engines::Result<LogPart>>> {
        unreachable!("there is no log")
    }
}
