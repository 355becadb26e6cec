//! The object store: a local folder or an S3 bucket, behind one set of operations with names from [`crate::layout`].
//!
//! *Stored* means confirmed: when a write returns, the object lies in the store whole, with the size that was sent
//! (asked back from the store), and a power cut does not take it away. No operation holds a whole object in memory.

mod answer;
pub mod check;
mod clock;
mod confirm;
mod limits;
mod local;
mod resume;
mod s3;
mod sweep;
mod wire;
mod writer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use holdfast_core::disk::Space;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, Result, StoreError};
use crate::layout::{ObjectName, ObjectPrefix};

use wire::Facts;

pub use answer::{Answer, Refusal};
pub use limits::{Limits, StoreSettings};
pub use sweep::Swept;
pub(crate) use wire::WireError;
pub use writer::StoreWriter;

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in the store, sealing included.
    pub sealed_bytes: u64,
    pub modified_at: Timestamp,
    pub etag: Option<String>,
}

/// An object that the store has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Length in the store, sealing included.
    pub sealed_bytes: u64,
    /// SHA-256 of what lies in the store, hex.
    pub sha256: String,
    pub etag: Option<String>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub name: ObjectName,
    pub info: ObjectInfo,
}

/// An object, or a range of it, being read.
pub struct Reading {
    /// Of the whole object.
    pub info: ObjectInfo,
    /// The bytes asked for, as they arrive, over breaks of the connection. An error ends it.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

impl Reading {
    /// Collects the bytes; an error if there are more than `limit`.
    pub async fn collect(mut self, limit: u64) -> Result<Bytes> {
        let mut whole = bytes::BytesMut::new();
        while let Some(piece) = self.bytes.try_next().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(StoreError::TooLarge {
                    object: "an object to be held in memory".to_owned(),
                    limit,
                });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("info", &self.info).finish_non_exhaustive()
    }
}

/// A connection to the object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Local(Arc<local::LocalFolder>),
    S3(Arc<s3::Bucket>),
}

impl Store {
    /// Opens `file:///absolute/path` (the rest is the path as it stands; the folder is made if missing) or
    /// `s3://bucket/prefix?options` (credentials, region and endpoint from the `AWS_*` environment; plain HTTP only if
    /// `AWS_ENDPOINT_URL` says so; `docs/object-stores.md` has the options). On a local folder it also removes what
    /// killed writers left behind.
    ///
    /// An S3 bucket is not contacted yet.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_with(url, &StoreSettings::default())
    }

    /// As [`Store::open`], with other limits or credentials.
    pub fn open_with(url: &str, settings: &StoreSettings) -> Result<Self> {
        if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(StoreError::Url { url: url.to_owned(), reason: "file: needs an absolute path" });
            }
            let folder = local::LocalFolder::open(path.as_ref())?;
            sweep::sweep_folder(&folder)?;
            return Ok(Self { backend: Backend::Local(Arc::new(folder)) });
        }
        if let Some(rest) = url.strip_prefix("s3://") {
            let bucket = s3::Bucket::open(url, rest, settings)?;
            return Ok(Self { backend: Backend::S3(Arc::new(bucket)) });
        }
        Err(StoreError::Url { url: url.to_owned(), reason: "expected file:///path or s3://bucket/prefix" })
    }

    /// The same bucket with other limits; a local folder has none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn with_limits(&self, limits: Limits) -> Result<Self> {
        match &self.backend {
            Backend::Local(_) => Ok(self.clone()),
            Backend::S3(bucket) => Ok(Self { backend: Backend::S3(Arc::new(bucket.with_limits(limits)?)) }),
        }
    }

    /// The disk of a local folder; `None` for a bucket, and where the system does not tell.
    #[must_use]
    pub fn space(&self) -> Option<Space> {
        match &self.backend {
            Backend::Local(folder) => crate::space_of(folder.root()).ok(),
            Backend::S3(_) => None,
        }
    }

    /// Stores a small object under its name, whatever lies there now.
    pub async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<Stored> {
        self.put_with(name, bytes, false).await
    }

    /// Stores a small object only if nothing lies under its name (R14). `Ok` also when exactly these bytes lie there
    /// already: the answer to an earlier try was lost. Otherwise [`ErrorKind::AlreadyExists`].
    pub async fn put_if_absent(&self, name: &ObjectName, bytes: Bytes) -> Result<Stored> {
        self.put_with(name, bytes, true).await
    }

    async fn put_with(&self, name: &ObjectName, bytes: Bytes, if_absent: bool) -> Result<Stored> {
        let mut writer = self.writer(name, if_absent).await?;
        match writer.write(bytes).await {
            Ok(()) => writer.finish().await,
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    /// Begins to write an object of any length. It appears only when [`StoreWriter::finish`] returns.
    pub async fn writer(&self, name: &ObjectName, if_absent: bool) -> Result<StoreWriter> {
        StoreWriter::begin(self.clone(), name.clone(), if_absent).await
    }

    /// Reads an object from its beginning.
    pub async fn get(&self, name: &ObjectName) -> Result<Reading> {
        self.read(name, None).await
    }

    /// Reads the bytes `range` of what lies in the store; a range that ends behind the object is cut there.
    pub async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Reading> {
        self.read(name, Some(range)).await
    }

    async fn read(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<Reading> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let (objects, path) = self.reader(&name.to_path());
        let result =
            objects.get_opts(&path, options).await.map_err(|source| self.error("reading", name, source))?;
        let info = object_info(&result.meta);
        Ok(Reading { info, bytes: resume::resuming(self.clone(), name.clone(), result) })
    }

    /// Asks for an object's length and date.
    pub async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        Ok(self.look_at(name).await?.0)
    }

    /// The same, with what else the store says of the object.
    async fn look_at(&self, name: &ObjectName) -> Result<(ObjectInfo, Facts)> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let (objects, path) = self.reader(&name.to_path());
        let mut result = objects
            .get_opts(&path, options)
            .await
            .map_err(|source| self.error("looking at", name, source))?;
        Ok((object_info(&result.meta), result.extensions.remove().unwrap_or_default()))
    }

    /// Lists a group of objects, in no particular order. Objects with names that are not of this layout are left
    /// out, with a warning.
    pub fn list(&self, prefix: &ObjectPrefix) -> BoxStream<'static, Result<ListedObject>> {
        let (store, failing) = (self.clone(), self.clone());
        let folder = prefix.to_path();
        let (objects, path) = self.objects(&folder);
        let listing = objects.list(Some(&path));
        let folder = folder.to_string();
        listing
            .map_err(move |source| failing.error("listing", &folder, source))
            .try_filter_map(move |meta| std::future::ready(Ok(store.listed(&meta))))
            .boxed()
    }

    /// Lists one folder: its objects, and the names of the folders in it.
    pub async fn list_folder(&self, prefix: &ObjectPrefix) -> Result<(Vec<ListedObject>, Vec<String>)> {
        let folder = prefix.to_path();
        let (objects, path) = self.objects(&folder);
        let result = objects
            .list_with_delimiter(Some(&path))
            .await
            .map_err(|source| self.error("listing", &folder, source))?;
        let listed = result.objects.iter().filter_map(|meta| self.listed(meta)).collect();
        let folders =
            result.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        Ok((listed, folders))
    }

    /// Removes an object; `Ok` also when it is not there.
    pub async fn delete(&self, name: &ObjectName) -> Result<()> {
        let result = match &self.backend {
            Backend::Local(folder) => folder.delete(&name.to_path()).await,
            Backend::S3(bucket) => bucket
                .objects()
                .delete(&bucket.key(&name.to_path()))
                .await
                .map_err(|source| bucket.error("deleting", name, source)),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// SHA-256 (hex) and length of what lies in the store.
    pub(crate) async fn hash(&self, name: &ObjectName) -> Result<Stored> {
        let mut reading = self.get(name).await?;
        let (mut hasher, mut sealed_bytes) = (Sha256::new(), 0);
        while let Some(piece) = reading.bytes.try_next().await? {
            hasher.update(&piece);
            sealed_bytes += piece.len() as u64;
        }
        Ok(Stored { sealed_bytes, sha256: hex::encode(hasher.finalize()), etag: reading.info.etag })
    }

    fn objects(&self, path: &Path) -> (Arc<dyn ObjectStore>, Path) {
        match &self.backend {
            Backend::Local(folder) => (folder.objects(), path.clone()),
            Backend::S3(bucket) => (bucket.objects(), bucket.key(path)),
        }
    }

    fn reader(&self, path: &Path) -> (Arc<dyn ObjectStore>, Path) {
        match &self.backend {
            Backend::Local(folder) => (folder.objects(), path.clone()),
            Backend::S3(bucket) => (bucket.reader(), bucket.key(path)),
        }
    }

    fn error(
        &self,
        operation: &'static str,
        object: &impl ToString,
        source: object_store::Error,
    ) -> StoreError {
        match &self.backend {
            Backend::Local(_) => StoreError::store(operation, object, source),
            Backend::S3(bucket) => bucket.error(operation, object, source),
        }
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<ListedObject> {
        let text = match &self.backend {
            Backend::Local(_) => meta.location.as_ref(),
            Backend::S3(bucket) => bucket.strip(&meta.location)?,
        };
        match text.parse() {
            Ok(name) => Some(ListedObject { name, info: object_info(meta) }),
            Err(error) => {
                tracing::warn!(%error, "a foreign object lies in the object store");
                None
            }
        }
    }
}

fn object_info(meta: &ObjectMeta) -> ObjectInfo {
    // Years outside of jiff's range (-9999 to 9999) come from no store; the epoch then says "unknown".
    let modified_at = Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or_default();
    ObjectInfo { sealed_bytes: meta.size, modified_at, etag: meta.e_tag.clone() }
}
