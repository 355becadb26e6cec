//! What can go wrong with the object store, and what a caller may do about it.

use std::path::PathBuf;

use holdfast_core::KeyId;
use jiff::SignedDuration;
use object_store::client::HttpError;

use crate::store::{Answer, Refusal, WireError};
use holdfast_core::disk::Size;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// Another object lies under this write-once name.
    AlreadyExists,
    /// Trying again later may help: network, a busy or failing store, a full disk.
    Transient,
    /// Trying again as it is will not help: permission, configuration, damage.
    Permanent,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{url:?} is no object store: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("{operation} {object} in the object store")]
    Store {
        operation: &'static str,
        object: String,
        #[source]
        source: object_store::Error,
    },
    /// The store answered, and did not do it.
    #[error("{operation} {object} in the object store: {refusal}")]
    Refused {
        operation: &'static str,
        object: String,
        refusal: Refusal,
        #[source]
        answer: Answer,
    },
    /// No answer came, or it broke off, however often we asked.
    #[error("{operation} {object}: the object store cannot be reached")]
    Unreachable {
        operation: &'static str,
        object: String,
        #[source]
        source: Unanswered,
    },
    #[error("{operation} {object} in the object store: there are no credentials")]
    NoCredentials {
        operation: &'static str,
        object: String,
        #[source]
        source: object_store::Error,
    },
    #[error("the object store does not confirm that it encrypted {object}: it says {}", found.as_deref().unwrap_or("nothing"))]
    NotEncrypted { object: String, found: Option<String> },
    #[error("{object} was begun {seconds} s ago; an upload that takes so long is given up")]
    TooOld { object: String, seconds: u64 },
    #[error("{operation} {} in the local object store", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{object} is not in the object store")]
    NotFound { object: String },
    #[error("{object} is already in the object store with other content")]
    AlreadyExists { object: String },
    #[error("{object} has {found} bytes in the object store, {sent} were sent")]
    Unconfirmed { object: String, sent: u64, found: u64 },
    #[error("{object} has {found} bytes in the object store and was read as if it had {told}")]
    OtherLength { object: String, told: u64, found: u64 },
    #[error("{object} has checksum {found} in the object store, {sent} was sent")]
    OtherChecksum { object: String, sent: String, found: String },
    /// Nothing was begun: the rest is kept for cleaning up.
    #[error("the object store's disk is full: {free} free, {kept} are kept for cleaning up", free = Size(*free_bytes), kept = Size(*kept_bytes))]
    Full { free_bytes: u64, kept_bytes: u64 },
    #[error("{object} has more than {limit} bytes")]
    TooLarge { object: String, limit: u64 },
    #[error("cannot seal or open {object}")]
    Seal {
        object: String,
        #[source]
        source: holdfast_seal::SealError,
    },
    #[error("{object} is sealed with key {found}, not with {expected}")]
    OtherKey { object: String, expected: KeyId, found: KeyId },
    #[error("cannot open {object}: {reason}")]
    NoKey { object: String, reason: String },
    #[error("cannot read {object}: {problem}")]
    Document { object: String, problem: String },
}

/// What the network said in the end. The layers above it repeat it, each with the whole request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

impl Unanswered {
    fn to(error: &dyn std::error::Error) -> Self {
        let mut innermost = error;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        Self(innermost.to_string())
    }
}

impl StoreError {
    /// What a caller may do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Store { source, .. } => kind_of_store_error(source),
            Self::Io { source, .. } => kind_of_io_error(source),
            Self::Refused { refusal, .. } => refusal.kind(),
            Self::Unconfirmed { .. }
            | Self::OtherLength { .. }
            | Self::OtherChecksum { .. }
            | Self::Unreachable { .. }
            | Self::TooOld { .. }
            | Self::Full { .. } => ErrorKind::Transient,
            Self::Url { .. }
            | Self::TooLarge { .. }
            | Self::NotEncrypted { .. }
            | Self::NoCredentials { .. }
            | Self::Seal { .. }
            | Self::OtherKey { .. }
            | Self::NoKey { .. }
            | Self::Document { .. } => ErrorKind::Permanent,
        }
    }

    /// The word for programs: what a job's record says, whatever the text says to people.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Refused { refusal, .. } => refusal.cause(),
            Self::Unreachable { .. } => "store_unreachable",
            Self::NoCredentials { .. } => Refusal::Credentials.cause(),
            Self::NotEncrypted { .. } => "store_not_encrypted",
            Self::Unconfirmed { .. } | Self::OtherChecksum { .. } => "store_unconfirmed",
            _ if self.is_full() => "store_full",
            _ => "object_store",
        }
    }

    /// What a person does next, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.hint()),
            Self::NoCredentials { .. } => Some(Refusal::Credentials.hint()),
            Self::Unreachable { .. } => {
                Some("check AWS_ENDPOINT_URL, AWS_REGION, the network and whether the store runs")
            }
            Self::NotEncrypted { .. } => Some(
                "let the store encrypt with AES-256 (SSE-S3); if it encrypts all that it holds in another way, say so by \
                 ?encryption=elsewhere at the end of store_url",
            ),
            _ if self.is_full() => Some("make room on the object store's disk"),
            Self::Io { .. } => Some("check the folder's owner and permissions"),
            _ => None,
        }
    }

    /// Whether the store, or a quota on it, has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Refused { refusal, .. } => *refusal == Refusal::Full,
            Self::Io { source, .. } => is_full(source),
            Self::Store { source, .. } => find(source).is_some_and(is_full),
            _ => false,
        }
    }

    /// Wraps an error of the `object_store` crate.
    pub(crate) fn store(
        operation: &'static str,
        object: &impl ToString,
        source: object_store::Error,
    ) -> Self {
        Self::store_at(operation, object, source, None)
    }

    /// The same, given how far our clock is ahead of the store's.
    pub(crate) fn store_at(
        operation: &'static str,
        object: &impl ToString,
        source: object_store::Error,
        ahead: Option<SignedDuration>,
    ) -> Self {
        let object = object.to_string();
        if let Some(answer) = find::<Answer>(&source) {
            let answer = answer.clone();
            return Self::Refused { operation, object, refusal: answer.refusal(ahead), answer };
        }
        if matches!(find(&source), Some(WireError::NoCredentials)) {
            return Self::NoCredentials { operation, object, source };
        }
        match kind_of_store_error(&source) {
            ErrorKind::NotFound => Self::NotFound { object },
            ErrorKind::AlreadyExists => Self::AlreadyExists { object },
            _ if find::<HttpError>(&source).is_some() => {
                Self::Unreachable { operation, object, source: Unanswered::to(&source) }
            }
            ErrorKind::Transient | ErrorKind::Permanent => Self::Store { operation, object, source },
        }
    }
}

fn kind_of_store_error(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => ErrorKind::NotFound,
        // A refused `If-None-Match: *` is how S3 says that the name is taken.
        E::AlreadyExists { .. } | E::Precondition { .. } => ErrorKind::AlreadyExists,
        E::Generic { source, .. } => {
            find::<std::io::Error>(source.as_ref()).map_or(ErrorKind::Transient, kind_of_io_error)
        }
        E::JoinError { .. } => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    }
}

/// The first cause of this type.
fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        current = error.source();
    }
    None
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as E;
    matches!(error.kind(), E::StorageFull | E::QuotaExceeded)
}

fn kind_of_io_error(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => ErrorKind::NotFound,
        E::PermissionDenied
        | E::ReadOnlyFilesystem
        | E::NotADirectory
        | E::InvalidFilename
        | E::Unsupported => ErrorKind::Permanent,
        _ => ErrorKind::Transient,
    }
}
