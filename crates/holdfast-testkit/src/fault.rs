//! What can go wrong between a client and an S3 server, and which requests each fault can meet.

use hyper::{Method, Uri};

/// One way in which the network or the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// 500 `InternalError`; nothing was done.
    ServerError,
    /// 503 `SlowDown`; nothing was done.
    SlowDown,
    /// 429; nothing was done.
    TooManyRequests,
    /// The connection ends in the middle of the request's body.
    ResetRequest,
    /// The connection ends in the middle of the answer's body.
    ResetAnswer,
    /// 200 with an XML error as its body, which S3 sends where completing a multipart upload failed late.
    ErrorInsideOk,
    /// The answer's body ends early, and its length header agrees.
    ShortAnswer,
    /// 1 KiB a second, both ways, for as long as [`crate::Proxy::slow_for`] says.
    Slow,
    /// An answer with an `ETag` that is not the object's.
    WrongEtag,
    /// One bit of an object is another one when it is read.
    FlippedBit,
    /// Carried out, and the answer never comes.
    LostAnswer,
    /// Neither carried out nor answered; the connection stays open.
    Hang,
    /// 403 `AccessDenied`.
    Forbidden,
    /// 507: no room for another object.
    Full,
    /// 403 on a delete: the object is locked.
    Locked,
    /// One bit of a body that is written is another one when it arrives.
    FlippedBitSent,
    /// The store never says that it encrypts.
    Unencrypted,
    /// The store does not know `If-None-Match`.
    Unconditional,
    /// 403 `RequestTimeTooSkewed`: the store's clock is 20 minutes further.
    WrongClock,
}

/// The faults of a bad day, each of which passes: what a client must live with by itself.
pub const PASSING: [Fault; 10] = [
    Fault::ServerError,
    Fault::SlowDown,
    Fault::TooManyRequests,
    Fault::ResetRequest,
    Fault::ResetAnswer,
    Fault::ErrorInsideOk,
    Fault::ShortAnswer,
    Fault::Slow,
    Fault::WrongEtag,
    Fault::FlippedBit,
];

/// A request as the proxy sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
}

impl Seen {
    #[must_use]
    pub(crate) fn new(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default().to_owned();
        Self { method: method.clone(), path: uri.path().to_owned(), query }
    }

    fn asks(&self, word: &str) -> bool {
        self.query.split('&').any(|part| part.split('=').next() == Some(word))
    }

    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.method == Method::GET && self.asks("list-type")
    }

    #[must_use]
    pub fn reads_object(&self) -> bool {
        self.method == Method::GET && self.query.is_empty()
    }

    /// A PUT of a whole object.
    #[must_use]
    pub fn puts_object(&self) -> bool {
        self.method == Method::PUT && !self.asks("partNumber")
    }

    #[must_use]
    pub fn puts_part(&self) -> bool {
        self.method == Method::PUT && self.asks("partNumber")
    }

    #[must_use]
    pub fn begins_upload(&self) -> bool {
        self.method == Method::POST && self.asks("uploads")
    }

    #[must_use]
    pub fn completes_upload(&self) -> bool {
        self.method == Method::POST && self.asks("uploadId")
    }

    #[must_use]
    pub fn deletes_object(&self) -> bool {
        (self.method == Method::DELETE && !self.asks("uploadId"))
            || (self.method == Method::POST && self.asks("delete"))
    }

    /// Anything that changes what lies in the bucket.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }
}

impl Fault {
    /// Whether the fault can meet such a request at all.
    #[must_use]
    pub fn can_meet(self, request: &Seen) -> bool {
        match self {
            Self::ServerError
            | Self::Unencrypted
            | Self::WrongClock
            | Self::SlowDown
            | Self::TooManyRequests
            | Self::Hang
            | Self::Forbidden => true,
            Self::ResetRequest => request.method == Method::PUT,
            Self::ResetAnswer | Self::ShortAnswer => request.reads_object(),
            Self::ErrorInsideOk => request.completes_upload(),
            Self::FlippedBitSent => request.puts_object() || request.puts_part(),
            Self::Unconditional => request.puts_object() || request.completes_upload(),
            Self::Slow => request.reads_object() || request.method == Method::PUT,
            Self::WrongEtag => request.reads_object() || request.puts_object() || request.puts_part(),
            Self::FlippedBit => request.reads_object(),
            Self::LostAnswer => request.writes(),
            Self::Full => request.puts_object() || request.puts_part() || request.begins_upload(),
            Self::Locked => request.deletes_object(),
        }
    }
}
