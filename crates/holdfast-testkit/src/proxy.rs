//! A faulty network: a reverse proxy in front of an S3 server that lets [`Fault`]s meet requests, switched while it runs.
//!
//! Requests are forwarded as they came, `Host` included, so that their signatures stay valid. It counts what it did to
//! whom, so that a test can show that its faults really happened.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::fault::{Fault, Seen};

const SLOW_BYTES_PER_SECOND: usize = 1024;

type AnswerBody = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;
type Chosen = dyn Fn(&Seen) -> bool + Send + Sync;

/// A running proxy; it ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// `None` during an outage.
    listening: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    upstream: u16,
    state: Mutex<State>,
}

struct State {
    rules: Vec<Rule>,
    random: StdRng,
    slow_for: Duration,
    injected: BTreeMap<Fault, usize>,
    requests: usize,
    /// Writes that did not ask for encryption, and objects read that are not encrypted.
    unencrypted: Vec<String>,
    encrypted: usize,
}

/// Lets one of `faults` meet a chosen request, by chance.
struct Rule {
    faults: Vec<Fault>,
    chance: f64,
    chosen: Box<Chosen>,
    /// How often still; `None` without end.
    left: Option<usize>,
}

impl Proxy {
    /// Listens in front of the server at `upstream`, without faults.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: u16) -> Result<Self> {
        let state = State {
            rules: Vec::new(),
            random: StdRng::seed_from_u64(0),
            slow_for: Duration::from_secs(3),
            injected: BTreeMap::new(),
            requests: 0,
            unencrypted: Vec::new(),
            encrypted: 0,
        };
        let shared = Arc::new(Shared { upstream, state: Mutex::new(state) });
        // A reserved one: nobody takes it during an outage.
        let port = crate::ports::reserve()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, listening: Mutex::new(Some(task)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every request that the fault can meet meets it.
    pub fn inject(&self, fault: Fault) {
        self.inject_where(fault, None, |_| true);
    }

    /// As [`Self::inject`], for the requests that `chosen` picks, `times` times or without end.
    pub fn inject_where(
        &self,
        fault: Fault,
        times: Option<usize>,
        chosen: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) {
        let rule = Rule { faults: vec![fault], chance: 1.0, chosen: Box::new(chosen), left: times };
        self.shared.state().rules.push(rule);
    }

    /// From now on each request meets one of the faults that can meet it with this chance, by a generator of this seed.
    pub fn inject_at_random(&self, seed: u64, chance: f64, faults: &[Fault]) {
        let mut state = self.shared.state();
        state.random = StdRng::seed_from_u64(seed);
        state.rules.push(Rule { faults: faults.to_vec(), chance, chosen: Box::new(|_| true), left: None });
    }

    /// How long [`Fault::Slow`] holds a request before the rest passes at full speed.
    pub fn slow_for(&self, limit: Duration) {
        self.shared.state().slow_for = limit;
    }

    /// No faults from now on. What hangs goes on hanging until its client gives up.
    pub fn heal(&self) {
        self.shared.state().rules.clear();
    }

    /// The whole store is away: connections are refused and those that were open break.
    pub async fn go_away(&self) {
        let task = self.listening().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await; // it was cancelled
        }
    }

    /// Ends [`Self::go_away`].
    ///
    /// # Errors
    /// When the port cannot be had again.
    pub async fn come_back(&self) -> Result<()> {
        ensure!(self.listening().is_none(), "the proxy is not away");
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.context("listen again")?;
        *self.listening() = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }

    /// How often each fault has met a request.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<Fault, usize> {
        self.shared.state().injected.clone()
    }

    /// How often this fault has met a request.
    #[must_use]
    pub fn count(&self, fault: Fault) -> usize {
        self.shared.state().injected.get(&fault).copied().unwrap_or(0)
    }

    /// Requests seen, with and without faults.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.state().requests
    }

    /// Every write asked for server-side encryption (AES256), and every object that was read back has it.
    ///
    /// # Errors
    /// When one did not, or nothing was seen.
    pub fn ensure_encrypted(&self) -> Result<usize> {
        let state = self.shared.state();
        ensure!(state.unencrypted.is_empty(), "without server-side encryption: {:?}", state.unencrypted);
        ensure!(state.encrypted > 0, "no write and no read was seen");
        Ok(state.encrypted)
    }

    fn listening(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.listening().take() {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that meets this request.
    fn draw(&self, request: &Seen) -> Option<Fault> {
        let mut state = self.state();
        let State { rules, random, injected, requests, .. } = &mut *state;
        *requests += 1;
        for rule in rules {
            let able: Vec<Fault> =
                rule.faults.iter().copied().filter(|fault| fault.can_meet(request)).collect();
            let due = !able.is_empty() && rule.left != Some(0) && (rule.chosen)(request);
            if due && random.random_bool(rule.chance) {
                rule.left = rule.left.map(|left| left - 1);
                let fault = able[random.random_range(0..able.len())];
                *injected.entry(fault).or_default() += 1;
                return Some(fault);
            }
        }
        None
    }

    fn note_encryption(&self, what: &Seen, headers: &hyper::HeaderMap) {
        let found = headers.get("x-amz-server-side-encryption").and_then(|value| value.to_str().ok());
        let mut state = self.state();
        if found == Some("AES256") {
            state.encrypted += 1;
        } else {
            state.unencrypted.push(format!("{} {}", what.method, what.path));
        }
    }
}

/// Ends with the task; so do all its connections.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let serve = hyper::service::service_fn(move |request| answer(Arc::clone(&shared), request));
            // Its end, good or bad, is the client's to see.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}

/// An error breaks the connection.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<AnswerBody>> {
    let seen = Seen::new(request.method(), request.uri());
    if seen.puts_object() || seen.begins_upload() {
        shared.note_encryption(&seen, request.headers());
    }
    let fault = shared.draw(&seen);
    match fault {
        Some(Fault::ServerError) => refuse(request, 500, "InternalError").await,
        Some(Fault::SlowDown) => refuse(request, 503, "SlowDown").await,
        Some(Fault::TooManyRequests) => refuse(request, 429, "TooManyRequests").await,
        Some(Fault::ErrorInsideOk) => refuse(request, 200, "InternalError").await,
        Some(Fault::Forbidden | Fault::Locked) => refuse(request, 403, "AccessDenied").await,
        Some(Fault::Full) => refuse(request, 507, "InsufficientStorage").await,
        Some(Fault::WrongClock) => {
            let mut answer = refuse(request, 403, "RequestTimeTooSkewed").await?;
            let later = std::time::SystemTime::now() + Duration::from_secs(20 * 60);
            let date = jiff::Timestamp::try_from(later).map_err(io::Error::other)?;
            let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            answer.headers_mut().insert(DATE, HeaderValue::from_str(&date).map_err(io::Error::other)?);
            Ok(answer)
        }
        Some(Fault::ResetRequest) => {
            let _ = request.into_body().frame().await;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(Fault::Hang) => std::future::pending().await,
        _ => {
            let (mut head, body) = request.into_parts();
            if fault == Some(Fault::Unconditional) {
                head.headers.remove(IF_NONE_MATCH);
            }
            let limit = shared.state().slow_for;
            let slow = (fault == Some(Fault::Slow)).then_some(limit);
            let mut body = read(body, slow).await?;
            if fault == Some(Fault::FlippedBitSent) {
                body = flip_a_bit(&body);
            }
            let (answer, body) = forward(&shared, head, body).await?;
            if seen.reads_object() && answer.status.is_success() {
                shared.note_encryption(&seen, &answer.headers);
            }
            spoil(&shared, &seen, fault, answer, body)
        }
    }
}

/// Takes the whole body first, as a server does that fails late; a client that is still sending would not look.
async fn refuse(request: Request<Incoming>, status: u16, code: &str) -> io::Result<Response<AnswerBody>> {
    let is_head = request.method() == Method::HEAD;
    read(request.into_body(), None).await?;
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected by the test</Message></Error>"
    );
    let body = if is_head { Bytes::new() } else { Bytes::from(xml) };
    let status = StatusCode::from_u16(status).map_err(io::Error::other)?;
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(answer)
}

async fn read(mut body: Incoming, slow: Option<Duration>) -> io::Result<Bytes> {
    let began = tokio::time::Instant::now();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        whole.extend_from_slice(&data);
        if let Some(limit) = slow {
            let due = Duration::from_secs((whole.len() / SLOW_BYTES_PER_SECOND) as u64).min(limit);
            tokio::time::sleep_until(began + due).await;
        }
    }
    Ok(whole.into())
}

async fn forward(
    shared: &Shared,
    head: hyper::http::request::Parts,
    body: Bytes,
) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let stream = TcpStream::connect(("127.0.0.1", shared.upstream)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::from_parts(head, Full::<Bytes>::new(body));
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = answer.into_parts();
    let body = read(body, None).await?;
    connection.abort();
    Ok((head, body))
}

/// Does to a good answer what the fault does.
fn spoil(
    shared: &Shared,
    seen: &Seen,
    fault: Option<Fault>,
    mut head: hyper::http::response::Parts,
    mut body: Bytes,
) -> io::Result<Response<AnswerBody>> {
    // Bodies that have a length keep it: a HEAD's is not its own body's.
    if seen.method != Method::HEAD {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        head.headers.remove(hyper::header::TRANSFER_ENCODING);
    }
    let good = head.status.is_success();
    let body = match fault.filter(|_| good) {
        Some(Fault::LostAnswer) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::ResetAnswer) => {
            let first = body.split_to(body.len() / 2);
            let broken = Err(io::ErrorKind::ConnectionReset.into());
            StreamBody::new(stream::iter([Ok(Frame::data(first)), broken]).boxed())
        }
        Some(Fault::ShortAnswer) => {
            body.truncate(body.len() / 2);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            whole(body)
        }
        Some(Fault::WrongEtag) => {
            let wrong = format!("\"{:032x}\"", rand::random::<u128>());
            head.headers.insert(ETAG, HeaderValue::from_str(&wrong).map_err(io::Error::other)?);
            whole(body)
        }
        Some(Fault::FlippedBit) => whole(flip_a_bit(&body)),
        Some(Fault::Unencrypted) => {
            head.headers.remove("x-amz-server-side-encryption");
            whole(body)
        }
        Some(Fault::Slow) => slowly(body, shared.state().slow_for),
        _ => whole(body),
    };
    Ok(Response::from_parts(head, body))
}

fn flip_a_bit(body: &[u8]) -> Bytes {
    let mut bytes = body.to_vec();
    if !bytes.is_empty() {
        let (at, bit) = (rand::random_range(0..bytes.len()), rand::random_range(0..8));
        bytes[at] ^= 1 << bit;
    }
    bytes.into()
}

fn whole(body: Bytes) -> AnswerBody {
    let frame = (!body.is_empty()).then_some(Ok(Frame::data(body)));
    StreamBody::new(stream::iter(frame).boxed())
}

/// 1 KiB a second for as long as `limit`, then the rest.
fn slowly(body: Bytes, limit: Duration) -> AnswerBody {
    let deadline = tokio::time::Instant::now() + limit;
    let pieces = stream::unfold(body, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        let slow = tokio::time::Instant::now() < deadline;
        let piece =
            if slow { left.split_to(left.len().min(SLOW_BYTES_PER_SECOND)) } else { left.split_off(0) };
        if slow {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Some((Ok::<_, Infallible>(Frame::data(piece)), left))
    });
    StreamBody::new(pieces.map(|piece| piece.map_err(|never| match never {})).boxed())
}
