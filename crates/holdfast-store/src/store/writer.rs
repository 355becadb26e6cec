//! Writing one object as a stream.
//!
//! Memory on S3: the part being filled and the one on its way, 16 MiB together for objects up to 16 GB and 64 MiB
//! beyond. On a local folder: what one call brings.

use bytes::{Bytes, BytesMut};
use object_store::multipart::PartId;
use object_store::{PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use tokio::task::JoinHandle;

use super::local::{LocalFolder, Staged, io_error, run_blocking};
use super::s3::Bucket;
use super::{Backend, Store, Stored};
use crate::error::{ErrorKind, Result, StoreError};
use crate::layout::ObjectName;

/// Length of a part; S3 wants at least 5 MiB and at most 10,000 parts.
const PART_BYTES: usize = 8 << 20;
/// Parts of that length before they get longer.
const SHORT_PARTS: usize = 2_000;
/// Length of the parts behind them.
const LONG_PART_BYTES: usize = 32 << 20;

/// An object being written. It does not exist before [`StoreWriter::finish`] returned `Ok`; dropped or aborted, it never
/// does.
pub struct StoreWriter {
    store: Store,
    name: ObjectName,
    if_absent: bool,
    hasher: Sha256,
    sealed_bytes: u64,
    target: Target,
}

enum Target {
    Local { folder: Arc<LocalFolder>, staged: Option<Staged> },
    S3(Upload),
}

struct Upload {
    bucket: Arc<Bucket>,
    buffer: BytesMut,
    /// The multipart upload, begun when a first part is full.
    id: Option<String>,
    parts: Vec<PartId>,
    in_flight: Option<JoinHandle<object_store::Result<PartId>>>,
}

impl StoreWriter {
    pub(super) async fn begin(store: Store, name: ObjectName, if_absent: bool) -> Result<Self> {
        let target = match &store.backend {
            Backend::Local(folder) => {
                let folder = Arc::clone(folder);
                let staging = Arc::clone(&folder);
                let staged = run_blocking(move || staging.stage()).await?;
                Target::Local { folder, staged: Some(staged) }
            }
            Backend::S3(bucket) => Target::S3(Upload {
                bucket: Arc::clone(bucket),
                buffer: BytesMut::new(),
                id: None,
                parts: Vec::new(),
                in_flight: None,
            }),
        };
        Ok(Self { store, name, if_absent, hasher: Sha256::new(), sealed_bytes: 0, target })
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Takes the next bytes. Returns when they are written or buffered within the bound; after an error only
    /// [`StoreWriter::abort`] makes sense.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.hasher.update(&bytes);
        self.sealed_bytes += bytes.len() as u64;
        match &mut self.target {
            Target::Local { staged, .. } => {
                let mut file = staged.take().expect("a failed writer is aborted, not written to");
                let (file, result) = run_blocking(move || {
                    let result = file.file.write_all(&bytes);
                    Ok((file, result))
                })
                .await?;
                *staged = Some(file);
                result.map_err(io_error("writing", self.name.to_string().as_ref()))
            }
            Target::S3(upload) => upload.write(&self.name, self.if_absent, bytes).await,
        }
    }

    /// Stores the object and confirms that it is there with the length that was sent. With `if_absent`, `Ok` also when
    /// exactly these bytes lay there already; [`ErrorKind::AlreadyExists`] when others did.
    pub async fn finish(mut self) -> Result<Stored> {
        let sent = Stored {
            sealed_bytes: self.sealed_bytes,
            sha256: hex::encode(std::mem::take(&mut self.hasher).finalize()),
            etag: None,
        };
        let result = match &mut self.target {
            Target::Local { folder, staged } => {
                let (folder, path, if_absent) = (Arc::clone(folder), self.name.to_path(), self.if_absent);
                let staged = staged.take().expect("a failed writer is aborted, not finished");
                run_blocking(move || folder.publish(staged, &path, if_absent)).await
            }
            Target::S3(upload) => upload.finish(&self.name, self.if_absent).await,
        };
        match result {
            Ok(()) => {}
            // The answer to our own earlier try may have been lost (T13): the same bytes, salt included, are ours.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let found = self.store.hash(&self.name).await?;
                let same = found.sha256 == sent.sha256;
                self.abort().await;
                return if same { Ok(found) } else { Err(error) };
            }
            Err(error) => {
                self.abort().await;
                return Err(error);
            }
        }
        let found = self.store.head(&self.name).await?;
        if found.sealed_bytes != sent.sealed_bytes {
            let object = self.name.to_string();
            return Err(StoreError::Unconfirmed {
                object,
                sent: sent.sealed_bytes,
                found: found.sealed_bytes,
            });
        }
        Ok(Stored { etag: found.etag, ..sent })
    }

    /// Gives the object up and removes what was sent of it.
    pub async fn abort(mut self) {
        if let Target::S3(upload) = &mut self.target {
            upload.abort(&self.name).await;
        }
        // A local file goes with the drop.
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        if let Target::S3(upload) = &mut self.target {
            upload.abort_in_background(&self.name);
        }
    }
}

impl Upload {
    async fn write(&mut self, name: &ObjectName, create_only: bool, mut bytes: Bytes) -> Result<()> {
        loop {
            let part_bytes = if self.parts.len() < SHORT_PARTS { PART_BYTES } else { LONG_PART_BYTES };
            let room = part_bytes - self.buffer.len();
            if bytes.len() < room {
                self.buffer.extend_from_slice(&bytes);
                return Ok(());
            }
            self.buffer.extend_from_slice(&bytes.split_to(room));
            self.send_part(name, create_only).await?;
        }
    }

    /// Sends the buffer as the next part, once the part before it has arrived.
    async fn send_part(&mut self, name: &ObjectName, create_only: bool) -> Result<()> {
        let wrap = |source| StoreError::store("writing", name, source);
        let path = self.bucket.key(&name.to_path());
        let multipart = self.bucket.multipart(create_only);
        let id = match &self.id {
            Some(id) => id.clone(),
            None => {
                let id = multipart.create_multipart(&path).await.map_err(wrap)?;
                self.id = Some(id.clone());
                id
            }
        };
        self.wait_for_part().await.map_err(wrap)?;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
        let index = self.parts.len();
        self.in_flight =
            Some(tokio::spawn(async move { multipart.put_part(&path, &id, index, payload).await }));
        Ok(())
    }

    async fn wait_for_part(&mut self) -> object_store::Result<()> {
        if let Some(sending) = &mut self.in_flight {
            let sent = sending.await;
            self.in_flight = None;
            self.parts.push(sent??);
        }
        Ok(())
    }

    async fn finish(&mut self, name: &ObjectName, create_only: bool) -> Result<()> {
        let wrap = |source| StoreError::store("writing", name, source);
        let path = self.bucket.key(&name.to_path());
        if self.id.is_none() {
            let mode = if create_only { PutMode::Create } else { PutMode::Overwrite };
            let payload = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
            let options = PutOptions { mode, ..PutOptions::default() };
            self.bucket.objects(create_only).put_opts(&path, payload, options).await.map_err(wrap)?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.send_part(name, create_only).await?;
        }
        self.wait_for_part().await.map_err(wrap)?;
        let id = self.id.as_ref().expect("looked at above");
        let parts = std::mem::take(&mut self.parts);
        self.bucket.multipart(create_only).complete_multipart(&path, id, parts).await.map_err(wrap)?;
        self.id = None;
        Ok(())
    }

    async fn abort(&mut self, name: &ObjectName) {
        if let Some(sending) = self.in_flight.take() {
            sending.abort();
        }
        if let Some(id) = self.id.take() {
            let path = self.bucket.key(&name.to_path());
            if let Err(error) = self.bucket.multipart(false).abort_multipart(&path, &id).await {
                tracing::warn!(%name, %error, "an unfinished multipart upload stays in the bucket");
            }
        }
    }

    /// For a writer that was dropped, by a cancelled task for example.
    fn abort_in_background(&mut self, name: &ObjectName) {
        if let Some(sending) = self.in_flight.take() {
            sending.abort();
        }
        let Some(id) = self.id.take() else { return };
        let (bucket, path) = (Arc::clone(&self.bucket), self.bucket.key(&name.to_path()));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { bucket.multipart(false).abort_multipart(&path, &id).await });
        }
    }
}
