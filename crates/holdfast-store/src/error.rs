//! What can go wrong with the object store, and what a caller may do about it.

use std::path::PathBuf;

use holdfast_core::KeyId;

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
    #[error("cannot use the sealing gateway's certificate: {reason}")]
    Certificate { reason: String },
    #[error("cannot listen on {address} for the sealing gateway")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
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
            Self::Unconfirmed { .. } | Self::Listen { .. } => ErrorKind::Transient,
            Self::Url { .. }
            | Self::TooLarge { .. }
            | Self::Seal { .. }
            | Self::OtherKey { .. }
            | Self::Certificate { .. } => ErrorKind::Permanent,
        }
    }

    /// Wraps an error of the `object_store` crate.
    pub(crate) fn store(
        operation: &'static str,
        object: &impl ToString,
        source: object_store::Error,
    ) -> Self {
        match kind_of_store_error(&source) {
            ErrorKind::NotFound => Self::NotFound { object: object.to_string() },
            ErrorKind::AlreadyExists => Self::AlreadyExists { object: object.to_string() },
            ErrorKind::Transient | ErrorKind::Permanent => {
                Self::Store { operation, object: object.to_string(), source }
            }
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
            find_io_error(source.as_ref()).map_or(ErrorKind::Transient, kind_of_io_error)
        }
        E::JoinError { .. } => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    }
}

fn find_io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        current = error.source();
    }
    None
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
