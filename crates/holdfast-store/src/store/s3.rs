//! An S3 bucket as object store: `object_store`'s client, with server-side encryption (AES-256) asked for on every
//! write and multipart uploads that can be create-only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use hyper::header::{HeaderValue, IF_NONE_MATCH};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};

use crate::error::{Result, StoreError};

/// No byte for so long, and a request counts as hung and is tried again (R22). There is no limit on the whole of a
/// request: a restore may read as slowly as its disk writes.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Bucket {
    prefix: Path,
    /// Completes a multipart upload over whatever lies under its name.
    overwriting: Arc<AmazonS3>,
    /// Completes one only if nothing does.
    creating: Arc<AmazonS3>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Bucket {
    pub(super) fn open(url: &str, bucket: &str, prefix: &str) -> Result<Self> {
        if bucket.is_empty() {
            return Err(StoreError::Url { url: url.to_owned(), reason: "s3: needs a bucket" });
        }
        let prefix = Path::parse(prefix).map_err(|_| StoreError::Url {
            url: url.to_owned(),
            reason: "the prefix has an empty or dotted part",
        })?;
        // Only reachable by its name: the type of encryption keys is private in `object_store`.
        let server_side_encryption: AmazonS3ConfigKey =
            "aws_server_side_encryption".parse().expect("a documented configuration key");
        let build = |connector: CreateOnly| {
            let environment = AmazonS3Builder::from_env();
            let endpoint = environment.get_config_value(&AmazonS3ConfigKey::Endpoint).unwrap_or_default();
            let options = ClientOptions::new()
                .with_timeout_disabled()
                .with_read_timeout(SILENCE_LIMIT)
                .with_connect_timeout(CONNECT_LIMIT)
                .with_allow_http(endpoint.starts_with("http://"));
            environment
                .with_bucket_name(bucket)
                .with_client_options(options)
                .with_config(server_side_encryption, "AES256")
                .with_http_connector(connector)
                .build()
                .map(Arc::new)
                .map_err(|source| StoreError::store("opening", &url, source))
        };
        Ok(Self {
            prefix,
            overwriting: build(CreateOnly { multipart: false })?,
            creating: build(CreateOnly { multipart: true })?,
        })
    }

    pub(super) fn objects(&self, create_only: bool) -> Arc<dyn ObjectStore> {
        Arc::clone(if create_only { &self.creating } else { &self.overwriting }) as Arc<dyn ObjectStore>
    }

    pub(super) fn multipart(&self, create_only: bool) -> Arc<dyn MultipartStore> {
        Arc::clone(if create_only { &self.creating } else { &self.overwriting }) as Arc<dyn MultipartStore>
    }

    /// The key in the bucket of a path of the layout.
    pub(super) fn key(&self, path: &Path) -> Path {
        Path::from_iter(self.prefix.parts().chain(path.parts()))
    }

    /// The opposite of [`Bucket::key`]; `None` for a key outside of our prefix.
    pub(super) fn strip<'a>(&self, key: &'a Path) -> Option<&'a str> {
        if self.prefix.as_ref().is_empty() {
            return Some(key.as_ref());
        }
        key.as_ref().strip_prefix(self.prefix.as_ref())?.strip_prefix('/')
    }
}

/// Adds `If-None-Match: *` to the request that completes a multipart upload. S3 takes it there (CompleteMultipartUpload,
/// conditional writes), but `object_store` 0.14 asks for it only on single puts. The header may stand outside of the
/// signature: only `host` and `x-amz-*` must be signed.
#[derive(Debug, Clone, Copy)]
struct CreateOnly {
    multipart: bool,
}

impl HttpConnector for CreateOnly {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(if self.multipart { HttpClient::new(CreateOnlyClient { inner }) } else { inner })
    }
}

#[derive(Debug)]
struct CreateOnlyClient {
    inner: HttpClient,
}

#[async_trait]
impl HttpService for CreateOnlyClient {
    async fn call(&self, mut request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let completes = request.method() == Method::POST
            && request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|part| part.starts_with("uploadId=")));
        if completes {
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        self.inner.execute(request).await
    }
}
