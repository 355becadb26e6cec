//! Why the agent could not do something, and what of that the control plane is told.

use std::path::PathBuf;

use holdfast_core::ServiceId;
use holdfast_core::causes::chain;
use holdfast_core::disk::{Size, Space};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobError;
use holdfast_engines::EngineError;
use holdfast_fault::Injected;
use holdfast_gateway::{GatewayError, Trouble};
use holdfast_store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{doing}")]
    Engine {
        doing: String,
        #[source]
        source: Box<EngineError>,
    },
    #[error("cannot {doing}")]
    Store {
        doing: String,
        #[source]
        source: Box<StoreError>,
    },
    #[error(
        "{doing}: the object store holds damaged data: {what}. Next: choose another backup or an earlier point"
    )]
    Damaged { doing: &'static str, what: String },
    /// A tool failed because the object store failed it.
    #[error("{doing}: {trouble}")]
    Troubled { doing: &'static str, trouble: Trouble },
    #[error("cannot start the sealing gateway")]
    Gateway(#[source] GatewayError),
    #[error("cannot use {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot reach the control plane")]
    ControlPlane(#[source] reqwest::Error),
    #[error("the control plane answered {status} to {path}")]
    Refused { path: String, status: u16 },
    #[error("this host holds no instance of service {0}")]
    NoInstance(ServiceId),
    #[error("the instance of service {0} is whole and was not taken up; see the agent's log")]
    NotAdopted(ServiceId),
    #[error("service {0} is not running, so its latest log cannot be shipped")]
    NotRunning(ServiceId),
    #[error("cancelled")]
    Cancelled,
    #[error("this agent has no driver for {0}")]
    NoDriver(EngineKind),
    #[error("{0}")]
    Unusable(String),
    #[error(transparent)]
    Injected(#[from] Injected),
    #[error(
        "{doing} needs {needed} below {}, where {free} are free and {kept} of them kept: make room there and try again",
        folder.display(), needed = Size(*needed_bytes), free = Size(space.free_bytes), kept = Size(space.reserve_bytes())
    )]
    NoRoom { doing: &'static str, needed_bytes: u64, space: Space, folder: PathBuf },
    #[error(
        "the backup needs about {needed} in the object store, where {free} are free and {kept} of them kept: make room \
         there, or delete backups that are not needed, and try again",
        needed = Size(*needed_bytes), free = Size(space.free_bytes), kept = Size(space.reserve_bytes())
    )]
    StoreNoRoom { needed_bytes: u64, space: Space },
    #[error("the log archive had a gap while the backup was made; it is made anew")]
    GapInBackup,
    #[error("the log that goes with the backup is not archived: {what}")]
    LogNotArchived { what: String },
    #[error("the object store {0}")]
    StoreDiffers(String),
    #[error("{doing} met a defect of Holdfast itself; the agent's log says where, please report it")]
    Defect { doing: &'static str },
    #[error("{doing} took longer than {seconds} s")]
    TooLong { doing: &'static str, seconds: u64 },
}

impl AgentError {
    pub(crate) fn store(doing: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        let doing = doing.into();
        move |source| Self::Store { doing, source: Box::new(source) }
    }

    pub(crate) fn engine(doing: impl Into<String>) -> impl FnOnce(EngineError) -> Self {
        let doing = doing.into();
        move |source| Self::Engine { doing, source: Box::new(source) }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Engine { source, .. } => source.is_retryable(),
            Self::Injected(injected) => injected.retryable,
            Self::NoDriver(_) | Self::Unusable(_) | Self::Cancelled | Self::Damaged { .. } => false,
            Self::NoRoom { .. } | Self::StoreNoRoom { .. } => false,
            _ => true,
        }
    }

    fn cause(&self) -> &'static str {
        match self {
            Self::Engine { source, .. } => source.cause(),
            Self::Store { source, .. } => source.cause(),
            Self::Damaged { .. } => "damaged_object",
            Self::Gateway(_) => "gateway",
            Self::Troubled { trouble, .. } => trouble.cause,
            Self::StoreNoRoom { .. } => "store_full",
            Self::NoRoom { .. } => "disk_full",
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => "disk_full",
            Self::File { .. } => "file_system",
            Self::ControlPlane(_) | Self::Refused { .. } => "control_plane",
            Self::NoInstance(_) | Self::NotAdopted(_) => "no_instance",
            Self::NotRunning(_) => "not_running",
            Self::NoDriver(_) => "no_driver",
            Self::Cancelled => "cancelled",
            Self::Injected(_) => Injected::CAUSE,
            Self::Unusable(_) => "unusable",
            Self::GapInBackup => "log_gap",
            Self::LogNotArchived { .. } => "log_not_archived",
            Self::StoreDiffers(_) => "store_unconfirmed",
            Self::TooLong { .. } => "too_long",
            Self::Defect { .. } => "defect",
        }
    }

    /// The whole chain of causes in one sentence, and what to do, for the job's record.
    pub(crate) fn to_job_error(&self) -> JobError {
        let mut message = chain(self);
        let hint = match self {
            Self::Store { source, .. } => source.hint(),
            Self::Troubled { trouble, .. } => trouble.hint,
            _ => None,
        };
        if let Some(hint) = hint {
            message = format!("{message}. Next: {hint}");
        }
        JobError { cause: self.cause().to_owned(), message, retryable: self.is_retryable() }
    }
}
