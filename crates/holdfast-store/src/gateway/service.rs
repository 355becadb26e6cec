//! The S3 operations.
use super::access::Credentials;
use super::uploads::Uploads;
use crate::store::Store;
use std::sync::Arc;

pub(super) struct SealingService {
    store: Store,
    credentials: Credentials,
    uploads: Arc<Uploads>,
}
impl SealingService {
    pub(super) fn new(store: Store, credentials: Credentials, uploads: Arc<Uploads>) -> Self {
        Self { store, credentials, uploads }
    }
}
#[async_trait::async_trait]
impl s3s::S3 for SealingService {}
