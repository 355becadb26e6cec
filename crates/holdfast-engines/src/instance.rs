//! Where an instance lives, and how its driver finds its way in its folder.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::RunAs;

/// Where an instance lives and what it is to be. Everything that a driver needs, nothing that it may decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The instance's own folder; its parts below are named by [`Paths`].
    pub folder: PathBuf,
    /// The tool's name for the service; also shown in the engine's process titles.
    pub stanza: String,
    pub version: String,
    pub listen: IpAddr,
    pub port: u16,
    /// Whom the engine runs as; `None` when the agent itself is unprivileged.
    pub run_as: Option<RunAs>,
    pub memory_mib: u64,
    pub max_connections: u32,
    pub allowed_cidrs: Vec<String>,
    /// Of an engine whose bases a tool keeps. Records of other engines have one too where they are from before 2026-12; it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryAccess>,
}

impl Instance {
    /// Where a server listens that tells users apart and no networks: a list of networks is kept by listening on the loopback address
    /// alone, or cannot be kept at all (`core::engine` refuses those).
    pub(crate) fn bind(&self) -> IpAddr {
        let is_loopback = |cidr: &String| cidr.starts_with("127.") || cidr.starts_with("::1");
        let loopback_only = !self.allowed_cidrs.is_empty() && self.allowed_cidrs.iter().all(is_loopback);
        if loopback_only { Ipv4Addr::LOCALHOST.into() } else { self.listen }
    }

    /// Where clients on this host come to such a server.
    pub(crate) fn reached_at(&self) -> IpAddr {
        match self.bind() {
            any if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            address => address,
        }
    }
}

/// How the engine's own backup tool reaches the sealing gateway.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RepositoryAccess {
    pub gateway_port: u16,
    pub gateway_ca_file: PathBuf,
    pub access_key: String,
    pub secret_key: String,
    pub cipher_passphrase: String,
}

impl std::fmt::Debug for RepositoryAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryAccess").field("gateway_port", &self.gateway_port).finish_non_exhaustive()
    }
}

/// The parts of an instance's folder.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'a>(pub &'a Path);

impl Paths<'_> {
    #[must_use]
    pub fn data(self) -> PathBuf {
        self.0.join("data")
    }
    /// Configuration that the engine's user may read and not write.
    #[must_use]
    pub fn conf(self) -> PathBuf {
        self.0.join("conf")
    }
    #[must_use]
    pub fn log(self) -> PathBuf {
        self.0.join("log")
    }
    #[must_use]
    pub fn lock(self) -> PathBuf {
        self.0.join("lock")
    }
    #[must_use]
    pub fn spool(self) -> PathBuf {
        self.0.join("spool")
    }
    /// Log for a restore that the repository does not have; there only meanwhile.
    #[must_use]
    pub fn tail(self) -> PathBuf {
        self.0.join("tail")
    }
    /// Folder of the unix socket. Its path must stay below the kernel's 108 bytes (unix(7)), so a deep instance folder
    /// gets a short one in the system's folder for temporary files.
    #[must_use]
    pub fn run(self) -> PathBuf {
        const LONGEST: usize = 85;
        let natural = self.0.join("run");
        if natural.as_os_str().len() <= LONGEST {
            return natural;
        }
        let name = self.0.file_name().and_then(|n| n.to_str()).unwrap_or("instance");
        std::env::temp_dir().join(format!("holdfast-{name}"))
    }
}
