//! What a backup consists of, and what is left of a deleted one. Both are JSON documents, sealed like everything else
//! and written once: the manifest last, after every object that it names.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::key::DataKey;
use crate::{Result, SealError, sealed_len};

/// The format number that this crate writes and reads. Fields that it does not know are ignored when read; a change
/// that must not be ignored gets a new number.
pub const MANIFEST_FORMAT: u32 = 1;

/// Everything that one backup consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    pub backup_id: String,
    pub organization: String,
    pub service: String,
    pub lineage: String,
    /// The engine tool's own name for the backup.
    pub tool_label: String,
    pub created_at: Timestamp,
    /// [`sha256_hex`] of the plaintext of the manifest before this one in the lineage; none for the first.
    pub previous_manifest_sha256: Option<String>,
    /// The backup's own data key, which seals this manifest and every object without a key of its own.
    pub key_id: Uuid,
    pub objects: Vec<ManifestObject>,
    /// What the engine's driver wants to know again at a restore; not looked at here.
    #[serde(default)]
    pub facts: serde_json::Map<String, serde_json::Value>,
}

/// One stored object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    /// The name in the object's context.
    pub name: String,
    /// Length of the stored object.
    pub sealed_bytes: u64,
    /// Length of what it holds.
    pub plain_bytes: u64,
    /// SHA-256 of the stored (sealed) bytes, lower-case hex.
    pub sha256: String,
    /// The key of a blob that several backups share. Absent: the backup's own key seals it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedKey>,
}

/// The key of one shared blob, carried by each sealed manifest that uses the blob. The blob's context has the kind
/// [`crate::ObjectKind::Shared`] and this key's id as owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedKey {
    pub key_id: Uuid,
    /// Standard base64 with padding in JSON.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub key: DataKey,
    /// What the engine's driver calls the blob: by this name a later backup finds it again.
    pub path: String,
}

/// What a lawfully deleted backup leaves, so that its place in the chain is not mistaken for a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    pub backup_id: String,
    pub organization: String,
    pub service: String,
    pub lineage: String,
    /// [`sha256_hex`] of the deleted manifest's plaintext.
    pub manifest_sha256: String,
    /// What the deleted manifest's field of that name said.
    pub previous_manifest_sha256: Option<String>,
    pub deleted_at: Timestamp,
    /// Why: `expired`, `deleted by its owner`, …
    pub reason: String,
}

impl Manifest {
    /// The JSON to seal. Hash these very bytes for the chain: another spelling of the same JSON has another hash.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).expect("a manifest has only string keys"))
    }

    /// Reads and checks a manifest's plaintext.
    ///
    /// # Errors
    /// [`SealError::Document`] when it is no manifest of this format or contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = read("manifest", bytes, |m: &Self| m.format)?;
        let refuse = |problem: String| Err(SealError::Document { what: "manifest", problem });
        let mut names = std::collections::HashSet::new();
        for object in &manifest.objects {
            if !names.insert(&object.name) {
                return refuse(format!("object {} is listed twice", object.name));
            }
            if object.sealed_bytes != sealed_len(object.plain_bytes) {
                return refuse(format!("the lengths of object {} do not fit each other", object.name));
            }
            if !is_sha256_hex(&object.sha256) {
                return refuse(format!("the hash of object {} is none", object.name));
            }
        }
        match &manifest.previous_manifest_sha256 {
            Some(previous) if !is_sha256_hex(previous) => {
                refuse("the previous manifest's hash is none".to_owned())
            }
            _ => Ok(manifest),
        }
    }

    /// Bytes of the objects in the store.
    #[must_use]
    pub fn sealed_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.sealed_bytes).sum()
    }
}

impl Tombstone {
    /// The JSON to seal.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tombstone has only string keys")
    }

    /// Reads and checks a tombstone's plaintext.
    ///
    /// # Errors
    /// [`SealError::Document`] when it is no tombstone of this format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let tombstone: Self = read("tombstone", bytes, |t: &Self| t.format)?;
        let hashes = [Some(&tombstone.manifest_sha256), tombstone.previous_manifest_sha256.as_ref()];
        if hashes.into_iter().flatten().all(|hash| is_sha256_hex(hash)) {
            Ok(tombstone)
        } else {
            Err(SealError::Document { what: "tombstone", problem: "a hash in it is none".to_owned() })
        }
    }
}

/// SHA-256 in lower-case hex, as manifests write it.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn read<T: for<'de> Deserialize<'de>>(what: &'static str, bytes: &[u8], format: fn(&T) -> u32) -> Result<T> {
    // Only the place of a syntax error, never the text around it: a manifest holds keys.
    let problem =
        |e: serde_json::Error| format!("line {} column {}: {:?}", e.line(), e.column(), e.classify());
    let document: T =
        serde_json::from_slice(bytes).map_err(|e| SealError::Document { what, problem: problem(e) })?;
    match format(&document) {
        MANIFEST_FORMAT => Ok(document),
        other => {
            Err(SealError::Document { what, problem: format!("format {other} is unknown to this Holdfast") })
        }
    }
}

fn write_key<S: Serializer>(key: &DataKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Zeroizing::new(STANDARD.encode(key.expose())))
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DataKey, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?);
    let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).unwrap_or_default());
    let bytes = bytes.as_slice().try_into().map_err(|_| serde::de::Error::custom("no 32 bytes of base64"))?;
    Ok(DataKey::from_bytes(bytes))
}
