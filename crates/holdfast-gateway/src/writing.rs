//! One object on its way into the store: sealed as it comes, confirmed, told of.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use holdfast_core::KeyId;
use holdfast_seal::Sealer;
use holdfast_store::opened::{READS, open_object, pause_before_reading_again};
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{ErrorKind, ObjectName, RepositoryPath, Result, Store, StoreError, StoreWriter, Stored};
use s3s::{S3Result, s3_error};
use sha2::{Digest, Sha256};

use crate::info;
use crate::reading::{keys_of, refuse};
use crate::refusal::{key_refusal, store_refusal, write_once};
use crate::repository::{Repository, StoredObject};

/// Sealed bytes are handed to the store's writer in pieces of about this length.
const PIECE_BYTES: usize = 256 << 10;

/// An object being written. Dropped before [`SealedWrite::finish`], it leaves nothing behind.
pub(crate) struct SealedWrite {
    store: Store,
    repository: Arc<Repository>,
    path: RepositoryPath,
    class: ObjectClass,
    name: ObjectName,
    key_id: KeyId,
    sealer: Sealer,
    writer: StoreWriter,
    sealed: BytesMut,
    plain_hash: Sha256,
    plain_bytes: u64,
}

impl SealedWrite {
    /// Chooses key and name by the file's class.
    pub(crate) async fn begin(
        store: Store,
        repository: Arc<Repository>,
        path: RepositoryPath,
    ) -> S3Result<Self> {
        let class = classify(path.as_str());
        let key = repository.keys.sealing_key(&class).map_err(|error| key_refusal(&error))?;
        ensure_room(&store, &class).map_err(|error| store_refusal(&error))?;
        let lineage = repository.scope();
        let name = match class {
            ObjectClass::Info => {
                info::next_name(&store, lineage, &path).await.map_err(|error| store_refusal(&error))?
            }
            _ => ObjectName::Repository { lineage, path: path.clone() },
        };
        let context = name.context(&key.owner).expect("a repository's files are sealed");
        let mut sealed = BytesMut::new();
        let sealer = Sealer::new(&key.key, key.key_id.0, &context, &mut sealed)
            .map_err(|source| store_refusal(&StoreError::Seal { object: name.to_string(), source }))?;
        let writer = store.writer(&name, true).await.map_err(|error| store_refusal(&error))?;
        Ok(Self {
            store,
            repository,
            path,
            class,
            name,
            key_id: key.key_id,
            sealer,
            writer,
            sealed,
            plain_hash: Sha256::new(),
            plain_bytes: 0,
        })
    }

    /// Takes the next plaintext. After an error the object is lost: drop it.
    pub(crate) async fn update(&mut self, plain: &[u8]) -> S3Result<()> {
        for piece in plain.chunks(PIECE_BYTES) {
            self.plain_hash.update(piece);
            self.plain_bytes += piece.len() as u64;
            self.sealer.update(piece, &mut self.sealed).map_err(|source| {
                store_refusal(&StoreError::Seal { object: self.name.to_string(), source })
            })?;
            if self.sealed.len() >= PIECE_BYTES {
                self.hand_over().await.map_err(|error| store_refusal(&error))?;
            }
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        ensure_room(&self.store, &self.class)?;
        let piece = self.sealed.split().freeze();
        self.writer.write(piece).await
    }

    /// Ends the object. When this returns `Ok` the store has confirmed it and the repository's owner has been told.
    pub(crate) async fn finish(self) -> S3Result<StoredObject> {
        let Self { store, repository, path, class, name, key_id, sealer, mut writer, mut sealed, .. } = self;
        let sent = Sent { sha256: self.plain_hash.finalize().into(), plain_bytes: self.plain_bytes };
        sealer
            .finish(&mut sealed)
            .map_err(|source| store_refusal(&StoreError::Seal { object: name.to_string(), source }))?;
        writer.write(sealed.freeze()).await.map_err(|error| store_refusal(&error))?;
        let object = |stored: Stored, key_id: KeyId| StoredObject {
            name: name.clone(),
            path: path.as_str().to_owned(),
            class: class.clone(),
            key_id,
            plain_bytes: sent.plain_bytes,
            sealed_bytes: stored.sealed_bytes,
            sha256: stored.sha256,
        };
        let object = match writer.finish().await {
            Ok(stored) => object(stored, key_id),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if class == ObjectClass::Info {
                    return Err(s3_error!(
                        ServiceUnavailable,
                        "{} is being rewritten; try again",
                        path.as_str()
                    ));
                }
                let (stored, key_id) = sent.find_again(&store, &repository, &path, &name).await?;
                object(stored, key_id)
            }
            Err(error) => return Err(store_refusal(&error)),
        };
        if let ObjectName::InfoGeneration { lineage, path, generation } = &name
            && let Err(error) = info::remove_below(&store, *lineage, path, *generation).await
        {
            // The next rewrite removes them; readers take the newest anyway.
            tracing::warn!(%error, path = path.as_str(), "older generations stay in the object store");
        }
        repository.events.stored(&object);
        Ok(object)
    }
}

/// Backups stop where the reserve of a local store's disk begins, log half a reserve later; what is small and needed to
/// clean up (indexes, manifests, tombstones) may use it up.
fn ensure_room(store: &Store, class: &ObjectClass) -> Result<()> {
    match class {
        ObjectClass::BackupFile { .. } => holdfast_store::ensure_backup_room(store),
        ObjectClass::Log { .. } | ObjectClass::PartialLog { .. } => holdfast_store::ensure_log_room(store),
        _ => Ok(()),
    }
}

/// What the client sent.
struct Sent {
    sha256: [u8; 32],
    plain_bytes: u64,
}

impl Sent {
    /// The name is taken: by these same bytes, sent before (the answer was lost, T13), or by others.
    async fn find_again(
        &self,
        store: &Store,
        repository: &Repository,
        path: &RepositoryPath,
        name: &ObjectName,
    ) -> S3Result<(Stored, KeyId)> {
        for read in 1.. {
            let opened = open_object(store, &keys_of(repository), name, None).await;
            let mut opened = opened.map_err(|error| refuse(repository, path, &error))?;
            if opened.plain_len() != self.plain_bytes {
                // Or the answer was cut short on its way.
                if read == READS {
                    return Err(write_once(&name.relative()));
                }
                pause_before_reading_again(read).await;
                continue;
            }
            let mut hasher = Sha256::new();
            while let Some(piece) = opened.next_piece().await.map_err(|error| store_refusal(&error))? {
                hasher.update(&piece);
            }
            if hasher.finalize()[..] != self.sha256 {
                return Err(write_once(&name.relative()));
            }
            let key_id = opened.key_id();
            return Ok((opened.into_stored(), key_id));
        }
        unreachable!("the last reading returns")
    }
}

/// Collects a body of at most `limit` bytes, and says when it is longer.
pub(crate) async fn collect_body(
    mut body: impl futures::Stream<Item = S3Result<Bytes>> + Unpin,
    limit: u64,
) -> S3Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.try_next().await? {
        if (whole.len() + piece.len()) as u64 > limit {
            return Err(s3_error!(EntityTooLarge, "a part has at most {limit} bytes"));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
