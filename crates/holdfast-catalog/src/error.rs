//! What can go wrong with the catalog, and what a caller may do about it.

use std::path::PathBuf;

use holdfast_core::JobId;

/// The result of everything in this crate.
pub type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// An error of the catalog. Unless said otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot create the catalog file {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the catalog {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot bring the catalog {path} to this release's shape")]
    Migrate {
        path: PathBuf,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error("the name {name:?} is taken")]
    NameTaken { name: String },
    #[error("the organization has {quota} services, as many as it may have")]
    QuotaReached { quota: u32 },
    #[error("the catalog knows no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {id}: {reason}")]
    Conflict { what: &'static str, id: String, reason: &'static str },
    /// The worker is no longer (or not yet) the one that holds the job. It must stop and touch nothing more.
    #[error("generation {generation} does not hold job {job}")]
    Stale { job: JobId, generation: i64 },
    /// Somebody else kept writing the same row; another try can help.
    #[error("{what} {id} kept changing while it was being updated")]
    Contended { what: &'static str, id: String },
    /// Somebody wrapped it just before the KEK was retired; wrapped anew it will be taken.
    #[error("version {version} of the key-encryption key is retired, nothing may be wrapped by it any more")]
    RetiredKek { version: u32 },
    #[error("{what} cannot be stored: {reason}")]
    Invalid { what: &'static str, reason: String },
    #[error("the catalog's column {column} holds {reason}")]
    Corrupt { column: &'static str, reason: String },
    #[error("the catalog's database failed while {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
}

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Choose another name.
    NameTaken,
    NotFound,
    /// The state of things forbids it now.
    Conflict,
    /// The caller has been fenced off: drop the work.
    Stale,
    /// Try again later: the database was busy or its disk refused.
    Unavailable,
    /// Make room on the catalog's disk first.
    DiskFull,
    /// A defect or a damaged catalog; a human has to look.
    Internal,
}

impl CatalogError {
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NameTaken { .. } => ErrorKind::NameTaken,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict { .. } | Self::QuotaReached { .. } => ErrorKind::Conflict,
            Self::Stale { .. } => ErrorKind::Stale,
            Self::Contended { .. } | Self::RetiredKek { .. } => ErrorKind::Unavailable,
            Self::Database { source, .. } => match source {
                sqlx::Error::Database(error) if error.code().is_some_and(|code| is_disk_full(&code)) => {
                    ErrorKind::DiskFull
                }
                sqlx::Error::Database(_) | sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            },
            Self::Create { .. } | Self::Open { .. } | Self::Migrate { .. } => ErrorKind::Unavailable,
            Self::Invalid { .. } | Self::Corrupt { .. } => ErrorKind::Internal,
        }
    }
}

/// SQLITE_FULL (13), by its extended result code (sqlite.org/rescode.html). A write-ahead log that cannot grow says so too.
fn is_disk_full(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| code & 0xff == 13)
}

/// Names what we were doing when the database failed.
pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> CatalogError {
    move |source| CatalogError::Database { doing, source }
}

pub(crate) fn not_found(what: &'static str, id: impl ToString) -> CatalogError {
    CatalogError::NotFound { what, id: id.to_string() }
}

/// Whether the database refused a write because of a unique index.
pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.is_unique_violation())
}

/// Whether the database refused a write because what it points to does not exist.
pub(crate) fn is_foreign_key_violation(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.is_foreign_key_violation())
}
