//! Jobs of the control plane: their inputs, the steps that run here, and the hand-over of the others to agents.
//!
//! The queue in the catalog is the truth. [`runner`] leases what runs here, [`grant`] equips what agents lease, [`settle`]
//! records what follows when a job has ended, [`scheduler`] asks for what is due, [`describe`] keeps the bucket's own
//! description of each service.

pub mod agents;
pub mod describe;
mod expiry;
pub mod fallback;
pub mod grant;
pub mod input;
pub mod repository;
pub mod rotation;
pub mod runner;
pub mod scheduler;
pub mod settle;
pub mod steps;
pub mod wrappings;

use holdfast_catalog::CatalogError;
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobError};
use holdfast_fault::Injected;
use holdfast_store::StoreError;
use serde::de::DeserializeOwned;

use crate::vault::VaultError;

/// Why a step of the control plane's failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("the catalog did not answer")]
    Catalog(#[from] CatalogError),
    #[error("a key could not be had")]
    Vault(#[from] VaultError),
    #[error("the object store did not take a key")]
    Store(#[from] StoreError),
    #[error("the object store did not take the keys that the step needs within {seconds} s")]
    Slow { seconds: u64 },
    #[error("the restore is no longer possible: {0}")]
    Refused(#[from] holdfast_core::window::RestoreRefusal),
    #[error("job {job} waits for a restore that reads what is to be removed")]
    Busy { job: String },
    #[error("wrapped keys are being written to the object store; the removal of some is tried again later")]
    KeysBusy,
    /// A rotation could not come to its end; nothing is lost by that. `passing`: another try can help.
    #[error("version {version} of the key-encryption key is kept: {why}")]
    KekKept { version: u32, why: String, passing: bool },
    #[error("job {job} would remove what backup {backup} builds on; the next look plans anew")]
    Outdated { job: String, backup: String },
    #[error("job {job} lacks {what}")]
    Incomplete { job: String, what: String },
    #[error(transparent)]
    Injected(#[from] Injected),
}

impl StepError {
    /// For the job's record: cause, the whole chain as a sentence, and whether another try can help.
    #[must_use]
    pub fn to_job_error(&self) -> JobError {
        let (cause, retryable) = match self {
            Self::Catalog(_) => ("catalog", true),
            // A KEK that was retired after its wrapping was read is no longer asked for at the next try.
            Self::Vault(VaultError::MissingKek { .. }) => ("vault", true),
            Self::Vault(_) => ("vault", false),
            Self::Store(source) => (source.cause(), true),
            Self::Slow { .. } => ("store_unreachable", true),
            Self::Refused(_) => ("restore_refused", false),
            Self::Busy { .. } => ("restore_reads", true),
            Self::KeysBusy => ("keys_busy", true),
            Self::KekKept { passing, .. } => ("kek_kept", *passing),
            Self::Outdated { .. } => ("outdated_plan", false),
            Self::Incomplete { .. } => ("incomplete", false),
            Self::Injected(injected) => (Injected::CAUSE, injected.retryable),
        };
        let mut message = chain(self);
        if let Self::Store(source) = self
            && let Some(hint) = source.hint()
        {
            message = format!("{message}. Next: {hint}");
        }
        JobError { cause: cause.to_owned(), message, retryable }
    }

    /// Whether it has to do with the catalog or the store as a whole, and not with the thing at hand.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Catalog(_) => true,
            Self::Store(error) => error.kind() != holdfast_store::ErrorKind::AlreadyExists,
            _ => false,
        }
    }
}

/// The job's input as what it must be.
pub(crate) fn input_of<T: DeserializeOwned>(job: &Job) -> Result<T, StepError> {
    serde_json::from_value(job.input.clone()).map_err(|error| StepError::Incomplete {
        job: job.id.to_string(),
        what: format!("a fitting input: {error}"),
    })
}

/// What an earlier step of the job found out.
pub(crate) fn output_of<T: DeserializeOwned>(job: &Job, step: &str) -> Result<T, StepError> {
    let value = job.outputs.get(step).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| StepError::Incomplete {
        job: job.id.to_string(),
        what: format!("the outcome of {step}: {error}"),
    })
}
