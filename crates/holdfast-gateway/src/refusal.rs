//! What went wrong, as the S3 client gets to hear it. pgBackRest tries again on 5xx only and shows the message.

use holdfast_core::causes::chain;
use holdfast_store::repository::{DAMAGED, FULL};
use holdfast_store::{ErrorKind, KeyRefused, StoreError};
use hyper::StatusCode;
use s3s::{S3Error, S3ErrorCode, s3_error};

use crate::repository::Trouble;

/// An error of the object store. The cause goes into the message: the tool's log is where a person will look.
pub(crate) fn store_refusal(error: &StoreError) -> S3Error {
    let text = chain(error);
    let trouble = || Box::new(Trouble { cause: error.cause(), text: text.clone(), hint: error.hint() });
    match error.kind() {
        ErrorKind::NotFound => S3Error::with_message(S3ErrorCode::NoSuchKey, text),
        ErrorKind::AlreadyExists => write_once(&text),
        // A bucket's quota may be gone with the next answer; a disk stays full until somebody makes room.
        ErrorKind::Transient if error.is_full() && !matches!(error, StoreError::Refused { .. }) => {
            tracing::warn!(error = %text, "the object store is full");
            let mut refusal = S3Error::with_message(S3ErrorCode::Custom(FULL.into()), text.clone());
            refusal.set_source(trouble());
            // Not a 5xx: a backup should fail now and say why, and the engine offers its log again by itself.
            refusal.set_status_code(StatusCode::UNPROCESSABLE_ENTITY);
            refusal
        }
        ErrorKind::Transient => {
            tracing::warn!(error = %text, "the object store failed a request of the sealing gateway");
            let mut refusal = S3Error::with_message(S3ErrorCode::ServiceUnavailable, text.clone());
            refusal.set_source(trouble());
            refusal
        }
        ErrorKind::Permanent => {
            tracing::error!(error = %text, "the sealing gateway cannot do what was asked");
            let mut refusal = match error {
                StoreError::Seal { .. } | StoreError::OtherKey { .. } => {
                    S3Error::with_message(S3ErrorCode::Custom(DAMAGED.into()), text)
                }
                _ => {
                    let mut refusal = S3Error::with_message(S3ErrorCode::InternalError, text.clone());
                    refusal.set_source(trouble());
                    refusal
                }
            };
            // Not a 5xx: the tool would go on asking for over a minute for what stays as it is.
            refusal.set_status_code(StatusCode::UNPROCESSABLE_ENTITY);
            refusal
        }
    }
}

/// Other bytes for a name that is taken.
pub(crate) fn write_once(object: &str) -> S3Error {
    let mut error = s3_error!(OperationAborted, "{object}: written once, and other bytes lie there");
    error.set_status_code(StatusCode::CONFLICT);
    error
}

pub(crate) fn key_refusal(error: &KeyRefused) -> S3Error {
    s3_error!(AccessDenied, "{error}")
}

/// The client's body broke off or is not what its headers promise. `s3s` checks `x-amz-content-sha256` and its chunk
/// signatures; its error types are private, so their names are all there is to go by.
pub(crate) fn body_refusal(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    let text = error.to_string();
    if text.contains("Mismatch") || text.contains("Signature") {
        s3_error!(BadDigest, "the body is not what was signed")
    } else {
        s3_error!(IncompleteBody, "the body broke off")
    }
}
