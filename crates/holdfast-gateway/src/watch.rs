//! How the gateway's work on the object store is run and watched.

use std::time::Duration;

use holdfast_store::repository::classify;
use s3s::{S3Result, s3_error};

use crate::repository::{Repository, Trouble};

/// A request that takes so long is told of before the tool gives it up (`io-timeout`, 20 s).
const SILENT_STORE: Duration = Duration::from_secs(15);

/// Runs to its end even if the client goes away, so that what is stored is also told of, and a part is sealed once
/// and wholly.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = S3Result<T>> + Send + 'static,
) -> S3Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(s3_error!(error, InternalError)),
    }
}

/// Tells the repository's owner when the object store fails a request, or leaves it without an answer.
pub(crate) async fn watched<T>(
    repository: &Repository,
    path: &str,
    work: impl Future<Output = S3Result<T>>,
) -> S3Result<T> {
    let mut work = Box::pin(work);
    let result = match tokio::time::timeout(SILENT_STORE, &mut work).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("the object store has not answered for {} s", SILENT_STORE.as_secs());
            let trouble = Trouble { cause: "store_unreachable", text, hint: None };
            repository.events.troubled(&classify(path), &trouble);
            work.await
        }
    };
    if let Err(error) = &result
        && let Some(trouble) = error.source().and_then(|source| source.downcast_ref::<Trouble>())
    {
        repository.events.troubled(&classify(path), trouble);
    }
    result
}
