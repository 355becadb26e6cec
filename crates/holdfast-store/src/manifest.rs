//! Manifests and tombstones in the object store, and other small sealed documents.
//!
//! A backup exists when its manifest does: it is written last, and only if absent (R14).

use bytes::Bytes;
use holdfast_core::backup::BackupFacts;
use holdfast_core::engine::EngineKind;
use holdfast_core::{BackupId, KeyId};
use holdfast_seal::{HEADER_LEN, Header, Manifest, Tombstone, open_to_vec, seal_to_vec, sha256_hex};

use crate::error::{Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{LineageScope, ObjectName};
use crate::sealed::FindKey;
use crate::store::Store;

/// Longest sealed document that is read into memory. A manifest entry has about 250 bytes, so this is for a quarter of
/// a million objects.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 64 << 20;
/// Where the facts stand in a manifest, and whose they are.
const FACTS: &str = "backup";
const ENGINE: &str = "engine";
const VERSION: &str = "version";

/// Seals `plain` with `key` as what `name` says and stores it if nothing lies there. `Ok` also when the same
/// plaintext lies there already; [`crate::ErrorKind::AlreadyExists`] when another does.
pub async fn write_document(store: &Store, name: &ObjectName, key: &OwnedKey, plain: &[u8]) -> Result<()> {
    let context = context(name, key);
    let sealed = seal_to_vec(&key.key, key.key_id.0, &context, plain).map_err(seal_error(name))?;
    match store.put_if_absent(name, Bytes::from(sealed)).await {
        Err(StoreError::AlreadyExists { object }) => match read_document(store, name, key).await {
            Ok(found) if found == plain => Ok(()),
            _ => Err(StoreError::AlreadyExists { object }),
        },
        other => other.map(drop),
    }
}

/// Reads and opens a small sealed document: either all of it comes back or nothing.
pub async fn read_document(store: &Store, name: &ObjectName, key: &OwnedKey) -> Result<Vec<u8>> {
    let sealed = store.get(name).await?.collect(MAX_DOCUMENT_BYTES).await?;
    if let Ok(header) = Header::parse(&sealed[..sealed.len().min(HEADER_LEN)])
        && header.key_id != key.key_id.0
    {
        let found = holdfast_core::KeyId(header.key_id);
        return Err(StoreError::OtherKey { object: name.to_string(), expected: key.key_id, found });
    }
    open_to_vec(&key.key, &context(name, key), &sealed).map_err(seal_error(name))
}

/// Stores a backup's manifest, last of all its objects. Returns the SHA-256 (hex) of its plaintext, which the next
/// manifest of the lineage names. Repeating it with the same manifest is harmless; with another one it fails.
pub async fn write_manifest(
    store: &Store,
    lineage: LineageScope,
    backup: &BackupId,
    key: &OwnedKey,
    manifest: &Manifest,
) -> Result<String> {
    let plain = manifest.to_bytes();
    let name = ObjectName::BackupManifest { lineage, backup: backup.clone() };
    write_document(store, &name, key, &plain).await?;
    Ok(sha256_hex(&plain))
}

/// Reads a backup's manifest, and the SHA-256 (hex) of its plaintext.
pub async fn read_manifest(
    store: &Store,
    lineage: LineageScope,
    backup: &BackupId,
    key: &OwnedKey,
) -> Result<(Manifest, String)> {
    let name = ObjectName::BackupManifest { lineage, backup: backup.clone() };
    let plain = zeroize::Zeroizing::new(read_document(store, &name, key).await?);
    let manifest = Manifest::from_bytes(&plain).map_err(seal_error(&name))?;
    Ok((manifest, sha256_hex(&plain)))
}

/// The same, where the manifest itself says which of the `keys` seals it.
///
/// # Errors
/// [`StoreError::NoKey`] when it is none of them.
pub async fn find_manifest(
    store: &Store,
    lineage: LineageScope,
    backup: &BackupId,
    keys: FindKey<'_>,
) -> Result<(Manifest, String)> {
    let name = ObjectName::BackupManifest { lineage, backup: backup.clone() };
    let head = store.get_range(&name, 0..HEADER_LEN as u64).await?.collect(MAX_DOCUMENT_BYTES).await?;
    let key_id = KeyId(Header::parse(&head).map_err(seal_error(&name))?.key_id);
    let no_key =
        || StoreError::NoKey { object: name.to_string(), reason: format!("key {key_id} is not held here") };
    let key = keys(key_id).ok_or_else(no_key)?;
    read_manifest(store, lineage, backup, &key).await
}

/// What a manifest keeps of its backup's facts, with the engine and its version as asked for: all that a restore needs where
/// the service's description is lost. [`facts_of`] and [`engine_of`] read it back.
#[must_use]
pub fn facts_to_keep(
    engine: EngineKind,
    version: &str,
    facts: &BackupFacts,
) -> serde_json::Map<String, serde_json::Value> {
    let value = serde_json::to_value(facts).expect("facts have only string keys");
    serde_json::Map::from_iter([
        (FACTS.to_owned(), value),
        (ENGINE.to_owned(), engine.as_str().into()),
        (VERSION.to_owned(), version.into()),
    ])
}

/// The engine of a stored backup and its version; `None` where the manifest is of a release that kept neither.
#[must_use]
pub fn engine_of(manifest: &Manifest) -> Option<(EngineKind, String)> {
    let text = |field| manifest.facts.get(field)?.as_str();
    Some((text(ENGINE)?.parse().ok()?, text(VERSION)?.to_owned()))
}

/// The facts of a stored backup, from its manifest and the SHA-256 of the manifest's plaintext.
///
/// # Errors
/// [`StoreError::Document`] when they are not there or not understood.
pub fn facts_of(manifest: &Manifest, sha256: String) -> Result<BackupFacts> {
    let facts = manifest.facts.get(FACTS).cloned().unwrap_or_default();
    let facts: BackupFacts = serde_json::from_value(facts).map_err(|error| StoreError::Document {
        object: format!("the manifest of {}", manifest.backup_id),
        problem: format!("its facts are not understood: {error}"),
    })?;
    Ok(BackupFacts { manifest_sha256: sha256, ..facts })
}

/// Stores a deleted backup's tombstone, sealed with the lineage's coverage key, before the backup's own key and
/// manifest go.
pub async fn write_tombstone(
    store: &Store,
    lineage: LineageScope,
    backup: &BackupId,
    key: &OwnedKey,
    tombstone: &Tombstone,
) -> Result<()> {
    let name = ObjectName::Tombstone { lineage, backup: backup.clone() };
    write_document(store, &name, key, &tombstone.to_bytes()).await
}

/// Reads a deleted backup's tombstone.
pub async fn read_tombstone(
    store: &Store,
    lineage: LineageScope,
    backup: &BackupId,
    key: &OwnedKey,
) -> Result<Tombstone> {
    let name = ObjectName::Tombstone { lineage, backup: backup.clone() };
    let plain = read_document(store, &name, key).await?;
    Tombstone::from_bytes(&plain).map_err(seal_error(&name))
}

fn context(name: &ObjectName, key: &OwnedKey) -> holdfast_seal::ObjectContext {
    name.context(&key.owner).expect("wrapped keys are stored as they are, never through here")
}

fn seal_error(name: &ObjectName) -> impl Fn(holdfast_seal::SealError) -> StoreError {
    move |source| StoreError::Seal { object: name.to_string(), source }
}
