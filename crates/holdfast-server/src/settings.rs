//! What the control plane was told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::SignedDuration;

/// Checked settings; the binary makes them from file, environment and flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Data folder, mode 0700: catalog, keys, agent state, local object store.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// `file:///…` or `s3://bucket/prefix`.
    pub store_url: String,
    /// Largest request body that is read, in bytes.
    pub max_body_bytes: usize,
    /// Living services that an organization may have before it is refused another; restores are not, they may be all
    /// that is left of a service.
    pub max_services: Option<u32>,
    /// Days that automated backups are listed, and days that a restore point reaches back.
    pub policy: holdfast_core::retention::Policy,
    /// Days after which the scheduler replaces the key-encryption key; 0: only on command.
    pub kek_rotation_days: u32,
    /// Where tests make steps fail; nowhere.
    pub faults: holdfast_fault::FaultPoints,
}

impl Settings {
    /// The age at which the key-encryption key is replaced; `None`: only on command.
    #[must_use]
    pub fn kek_rotation(&self) -> Option<SignedDuration> {
        let days = i64::from(self.kek_rotation_days);
        (days > 0).then(|| SignedDuration::from_hours(days * 24))
    }
}
