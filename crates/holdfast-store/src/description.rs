//! What a service is, as a sealed document in the bucket: with it, the manifests and the coverage a lost catalog is made
//! anew (`docs/format.md`, "Descriptions").
//!
//! It is sealed with the lineage's coverage key. Its form is the format's, not the domain's: fields are added, never
//! changed.

use holdfast_core::backup::{Backup, BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::key::KeyPurpose;
use holdfast_core::retention::Policy;
use holdfast_core::service::{Attributes, RestoredFrom, Service, ServiceStatus};
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::documents::{DOCUMENT_FORMAT, check_format, newest_sequence, parse, remove_older};
use crate::error::Result;
use crate::keys::OwnedKey;
use crate::layout::{ObjectName, ObjectPrefix, ServiceScope};
use crate::manifest::{read_document, write_document};
use crate::store::Store;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceDescription {
    /// [`DOCUMENT_FORMAT`].
    pub format: u32,
    pub written_at: Timestamp,
    pub organization: DescribedOrganization,
    pub service: DescribedService,
    /// The retention that the control plane ran with.
    pub policy: Policy,
    /// The newest manifest of the chain, so that its absence shows.
    pub newest_manifest: Option<NewestManifest>,
    /// Keys that are not destroyed.
    pub keys: Vec<DescribedKey>,
    /// Backups that are not shredded.
    pub backups: Vec<DescribedBackup>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedOrganization {
    pub id: OrganizationId,
    pub name: String,
    pub slug: String,
    pub is_personal: bool,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedService {
    pub id: ServiceId,
    pub lineage: LineageId,
    pub name: String,
    pub engine: EngineKind,
    pub version: String,
    pub engine_version: Option<String>,
    pub status: ServiceStatus,
    pub plan_name: String,
    pub zone: String,
    pub allowed_cidrs: Vec<String>,
    pub attributes: Attributes,
    pub restored_from: Option<RestoredFrom>,
    pub created_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestManifest {
    pub backup: BackupId,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedKey {
    pub id: KeyId,
    pub purpose: KeyPurpose,
    pub created_at: Timestamp,
}

/// A backup, but for what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedBackup {
    pub id: BackupId,
    pub backup_type: BackupType,
    pub mode: BackupMode,
    /// Left out for the engine's usual method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    pub status: BackupStatus,
    pub label: Option<String>,
    pub retention_days: Option<u32>,
    pub key: KeyId,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub error: Option<String>,
    pub delisted_at: Option<Timestamp>,
    pub manifest_sha256: Option<String>,
}

impl From<&Service> for DescribedService {
    fn from(service: &Service) -> Self {
        Self {
            id: service.id,
            lineage: service.lineage_id,
            name: service.name.clone(),
            engine: service.engine,
            version: service.version.clone(),
            engine_version: service.engine_version.clone(),
            status: service.status,
            plan_name: service.plan_name.clone(),
            zone: service.zone.clone(),
            allowed_cidrs: service.allowed_cidrs.clone(),
            attributes: service.attributes.clone(),
            restored_from: service.restored_from.clone(),
            created_at: service.created_at,
            deleted_at: service.deleted_at,
        }
    }
}

impl From<&Backup> for DescribedBackup {
    fn from(backup: &Backup) -> Self {
        Self {
            id: backup.id.clone(),
            backup_type: backup.backup_type,
            mode: backup.mode,
            method: backup.method.clone(),
            status: backup.status,
            label: backup.label.clone(),
            retention_days: backup.retention_days,
            key: backup.key_id,
            created_at: backup.created_at,
            started_at: backup.started_at,
            completed_at: backup.completed_at,
            error: backup.error.clone(),
            delisted_at: backup.delisted_at,
            manifest_sha256: backup.facts.as_ref().map(|facts| facts.manifest_sha256.clone()),
        }
    }
}

impl ServiceDescription {
    /// The JSON to seal.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a description has only string keys")
    }

    /// # Errors
    /// [`crate::StoreError::Document`] when it is none of this format; `name` is for the error's text.
    pub fn from_bytes(name: &ObjectName, bytes: &[u8]) -> Result<Self> {
        let description: Self = parse(name, bytes)?;
        check_format(name, description.format)?;
        Ok(description)
    }

    /// SHA-256 (hex) of what it says, whenever it was written.
    #[must_use]
    pub fn content_sha256(&self) -> String {
        let content = Self { format: DOCUMENT_FORMAT, written_at: Timestamp::UNIX_EPOCH, ..self.clone() };
        sha256_hex(&content.to_bytes())
    }
}

/// Stores the description under the next number and removes older ones. Repeating it is harmless.
pub async fn write_description(
    store: &Store,
    scope: ServiceScope,
    key: &OwnedKey,
    description: &ServiceDescription,
) -> Result<()> {
    let prefix = ObjectPrefix::Descriptions(scope);
    let sequence = newest_sequence(store, &prefix).await?.map_or(1, |newest| newest + 1);
    let name = ObjectName::ServiceDescription { service: scope, sequence };
    write_document(store, &name, key, &description.to_bytes()).await?;
    remove_older(store, &prefix, sequence).await
}

/// Reads the description of that number.
pub async fn read_description(
    store: &Store,
    scope: ServiceScope,
    sequence: u64,
    key: &OwnedKey,
) -> Result<ServiceDescription> {
    let name = ObjectName::ServiceDescription { service: scope, sequence };
    let plain = read_document(store, &name, key).await?;
    ServiceDescription::from_bytes(&name, &plain)
}
