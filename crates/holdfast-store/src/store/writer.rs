//! Writing one object as a stream.
//!
//! Memory on S3: the part being filled and the one on its way, 16 MiB together for objects up to 16 GB and 64 MiB
//! beyond. On a local folder: what one call brings.

use bytes::{Bytes, BytesMut};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{ObjectStore, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinHandle;

use super::local::{LocalFolder, Staged, io_error, run_blocking};
use super::s3::Bucket;
use super::{Backend, Refusal, Store, Stored};
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
    create_only: bool,
    buffer: BytesMut,
    /// The multipart upload, begun when a first part is full.
    id: Option<String>,
    begun_at: Instant,
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
                create_only: if_absent,
                buffer: BytesMut::new(),
                id: None,
                begun_at: Instant::now(),
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
            Target::S3(upload) => upload.write(&self.name, bytes).await,
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
            Target::S3(upload) => upload.finish(&self.name).await,
        };
        if let Err(error) = result {
            let is_ours = self.lies_there(&error, &sent).await;
            let (store, name) = (self.store.clone(), self.name.clone());
            self.abort().await;
            return match is_ours? {
                true => store.confirm(&name, sent).await,
                false => Err(error),
            };
        }
        self.store.confirm(&self.name, sent).await
    }

    /// The answer to an earlier try of ours may have been lost (T13): then the name is taken, or the upload is gone, and
    /// exactly our bytes, random salt included, lie there.
    async fn lies_there(&self, error: &StoreError, sent: &Stored) -> Result<bool> {
        let upload_gone = matches!(error, StoreError::Refused { refusal: Refusal::UploadGone, .. });
        if error.kind() != ErrorKind::AlreadyExists && !upload_gone {
            return Ok(false);
        }
        match self.store.hash(&self.name).await {
            Ok(found) => Ok(found.sha256 == sent.sha256),
            // Somebody else's write was under way and came to nothing, or was removed meanwhile: write again.
            Err(failed) if failed.kind() == ErrorKind::NotFound => Err(StoreError::Unconfirmed {
                object: self.name.to_string(),
                sent: sent.sealed_bytes,
                found: 0,
            }),
            Err(failed) => Err(failed),
        }
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
    async fn write(&mut self, name: &ObjectName, mut bytes: Bytes) -> Result<()> {
        loop {
            let part_bytes = if self.parts.len() < SHORT_PARTS { PART_BYTES } else { LONG_PART_BYTES };
            let room = part_bytes - self.buffer.len();
            if bytes.len() < room {
                self.buffer.extend_from_slice(&bytes);
                return Ok(());
            }
            self.buffer.extend_from_slice(&bytes.split_to(room));
            self.send_part(name).await?;
        }
    }

    /// Sends the buffer as the next part, once the part before it has arrived.
    async fn send_part(&mut self, name: &ObjectName) -> Result<()> {
        let path = self.bucket.key(&name.to_path());
        let writer = self.bucket.writer(self.create_only);
        let id = match &self.id {
            Some(id) => id.clone(),
            None => {
                self.begun_at = Instant::now();
                let begun = writer.create_multipart(&path).await;
                let id = begun.map_err(|source| self.bucket.error("writing", name, source))?;
                self.id = Some(id.clone());
                id
            }
        };
        self.wait_for_part(name).await?;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
        let index = self.parts.len();
        self.in_flight = Some(tokio::spawn(async move { writer.put_part(&path, &id, index, payload).await }));
        Ok(())
    }

    async fn wait_for_part(&mut self, name: &ObjectName) -> Result<()> {
        let seconds = self.begun_at.elapsed().as_secs();
        if self.id.is_some() && self.begun_at.elapsed() > self.bucket.limits.upload_life() {
            return Err(StoreError::TooOld { object: name.to_string(), seconds });
        }
        if let Some(sending) = &mut self.in_flight {
            let sent = sending.await.map_err(object_store::Error::from).flatten();
            self.in_flight = None;
            self.parts.push(sent.map_err(|source| self.bucket.error("writing", name, source))?);
        }
        Ok(())
    }

    async fn finish(&mut self, name: &ObjectName) -> Result<()> {
        let path = self.bucket.key(&name.to_path());
        let writer = self.bucket.writer(self.create_only);
        let result = if self.id.is_none() {
            let payload = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
            writer.put_opts(&path, payload, PutOptions::default()).await
        } else {
            if !self.buffer.is_empty() {
                self.send_part(name).await?;
            }
            self.wait_for_part(name).await?;
            let id = self.id.as_ref().expect("looked at above");
            writer.complete_multipart(&path, id, std::mem::take(&mut self.parts)).await
        };
        result.map_err(|source| self.bucket.error("writing", name, source))?;
        self.id = None;
        Ok(())
    }

    async fn abort(&mut self, name: &ObjectName) {
        if let Some(sending) = self.in_flight.take() {
            sending.abort();
        }
        if let Some(id) = self.id.take() {
            abort_upload(&self.bucket, name, &id).await;
        }
    }

    /// For a writer that was dropped, by a cancelled task for example.
    fn abort_in_background(&mut self, name: &ObjectName) {
        if let Some(sending) = self.in_flight.take() {
            sending.abort();
        }
        let Some(id) = self.id.take() else { return };
        let (bucket, name) = (Arc::clone(&self.bucket), name.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { abort_upload(&bucket, &name, &id).await });
        }
    }
}

/// Best effort: what stays is swept when it is old.
async fn abort_upload(bucket: &Bucket, name: &ObjectName, id: &str) {
    let path = bucket.key(&name.to_path());
    let aborted = bucket.writer(false).abort_multipart(&path, &id.to_owned()).await;
    match aborted.map_err(|source| bucket.error("aborting", name, source)) {
        // Finished or swept meanwhile.
        Ok(())
        | Err(StoreError::NotFound { .. } | StoreError::Refused { refusal: Refusal::UploadGone, .. }) => {}
        Err(error) => {
            tracing::warn!(%name, %error, "an unfinished multipart upload stays in the bucket until it is swept");
        }
    }
}
