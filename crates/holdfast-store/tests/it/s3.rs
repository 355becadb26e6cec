//! The store on a real S3 server: SeaweedFS, from `scripts/engines.sh s3`. `HOLDFAST_REQUIRE_S3=1` makes it a must.
//!
//! The store takes its credentials from the environment, so the checks run in a process of their own.

use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_core::{LineageId, OrganizationId, ServiceId};
use holdfast_store::{ErrorKind, LineageScope, ObjectName, ObjectPrefix, RepositoryPath, Store};
use holdfast_testkit::S3Server;
use holdfast_testkit::s3::BUCKET;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use rand::RngCore;

#[tokio::test]
async fn the_store_works_on_s3() {
    let Some(server) = S3Server::start().await.expect("the server starts") else { return };
    let identity = server.identity().await.expect("an identity");
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "s3::checks_on_s3", "--ignored", "--nocapture"])
        .envs(identity.environment(server.port()))
        .output()
        .expect("the checks run");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Run by the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the test above, which starts it"]
async fn checks_on_s3() {
    let store = Store::open(&format!("s3://{BUCKET}/some/prefix")).expect("opens");
    let lineage = LineageScope {
        organization: OrganizationId::random(),
        service: ServiceId::random(),
        lineage: LineageId::random(),
    };
    let name =
        |path: &str| ObjectName::Repository { lineage, path: RepositoryPath::new(path).expect("a path") };
    store.put(&name("first"), Bytes::from("x")).await.expect("stored");
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
    let mut rng = holdfast_testkit::seed::generator("s3");
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
