//! A real Valkey in a folder of its own, an archive in memory, and a ledger of what a writer was told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use holdfast_core::Timestamp;
use holdfast_engines::valkey::Valkey;
use holdfast_engines::{
    BackupSink, Driver, FeedItem, Instance, LogCursor, LogDriver as _, LogFeed, LogPart, ProgressSink,
    RestoreSource, RunAs, StreamBackup, StreamBackupRequest, StreamDriver, StreamRestore, StreamRestored,
    UserSpec,
};
use holdfast_testkit::{holdfast, wait_for};
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

pub(crate) const PASSWORD: &str = "tenant";

/// A running instance; the server ends and its folder goes with it.
pub(crate) struct Server {
    pub driver: Valkey,
    pub instance: Instance,
    folder: tempfile::TempDir,
}

impl Server {
    /// A folder for an instance, with nothing in it. `None` where there are no engines.
    pub(crate) fn plan() -> Result<Option<Self>> {
        let Some(engines) = holdfast::engines() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("hf-valkey-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        let nobody = || RunAs { name: "nobody".to_owned(), uid: 65534, gid: 65534 };
        let port = holdfast_testkit::ports::reserve()?;
        let instance = Instance {
            folder: folder.path().join("instance"),
            stanza: "hf-test".to_owned(),
            version: "9.1".to_owned(),
            listen: "127.0.0.1".parse()?,
            port,
            run_as: nix::unistd::geteuid().is_root().then(nobody),
            memory_mib: 512,
            max_connections: 200,
            allowed_cidrs: Vec::new(),
            repository: None,
        };
        Ok(Some(Self { driver: Valkey::new(engines), instance, folder }))
    }

    pub(crate) async fn start() -> Result<Option<Self>> {
        let Some(server) = Self::plan()? else { return Ok(None) };
        let version = server.driver.create(&server.instance, &users(), &ProgressSink::default()).await?;
        ensure!(version.starts_with("9.1"), "{version}");
        Ok(Some(server))
    }

    pub(crate) async fn client(&self) -> Result<MultiplexedConnection> {
        self.client_as("app_user", PASSWORD).await
    }

    pub(crate) async fn client_as(&self, user: &str, password: &str) -> Result<MultiplexedConnection> {
        let url = format!("redis://{user}:{password}@127.0.0.1:{}/0", self.instance.port);
        holdfast_testkit::valkey::connect(url).await
    }

    pub(crate) fn aof(&self) -> PathBuf {
        self.instance.folder.join("data/appendonlydir")
    }

    pub(crate) fn kept(&self) -> PathBuf {
        self.instance.folder.join("kept-log")
    }

    pub(crate) async fn backup(&self) -> Result<Base> {
        let base = Base::default();
        let request = StreamBackupRequest { method: "rdb" };
        let made = self.driver.backup(&self.instance, &request, &base, &ProgressSink::default()).await?;
        Ok(Base { made: Some(made), ..base })
    }

    /// Restores into an instance of its own.
    pub(crate) async fn restore(
        base: &Base,
        archive: &Archive,
        target: Option<Timestamp>,
    ) -> Result<(Self, StreamRestored)> {
        let server = Self::plan()?.context("engines are there")?;
        let made = base.made.as_ref().context("the backup is made")?;
        let request = StreamRestore {
            users: &users()[..1],
            facts: &made.facts,
            database_bytes: made.database_bytes,
            target,
            complete_until: target.and(archive.lock().caught_up),
            archives: true,
        };
        let source = Source { base: base.clone(), archive: archive.clone() };
        let restored =
            server.driver.restore(&server.instance, &request, &source, &ProgressSink::default()).await?;
        Ok((server, restored))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        Ok(self.driver.stop(&self.instance, 20).await?)
    }
}

impl Drop for Server {
    /// Also when a test fails half-way: a server works in its own folder, so it is found by that.
    fn drop(&mut self) {
        let data = self.folder.path().join("instance/data");
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let here = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data);
            if let (true, Some(pid)) = (here, process.file_name().to_str().and_then(|name| name.parse().ok()))
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

pub(crate) fn users() -> Vec<UserSpec> {
    let user = |name: &str, password: &str| UserSpec {
        username: name.to_owned(),
        role: "admin".to_owned(),
        password: password.to_owned(),
    };
    vec![user("app_user", PASSWORD), user("second", "other")]
}

/// The objects of a base backup, in memory.
#[derive(Clone, Default)]
pub(crate) struct Base {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub made: Option<StreamBackup>,
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
        self.objects.lock().expect("unpoisoned").insert(name.to_owned(), bytes);
        Ok(length)
    }
}

struct Source {
    base: Base,
    archive: Archive,
}

#[async_trait]
impl RestoreSource for Source {
    fn names(&self) -> Vec<String> {
        self.base.objects.lock().expect("unpoisoned").keys().cloned().collect()
    }

    async fn read(&self, name: &str) -> holdfast_engines::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let bytes = self.base.objects.lock().expect("unpoisoned").get(name).cloned().expect("it was stored");
        Ok(Box::new(std::io::Cursor::new(bytes)))
    }

    async fn log(&self) -> holdfast_engines::Result<BoxStream<'static, holdfast_engines::Result<LogPart>>> {
        let parts: Vec<LogPart> = self
            .archive
            .lock()
            .segments
            .iter()
            .flat_map(|segment| {
                let (from, to) = (segment.from.clone(), segment.to.clone());
                [LogPart::Segment { from, to }, LogPart::Bytes(segment.bytes.clone())]
            })
            .collect();
        Ok(stream::iter(parts).map(Ok).boxed())
    }
}

pub(crate) struct Segment {
    pub from: LogCursor,
    pub to: LogCursor,
    pub bytes: Bytes,
}

/// What the store would hold.
#[derive(Default)]
pub(crate) struct Stored {
    pub segments: Vec<Segment>,
    pub begins: Vec<Option<String>>,
    pub cursor: Option<LogCursor>,
    pub caught_up: Option<Timestamp>,
}

#[derive(Clone, Default)]
pub(crate) struct Archive(Arc<Mutex<Stored>>);

impl Archive {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.0.lock().expect("unpoisoned")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().segments.iter().flat_map(|segment| segment.bytes.to_vec()).collect()
    }

    /// Follows the server's log from where this archive ends; whatever was on its way when it is aborted is lost.
    pub(crate) fn follow(&self, server: &Server) -> JoinHandle<()> {
        let (driver, instance) = (server.driver.clone(), server.instance.clone());
        let archive = self.clone();
        tokio::spawn(async move {
            let (feed, mut items) = LogFeed::new(4, Arc::default());
            let from = archive.lock().cursor.clone();
            let reading = driver.follow(&instance, from.as_ref(), &feed);
            let storing = async {
                while let Some(item) = items.recv().await {
                    archive.store(item);
                }
            };
            tokio::select! {
                Err(error) = reading => println!("following ended: {error}"),
                () = storing => {}
            }
        })
    }

    fn store(&self, item: FeedItem) {
        let mut stored = self.lock();
        match item {
            FeedItem::Begin { cursor, cause } => {
                if cause.is_some() {
                    stored.segments.clear();
                }
                stored.begins.push(cause);
                stored.cursor = Some(cursor);
            }
            FeedItem::Log { bytes, cursor } => {
                let from = stored.cursor.replace(cursor.clone()).expect("it began");
                stored.segments.push(Segment { from, to: cursor, bytes });
            }
            FeedItem::CaughtUp { at } => stored.caught_up = Some(at),
        }
    }

    /// Waits until everything acknowledged by now is in the archive.
    pub(crate) async fn caught_up(&self) -> Result<()> {
        let now = Timestamp::now();
        wait_for("the archive catches up", 60, || async {
            Ok(self.lock().caught_up.filter(|at| *at >= now).map(drop))
        })
        .await
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub number: i64,
    pub sent_at: Timestamp,
    pub acknowledged_at: Timestamp,
}

/// Transactions, one after the other, each numbered: it moves money between accounts, whose sum is 0, and notes its number.
pub(crate) struct Writer {
    pub entries: Arc<Mutex<Vec<Entry>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    pub(crate) async fn start(server: &Server) -> Result<Self> {
        let mut client = server.client().await?;
        let entries = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (written, ends) = (Arc::clone(&entries), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut number = 0;
            while !ends.load(Ordering::SeqCst) {
                number += 1;
                let sent_at = Timestamp::now();
                let mut transfer = redis::pipe();
                transfer.atomic();
                transfer.cmd("INCRBY").arg(format!("account:{}", number % 7)).arg(number).ignore();
                transfer.cmd("SET").arg(format!("entry:{number}")).arg("x".repeat(200)).ignore();
                transfer.cmd("DECRBY").arg(format!("account:{}", number % 5)).arg(number).ignore();
                transfer.cmd("SET").arg("last").arg(number).ignore();
                transfer.query_async::<()>(&mut client).await?;
                let acknowledged_at = Timestamp::now();
                written.lock().expect("unpoisoned").push(Entry { number, sent_at, acknowledged_at });
                if number % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Ok(())
        });
        Ok(Self { entries, stop, task })
    }

    pub(crate) async fn stop(self) -> Result<Vec<Entry>> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await??;
        let entries = self.entries.lock().expect("unpoisoned").clone();
        Ok(entries)
    }
}

/// Judges a copy that claims to stand at `reached`: nothing lost, nothing extra.
pub(crate) async fn judge(server: &Server, entries: &[Entry], reached: Timestamp) -> Result<usize> {
    let mut client = server.client().await?;
    let last: Option<i64> = redis::cmd("GET").arg("last").query_async(&mut client).await?;
    let last = last.unwrap_or(0);
    for entry in entries {
        ensure!(
            entry.acknowledged_at > reached || entry.number <= last,
            "{entry:?} is lost; last {last} at {reached}"
        );
        ensure!(
            entry.sent_at <= reached || entry.number > last,
            "{entry:?} is extra; last {last} at {reached}"
        );
    }
    let keys: Vec<String> = redis::cmd("KEYS").arg("entry:*").query_async(&mut client).await?;
    ensure!(keys.len() as i64 == last, "{} entries, the last is {last}", keys.len());
    let mut sum = 0;
    for account in 0..7 {
        let balance: Option<i64> =
            redis::cmd("GET").arg(format!("account:{account}")).query_async(&mut client).await?;
        sum += balance.unwrap_or(0);
    }
    ensure!(sum == 0, "half a transaction: the accounts' sum is {sum}");
    Ok(keys.len())
}

impl Server {
    /// With the agent's rights.
    pub(crate) async fn agent(&self) -> Result<MultiplexedConnection> {
        let own = std::fs::read(self.instance.folder.join("conf/agent.json"))?;
        let own: serde_json::Value = serde_json::from_slice(&own)?;
        self.client_as("default", own["password"].as_str().context("it has a password")?).await
    }

    fn socket(&self) -> PathBuf {
        self.instance.folder.join("run/valkey.sock")
    }

    /// The agent reaches the server no more, or does again.
    pub(crate) fn cut_off(&self, cut_off: bool) -> Result<()> {
        let (socket, aside) = (self.socket(), self.socket().with_extension("aside"));
        let (from, to) = if cut_off { (socket, aside) } else { (aside, socket) };
        Ok(std::fs::rename(from, to)?)
    }

    /// Stands between the agent and the server, and holds the first command with this word up.
    pub(crate) fn hold_up(&self, word: &'static str, by: Duration) -> Result<JoinHandle<()>> {
        self.cut_off(true)?;
        let (real, held) = (self.socket().with_extension("aside"), Arc::new(AtomicBool::new(false)));
        let listener = tokio::net::UnixListener::bind(self.socket())?;
        Ok(tokio::spawn(async move {
            while let Ok((mut agent, _)) = listener.accept().await {
                let (real, held) = (real.clone(), Arc::clone(&held));
                tokio::spawn(async move {
                    let mut server = tokio::net::UnixStream::connect(real).await?;
                    let (mut from_server, mut to_server) = server.split();
                    let (mut from_agent, mut to_agent) = agent.split();
                    let commands = async {
                        let mut buffer = vec![0; 64 << 10];
                        loop {
                            let read = from_agent.read(&mut buffer).await?;
                            if read == 0 {
                                return Ok::<(), std::io::Error>(());
                            }
                            let is_it = buffer[..read].windows(word.len()).any(|at| at == word.as_bytes());
                            if is_it && !held.swap(true, Ordering::SeqCst) {
                                tokio::time::sleep(by).await;
                            }
                            to_server.write_all(&buffer[..read]).await?;
                        }
                    };
                    tokio::select! {
                        ended = commands => ended,
                        ended = tokio::io::copy(&mut from_server, &mut to_agent) => ended.map(drop),
                    }
                });
            }
        }))
    }
}
