//! Sealed documents that are replaced: each has a number in its name, the highest counts, and older ones go once it is
//! stored. A crash in between leaves older ones behind, which the next writer removes.

use futures::TryStreamExt;
use holdfast_core::Timestamp;
use holdfast_core::position::{Coverage, Gap};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::layout::{ObjectName, ObjectPrefix};
use crate::store::Store;

/// Format of the documents of this release. Fields that a reader does not know are ignored.
pub const DOCUMENT_FORMAT: u32 = 1;

/// Which log of a lineage lies in the store, and its holes (`docs/format.md`, "Coverage").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoverageDocument {
    /// [`DOCUMENT_FORMAT`].
    pub format: u32,
    pub written_at: Timestamp,
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
}

impl CoverageDocument {
    /// The JSON to seal.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a coverage document has only string keys")
    }

    /// # Errors
    /// [`StoreError::Document`] when it is none of this format; `name` is for the error's text.
    pub fn from_bytes(name: &ObjectName, bytes: &[u8]) -> Result<Self> {
        let document: Self = parse(name, bytes)?;
        check_format(name, document.format)?;
        Ok(document)
    }
}

/// Only the place of a syntax error, never the text around it.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(name: &ObjectName, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Document {
        object: name.to_string(),
        problem: format!("line {} column {}: {:?}", error.line(), error.column(), error.classify()),
    })
}

pub(crate) fn check_format(name: &ObjectName, format: u32) -> Result<()> {
    match format {
        DOCUMENT_FORMAT => Ok(()),
        other => Err(StoreError::Document {
            object: name.to_string(),
            problem: format!("format {other} is unknown to this Holdfast"),
        }),
    }
}

/// The numbers below a prefix of numbered documents, highest first.
pub async fn sequences(store: &Store, prefix: &ObjectPrefix) -> Result<Vec<u64>> {
    let (mut found, mut listed) = (Vec::new(), store.list(prefix));
    while let Some(object) = listed.try_next().await? {
        found.extend(sequence_of(&object.name));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The highest number below a prefix of numbered documents.
pub async fn newest_sequence(store: &Store, prefix: &ObjectPrefix) -> Result<Option<u64>> {
    Ok(sequences(store, prefix).await?.first().copied())
}

/// Removes the documents below a prefix whose number is lower than `newest`.
pub async fn remove_older(store: &Store, prefix: &ObjectPrefix, newest: u64) -> Result<()> {
    let mut listed = store.list(prefix);
    while let Some(object) = listed.try_next().await? {
        if sequence_of(&object.name).is_some_and(|sequence| sequence < newest) {
            store.delete(&object.name).await?;
        }
    }
    Ok(())
}

fn sequence_of(name: &ObjectName) -> Option<u64> {
    match name {
        ObjectName::Coverage { sequence, .. } | ObjectName::ServiceDescription { sequence, .. } => {
            Some(*sequence)
        }
        _ => None,
    }
}
