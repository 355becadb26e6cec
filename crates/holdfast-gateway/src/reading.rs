//! Objects on their way out of the store: found, opened, and given out or refused.

use std::sync::Arc;

use holdfast_core::KeyId;
use holdfast_core::causes::chain;
use holdfast_store::opened::{Choose, NotOpened, Opened, open_object};
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{
    KeyRefused, ObjectInfo, ObjectName, OwnedKey, RepositoryPath, Result, Store, StoreError,
};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Result, s3_error};
use tokio::sync::mpsc;

use crate::info;
use crate::refusal::{key_refusal, store_refusal};
use crate::repository::{Damage, Repository};

/// Pieces that may wait for a slow reader.
const PIECES_WAITING: usize = 4;
/// How often a rewritten file is looked up again when its generation went away meanwhile.
const GENERATION_TRIES: usize = 5;
/// Finds the object that a path names now.
pub(crate) async fn locate(
    store: &Store,
    repository: &Repository,
    path: &RepositoryPath,
) -> Result<(ObjectName, ObjectInfo)> {
    let lineage = repository.scope();
    if classify(path.as_str()) == ObjectClass::Info {
        let file = info::newest(store, lineage, path).await?;
        let name = ObjectName::InfoGeneration { lineage, path: file.path, generation: file.generation };
        return Ok((name, file.info));
    }
    let name = ObjectName::Repository { lineage, path: path.clone() };
    let info = store.head(&name).await?;
    Ok((name, info))
}

/// Opens what a path names now: all of it, or a range. Its first piece is authentic when this returns.
pub(crate) async fn open(
    store: &Store,
    repository: &Repository,
    path: &RepositoryPath,
    choose: Option<Choose<'_>>,
) -> S3Result<Opened> {
    let lineage = repository.scope();
    if classify(path.as_str()) != ObjectClass::Info {
        let name = ObjectName::Repository { lineage, path: path.clone() };
        return open_object(store, &keys_of(repository), &name, choose)
            .await
            .map_err(|e| refuse(repository, path, &e));
    }
    for attempt in 1.. {
        let file = info::newest(store, lineage, path).await.map_err(|error| store_refusal(&error))?;
        let name = ObjectName::InfoGeneration { lineage, path: file.path, generation: file.generation };
        match open_object(store, &keys_of(repository), &name, choose).await {
            // A rewrite removed this generation after we had found it.
            Err(NotOpened::Store(StoreError::NotFound { .. })) if attempt < GENERATION_TRIES => {}
            other => return other.map_err(|error| refuse(repository, path, &error)),
        }
    }
    unreachable!("the last attempt returns")
}

/// The keys that open a repository's files.
pub(crate) fn keys_of(repository: &Repository) -> impl Fn(KeyId) -> Result<OwnedKey, KeyRefused> + Sync {
    |id| repository.keys.opening_key(id)
}

/// What the client gets to hear, and the repository's owner, if it is damage.
pub(crate) fn refuse(repository: &Repository, path: &RepositoryPath, error: &NotOpened) -> S3Error {
    match error {
        NotOpened::Store(error) => {
            tell_damage(repository, path, error);
            store_refusal(error)
        }
        NotOpened::NoKey(error) => key_refusal(error),
        NotOpened::NoSuchRange { plain_len } => s3_error!(InvalidRange, "the object has {plain_len} bytes"),
    }
}

fn tell_damage(repository: &Repository, path: &RepositoryPath, error: &StoreError) {
    if let StoreError::Seal { object, .. } = error {
        let class = classify(path.as_str());
        let damage = Damage { path: path.as_str(), class, object, what: &chain(error) };
        repository.events.damaged(&damage);
    }
}

/// Turns it into a body. What is damaged behind the first piece breaks the connection.
pub(crate) fn into_body(
    mut opened: Opened,
    repository: Arc<Repository>,
    path: RepositoryPath,
) -> StreamingBlob {
    let (sender, mut receiver) = mpsc::channel(PIECES_WAITING);
    tokio::spawn(async move {
        loop {
            let piece = match opened.next_piece().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(error = chain(&error), "the sealing gateway breaks a read off");
                    tell_damage(&repository, &path, &error);
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            let length = piece.len() as u64;
            if sender.send(Ok(piece)).await.is_err() {
                return; // The client went away.
            }
            repository.events.served(length);
        }
    });
    StreamingBlob::wrap(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

/// Plaintext length of an object by its length in the store. An impossible length means damage: it is logged and
/// shown as empty; reading the object will fail.
pub(crate) fn plain_len(name: &ObjectName, info: &ObjectInfo) -> u64 {
    holdfast_seal::plain_len(info.sealed_bytes).unwrap_or_else(|error| {
        tracing::error!(%name, %error, "a damaged object lies in the object store");
        0
    })
}
