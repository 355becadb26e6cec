//! What ends a run of the suite badly.

use std::error::Error;

pub type BoxError = Box<dyn Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, ConformanceError>;

/// The text says what was tried on what; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    #[error("cannot {doing}")]
    Control { doing: String, source: BoxError },
    #[error("cannot {asked}: HTTP {status}: {text}")]
    Refused { asked: String, status: u16, text: String },
    #[error("the answer to {asked} is not what the API promises: {because}")]
    Strange { asked: String, because: String },
    #[error("cannot {doing}")]
    Database { doing: String, source: BoxError },
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
    #[error("{what}: not within {seconds} s")]
    TooLate { what: String, seconds: u64 },
    /// A promise is broken.
    #[error("{what}: {why}")]
    Broken { what: String, why: String },
    #[error("there is no suite for {0}: this release restores it from backups only, or not at all")]
    NoSuite(holdfast_core::engine::EngineKind),
}

impl ConformanceError {
    pub(crate) fn database(doing: &str, source: impl Into<BoxError>) -> Self {
        Self::Database { doing: doing.to_owned(), source: source.into() }
    }

    pub(crate) fn broken(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Broken { what: what.into(), why: why.into() }
    }
}
