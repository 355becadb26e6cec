//! A real S3 server on loopback: SeaweedFS, from `scripts/engines.sh s3`. One for all tests of a program that run at the
//! same time: it takes some seconds to start. It has one bucket and, beside its administrator, identities that may only
//! list, read and write there, which can be taken away and given back.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};

pub const BUCKET: &str = "holdfast-test";
const REGION: &str = "us-east-1";
const START_LIMIT: Duration = Duration::from_secs(60);
const SHELL_LIMIT: Duration = Duration::from_secs(20);

pub struct S3Server {
    weed: PathBuf,
    child: Child,
    port: u16,
    /// As `weed shell` takes it: address, port and gRPC port of the master.
    master: String,
    /// Of master, volume, filer and S3.
    grpc: [u16; 4],
    /// The server's shell reads all identities, changes one and writes all: one at a time.
    configuring: tokio::sync::Mutex<()>,
    _folder: tempfile::TempDir,
}

/// Somebody who may list, read and write in the bucket, and nothing else.
#[derive(Clone)]
pub struct Identity {
    /// Its access key too.
    name: String,
    secret_key: String,
}

impl Identity {
    /// What a process needs in its environment to reach the bucket, through `port` (the server's own or a proxy's).
    #[must_use]
    pub fn environment(&self, port: u16) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
            ("AWS_ACCESS_KEY_ID", self.name.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", REGION.to_owned()),
        ]
    }

    /// The bucket as this identity sees it, without any retries.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn bucket(&self, port: u16) -> Result<AmazonS3> {
        client(port, &self.name, &self.secret_key)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Beside its ports it listens on sockets of its own choice, which it leaves when it is killed.
        for (part, port) in ["master", "volume", "filer", "s3"].iter().zip(self.grpc) {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"));
        }
    }
}

/// Where the server's program is, or `None` after saying on the test's output why the test is skipped.
///
/// # Panics
/// When `HOLDFAST_REQUIRE_S3=1` and there is none.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let folder = std::env::var_os("HOLDFAST_ENGINES").unwrap_or_else(|| "/var/cache/holdfast/engines".into());
    let weed = PathBuf::from(folder).join("seaweedfs/bin/weed");
    if weed.exists() {
        return Some(weed);
    }
    let reason = format!("no S3 server at {}; run `make engines`", weed.display());
    assert!(std::env::var_os("HOLDFAST_REQUIRE_S3").is_none_or(|value| value != "1"), "{reason}");
    println!("SKIPPED: {reason}");
    None
}

impl S3Server {
    /// The server of this program, started where none runs. It ends with its last user. `None` as [`program`].
    ///
    /// # Errors
    /// When it is not ready within a minute.
    pub async fn start() -> Result<Option<Arc<Self>>> {
        static RUNNING: tokio::sync::Mutex<Weak<S3Server>> = tokio::sync::Mutex::const_new(Weak::new());
        let Some(weed) = program() else { return Ok(None) };
        let mut running = RUNNING.lock().await;
        if let Some(server) = running.upgrade() {
            return Ok(Some(server));
        }
        let server = Arc::new(tokio::task::spawn_blocking(|| Self::spawn(weed)).await??);
        *running = Arc::downgrade(&server);
        Ok(Some(server))
    }

    fn spawn(weed: PathBuf) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let administrator = r#"{"identities":[{"name":"admin","credentials":[{"accessKey":"admin","secretKey":"admin-secret"}],
            "actions":["Admin","Read","Write","List","Tagging"]}]}"#;
        std::fs::write(at("s3.json"), administrator)?;
        for name in ["data", "logs"] {
            std::fs::create_dir(at(name))?;
        }
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, port, s3_grpc] = ports()?;
        let child = Command::new(&weed)
            .arg(format!("-logdir={}", at("logs")))
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-filer",
                "-s3",
            ])
            .args([format!("-dir={}", at("data")), format!("-s3.config={}", at("s3.json"))])
            .args([
                "-volume.max=20",
                "-master.volumeSizeLimitMB=64",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ])
            .args([format!("-filer.localSocket={}", at("filer")), format!("-s3.localSocket={}", at("s3"))])
            .args([format!("-master.port={master}"), format!("-master.port.grpc={master_grpc}")])
            .args([format!("-volume.port={volume}"), format!("-volume.port.grpc={volume_grpc}")])
            .args([format!("-filer.port={filer}"), format!("-filer.port.grpc={filer_grpc}")])
            .args([format!("-s3.port={port}"), format!("-s3.port.grpc={s3_grpc}")])
            .env("WEED_S3_SSE_KEK", "0123456789abcdef".repeat(4))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", weed.display()))?;
        let master = format!("127.0.0.1:{master}.{master_grpc}");
        let configuring = tokio::sync::Mutex::new(());
        let grpc = [master_grpc, volume_grpc, filer_grpc, s3_grpc];
        let server = Self { weed, child, port, master, grpc, configuring, _folder: folder };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let said = server.shell(&format!("s3.bucket.create -name {BUCKET}\ns3.bucket.list\n"))?;
            if said.matches(BUCKET).count() > 1 {
                break;
            }
            ensure!(Instant::now() < deadline, "no bucket: {said}");
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new identity, let in.
    ///
    /// # Errors
    /// When the server does not take it within a minute.
    pub async fn identity(self: &Arc<Self>) -> Result<Identity> {
        let random = rand::random::<u128>();
        let identity = Identity {
            name: format!("holdfast{:08x}", rand::random::<u32>()),
            secret_key: format!("{random:032x}"),
        };
        self.grant(&identity).await?;
        Ok(identity)
    }

    /// Lets an identity in (again).
    ///
    /// # Errors
    /// When the server does not take it within a minute.
    pub async fn grant(self: &Arc<Self>, identity: &Identity) -> Result<()> {
        let Identity { name, secret_key } = identity;
        let who = format!("-user={name} -access_key={name} -secret_key={secret_key}");
        self.configure(format!("{who} -actions=Read,Write,List -buckets={BUCKET}")).await?;
        self.wait_until_admitted(identity, true).await
    }

    /// Takes an identity away: its credentials are unknown from now on.
    ///
    /// # Errors
    /// As [`Self::grant`].
    pub async fn revoke(self: &Arc<Self>, identity: &Identity) -> Result<()> {
        self.configure(format!("-user={} -delete", identity.name)).await?;
        self.wait_until_admitted(identity, false).await
    }

    async fn configure(self: &Arc<Self>, how: String) -> Result<()> {
        let _turn = self.configuring.lock().await;
        let server = Arc::clone(self);
        let command = format!("s3.configure {how} -apply\n");
        tokio::task::spawn_blocking(move || server.shell(&command)).await?.map(drop)
    }

    async fn wait_until_admitted(&self, identity: &Identity, admitted: bool) -> Result<()> {
        let bucket = identity.bucket(self.port)?;
        let path = Path::from(format!("admitted/{}", identity.name));
        crate::wait_for("the S3 server takes an identity's change", START_LIMIT.as_secs(), || async {
            Ok((bucket.put(&path, "x".into()).await.is_ok() == admitted).then_some(()))
        })
        .await
    }

    /// The bucket as its administrator sees it, not through any proxy.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn bucket(&self) -> Result<AmazonS3> {
        client(self.port, "admin", "admin-secret")
    }

    /// Stores an object as the administrator.
    ///
    /// # Errors
    /// What the server says.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        self.bucket()?.put(&key.into(), bytes.into()).await?;
        Ok(())
    }

    /// Names of all objects below `prefix`, sorted.
    ///
    /// # Errors
    /// When the server does not list them.
    pub async fn object_names(&self, prefix: &str) -> Result<Vec<String>> {
        let bucket = self.bucket()?;
        let below = Path::from(prefix);
        let mut names: Vec<String> =
            bucket.list(Some(&below)).map_ok(|meta| meta.location.to_string()).try_collect().await?;
        names.sort();
        Ok(names)
    }

    /// Runs the server's own shell on `commands`; returns what it printed, nothing where it did not end in time.
    fn shell(&self, commands: &str) -> Result<String> {
        let mut shell = Command::new(&self.weed)
            .args(["shell", &format!("-master={}", self.master)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start the S3 server's shell")?;
        let mut input = shell.stdin.take().context("its input is a pipe")?;
        let _ = input.write_all(format!("{commands}exit\n").as_bytes()); // one that ended says so below
        drop(input);
        let started = Instant::now();
        while shell.try_wait()?.is_none() && started.elapsed() < SHELL_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = shell.kill();
        Ok(String::from_utf8_lossy(&shell.wait_with_output()?.stdout).into_owned())
    }
}

fn client(port: u16, access_key: &str, secret_key: &str) -> Result<AmazonS3> {
    Ok(AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_allow_http(true)
        .with_region(REGION)
        .with_bucket_name(BUCKET)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()?)
}

fn ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = crate::ports::reserve()?;
    }
    Ok(ports)
}
