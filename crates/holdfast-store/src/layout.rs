//! Where everything lies in the bucket. Nobody else builds or takes apart an object's name.
//!
//! ```text
//! v1/<organization>/<service>/key/<key>/<kek version>            a data key wrapped by that KEK
//! v1/<organization>/<service>/key/<key>/recovery                 the same key wrapped by the recovery key
//! v1/<organization>/<service>/description/<number>               what the service is
//! v1/<organization>/<service>/<lineage>/repository/<path>        a file of the backup tool's repository, sealed
//! v1/<organization>/<service>/<lineage>/info/<path>/<generation> a generation of a rewritten file of the repository
//! v1/<organization>/<service>/<lineage>/log/<timeline>/<from>-<to>  a shipped piece of log
//! v1/<organization>/<service>/<lineage>/backup/<backup>/<try>/<path>  a stream of a backup
//! v1/<organization>/<service>/<lineage>/manifest/<backup>        a backup's manifest
//! v1/<organization>/<service>/<lineage>/tombstone/<backup>       what stays of a deleted backup
//! v1/<organization>/<service>/<lineage>/coverage/<number>        coverage and gaps of the log archive
//! v1/<organization>/<service>/<lineage>/time-map/<number>        which position the log had at which time
//! ```
//! Ids are UUIDs in their canonical spelling, numbers have 20 decimal digits and timelines 8, positions 16,
//! hexadecimal ones, so that names sort as numbers do. Names are never reused (R16, R19).

use std::fmt;
use std::str::FromStr;

use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_seal::{ObjectContext, ObjectKind};
use object_store::path::Path;

use crate::repository::classify;

pub use crate::repository_path::{InvalidPath, RepositoryPath};

/// Version of the layout; the first part of each name.
pub const LAYOUT_VERSION: &str = "v1";

/// Where `holdfast check store` writes what it removes again; never read otherwise.
pub(crate) const PROBES: &str = "probe";

const KEY: &str = "key";
const RECOVERY: &str = "recovery";
const DESCRIPTION: &str = "description";
const REPOSITORY: &str = "repository";
const INFO: &str = "info";
const LOG: &str = "log";
const BACKUP: &str = "backup";
const SHARED: &str = "shared";
const MANIFEST: &str = "manifest";
const TOMBSTONE: &str = "tombstone";
const COVERAGE: &str = "coverage";
const TIME_MAP: &str = "time-map";

/// A name that a check of the store writes to for a moment.
pub(crate) fn probe(id: uuid::Uuid, name: &str) -> Path {
    Path::parse(format!("{PROBES}/{id}/{name}")).expect("names of checks are legal in a path")
}

/// All names of one check.
pub(crate) fn probe_folder(id: uuid::Uuid) -> Path {
    Path::from_iter([PROBES, &id.to_string()])
}

/// A service's place in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceScope {
    pub organization: OrganizationId,
    pub service: ServiceId,
}

/// A lineage's place in the bucket: all that one life of a service's data ever stores lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineageScope {
    pub organization: OrganizationId,
    pub service: ServiceId,
    pub lineage: LineageId,
}

impl LineageScope {
    /// The service that the lineage belongs to.
    #[must_use]
    pub fn service_scope(&self) -> ServiceScope {
        ServiceScope { organization: self.organization, service: self.service }
    }
}

impl fmt::Display for ServiceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LAYOUT_VERSION}/{}/{}", self.organization, self.service)
    }
}

impl fmt::Display for LineageScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service_scope(), self.lineage)
    }
}

/// The name of an object in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// A write-once file of a backup tool's repository.
    Repository { lineage: LineageScope, path: RepositoryPath },
    /// One generation of a file that the tool rewrites. The highest number is the file's content.
    InfoGeneration { lineage: LineageScope, path: RepositoryPath, generation: u64 },
    /// A stream of a base backup that Holdfast itself stores. Each try to make the backup has a random number, so that
    /// no name is used twice.
    BackupObject { lineage: LineageScope, backup: BackupId, attempt: u64, path: RepositoryPath },
    /// A blob that several base backups share, called after its key, which each of their manifests carries.
    Shared { lineage: LineageScope, key: KeyId },
    /// A piece of log shipped by ourselves, `[from, to)`: in the engine's own coordinates where these count bytes
    /// (PostgreSQL), otherwise in bytes of the lineage's log since its beginning, on timeline 0.
    LogPiece { lineage: LineageScope, timeline: u32, from: u64, to: u64 },
    /// A backup's manifest: written last and only once, so a backup without one does not exist (R14).
    BackupManifest { lineage: LineageScope, backup: BackupId },
    /// Left in a deleted backup's place, so that a legal deletion differs from a loss.
    Tombstone { lineage: LineageScope, backup: BackupId },
    /// Coverage and gaps of the log archive; the highest number counts.
    Coverage { lineage: LineageScope, sequence: u64 },
    /// A piece of the map from time to position.
    TimeMap { lineage: LineageScope, sequence: u64 },
    /// A data key wrapped by a version of the key-encryption key.
    Key { service: ServiceScope, key: KeyId, kek_version: u32 },
    /// A data key wrapped by the public half of the recovery key.
    KeyRecovery { service: ServiceScope, key: KeyId },
    /// What the service is, for a rebuild of the catalog from the bucket; the highest number counts.
    ServiceDescription { service: ServiceScope, sequence: u64 },
}

/// A group of objects to list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectPrefix {
    /// Everything in this layout.
    All,
    Organization(OrganizationId),
    Service(ServiceScope),
    Lineage(LineageScope),
    /// The write-once files of a repository, below a folder of it if given.
    Repository {
        lineage: LineageScope,
        folder: Option<RepositoryPath>,
    },
    /// The generations of all rewritten files of a repository, or of one.
    Info {
        lineage: LineageScope,
        path: Option<RepositoryPath>,
    },
    Log(LineageScope),
    /// The streams of all backups, or of one, all its tries.
    BackupObjects {
        lineage: LineageScope,
        backup: Option<BackupId>,
    },
    /// The blobs that backups share.
    Shared(LineageScope),
    Manifests(LineageScope),
    Tombstones(LineageScope),
    Coverage(LineageScope),
    TimeMap(LineageScope),
    /// All wrapped keys of a service, or all wrappings of one.
    Keys {
        service: ServiceScope,
        key: Option<KeyId>,
    },
    Descriptions(ServiceScope),
}

/// The text in the bucket is no name of this layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no object name of this layout")]
pub struct InvalidName(pub String);

impl ObjectName {
    /// The path in the object store, below the store's own prefix.
    #[must_use]
    pub fn to_path(&self) -> Path {
        Path::parse(self.to_string()).expect("ids, digits and encoded repository paths are legal in a path")
    }

    /// The part of the name below its lineage's (or service's) folder: what a sealed object is bound to besides
    /// organization, service and lineage.
    #[must_use]
    pub fn relative(&self) -> String {
        match self {
            Self::Repository { path, .. } => format!("{REPOSITORY}/{path}"),
            Self::InfoGeneration { path, generation, .. } => format!("{INFO}/{path}/{generation:020}"),
            Self::LogPiece { timeline, from, to, .. } => {
                format!("{LOG}/{timeline:08x}/{from:016x}-{to:016x}")
            }
            Self::BackupObject { backup, attempt, path, .. } => {
                format!("{BACKUP}/{backup}/{attempt:016x}/{path}")
            }
            Self::Shared { key, .. } => format!("{SHARED}/{key}"),
            Self::BackupManifest { backup, .. } => format!("{MANIFEST}/{backup}"),
            Self::Tombstone { backup, .. } => format!("{TOMBSTONE}/{backup}"),
            Self::Coverage { sequence, .. } => format!("{COVERAGE}/{sequence:020}"),
            Self::TimeMap { sequence, .. } => format!("{TIME_MAP}/{sequence:020}"),
            Self::Key { key, kek_version, .. } => format!("{KEY}/{key}/{kek_version}"),
            Self::KeyRecovery { key, .. } => format!("{KEY}/{key}/{RECOVERY}"),
            Self::ServiceDescription { sequence, .. } => format!("{DESCRIPTION}/{sequence:020}"),
        }
    }

    /// The lineage that the object belongs to; `None` for what belongs to the service as a whole.
    #[must_use]
    pub fn lineage(&self) -> Option<&LineageScope> {
        match self {
            Self::Repository { lineage, .. }
            | Self::InfoGeneration { lineage, .. }
            | Self::LogPiece { lineage, .. }
            | Self::BackupObject { lineage, .. }
            | Self::Shared { lineage, .. }
            | Self::BackupManifest { lineage, .. }
            | Self::Tombstone { lineage, .. }
            | Self::Coverage { lineage, .. }
            | Self::TimeMap { lineage, .. } => Some(lineage),
            Self::Key { .. } | Self::KeyRecovery { .. } | Self::ServiceDescription { .. } => None,
        }
    }

    /// What the object is sealed as, given who owns it (`docs/format.md`); `None` for wrapped keys, which are not
    /// sealed. The context's name is [`ObjectName::relative`].
    #[must_use]
    pub fn context(&self, owner: &str) -> Option<ObjectContext> {
        let kind = match self {
            Self::Repository { path, .. } => classify(path.as_str()).sealed_kind(),
            Self::InfoGeneration { .. } => ObjectKind::RepositoryInfo,
            Self::LogPiece { .. } => ObjectKind::Log,
            Self::BackupObject { .. } => ObjectKind::BackupFile,
            Self::Shared { .. } => ObjectKind::Shared,
            Self::BackupManifest { .. } => ObjectKind::Manifest,
            Self::Tombstone { .. } => ObjectKind::Tombstone,
            Self::Coverage { .. } => ObjectKind::Coverage,
            Self::TimeMap { .. } => ObjectKind::TimeMap,
            Self::ServiceDescription { .. } => ObjectKind::Service,
            Self::Key { .. } | Self::KeyRecovery { .. } => return None,
        };
        let service = self.service();
        Some(ObjectContext {
            organization: service.organization.to_string(),
            service: service.service.to_string(),
            lineage: self.lineage().map(|scope| scope.lineage.to_string()).unwrap_or_default(),
            owner: owner.to_owned(),
            kind,
            name: self.relative(),
        })
    }

    /// The service that the object belongs to.
    #[must_use]
    pub fn service(&self) -> ServiceScope {
        match self {
            Self::Key { service, .. }
            | Self::KeyRecovery { service, .. }
            | Self::ServiceDescription { service, .. } => *service,
            _ => self.lineage().expect("all other names belong to a lineage").service_scope(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lineage() {
            Some(lineage) => write!(f, "{lineage}/{}", self.relative()),
            None => write!(f, "{}/{}", self.service(), self.relative()),
        }
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;

    /// Accepts exactly what [`ObjectName::to_path`] writes: one object, one name.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = parse(text).ok_or_else(|| InvalidName(text.to_owned()))?;
        if name.to_string() == text { Ok(name) } else { Err(InvalidName(text.to_owned())) }
    }
}

fn parse(text: &str) -> Option<ObjectName> {
    let mut parts = text.splitn(5, '/');
    if parts.next()? != LAYOUT_VERSION {
        return None;
    }
    let service =
        ServiceScope { organization: parts.next()?.parse().ok()?, service: parts.next()?.parse().ok()? };
    let (third, rest) = (parts.next()?, parts.next()?);
    match third {
        KEY => {
            let (key, version) = rest.split_once('/')?;
            let key = key.parse().ok()?;
            match version {
                RECOVERY => Some(ObjectName::KeyRecovery { service, key }),
                version => Some(ObjectName::Key { service, key, kek_version: version.parse().ok()? }),
            }
        }
        DESCRIPTION => Some(ObjectName::ServiceDescription { service, sequence: rest.parse().ok()? }),
        lineage => {
            let lineage = LineageScope {
                organization: service.organization,
                service: service.service,
                lineage: lineage.parse().ok()?,
            };
            parse_in_lineage(lineage, rest)
        }
    }
}

fn parse_in_lineage(lineage: LineageScope, text: &str) -> Option<ObjectName> {
    let (kind, rest) = text.split_once('/')?;
    match kind {
        REPOSITORY => Some(ObjectName::Repository { lineage, path: RepositoryPath::decode(rest).ok()? }),
        INFO => {
            let (path, generation) = rest.rsplit_once('/')?;
            let path = RepositoryPath::decode(path).ok()?;
            Some(ObjectName::InfoGeneration { lineage, path, generation: generation.parse().ok()? })
        }
        LOG => {
            let (timeline, range) = rest.split_once('/')?;
            let (from, to) = range.split_once('-')?;
            Some(ObjectName::LogPiece {
                lineage,
                timeline: u32::from_str_radix(timeline, 16).ok()?,
                from: u64::from_str_radix(from, 16).ok()?,
                to: u64::from_str_radix(to, 16).ok()?,
            })
        }
        BACKUP => {
            let mut parts = rest.splitn(3, '/');
            Some(ObjectName::BackupObject {
                lineage,
                backup: parts.next()?.parse().ok()?,
                attempt: u64::from_str_radix(parts.next()?, 16).ok()?,
                path: RepositoryPath::decode(parts.next()?).ok()?,
            })
        }
        SHARED => Some(ObjectName::Shared { lineage, key: rest.parse().ok()? }),
        MANIFEST => Some(ObjectName::BackupManifest { lineage, backup: rest.parse().ok()? }),
        TOMBSTONE => Some(ObjectName::Tombstone { lineage, backup: rest.parse().ok()? }),
        TIME_MAP => Some(ObjectName::TimeMap { lineage, sequence: rest.parse().ok()? }),
        COVERAGE => Some(ObjectName::Coverage { lineage, sequence: rest.parse().ok()? }),
        _ => None,
    }
}

impl ObjectPrefix {
    /// The folder in the object store, below the store's own prefix.
    #[must_use]
    pub fn to_path(&self) -> Path {
        let text = match self {
            Self::All => LAYOUT_VERSION.to_owned(),
            Self::Organization(organization) => format!("{LAYOUT_VERSION}/{organization}"),
            Self::Service(service) => service.to_string(),
            Self::Lineage(lineage) => lineage.to_string(),
            Self::Repository { lineage, folder: None } => format!("{lineage}/{REPOSITORY}"),
            Self::Repository { lineage, folder: Some(folder) } => format!("{lineage}/{REPOSITORY}/{folder}"),
            Self::Info { lineage, path: None } => format!("{lineage}/{INFO}"),
            Self::Info { lineage, path: Some(path) } => format!("{lineage}/{INFO}/{path}"),
            Self::Log(lineage) => format!("{lineage}/{LOG}"),
            Self::BackupObjects { lineage, backup: None } => format!("{lineage}/{BACKUP}"),
            Self::BackupObjects { lineage, backup: Some(backup) } => format!("{lineage}/{BACKUP}/{backup}"),
            Self::Shared(lineage) => format!("{lineage}/{SHARED}"),
            Self::Manifests(lineage) => format!("{lineage}/{MANIFEST}"),
            Self::Tombstones(lineage) => format!("{lineage}/{TOMBSTONE}"),
            Self::Coverage(lineage) => format!("{lineage}/{COVERAGE}"),
            Self::TimeMap(lineage) => format!("{lineage}/{TIME_MAP}"),
            Self::Keys { service, key: None } => format!("{service}/{KEY}"),
            Self::Keys { service, key: Some(key) } => format!("{service}/{KEY}/{key}"),
            Self::Descriptions(service) => format!("{service}/{DESCRIPTION}"),
        };
        Path::parse(text).expect("ids and encoded repository paths are legal in a path")
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
