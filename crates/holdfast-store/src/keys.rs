//! Data keys as they are handed about.

use holdfast_core::KeyId;
use holdfast_seal::DataKey;

/// A data key with the identity of its owner, which every object sealed with it is bound to.
#[derive(Clone, Debug)]
pub struct OwnedKey {
    pub key_id: KeyId,
    /// The backup's id for a backup's key, otherwise the key's own id ([`holdfast_seal::ObjectContext`]).
    pub owner: String,
    pub key: DataKey,
}

/// There is no key for what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key: {reason}")]
pub struct KeyRefused {
    /// For the tool's log; never holds a secret.
    pub reason: String,
}
