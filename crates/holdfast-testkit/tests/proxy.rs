//! Each fault of the proxy happens, is counted, and goes; without faults nothing of the proxy is seen.

use std::time::{Duration, Instant};

use holdfast_testkit::{Fault, Proxy, S3Server};
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;

const CONTENT: &[u8; 5000] = &[7; 5000];

async fn read(client: &AmazonS3, path: &Path) -> Option<Vec<u8>> {
    Some(client.get(path).await.ok()?.bytes().await.ok()?.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_happens_is_counted_and_goes() {
    let Some(server) = S3Server::start().await.expect("the server starts") else { return };
    let proxy = Proxy::start(server.port()).await.expect("the proxy starts");
    let identity = server.identity().await.expect("an identity");
    // It shows what it meets instead of trying again.
    let client = identity.bucket(proxy.port()).expect("a client");
    let path = Path::from("an/object with a space+");
    let put = async || client.put(&path, CONTENT.as_slice().into()).await;
    put().await.expect("stored");
    assert_eq!(read(&client, &path).await.as_deref(), Some(CONTENT.as_slice()));
    assert_eq!(client.head(&path).await.expect("there").size, CONTENT.len() as u64);

    use Fault as F;
    for fault in [
        F::ServerError,
        F::SlowDown,
        F::TooManyRequests,
        F::Forbidden,
        F::ResetRequest,
        F::Full,
        F::LostAnswer,
    ] {
        proxy.inject_where(fault, Some(1), |request| request.puts_object());
        assert!(put().await.is_err(), "{fault:?}");
        assert_eq!(proxy.count(fault), 1, "{fault:?}");
        put().await.expect("it happens once");
    }
    for fault in [F::ResetAnswer, F::ShortAnswer, F::FlippedBit] {
        proxy.inject(fault);
        assert_ne!(read(&client, &path).await.as_deref(), Some(CONTENT.as_slice()), "{fault:?}");
        proxy.heal();
        assert_eq!(read(&client, &path).await.as_deref(), Some(CONTENT.as_slice()), "{fault:?}");
    }
    proxy.inject(F::WrongEtag);
    let before = server.bucket().expect("a client").head(&path).await.expect("there").e_tag;
    assert_ne!(put().await.expect("stored").e_tag, before);
    proxy.heal();
    proxy.inject(F::Locked);
    assert!(client.delete(&path).await.is_err());
    proxy.heal();

    let started = Instant::now();
    proxy.slow_for(Duration::from_secs(2));
    proxy.inject(F::Slow);
    assert_eq!(read(&client, &path).await.as_deref(), Some(CONTENT.as_slice()));
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    proxy.heal();

    proxy.inject(F::ErrorInsideOk);
    let id = client.create_multipart(&path).await.expect("begun");
    let part = client.put_part(&path, &id, 0, CONTENT.as_slice().into()).await.expect("sent");
    let completed = client.complete_multipart(&path, &id, vec![part]).await;
    assert!(completed.is_err() && proxy.count(F::ErrorInsideOk) > 0);
    proxy.heal();

    proxy.inject(F::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(1), put()).await.is_err());
    proxy.heal();
    proxy.go_away().await;
    assert!(put().await.is_err());
    proxy.come_back().await.expect("back");
    put().await.expect("back");

    server.revoke(&identity).await.expect("revoked");
    assert!(put().await.is_err(), "revoked");
    server.grant(&identity).await.expect("granted");
    put().await.expect("granted again");
    assert_eq!(server.object_names("an").await.expect("listed"), [path.to_string()]);
    assert!(proxy.ensure_encrypted().is_err(), "this client asks for no encryption");
}
