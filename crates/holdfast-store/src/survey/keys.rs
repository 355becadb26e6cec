//! The data keys of a service, unwrapped with the recovery key.
//!
//! What a key is for is not stored beside it, but it is bound to it: of the few purposes only the right one opens it.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_core::causes::chain;
use holdfast_core::key::KeyPurpose;
use holdfast_core::{KeyId, LineageId, Timestamp};
use holdfast_seal::{DataKey, KeyIdentity, RecoveryPrivate, SealError, unwrap_with_recovery};

use super::{FoundKey, SurveyProgress};
use crate::description::ServiceDescription;
use crate::error::{ErrorKind, Result, StoreError};
use crate::layout::{ObjectName, ObjectPrefix, ServiceScope};
use crate::store::Store;

const PURPOSES: [KeyPurpose; 4] =
    [KeyPurpose::Backup, KeyPurpose::Epoch, KeyPurpose::Repository, KeyPurpose::Coverage];
/// Wrapped keys are read side by side: each is tiny, and on S3 each is a request.
const AT_ONCE: usize = 16;
const MAX_WRAPPED_BYTES: u64 = 4096;

/// The keys of a service, their one lineage, and the highest version of a key-encryption key among the wrappings.
pub(super) async fn unwrap_all(
    store: &Store,
    kit: &RecoveryPrivate,
    scope: ServiceScope,
    lineages: &[LineageId],
    progress: &SurveyProgress,
    problems: &mut Vec<String>,
) -> Result<(LineageId, Vec<FoundKey>, u32)> {
    let (wrapped, kek) = wrapped_keys(store, scope, progress).await?;
    let (mut lineage, mut keys, mut other_kit) = (None, Vec::new(), None);
    for (id, bytes, stored_at) in wrapped {
        match unwrap(kit, scope, lineages, id, &bytes) {
            Ok((of, purpose, key)) => {
                lineage = lineage.or(Some(of));
                keys.push(FoundKey { id, purpose, key, recovery_wrapped: bytes, created_at: stored_at });
            }
            Err(source) => {
                let is_other_kit = matches!(source, SealError::WrongRecoveryKey { .. });
                let name = ObjectName::KeyRecovery { service: scope, key: id };
                let error = StoreError::Seal { object: name.to_string(), source };
                problems.push(chain(&error));
                other_kit = other_kit.or(Some(error).filter(|_| is_other_kit));
            }
        }
    }
    match (lineage, other_kit) {
        (Some(lineage), _) => Ok((lineage, keys, kek)),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let problem = problems.pop().unwrap_or_else(|| "nothing but its folder is there".to_owned());
            Err(StoreError::Document { object: scope.to_string(), problem })
        }
    }
}

/// Every key wrapped for the recovery key, with when it was stored.
async fn wrapped_keys(
    store: &Store,
    scope: ServiceScope,
    progress: &SurveyProgress,
) -> Result<(Vec<(KeyId, Vec<u8>, Timestamp)>, u32)> {
    let (mut stored, mut kek) = (BTreeMap::new(), 0);
    let mut listed = store.list(&ObjectPrefix::Keys { service: scope, key: None });
    while let Some(object) = listed.try_next().await? {
        progress.seen(1);
        match object.name {
            ObjectName::KeyRecovery { key, .. } => {
                stored.insert(key, object.info.modified_at);
            }
            ObjectName::Key { kek_version, .. } => kek = kek.max(kek_version),
            _ => {}
        }
    }
    let read = stream::iter(stored).map(|(key, at)| async move {
        let name = ObjectName::KeyRecovery { service: scope, key };
        match async { store.get(&name).await?.collect(MAX_WRAPPED_BYTES).await }.await {
            Ok(bytes) => Ok(Some((key, bytes.to_vec(), at))),
            // Destroyed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    });
    let read: Vec<_> = read.buffered(AT_ONCE).try_collect().await?;
    Ok((read.into_iter().flatten().collect(), kek))
}

fn unwrap(
    kit: &RecoveryPrivate,
    scope: ServiceScope,
    lineages: &[LineageId],
    id: KeyId,
    wrapped: &[u8],
) -> std::result::Result<(LineageId, KeyPurpose, DataKey), SealError> {
    let mut refused = SealError::Unwrap { key_id: id.0 };
    for lineage in lineages {
        for purpose in PURPOSES {
            let identity = KeyIdentity {
                key_id: id.0,
                organization: scope.organization.to_string(),
                service: scope.service.to_string(),
                lineage: lineage.to_string(),
                purpose: purpose.as_str().to_owned(),
            };
            match unwrap_with_recovery(kit, &identity, wrapped) {
                Ok(key) => return Ok((*lineage, purpose, key)),
                Err(error) => refused = error,
            }
        }
    }
    Err(refused)
}

/// When each key was made, as the description says it: a copied bucket has other dates.
pub(super) fn take_dates(
    keys: &mut [FoundKey],
    description: &ServiceDescription,
    problems: &mut Vec<String>,
) {
    for described in &description.keys {
        match keys.iter_mut().find(|key| key.id == described.id) {
            Some(key) => key.created_at = described.created_at,
            None => problems.push(format!(
                "key {} ({}) is missing or does not open with this recovery key: what it seals is lost",
                described.id,
                described.purpose.as_str()
            )),
        }
    }
}
