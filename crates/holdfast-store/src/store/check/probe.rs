//! Objects that a check makes below a random name of its own, outside of all that Holdfast stores, and removes again.

use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutOptions};
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::layout;
use crate::store::local::{io_error, run_blocking};
use crate::store::wire::Facts;
use crate::store::{Backend, Store};

pub(super) struct Probe {
    pub(super) store: Store,
    id: Uuid,
    made: Mutex<Vec<Path>>,
}

impl Probe {
    pub(super) fn new(store: Store) -> Self {
        Self { store, id: Uuid::new_v4(), made: Mutex::default() }
    }

    /// A name in the layout; remembered, so that it is cleaned up.
    pub(super) fn path(&self, name: &str) -> Path {
        let path = layout::probe(self.id, name);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(&path) {
            made.push(path.clone());
        }
        path
    }

    pub(super) fn folder(&self) -> Path {
        layout::probe_folder(self.id)
    }

    pub(super) async fn put(&self, path: &Path, bytes: Bytes, create_only: bool) -> Result<()> {
        match &self.store.backend {
            Backend::S3(bucket) => {
                let writer = bucket.writer(create_only);
                let put = writer.put_opts(&bucket.key(path), bytes.into(), PutOptions::default()).await;
                put.map(drop).map_err(|source| bucket.error("writing", path, source))
            }
            Backend::Local(folder) => {
                let (folder, path) = (Arc::clone(folder), path.clone());
                run_blocking(move || {
                    let mut staged = folder.stage()?;
                    staged.file.write_all(&bytes).map_err(io_error("writing", path.as_ref().as_ref()))?;
                    folder.publish(staged, &path, create_only)
                })
                .await
            }
        }
    }

    pub(super) async fn head(&self, path: &Path) -> Result<(u64, Facts)> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let (objects, key) = self.store.reader(path);
        let result = objects.get_opts(&key, options).await;
        let mut result = result.map_err(|source| self.store.error("looking at", path, source))?;
        Ok((result.meta.size, result.extensions.remove().unwrap_or_default()))
    }

    pub(super) async fn get(&self, path: &Path, range: Option<Range<u64>>) -> Result<Bytes> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let (objects, key) = self.store.reader(path);
        let wrap = |source| self.store.error("reading", path, source);
        objects.get_opts(&key, options).await.map_err(wrap)?.bytes().await.map_err(wrap)
    }

    /// What the store lists below this probe, as paths of the layout.
    pub(super) async fn list(&self) -> Result<Vec<String>> {
        let folder = self.folder();
        let (objects, key) = self.store.objects(&folder);
        let wrap = |source| self.store.error("listing", &folder, source);
        let listed: Vec<_> = objects.list(Some(&key)).try_collect().await.map_err(wrap)?;
        let strip = |key: &Path| match &self.store.backend {
            Backend::Local(_) => Some(key.to_string()),
            Backend::S3(bucket) => bucket.strip(key).map(str::to_owned),
        };
        Ok(listed.iter().filter_map(|meta| strip(&meta.location)).collect())
    }

    pub(super) async fn delete(&self, path: &Path) -> Result<()> {
        let deleted = match &self.store.backend {
            Backend::Local(folder) => folder.delete(path).await,
            Backend::S3(bucket) => {
                let deleted = bucket.objects().delete(&bucket.key(path)).await;
                deleted.map_err(|source| bucket.error("deleting", path, source))
            }
        };
        match deleted {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes all that was made; the first error, after everything was tried.
    pub(super) async fn clean_up(&self) -> Result<()> {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        for path in &made {
            result = result.and(self.delete(path).await);
        }
        if let Backend::S3(bucket) = &self.store.backend {
            for upload in bucket.unfinished(&self.folder()).await.unwrap_or_default() {
                result = result.and(bucket.abort(&upload).await);
            }
        }
        result
    }
}
