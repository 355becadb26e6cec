//! The chain of a lineage's manifests: a missing or rolled-back backup shows, a lawful deletion does not.

use std::collections::HashMap;

use crate::manifest::{Manifest, Tombstone, sha256_hex};
use crate::{Result, SealError};

/// One link: a backup that is there, or one that was lawfully deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEntry {
    pub backup_id: String,
    pub manifest_sha256: String,
    pub previous_manifest_sha256: Option<String>,
}

impl ChainEntry {
    /// The link of a manifest, given its exact plaintext.
    ///
    /// # Errors
    /// As [`Manifest::from_bytes`].
    pub fn of_manifest(plain: &[u8]) -> Result<Self> {
        let manifest = Manifest::from_bytes(plain)?;
        Ok(Self {
            backup_id: manifest.backup_id,
            manifest_sha256: sha256_hex(plain),
            previous_manifest_sha256: manifest.previous_manifest_sha256,
        })
    }
}

impl From<&Tombstone> for ChainEntry {
    fn from(tombstone: &Tombstone) -> Self {
        Self {
            backup_id: tombstone.backup_id.clone(),
            manifest_sha256: tombstone.manifest_sha256.clone(),
            previous_manifest_sha256: tombstone.previous_manifest_sha256.clone(),
        }
    }
}

/// Checks that the entries of one lineage, in any order, form one unbroken chain from its first backup to `head`, and
/// returns them oldest first. A backup may have both its manifest and its tombstone while a deletion is under way.
///
/// `head` is the newest manifest's hash as somebody who cannot be rolled back with the bucket remembers it (the
/// catalog). Without it a missing *newest* backup cannot show: nothing in the bucket points to it.
///
/// # Errors
/// [`SealError::Chain`] when an entry is missing, when two follow the same one, or when the head is another.
pub fn verify_chain(lineage: &str, entries: &[ChainEntry], head: Option<&str>) -> Result<Vec<ChainEntry>> {
    let broken = |problem: String| SealError::Chain { lineage: lineage.to_owned(), problem };
    let mut followers: HashMap<Option<&str>, &ChainEntry> = HashMap::new();
    for entry in entries {
        let other = followers.insert(entry.previous_manifest_sha256.as_deref(), entry);
        if let Some(other) = other.filter(|other| *other != entry) {
            let (a, b) = (&other.backup_id, &entry.backup_id);
            return Err(broken(format!("backups {a} and {b} follow the same manifest")));
        }
    }
    let mut chain = Vec::with_capacity(followers.len());
    let mut last = None;
    while let Some(entry) = followers.remove(&last) {
        last = Some(entry.manifest_sha256.as_str());
        chain.push(entry.clone());
    }
    // What is left hangs on a manifest that is not there.
    if let Some((previous, entry)) = followers.iter().min_by_key(|(_, entry)| &entry.backup_id) {
        let missing = previous.unwrap_or("none");
        return Err(broken(format!(
            "backup {} follows manifest {missing}, which is missing",
            entry.backup_id
        )));
    }
    if head.is_some() && head != last {
        let (expected, found) = (head.unwrap_or("none"), last.unwrap_or("none"));
        return Err(broken(format!("its newest manifest should be {expected}, but {found} is")));
    }
    Ok(chain)
}
