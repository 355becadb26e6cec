//! What "stored" means: the store, asked again, has the object with the length, the checksum and the encryption that it
//! should have (R1, R14). Nothing counts before that.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::s3::Encryption;
use super::wire::Facts;
use super::{Backend, Store, Stored};
use crate::error::{ErrorKind, Result, StoreError};
use crate::layout::ObjectName;

/// What a store may say of an object that it encrypts: SSE-S3, which we ask for, or a bucket's stricter default.
pub(super) const ENCRYPTED: &[&str] = &["AES256", "aws:kms", "aws:kms:dsse"];

impl Store {
    /// Asks what lies under a name that has just been written, and holds it against what was sent.
    pub(super) async fn confirm(&self, name: &ObjectName, sent: Stored) -> Result<Stored> {
        let object = || name.to_string();
        let (found, facts) = match self.look_at(name).await {
            // Whoever wrote it, it is not there: to be written again.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::Unconfirmed { object: object(), sent: sent.sealed_bytes, found: 0 });
            }
            other => other?,
        };
        if found.sealed_bytes != sent.sealed_bytes {
            let (sent, found) = (sent.sealed_bytes, found.sealed_bytes);
            return Err(StoreError::Unconfirmed { object: object(), sent, found });
        }
        if let Some(found) = checksum_of_whole(&facts)
            && found != sent.sha256
        {
            return Err(StoreError::OtherChecksum { object: object(), sent: sent.sha256, found });
        }
        if let Backend::S3(bucket) = &self.backend
            && bucket.encryption == Encryption::Asked
            && !facts.encryption.as_deref().is_some_and(|said| ENCRYPTED.contains(&said))
        {
            return Err(StoreError::NotEncrypted { object: object(), found: facts.encryption });
        }
        Ok(Stored { etag: found.etag, ..sent })
    }
}

/// SHA-256 of the object as the store has it, hex. That of a multipart upload is one over the parts' checksums, each of
/// which was compared when the part was sent.
fn checksum_of_whole(facts: &Facts) -> Option<String> {
    let text = facts.checksum.as_deref()?;
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(hex::encode(bytes))
}
