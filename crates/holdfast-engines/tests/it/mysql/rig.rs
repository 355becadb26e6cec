//! An instance of the real server, an archive in memory, and clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use holdfast_core::Timestamp;
use holdfast_engines::mysql::Mysql;
use holdfast_engines::{
    BackupSink, Driver, EngineError, FeedItem, Instance, LogCursor, LogDriver as _, LogFeed, LogPart,
    ProgressSink, RestoreSource, RunAs, StreamBackup, StreamBackupRequest, StreamDriver, StreamRestore,
    StreamRestored, UserSpec,
};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

pub(crate) const PASSWORD: &str = "s3cret'\\ #\"é";
const DEADLINE: Duration = Duration::from_secs(60);

/// The engines' folder, or `None` after saying why the test is skipped.
pub(crate) fn engines() -> Option<PathBuf> {
    holdfast_testkit::holdfast::engines()
}

pub(crate) struct Server {
    pub(crate) driver: Mysql,
    pub(crate) instance: Instance,
    _folder: tempfile::TempDir,
}

impl Server {
    /// An empty folder and a free port; nothing runs.
    pub(crate) fn plan(engines: &std::path::Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hf-mysql-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let port = holdfast_testkit::ports::reserve()?;
        let privileged = nix::unistd::geteuid().is_root();
        let instance = Instance {
            folder: folder.path().join("instance"),
            stanza: format!("hf-{port}"),
            version: "9.7".to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
            run_as: privileged.then(|| RunAs { name: "nobody".to_owned(), uid: 65534, gid: 65534 }),
            memory_mib: 512,
            max_connections: 40,
            allowed_cidrs: Vec::new(),
            repository: None,
        };
        Ok(Self { driver: Mysql::new(engines), instance, _folder: folder })
    }

    pub(crate) async fn start(engines: &std::path::Path) -> Result<Self> {
        let server = Self::plan(engines)?;
        server.driver.create(&server.instance, &users(), &ProgressSink::default()).await?;
        Ok(server)
    }

    /// The agent's own way in.
    pub(crate) async fn root(&self) -> Result<Conn> {
        let password = std::fs::read_to_string(self.instance.folder.join("conf/admin-password"))?;
        let socket = self.instance.folder.join("run/mysqld.sock");
        let options = OptsBuilder::default()
            .socket(Some(socket.to_string_lossy()))
            .user(Some("root"))
            .pass(Some(password));
        Conn::new(options).await.context("connect as the agent")
    }

    /// A tenant's way in.
    pub(crate) async fn tenant(&self, user: &str) -> Result<Conn> {
        self.tenant_with(user, PASSWORD).await
    }

    pub(crate) async fn tenant_with(&self, user: &str, password: &str) -> Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.instance.port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some(password))
            .db_name(Some("defaultdb"));
        Conn::new(options).await.with_context(|| format!("connect as {user}"))
    }

    /// The server's binlog files with their bytes, but for the flag that says that a file is in use (byte 22).
    pub(crate) fn binlogs(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.instance.folder.join("data"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("binlog.") && name != "binlog.index" {
                files.insert(name, without_flag(std::fs::read(entry.path())?));
            }
        }
        Ok(files)
    }

    pub(crate) async fn backup_by(&self, method: &str, sink: &dyn BackupSink) -> Result<StreamBackup> {
        let request = StreamBackupRequest { method };
        Ok(self.driver.backup(&self.instance, &request, sink, &ProgressSink::default()).await?)
    }

    /// Restores into a new server.
    pub(crate) async fn restored(
        &self,
        engines: &std::path::Path,
        base: &Base,
        target: Option<Timestamp>,
        archive: &Archive,
    ) -> Result<(Self, StreamRestored)> {
        let copy = Self::plan(engines)?;
        let complete_until = archive.state().caught_up;
        let users = users();
        let request = StreamRestore {
            users: &users,
            facts: &base.facts.facts,
            database_bytes: base.facts.database_bytes,
            target,
            complete_until,
            archives: true,
        };
        let source = Source { sink: base.sink.clone(), archive: archive.clone(), from: base.archive_at };
        let done = copy.driver.restore(&copy.instance, &request, &source, &ProgressSink::default()).await?;
        Ok((copy, done))
    }
}

impl Server {
    /// As if it had been taken over with its tables.
    pub(crate) async fn allow_every_storage_engine(&self) -> Result<()> {
        self.driver.stop(&self.instance, 30).await?;
        let settings = self.instance.folder.join("conf/my.cnf");
        let text = std::fs::read_to_string(&settings)?;
        let lines = text.lines().filter(|line| !line.starts_with("disabled-storage-engines"));
        std::fs::write(&settings, lines.collect::<Vec<_>>().join("\n"))?;
        let mut command = std::process::Command::new("setpriv");
        if let Some(user) = &self.instance.run_as {
            command
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.gid))
                .arg("--clear-groups");
        }
        let program = self.driver_folder().join("bin/mysqld");
        command
            .arg("--")
            .arg(program)
            .arg(format!("--defaults-file={}", settings.display()))
            .arg("--daemonize");
        ensure!(command.status()?.success(), "start it without our settings");
        Ok(())
    }

    fn driver_folder(&self) -> PathBuf {
        engines().expect("they were there").join("mysql-9.7")
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        let settings = self.instance.folder.join("conf/my.cnf");
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) =
                pid.filter(|_| String::from_utf8_lossy(&arguments).contains(&*settings.to_string_lossy()))
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill(); // not through the driver: it is async, and the test may have failed
    }
}

pub(crate) fn without_flag(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(flag) = bytes.get_mut(21) {
        *flag = 0;
    }
    bytes
}

pub(crate) fn users() -> Vec<UserSpec> {
    let user = |name: &str, role: &str| UserSpec {
        username: name.to_owned(),
        role: role.to_owned(),
        password: PASSWORD.to_owned(),
    };
    vec![user("app", "admin"), user("reader", "readonly")]
}

/// A base backup, and where the archive was when it began.
pub(crate) struct Base {
    pub(crate) sink: MemorySink,
    pub(crate) facts: StreamBackup,
    pub(crate) archive_at: usize,
}

pub(crate) async fn base(server: &Server, archive: &Archive) -> Result<Base> {
    base_by("mysqldump", server, archive).await
}

pub(crate) async fn base_by(method: &str, server: &Server, archive: &Archive) -> Result<Base> {
    let archive_at = archive.state().segments.len().saturating_sub(1);
    let sink = MemorySink::default();
    let facts = server.backup_by(method, &sink).await?;
    Ok(Base { sink, facts, archive_at })
}

#[derive(Clone, Default)]
pub(crate) struct MemorySink(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl MemorySink {
    /// Puts something else in an object's place.
    pub(crate) fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(objects.insert(name.to_owned(), bytes).is_some(), "no {name}");
    }

    pub(crate) fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Changes a bit wherever `text` is stored; returns at how many places.
    pub(crate) fn damage(&self, text: &[u8]) -> usize {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = 0;
        for bytes in objects.values_mut() {
            let found = |bytes: &[u8]| bytes.windows(text.len()).position(|window| window == text);
            while let Some(at) = found(bytes) {
                bytes[at] ^= 1;
                places += 1;
            }
        }
        places
    }
}

#[async_trait]
impl BackupSink for MemorySink {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn tokio::io::AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes)
            .await
            .map_err(|source| EngineError::Io { doing: "store".to_owned(), source })?;
        let length = bytes.len() as u64;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), bytes);
        Ok(length)
    }
}

/// A new server whose log is archived.
pub(crate) async fn archived(engines: &std::path::Path) -> Result<(Server, Archive, Follower)> {
    let server = Server::start(engines).await?;
    let archive = Archive::default();
    let follower = archive.follow(&server);
    archive.catch_up().await?;
    Ok((server, archive, follower))
}

/// What `follow` handed over, as the agent would store it.
#[derive(Clone, Default)]
pub(crate) struct Archive(Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) begins: Vec<(LogCursor, Option<String>)>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) cursor: Option<LogCursor>,
    pub(crate) caught_up: Option<Timestamp>,
    pub(crate) errors: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) from: LogCursor,
    pub(crate) to: LogCursor,
    pub(crate) bytes: Bytes,
}

impl Archive {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows until it is stopped, beginning again after each failure.
    pub(crate) fn follow(&self, server: &Server) -> Follower {
        let (driver, instance, archive) = (server.driver.clone(), server.instance.clone(), self.clone());
        Follower(tokio::spawn(async move {
            loop {
                let from = archive.state().cursor.clone();
                let (feed, mut items) = LogFeed::new(4, Arc::default());
                let follow = driver.follow(&instance, from.as_ref(), &feed);
                tokio::pin!(follow);
                loop {
                    tokio::select! {
                        biased;
                        Some(item) = items.recv() => archive.take(item),
                        ended = &mut follow => {
                            let error = ended.expect_err("it ends by an error alone");
                            archive.state().errors.push(error.to_string());
                            break;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }

    fn take(&self, item: FeedItem) {
        let mut state = self.state();
        match item {
            FeedItem::Begin { cursor, cause } => {
                state.cursor = Some(cursor.clone());
                state.caught_up = None;
                state.begins.push((cursor, cause));
            }
            FeedItem::Log { bytes, cursor } => {
                let from = state.cursor.replace(cursor.clone()).expect("it begins first");
                state.segments.push(Segment { from, to: cursor, bytes });
            }
            FeedItem::CaughtUp { at } => state.caught_up = Some(at),
        }
    }

    /// Waits until everything that was acknowledged until now is archived.
    pub(crate) async fn catch_up(&self) -> Result<Timestamp> {
        let now = Timestamp::now();
        wait("the archive to catch up", || self.state().caught_up.is_some_and(|at| at > now))
            .await
            .with_context(|| format!("errors: {:?}", self.state().errors))?;
        Ok(now)
    }

    /// The files that the archived bytes make.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let stream: Vec<u8> =
            self.state().segments.iter().flat_map(|segment| segment.bytes.to_vec()).collect();
        let (mut files, mut rest, mut name) =
            (BTreeMap::<String, Vec<u8>>::new(), &stream[..], String::new());
        while let [kind, a, b, c, d, tail @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let (bytes, tail) = tail.split_at(length);
            match kind {
                1 => {
                    let begins: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
                    name = begins["file"].as_str().expect("a name").to_owned();
                    assert!(files.insert(name.clone(), Vec::new()).is_none(), "{name} twice");
                }
                2 => files.get_mut(&name).expect("a file first").extend_from_slice(bytes),
                _ => panic!("a record of kind {kind}"),
            }
            rest = tail;
        }
        files
    }
}

/// Ends with its value.
pub(crate) struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Source {
    sink: MemorySink,
    archive: Archive,
    from: usize,
}

#[async_trait]
impl RestoreSource for Source {
    fn names(&self) -> Vec<String> {
        self.sink.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    async fn read(
        &self,
        name: &str,
    ) -> holdfast_engines::Result<Box<dyn tokio::io::AsyncRead + Send + Unpin>> {
        let bytes = self.sink.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        Ok(Box::new(std::io::Cursor::new(bytes.expect("it was stored"))))
    }

    async fn log(&self) -> holdfast_engines::Result<BoxStream<'static, holdfast_engines::Result<LogPart>>> {
        let segments: Vec<Segment> = self.archive.state().segments[self.from..].to_vec();
        let parts = segments.into_iter().flat_map(|segment| {
            // In pieces that end anywhere.
            let mut parts = vec![LogPart::Segment { from: segment.from, to: segment.to }];
            parts.extend(
                segment.bytes.chunks(1000).map(|chunk| LogPart::Bytes(Bytes::copy_from_slice(chunk))),
            );
            parts
        });
        Ok(futures::stream::iter(parts.map(Ok)).boxed())
    }
}

pub(crate) async fn wait(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let began = std::time::Instant::now();
    while !ready() {
        ensure!(began.elapsed() < DEADLINE, "{what}: not after {} s", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A value, which prints itself shortened.
fn whole(value: Option<&mysql_async::Value>) -> String {
    match value {
        Some(mysql_async::Value::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => format!("{text:?}"),
            Err(_) => format!("{bytes:02x?}"),
        },
        other => format!("{other:?}"),
    }
}

/// The text that a query's rows make.
pub(crate) async fn table(conn: &mut Conn, query: &str) -> Result<String> {
    let rows: Vec<mysql_async::Row> = conn.query(query).await.with_context(|| query.to_owned())?;
    let text = rows.iter().map(|row| {
        let columns: Vec<String> = (0..row.len()).map(|at| whole(row.as_ref(at))).collect();
        columns.join("|")
    });
    Ok(text.collect::<Vec<_>>().join("\n"))
}
