//! What stands between `object_store` and the network, for each single request:
//!
//! - a deadline for the answer, and a least speed for what is read (R22);
//! - errors of the store as [`Answer`]s, also those inside a 200; those that pass are repeated by `object_store`, with
//!   growing pauses. Everything that we send may be repeated: writes are whole objects or numbered parts;
//! - `If-None-Match: *` on writes that must not replace anything, puts and completed uploads alike. It may stand outside of
//!   the signature, where only `host` and `x-amz-*` must be;
//! - the checksum that the store has of a body, compared with the one we sent;
//! - how far the store's clock is away from ours (T17);
//! - what the store says of an object's encryption, handed up as [`Facts`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION};
use hyper::{Method, Response, StatusCode};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use tokio::time::{Instant, Sleep};

use super::answer::Answer;
use super::clock::StoreClock;
use super::limits::Limits;

pub(super) const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const ENCRYPTION: HeaderName = HeaderName::from_static("x-amz-server-side-encryption");
/// Where clouds give credentials to their machines.
const METADATA_SERVICES: &str = "169.254.";

/// What the headers of an answer say of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `AES256`, `aws:kms`; `None` when the store says nothing.
    pub(super) encryption: Option<String>,
    /// SHA-256 in base64; with a `-` and a number it is one over the parts.
    pub(super) checksum: Option<String>,
}

/// Why a request came to nothing without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("only {got} bytes came in {} s", over.as_secs())]
    TooSlow { got: u64, over: Duration },
    #[error("the store's checksum of what it received is another one")]
    OtherChecksum,
    #[error("AWS_ACCESS_KEY_ID is not set, and no cloud gives this machine credentials")]
    NoCredentials,
}

/// Makes the clients of a bucket.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) create_only: bool,
    pub(super) limits: Limits,
    pub(super) clock: Arc<StoreClock>,
}

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(WireClient { inner, wire: self.clone() }))
    }
}

#[derive(Debug)]
struct WireClient {
    inner: HttpClient,
    wire: Wire,
}

/// What a request asks for, as far as it is treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Read,
    PutObject,
    CompleteUpload,
    Other,
}

impl Asked {
    fn of(request: &HttpRequest) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let names = |word: &str| query.split('&').any(|part| part.split('=').next() == Some(word));
        match *request.method() {
            Method::GET => Self::Read,
            Method::PUT if !names("partNumber") => Self::PutObject,
            Method::POST if names("uploadId") => Self::CompleteUpload,
            _ => Self::Other,
        }
    }
}

#[async_trait]
impl HttpService for WireClient {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limits = &self.wire.limits;
        let asked = Asked::of(&request);
        if self.wire.create_only && matches!(asked, Asked::PutObject | Asked::CompleteUpload) {
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let sent_checksum = request.headers().get(&CHECKSUM).cloned();
        let metadata = request.uri().host().is_some_and(|host| host.starts_with(METADATA_SERVICES));
        let patience = match asked {
            Asked::CompleteUpload => limits.joining,
            _ => limits.patience(request.body().content_length() as u64),
        };
        let answered = match tokio::time::timeout(patience, self.inner.execute(request)).await {
            Ok(answered) => answered.map_err(|error| match error.kind() {
                HttpErrorKind::Connect if metadata => {
                    HttpError::new(HttpErrorKind::Unknown, WireError::NoCredentials)
                }
                HttpErrorKind::Connect => error,
                _ => HttpError::new(HttpErrorKind::Request, error),
            }),
            Err(_) => Err(HttpError::new(HttpErrorKind::Request, WireError::NoAnswer(patience))),
        };
        let response = paced(answered?, asked, limits, patience);
        if metadata {
            return Ok(response);
        }
        self.wire.clock.note(response.headers());
        let mut response = only_success(asked, response).await?;
        let facts = facts(response.headers());
        if let (Some(sent), Some(found)) = (&sent_checksum, &facts.checksum)
            && asked != Asked::CompleteUpload
            && sent.as_bytes() != found.as_bytes()
        {
            return Err(HttpError::new(HttpErrorKind::Request, WireError::OtherChecksum));
        }
        response.extensions_mut().insert(facts);
        Ok(response)
    }
}

fn facts(headers: &HeaderMap) -> Facts {
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    Facts { encryption: text(&ENCRYPTION), checksum: text(&CHECKSUM) }
}

/// Turns what is no success into an [`Answer`], but for "not there" and "is there already", which `object_store` names.
async fn only_success(asked: Asked, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let status = response.status();
    let plain = match status {
        StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED => true,
        _ if status.is_redirection() => response.headers().contains_key(LOCATION),
        _ => status.is_success() && asked != Asked::CompleteUpload,
    };
    if plain {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = body.bytes().await.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
    let answer = if status.is_success() {
        Answer::inside_success(status, &body)
    } else {
        let answer = Answer::new(status, &body);
        let is_object =
            status == StatusCode::NOT_FOUND && answer.code != "NoSuchBucket" && answer.code != "NoSuchUpload";
        (!is_object).then_some(answer)
    };
    let Some(answer) = answer else { return Ok(Response::from_parts(head, body.into())) };
    // A put that met another one at the same name may be repeated; parts have to be sent anew by the writer.
    let conflict = status == StatusCode::CONFLICT && asked == Asked::PutObject;
    let repeat = answer.is_worth_repeating() || conflict;
    Err(HttpError::new(if repeat { HttpErrorKind::Request } else { HttpErrorKind::Unknown }, answer))
}

fn paced(response: HttpResponse, asked: Asked, limits: &Limits, patience: Duration) -> HttpResponse {
    let (head, body) = response.into_parts();
    // While it joins parts, S3 sends a blank now and then: only silence counts there.
    let (window, least) = match asked {
        Asked::Read => (limits.silence, limits.slowest_bytes_per_second * limits.silence.as_secs().max(1)),
        _ => (patience, 1),
    };
    let paced = Paced { inner: body, window, least, waited: Duration::ZERO, got: 0, waiting: None };
    Response::from_parts(head, HttpResponseBody::new(paced))
}

/// A body that ends with an error when, of the time that was spent waiting for it, one window brought too little.
struct Paced {
    inner: HttpResponseBody,
    window: Duration,
    /// Bytes that a window must bring.
    least: u64,
    /// Waited so far in this window, and what came.
    waited: Duration,
    got: u64,
    /// Since when we wait now, and the end of the window if nothing comes.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Paced {
    /// Ends the window when it is used up; an error when it brought too little.
    fn turn(&mut self) -> Result<(), HttpError> {
        if self.waited < self.window {
            return Ok(());
        }
        let got = std::mem::take(&mut self.got);
        let over = std::mem::take(&mut self.waited);
        if got < self.least {
            return Err(HttpError::new(HttpErrorKind::Timeout, WireError::TooSlow { got, over }));
        }
        Ok(())
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
                if let Some((since, _)) = self.waiting.take() {
                    self.waited += since.elapsed();
                }
                if let Some(Ok(frame)) = &frame {
                    self.got += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                if frame.is_some()
                    && let Err(error) = self.turn()
                {
                    return Poll::Ready(Some(Err(error)));
                }
                return Poll::Ready(frame);
            }
            let left = self.window.saturating_sub(self.waited);
            let (_, end) =
                self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
            if end.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.waiting = None;
            self.waited = self.window;
            if let Err(error) = self.turn() {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
