//! What users can do, free of HTTP: JSON handlers and dashboard pages call the same functions.
//!
//! Each function validates, decides with `holdfast-core`, and writes row and job to the catalog in one transaction;
//! what takes time is a job's business. Errors carry the text that the user reads.

pub mod backups;
mod check;
pub mod jobs;
pub mod keys;
pub mod metrics;
pub mod organizations;
pub mod pitr;
pub mod platform;
pub mod restore;
pub mod room;
mod service_input;
pub mod services;
pub mod users;

use holdfast_catalog::{CatalogError, ErrorKind as CatalogKind};
use holdfast_core::name::NameError;
use holdfast_core::retention::Now;
use holdfast_core::{OrganizationId, Timestamp};

use crate::ControlPlane;
use crate::vault::VaultError;

/// Who calls, and the organization that the call is about, if one was named.
#[derive(Debug, Clone)]
pub struct Caller {
    pub username: String,
    /// Creates go there (absent: to the personal one), lists show only its services (absent: all).
    pub active: Option<OrganizationId>,
}

/// Why something was not done. Unless said otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// What was asked for cannot be meant.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The state of things forbids it now.
    #[error("{0}")]
    Conflict(String),
    /// It could not be done now; trying again can help.
    #[error("{0}")]
    Unavailable(String),
    /// The disk of the data folder has no room for it.
    #[error("{0}")]
    NoRoom(String),
    #[error("the catalog is not available at the moment; try again")]
    CatalogBusy(#[source] CatalogError),
    #[error("the catalog failed")]
    Catalog(#[source] CatalogError),
    #[error("the vault failed")]
    Vault(#[source] VaultError),
    #[error("the stored input of job {job} is damaged")]
    JobInput {
        job: holdfast_core::JobId,
        #[source]
        source: serde_json::Error,
    },
}

/// What a caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Invalid,
    Forbidden,
    NotFound,
    Conflict,
    Unavailable,
    /// Somebody has to make room first.
    NoRoom,
    /// Ours: a human has to look.
    Internal,
}

impl AppError {
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Unavailable(_) | Self::CatalogBusy(_) => ErrorKind::Unavailable,
            Self::NoRoom(_) => ErrorKind::NoRoom,
            Self::Catalog(_) | Self::Vault(_) | Self::JobInput { .. } => ErrorKind::Internal,
        }
    }

    fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict(text.into())
    }
}

impl From<CatalogError> for AppError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NameTaken { name } => {
                Self::Conflict(format!("a service named {name:?} exists already"))
            }
            CatalogError::NotFound { what, .. } => Self::NotFound(what),
            CatalogError::Conflict { what, id, reason } => Self::Conflict(format!("{what} {id}: {reason}")),
            CatalogError::QuotaReached { quota } => Self::Conflict(format!(
                "this organization has {quota} services, as many as it may have: delete one, or let the operator raise \
                 max_services"
            )),
            other => match other.kind() {
                CatalogKind::Unavailable => Self::CatalogBusy(other),
                CatalogKind::DiskFull => Self::NoRoom(room::CATALOG_FULL.to_owned()),
                _ => Self::Catalog(other),
            },
        }
    }
}

impl From<VaultError> for AppError {
    fn from(error: VaultError) -> Self {
        match error {
            // Its file, or a rotation that was quicker: the one needs a person, the other another try.
            VaultError::MissingKek { .. } => Self::Unavailable(error.to_string()),
            other => Self::Vault(other),
        }
    }
}

impl From<NameError> for AppError {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The current instant, cut to the microseconds that the catalog keeps, so that an answer and what is read later agree.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// The same instant with how far things have aged.
async fn present(cp: &ControlPlane) -> Result<Now, AppError> {
    Ok(crate::jobs::scheduler::present(cp, now()).await?)
}
