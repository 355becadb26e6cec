//! A byte that flips between the tool and the gateway is refused, whichever checksum the tool sends.

use crate::support::{Bench, Tenant};
use base64::Engine as _;
use bytes::Bytes;
use holdfast_gateway::BUCKET;
use hyper::header::HeaderValue;
use md5::{Digest, Md5};
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};

/// What happens to a PUT after the client has signed it.
#[derive(Debug, Clone, Copy, Default)]
struct Meddler {
    flip: bool,
    /// The Content-MD5 of these bytes is added.
    md5_of: Option<&'static [u8]>,
    old_signature: bool,
}

impl HttpConnector for Meddler {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(MeddlingClient { meddler: *self, inner }))
    }
}

#[derive(Debug)]
struct MeddlingClient {
    meddler: Meddler,
    inner: HttpClient,
}

#[async_trait::async_trait]
impl HttpService for MeddlingClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut head, body) = request.into_parts();
        let body = if self.meddler.flip {
            // "content", the only body that this test sends, with one bit changed.
            Bytes::from_static(b"bontent").into()
        } else {
            body
        };
        if let Some(bytes) = self.meddler.md5_of {
            let digest = base64::engine::general_purpose::STANDARD.encode(Md5::digest(bytes));
            head.headers.insert("content-md5", HeaderValue::from_str(&digest).expect("base64"));
        }
        if self.meddler.old_signature {
            head.headers.insert("authorization", HeaderValue::from_static("AWS x:y"));
        }
        self.inner.execute(HttpRequest::from_parts(head, body)).await
    }
}

async fn put(bench: &Bench, tenant: &Tenant, unsigned: bool, meddler: Meddler) -> Result<(), String> {
    let client = AmazonS3Builder::new()
        .with_endpoint(format!("https://localhost:{}", bench.gateway.local_addr().port()))
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(&tenant.access_key)
        .with_secret_access_key(&tenant.secret_key)
        .with_unsigned_payload(unsigned)
        .with_client_options(ClientOptions::new().with_allow_invalid_certificates(true))
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_http_connector(meddler)
        .build()
        .expect("a client");
    let path = Path::from("repo/backup/db/x");
    let result = client.put(&path, "content".into()).await;
    let stored = bench.client(tenant).head(&path).await.is_ok();
    assert_eq!(result.is_ok(), stored, "the answer and the store differ");
    bench.client(tenant).delete(&path).await.expect("deleted");
    result.map(drop).map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes_are_refused() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let honest = Meddler::default();
    let (right, wrong): (&[u8], &[u8]) = (b"content", b"contend");
    put(&bench, &tenant, false, honest).await.expect("signed and whole");
    put(&bench, &tenant, false, Meddler { md5_of: Some(right), ..honest }).await.expect("and with its MD5");
    put(&bench, &tenant, true, Meddler { md5_of: Some(right), ..honest })
        .await
        .expect("with nothing but its MD5");
    let rows = [
        (false, Meddler { flip: true, ..honest }, "BadDigest"),
        (false, Meddler { flip: true, md5_of: Some(right), ..honest }, "BadDigest"),
        (false, Meddler { md5_of: Some(wrong), ..honest }, "BadDigest"),
        (true, Meddler { flip: true, md5_of: Some(right), ..honest }, "BadDigest"),
        (true, honest, "AccessDenied"),
        (true, Meddler { old_signature: true, md5_of: Some(right), ..honest }, "InvalidAccessKeyId"),
    ];
    for (unsigned, meddler, code) in rows {
        let error = put(&bench, &tenant, unsigned, meddler).await.expect_err("meddled with");
        assert!(error.contains(code), "{meddler:?}: {error}");
    }
    let files = bench.files();
    assert!(files.is_empty(), "{files:?}");
}
