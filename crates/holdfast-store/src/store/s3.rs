//! An S3 bucket as object store: `object_store`'s clients, with server-side encryption (AES-256) asked for on every
//! write, SHA-256 checksums, and writes that can be create-only ([`super::wire`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderValue;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{BackoffConfig, ClientOptions, HeaderMap, ObjectStore, RetryConfig};

use super::clock::StoreClock;
use super::limits::{Limits, StoreSettings};
use super::wire::Wire;
use crate::error::{Result, StoreError};

/// Pauses between tries begin with this and grow threefold at most, by a random part.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const PAUSES_GROW: f64 = 3.0;
/// How long a request of our own is good for.
const SIGNED_FOR: Duration = Duration::from_secs(300);

pub(super) struct Bucket {
    name: String,
    prefix: Path,
    /// Writes over whatever lies under a name; also lists and deletes.
    overwriting: Arc<AmazonS3>,
    /// Writes only where nothing lies.
    creating: Arc<AmazonS3>,
    /// Reads, and asks for checksums along with it.
    reading: Arc<AmazonS3>,
    /// For what `object_store` has no request.
    http: HttpClient,
    /// Whether the store must say that it encrypts.
    pub(super) encryption: Encryption,
    /// Whether SHA-256 checksums are asked for.
    pub(super) checksums: bool,
    pub(super) limits: Limits,
    pub(super) clock: Arc<StoreClock>,
    /// What it was opened with: the whole address, what of it follows `s3://`, and whose credentials.
    opened: (String, String, Vec<(&'static str, String)>),
}

/// Who encrypts at rest, beside our own sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Asked for on every write (SSE-S3), and confirmed by the store for every object.
    Asked,
    /// The operator says that the store sees to it: `?encryption=elsewhere`.
    Elsewhere,
}

/// What may stand behind the `?` of a store's address.
#[derive(Debug, Clone, Copy)]
struct Options {
    encryption: Encryption,
    checksums: bool,
}

impl Options {
    fn parse(text: &str) -> Option<Self> {
        let mut options = Self { encryption: Encryption::Asked, checksums: true };
        for part in text.split('&').filter(|part| !part.is_empty()) {
            match part {
                "encryption=aes256" => options.encryption = Encryption::Asked,
                "encryption=elsewhere" => options.encryption = Encryption::Elsewhere,
                "checksums=sha256" => options.checksums = true,
                "checksums=none" => options.checksums = false,
                _ => return None,
            }
        }
        Some(options)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens what stands behind `s3://`: `bucket/prefix?options`.
    pub(super) fn open(url: &str, place: &str, settings: &StoreSettings) -> Result<Self> {
        let (limits, whole) = (settings.limits, place);
        let wrong = |reason| StoreError::Url { url: url.to_owned(), reason };
        let (place, options) = place.split_once('?').unwrap_or((place, ""));
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        if name.is_empty() {
            return Err(wrong("s3: needs a bucket"));
        }
        let prefix = Path::parse(prefix).map_err(|_| wrong("the prefix has an empty or dotted part"))?;
        let options = Options::parse(options).ok_or_else(|| {
            wrong("behind the ? stand encryption=aes256|elsewhere and checksums=sha256|none")
        })?;
        let clock = Arc::new(StoreClock::default());
        let build = |create_only, headers| {
            let wire = Wire { create_only, limits, clock: Arc::clone(&clock) };
            client(name, options, &settings.environment, headers, wire)
                .map(Arc::new)
                .map_err(|source| StoreError::store("opening", &url, source))
        };
        let wire = Wire { create_only: false, limits, clock: Arc::clone(&clock) };
        let http = wire
            .connect(&client_options(&limits, HeaderMap::new(), true))
            .map_err(|source| StoreError::store("opening", &url, source))?;
        let mut with_checksums = HeaderMap::new();
        if options.checksums {
            with_checksums.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
        }
        Ok(Self {
            name: name.to_owned(),
            prefix,
            overwriting: build(false, HeaderMap::new())?,
            creating: build(true, HeaderMap::new())?,
            reading: build(false, with_checksums)?,
            http,
            encryption: options.encryption,
            checksums: options.checksums,
            limits,
            clock,
            opened: (url.to_owned(), whole.to_owned(), settings.environment.clone()),
        })
    }

    pub(super) fn with_limits(&self, limits: Limits) -> Result<Self> {
        let (url, place, environment) = &self.opened;
        Self::open(url, place, &StoreSettings { limits, environment: environment.clone() })
    }

    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.overwriting) as Arc<dyn ObjectStore>
    }

    /// To get and to head.
    pub(super) fn reader(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.reading) as Arc<dyn ObjectStore>
    }

    /// To put and to upload in parts. Its puts are "overwriting" ones for `object_store`, which then repeats them; the
    /// wire makes them create-only.
    pub(super) fn writer(&self, create_only: bool) -> Arc<AmazonS3> {
        Arc::clone(if create_only { &self.creating } else { &self.overwriting })
    }

    /// Asks for something of the bucket that `object_store` does not ask for, once.
    pub(super) async fn ask(
        &self,
        operation: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<HttpResponse> {
        self.send(operation, Method::GET, &Path::default(), parameters, HeaderMap::new(), Bytes::new()).await
    }

    /// Sends a signed request that `object_store` does not have, once; `Ok` is a success.
    pub(super) async fn send(
        &self,
        operation: &'static str,
        method: Method,
        key: &Path,
        parameters: &[(&str, &str)],
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpResponse> {
        let wrap = |source| self.error(operation, key, source);
        let mut signed = SignedUrlOptions::new().with_query(parameters.iter().copied());
        signed.signed_headers = headers.clone();
        let url =
            self.overwriting.signed_url_opts(method.clone(), key, SIGNED_FOR, &signed).await.map_err(wrap)?;
        let mut request = HttpRequest::new(HttpRequestBody::from(body));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        *request.uri_mut() = url.as_str().parse().expect("a URL is a URI");
        let generic = |error| object_store::Error::Generic { store: "S3", source: Box::new(error) };
        self.http.execute(request).await.map_err(|error| wrap(generic(error)))
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

    /// An error of `object_store`, understood as well as can be.
    pub(super) fn error(
        &self,
        operation: &'static str,
        object: &impl ToString,
        source: object_store::Error,
    ) -> StoreError {
        StoreError::store_at(operation, object, source, self.clock.ahead())
    }
}

fn client(
    bucket: &str,
    options: Options,
    environment: &[(&'static str, String)],
    headers: HeaderMap,
    wire: Wire,
) -> object_store::Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env();
    for (name, value) in environment {
        builder = builder.with_config(name.to_lowercase().parse()?, value);
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint).unwrap_or_default();
    let client_options = client_options(&wire.limits, headers, endpoint.starts_with("http://"));
    if options.encryption == Encryption::Asked {
        // Only reachable by its name: the type of encryption keys is private in `object_store`.
        let key = "aws_server_side_encryption".parse().expect("a documented configuration key");
        builder = builder.with_config(key, "AES256");
    }
    if options.checksums {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    // Bounded by time alone: a number of tries would be used up within seconds of a store that refuses at once.
    let backoff = BackoffConfig {
        init_backoff: FIRST_PAUSE,
        max_backoff: wire.limits.longest_pause(),
        base: PAUSES_GROW,
    };
    let retry = RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: wire.limits.retry_for };
    builder
        .with_bucket_name(bucket)
        .with_client_options(client_options)
        .with_retry(retry)
        // One object at a time: fewer stores know the other request, and its answer is a 200 whatever happened.
        .with_disable_bulk_delete(true)
        .with_http_connector(wire)
        .build()
}

fn client_options(limits: &Limits, headers: HeaderMap, allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        // The wire has the deadlines.
        .with_timeout_disabled()
        .with_connect_timeout(limits.connect)
        .with_default_headers(headers)
        .with_allow_http(allow_http)
}
