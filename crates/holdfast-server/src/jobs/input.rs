//! What each kind of job is asked to do, as it lies in the catalog. No secret stands here in the clear: passwords are
//! wrapped by the vault, keys are named by id.

use holdfast_core::{BackupId, ServiceId, Timestamp};
use serde::{Deserialize, Serialize};

/// [`JobKind::Provision`](holdfast_core::job::JobKind::Provision): the service's row says the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Provision {}

/// [`JobKind::Backup`](holdfast_core::job::JobKind::Backup)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backup {
    pub backup_id: BackupId,
}

/// [`JobKind::Restore`](holdfast_core::job::JobKind::Restore); exactly one of `point` and `backup_id` is set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    pub source: ServiceId,
    pub point: Option<Timestamp>,
    pub backup_id: Option<BackupId>,
}

/// [`JobKind::ResetPassword`](holdfast_core::job::JobKind::ResetPassword)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetPassword {
    pub username: String,
    /// The new password, wrapped by [`Vault::wrap_secret`](crate::vault::Vault::wrap_secret), hex.
    pub wrapped_hex: String,
}

/// [`JobKind::RotateKeys`](holdfast_core::job::JobKind::RotateKeys)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotateKeys {
    /// Everything is to be wrapped by a KEK of a higher version than this; it is made if there is none.
    pub newer_than: u32,
}

/// Configure, stop, start and delete need nothing but the service; expire looks at everything itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Nothing {}
