//! The store on a real S3 server: SeaweedFS, from `scripts/engines.sh s3`. `HOLDFAST_REQUIRE_S3=1` makes it a must.
//!
//! The store takes its credentials from the environment, so the checks run in a process of their own.
#![allow(clippy::print_stdout)] // what is skipped

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_core::{LineageId, OrganizationId, ServiceId};
use holdfast_store::{ErrorKind, LineageScope, ObjectName, ObjectPrefix, RepositoryPath, Store};
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

const BUCKET: &str = "holdfast-test";
const START_LIMIT: Duration = Duration::from_secs(60);

fn weed() -> Option<PathBuf> {
    let folder = std::env::var_os("HOLDFAST_ENGINES").unwrap_or_else(|| "/var/cache/holdfast/engines".into());
    let weed = PathBuf::from(folder).join("seaweedfs/bin/weed");
    if weed.exists() {
        return Some(weed);
    }
    let reason = format!("no S3 server at {}", weed.display());
    assert!(std::env::var_os("HOLDFAST_REQUIRE_S3").is_none_or(|value| value != "1"), "{reason}");
    println!("SKIPPED: {reason}");
    None
}

struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

fn start(weed: &Path) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let identities = r#"{"identities":[{"name":"test","credentials":[{"accessKey":"test","secretKey":"testsecret"}],
        "actions":["Admin","Read","Write","List","Tagging"]}]}"#;
    std::fs::write(at("s3.json"), identities).expect("written");
    for name in ["data", "logs"] {
        std::fs::create_dir(at(name)).expect("made");
    }
    let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, port, s3_grpc] = free_ports();
    let child = Command::new(weed)
        .arg(format!("-logdir={}", at("logs")))
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-filer", "-s3"])
        .args([format!("-dir={}", at("data")), format!("-s3.config={}", at("s3.json"))])
        .args(["-volume.max=20", "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0"])
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
        .expect("the server starts");
    let server = Server { child, port, _folder: folder };
    make_bucket(weed, master, master_grpc);
    server
}

fn make_bucket(weed: &Path, master: u16, master_grpc: u16) {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let mut shell = Command::new(weed)
            .args(["shell", &format!("-master=127.0.0.1:{master}.{master_grpc}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let commands = format!("s3.bucket.create -name {BUCKET}\ns3.bucket.list\nexit\n");
        std::io::Write::write_all(&mut shell.stdin.take().expect("piped"), commands.as_bytes()).ok();
        let started = Instant::now();
        while shell.try_wait().expect("a state").is_none() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = shell.kill();
        let output = shell.wait_with_output().expect("output");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.matches(BUCKET).count() > 1 {
            return;
        }
        assert!(Instant::now() < deadline, "no bucket: {text}");
    }
}

#[test]
fn the_store_works_on_s3() {
    let Some(weed) = weed() else { return };
    let server = start(&weed);
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "checks_on_s3", "--ignored", "--nocapture"])
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port))
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "testsecret")
        .env("AWS_REGION", "us-east-1")
        .output()
        .expect("the checks run");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Run by the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "only a part of the test above"]
async fn checks_on_s3() {
    let store = Store::open(&format!("s3://{BUCKET}/some/prefix")).expect("opens");
    let lineage = LineageScope {
        organization: OrganizationId::random(),
        service: ServiceId::random(),
        lineage: LineageId::random(),
    };
    let name =
        |path: &str| ObjectName::Repository { lineage, path: RepositoryPath::new(path).expect("a path") };
    wait_until_ready(&store, &name("first")).await;
    small_objects(&store, &name("a/ä b#1/../c")).await;
    long_objects(&store, &name("long"), &name("dropped")).await;
    assert_eq!(encryption_of(&name("long")).await.as_deref(), Some("AES256"));

    let mut listed: Vec<_> = store
        .list(&ObjectPrefix::Lineage(lineage))
        .map_ok(|object| object.name)
        .try_collect()
        .await
        .expect("listed");
    listed.sort_by_key(ToString::to_string);
    assert_eq!(listed, [name("a/ä b#1/../c"), name("first"), name("long")]);
    for name in &listed {
        store.delete(name).await.expect("deleted");
        store.delete(name).await.expect("deleted again");
        assert_eq!(store.head(name).await.expect_err("gone").kind(), ErrorKind::NotFound);
    }
}

async fn wait_until_ready(store: &Store, name: &ObjectName) {
    let deadline = Instant::now() + START_LIMIT;
    while let Err(error) = store.put(name, Bytes::from("x")).await {
        assert!(Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn small_objects(store: &Store, name: &ObjectName) {
    store.put_if_absent(name, Bytes::from("one")).await.expect("stored");
    store.put_if_absent(name, Bytes::from("one")).await.expect("the answer was lost, sent again");
    let error = store.put_if_absent(name, Bytes::from("two")).await.expect_err("other bytes");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    store.put(name, Bytes::from("three")).await.expect("overwritten");
    assert_eq!(store.get(name).await.expect("there").collect(10).await.expect("whole"), "three");
    assert_eq!(store.get_range(name, 1..3).await.expect("there").collect(10).await.expect("whole"), "hr");
    assert_eq!(store.head(name).await.expect("there").sealed_bytes, 5);
}

async fn long_objects(store: &Store, name: &ObjectName, dropped: &ObjectName) {
    let mut rng = StdRng::seed_from_u64(support::seed());
    let mut content = vec![0; (20 << 20) + 77];
    rng.fill_bytes(&mut content);
    let write = async |name: &ObjectName, content: &[u8], if_absent: bool| {
        let mut writer = store.writer(name, if_absent).await.expect("begun");
        for piece in content.chunks(700_001) {
            writer.write(Bytes::copy_from_slice(piece)).await.expect("written");
        }
        writer
    };
    let stored = write(name, &content, true).await.finish().await.expect("stored");
    assert_eq!(stored.sealed_bytes, content.len() as u64);
    assert_eq!(stored.sha256, holdfast_seal::sha256_hex(&content));
    let got = store.get(name).await.expect("there").collect(1 << 30).await.expect("whole");
    assert!(got == content);
    write(name, &content, true).await.finish().await.expect("the answer was lost, sent again");
    let mut other = content.clone();
    other[0] ^= 1;
    let error = write(name, &other, true).await.finish().await.expect_err("other bytes");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let got = store.get(name).await.expect("there").collect(1 << 30).await.expect("whole");
    assert!(got == content, "a create-only upload overwrote");
    write(name, &other, false).await.finish().await.expect("overwritten as asked");

    write(dropped, &content, true).await.abort().await;
    drop(write(dropped, &content, true).await);
    assert_eq!(store.head(dropped).await.expect_err("never").kind(), ErrorKind::NotFound);
}

/// What the server says of an object's encryption.
async fn encryption_of(name: &ObjectName) -> Option<String> {
    let listener = Listener::default();
    let client = AmazonS3Builder::from_env()
        .with_bucket_name(BUCKET)
        .with_allow_http(true)
        .with_http_connector(listener.clone())
        .build()
        .expect("a client");
    let path = object_store::path::Path::parse(format!("some/prefix/{}", name.to_path())).expect("a path");
    client.head(&path).await.expect("there");
    listener.encryption.lock().expect("no panic").clone()
}

#[derive(Debug, Clone, Default)]
struct Listener {
    encryption: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct ListeningClient {
    listener: Listener,
    inner: HttpClient,
}

impl HttpConnector for Listener {
    fn connect(&self, options: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(ListeningClient { listener: self.clone(), inner }))
    }
}

#[async_trait::async_trait]
impl HttpService for ListeningClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.inner.execute(request).await?;
        let header = response.headers().get("x-amz-server-side-encryption");
        let text = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
        *self.listener.encryption.lock().expect("no panic") = text;
        Ok(response)
    }
}
