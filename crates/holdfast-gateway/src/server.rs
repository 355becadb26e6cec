//! The gateway's listener: TLS, connections and shutdown.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_store::Store;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Credentials, Guard};
use crate::error::GatewayError;
use crate::repository::Repository;
use crate::service::SealingService;
use crate::uploads::Uploads;

/// A client that does not finish its handshake or its request's head in so long is let go (R22).
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a shutdown waits for requests at work.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How often idle multipart uploads are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Where the gateway listens, and as whom.
#[derive(Clone)]
pub struct GatewayConfig {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificate chain, leaf first.
    pub certificate_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("key_pem", &"redacted")
            .finish_non_exhaustive()
    }
}

/// A running gateway. Cheap to clone; it runs until [`Gateway::shutdown`].
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

struct Shared {
    local_addr: SocketAddr,
    credentials: Credentials,
    uploads: Arc<Uploads>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("local_addr", &self.shared.local_addr).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Binds and starts to serve. No credential is known yet: everything is refused until [`Gateway::register`].
    pub async fn start(config: GatewayConfig, store: Store) -> Result<Self, GatewayError> {
        let tls = tls_acceptor(&config)?;
        let listen = |source| GatewayError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let credentials = Credentials::default();
        let uploads = Arc::new(Uploads::default());
        let service = {
            let s3 = SealingService::new(store, credentials.clone(), Arc::clone(&uploads));
            let mut builder = S3ServiceBuilder::new(s3);
            builder.set_auth(credentials.clone());
            builder.set_access(Guard::new(credentials.clone()));
            builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(any_time()))));
            builder.build()
        };
        let shared = Arc::new(Shared {
            local_addr,
            credentials,
            uploads: Arc::clone(&uploads),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(accept(listener, tls, service, shared.stopping.clone(), shared.tasks.clone()));
        shared.tasks.spawn(sweep(uploads, shared.stopping.clone()));
        Ok(Self { shared })
    }

    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Lets a credential in, or replaces what it may see.
    pub fn register(&self, repository: Repository) {
        self.shared.credentials.insert(repository);
    }

    /// Refuses a credential from now on. Its requests at work may finish, its open uploads are given up.
    pub fn unregister(&self, access_key: &str) {
        self.shared.credentials.remove(access_key);
        self.shared.uploads.drop_of(access_key);
    }

    /// Stops listening, waits a little for requests at work, gives up open uploads and ends.
    pub async fn shutdown(self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("the sealing gateway stopped with requests still at work");
        }
        self.shared.uploads.abort_all();
    }
}

async fn sweep(uploads: Arc<Uploads>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => uploads.sweep(std::time::Instant::now()),
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: S3Service,
    stopping: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(serve(stream, tls.clone(), service.clone(), stopping.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must finish first.
                tracing::warn!(%error, "the sealing gateway cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A signature's date is not compared with the clock: who signs is on this host and has the same one, requests come
/// over TLS on loopback, so there is nothing to replay, and a clock that is being set must not stop the archive.
fn any_time() -> S3Config {
    let mut config = S3Config::default();
    config.presigned_url_max_skew_time_secs = u32::MAX;
    config
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, service: S3Service, stopping: CancellationToken) {
    // pgBackRest reads a bundle's files by one small request each; Nagle's algorithm would hold every answer for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the sealing gateway's answers may be late");
    }
    let stream = match tokio::time::timeout(HEAD_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake with the sealing gateway failed"),
        Err(_) => return tracing::debug!("a TLS handshake with the sealing gateway took too long"),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection to the sealing gateway ended early"
        );
    }
}

fn tls_acceptor(config: &GatewayConfig) -> Result<TlsAcceptor, GatewayError> {
    let refuse = |reason: String| GatewayError::Certificate { reason };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(config.certificate_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| refuse(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes())
        .map_err(|error| refuse(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| refuse(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
