//! Who may ask for what: the credentials, and the check before each request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::AUTHORIZATION;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use crate::BUCKET;
use crate::repository::{Access, Repository};

/// The registered credentials, by access key. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    by_access_key: Arc<RwLock<HashMap<String, Arc<Repository>>>>,
}

impl Credentials {
    pub(crate) fn insert(&self, repository: Repository) {
        let mut map = self.by_access_key.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(repository.access_key.clone(), Arc::new(repository));
    }

    pub(crate) fn remove(&self, access_key: &str) {
        self.by_access_key.write().unwrap_or_else(PoisonError::into_inner).remove(access_key);
    }

    pub(crate) fn get(&self, access_key: &str) -> Option<Arc<Repository>> {
        self.by_access_key.read().unwrap_or_else(PoisonError::into_inner).get(access_key).cloned()
    }
}

#[async_trait::async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let repository = self.get(access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
        Ok(SecretKey::from(repository.secret_key.as_str()))
    }
}

/// What each operation needs; one that is not here is not for us.
fn is_write(operation: &str) -> Option<bool> {
    match operation {
        "GetObject" | "HeadObject" | "ListObjectsV2" | "HeadBucket" => Some(false),
        "PutObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "CompleteMultipartUpload"
        | "AbortMultipartUpload"
        | "DeleteObject"
        | "DeleteObjects" => Some(true),
        _ => None,
    }
}

/// The check before each request.
pub(crate) struct Guard {
    credentials: Credentials,
}

impl Guard {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let signed_by = cx.credentials().ok_or_else(|| s3_error!(AccessDenied, "a signature is required"))?;
        let repository =
            self.credentials.get(&signed_by.access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
        let header =
            |name: &str| cx.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Version 2 signatures and presigned addresses do not cover the payload; our client uses neither.
        if !header(AUTHORIZATION.as_str()).starts_with("AWS4-HMAC-SHA256 ") {
            return Err(s3_error!(
                AccessDenied,
                "requests are signed with AWS Signature Version 4, in the header"
            ));
        }
        match cx.s3_path() {
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } if &**bucket == BUCKET => {}
            _ => return Err(s3_error!(NoSuchBucket)),
        }
        let operation = cx.s3_op().name();
        let Some(write) = is_write(operation) else {
            return Err(s3_error!(NotImplemented, "{operation} is not for this gateway"));
        };
        if write && repository.access == Access::ReadOnly {
            return Err(s3_error!(AccessDenied, "this credential may only read"));
        }
        let unsigned = header("x-amz-content-sha256").contains("UNSIGNED");
        if write && unsigned && header("content-md5").is_empty() {
            return Err(s3_error!(
                AccessDenied,
                "a payload needs a checksum: x-amz-content-sha256 or Content-MD5"
            ));
        }
        Ok(())
    }
}
