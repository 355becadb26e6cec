//! An instance, and an archive in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use holdfast_core::Timestamp;
use holdfast_engines::mongodb::Mongodb;
use holdfast_engines::{
    BackupSink, Driver as _, FeedItem, Instance, LogCursor, LogDriver as _, LogFeed, LogPart, ProgressSink,
    RestoreSource, RunAs, StreamBackup, StreamBackupRequest, StreamDriver as _, StreamRestore,
    StreamRestored, UserSpec,
};
use holdfast_testkit::holdfast;
use mongodb::Client;
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) const PASSWORD: &str = "a tenant's password";

pub(crate) fn users() -> Vec<UserSpec> {
    let user = |name: &str, role: &str| UserSpec {
        username: name.to_owned(),
        role: role.to_owned(),
        password: PASSWORD.to_owned(),
    };
    vec![user("app_user", "readWrite"), user("admin", "readWrite")]
}

/// A driver, and a folder for its instances that goes at the end with all that runs in it.
pub(crate) struct World {
    pub(crate) driver: Arc<Mongodb>,
    folder: tempfile::TempDir,
    made: Mutex<Vec<Instance>>,
}

impl World {
    pub(crate) fn new() -> Result<Option<Self>> {
        Self::with_oplog(2048)
    }

    pub(crate) fn with_oplog(mib: u32) -> Result<Option<Self>> {
        let Some(engines) = holdfast::engines() else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Some(Self {
            driver: Arc::new(Mongodb::new(engines).with_oplog(mib)),
            folder,
            made: Mutex::default(),
        }))
    }

    pub(crate) fn plan(&self, name: &str) -> Result<Instance> {
        let root = nix::unistd::geteuid().is_root();
        // A user that nobody else is: engines never run as root.
        let run_as = root.then(|| RunAs { name: "hf-mongodb-test".to_owned(), uid: 61_777, gid: 61_777 });
        let instance = Instance {
            folder: self.folder.path().join(name),
            stanza: name.to_owned(),
            version: "6.0".to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: holdfast_testkit::ports::reserve()?,
            run_as,
            memory_mib: 256,
            max_connections: 50,
            allowed_cidrs: Vec::new(),
            repository: None,
        };
        self.made.lock().expect("no test panics with it").push(instance.clone());
        Ok(instance)
    }

    pub(crate) async fn create(&self, name: &str) -> Result<Instance> {
        let instance = self.plan(name)?;
        let version =
            self.driver.create(&instance, &users(), &ProgressSink::default()).await.context("create")?;
        println!("{name}: {version}");
        Ok(instance)
    }

    pub(crate) async fn backup(&self, instance: &Instance) -> Result<(Objects, StreamBackup)> {
        let objects = Objects::default();
        let request = StreamBackupRequest { method: "mongodump" };
        let made = self
            .driver
            .backup(instance, &request, &objects, &ProgressSink::default())
            .await
            .context("back up")?;
        Ok((objects, made))
    }

    pub(crate) async fn restore(
        &self,
        name: &str,
        (objects, backup): &(Objects, StreamBackup),
        to: Option<(Timestamp, &Archive)>,
    ) -> Result<(Instance, StreamRestored)> {
        let instance = self.plan(name)?;
        let log = to.map(|(_, archive)| archive.parts()).unwrap_or_default();
        let source = Source { objects: objects.clone(), log };
        let users = users();
        let request = StreamRestore {
            users: &users,
            facts: &backup.facts,
            database_bytes: backup.database_bytes,
            target: to.map(|(target, _)| target),
            complete_until: to.and_then(|(_, archive)| archive.caught_up()),
            archives: true,
        };
        let restored = self
            .driver
            .restore(&instance, &request, &source, &ProgressSink::default())
            .await
            .context("restore")?;
        Ok((instance, restored))
    }

    /// Ends all servers.
    pub(crate) async fn end(self) -> Result<()> {
        let made = std::mem::take(&mut *self.made.lock().expect("no test panics with it"));
        for instance in made.iter().filter(|instance| instance.folder.exists()) {
            self.driver.stop(instance, 20).await?;
        }
        Ok(())
    }
}

impl Drop for World {
    /// For tests that fail: nothing of theirs goes on running.
    fn drop(&mut self) {
        for instance in self.made.lock().expect("no test panics with it").iter() {
            let pid = std::fs::read_to_string(instance.folder.join("run/mongod.pid"));
            if let Some(pid) = pid.ok().and_then(|pid| pid.trim().parse().ok()) {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if String::from_utf8_lossy(&line).contains(&*instance.folder.to_string_lossy()) {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                }
            }
        }
    }
}

/// A tenant's connection.
pub(crate) async fn tenant(instance: &Instance) -> Result<Client> {
    connect(instance, "app_user", PASSWORD).await
}

/// A connection that may do and see everything.
pub(crate) async fn owner(instance: &Instance) -> Result<Client> {
    let own: serde_json::Value =
        serde_json::from_slice(&std::fs::read(instance.folder.join("conf/agent.json"))?)?;
    connect(instance, "holdfast", own["passwords"][0].as_str().context("a password")?).await
}

pub(crate) async fn connect(instance: &Instance, user: &str, password: &str) -> Result<Client> {
    let password = password.replace(' ', "%20").replace('\'', "%27");
    let certificate = instance.folder.join("conf/server.crt").to_string_lossy().replace('/', "%2F");
    let address = format!(
        "mongodb://{user}:{password}@127.0.0.1:{}/?authSource=admin&directConnection=true&serverSelectionTimeoutMS=5000\
         &tls=true&tlsCAFile={certificate}",
        instance.port
    );
    Ok(Client::with_uri_str(address).await?)
}

#[derive(Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<InOrder>>);

/// The names in the order in which they came, and what came under each.
type InOrder = (Vec<String>, BTreeMap<String, Bytes>);

#[async_trait]
impl BackupSink for Objects {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.expect("memory is no disk");
        let length = bytes.len() as u64;
        let mut all = self.0.lock().expect("no test panics with it");
        all.0.push(name.to_owned());
        assert!(all.1.insert(name.to_owned(), bytes.into()).is_none(), "{name} came twice");
        Ok(length)
    }
}

impl Objects {
    /// All but one.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut all = self.0.lock().expect("no test panics with it").clone();
        all.0.retain(|known| known != name);
        assert!(all.1.remove(name).is_some(), "no {name}");
        Self(Arc::new(Mutex::new(all)))
    }

    /// Whether an object has these bytes in it.
    pub(crate) fn holds(&self, name: &str, bytes: &[u8]) -> bool {
        let all = self.0.lock().expect("no test panics with it");
        all.1.get(name).is_some_and(|object| object.windows(bytes.len()).any(|part| part == bytes))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with it").0.clone()
    }
}

/// What was followed so far.
#[derive(Clone, Default)]
pub(crate) struct Archive(Arc<Mutex<Followed>>);

#[derive(Default)]
pub(crate) struct Followed {
    pub(crate) begun: Vec<Option<String>>,
    pub(crate) first: Option<LogCursor>,
    pub(crate) pieces: Vec<(Bytes, LogCursor)>,
    pub(crate) caught_up: Option<Timestamp>,
    /// How long it takes over each item, as a slow store does.
    pub(crate) slow: Duration,
}

impl Archive {
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Followed) -> T) -> T {
        look(&self.0.lock().expect("no test panics with it"))
    }

    pub(crate) fn set_slow(&self, slow: Duration) {
        self.0.lock().expect("no test panics with it").slow = slow;
    }

    pub(crate) fn cursor(&self) -> Option<LogCursor> {
        self.with(|all| all.pieces.last().map(|(_, cursor)| cursor.clone()).or_else(|| all.first.clone()))
    }

    pub(crate) fn caught_up(&self) -> Option<Timestamp> {
        self.with(|all| all.caught_up)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with(|all| all.pieces.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect())
    }

    fn parts(&self) -> Vec<LogPart> {
        self.with(|all| {
            let mut from = all.first.clone().expect("something was followed");
            let mut parts = Vec::new();
            for (bytes, to) in &all.pieces {
                parts.push(LogPart::Segment { from: from.clone(), to: to.clone() });
                parts.push(LogPart::Bytes(bytes.clone()));
                from = to.clone();
            }
            parts
        })
    }

    /// Follows until it is aborted; what comes is there at once. A following that fails begins anew, as the agent does it.
    pub(crate) fn follow(&self, world: &World, instance: &Instance) -> tokio::task::JoinHandle<()> {
        let (driver, instance, archive) = (Arc::clone(&world.driver), instance.clone(), self.clone());
        tokio::spawn(async move {
            loop {
                let (feed, mut items) = LogFeed::new(4, Arc::default());
                let from = archive.cursor();
                let take = async {
                    while let Some(item) = items.recv().await {
                        tokio::time::sleep(archive.with(|all| all.slow)).await;
                        let mut all = archive.0.lock().expect("no test panics with it");
                        match item {
                            FeedItem::Begin { cursor, cause } => {
                                all.begun.push(cause);
                                all.first.get_or_insert(cursor);
                            }
                            FeedItem::Log { bytes, cursor } => all.pieces.push((bytes, cursor)),
                            FeedItem::CaughtUp { at } => all.caught_up = Some(at),
                        }
                    }
                };
                tokio::select! {
                    failed = driver.follow(&instance, from.as_ref(), &feed) => {
                        let Err(error) = failed;
                        println!("following ended: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
                    }
                    () = take => {}
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    pub(crate) async fn wait_for(&self, at: Timestamp) -> Result<()> {
        self.wait("the archive to catch up", |all| all.caught_up.is_some_and(|reached| reached >= at)).await
    }

    pub(crate) async fn wait(&self, what: &str, done: impl Fn(&Followed) -> bool) -> Result<()> {
        for _ in 0..600 {
            if self.with(&done) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("waited a minute for {what}")
    }
}

struct Source {
    objects: Objects,
    log: Vec<LogPart>,
}

#[async_trait]
impl RestoreSource for Source {
    fn names(&self) -> Vec<String> {
        self.objects.names()
    }

    async fn read(&self, name: &str) -> holdfast_engines::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let bytes = self.objects.0.lock().expect("no test panics with it").1[name].clone();
        Ok(Box::new(std::io::Cursor::new(bytes)))
    }

    async fn log(&self) -> holdfast_engines::Result<BoxStream<'static, holdfast_engines::Result<LogPart>>> {
        Ok(futures::stream::iter(self.log.clone().into_iter().map(Ok)).boxed())
    }
}
