//! Removes what killed writers and interrupted deletes left behind (R22).
//!
//! In a local folder: files in `.writing/` that no living writer holds locked, and empty folders (a listing would show
//! them). In a bucket: multipart uploads below our names that are older than any living writer's (`Limits::orphan_age`),
//! by the store's own clock. In both: objects of checks that were killed. `object_store` cannot list uploads, so that request is made here.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use object_store::ObjectStoreExt as _;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path as Key;
use serde::Deserialize;

use super::clock;
use super::limits::Limits;
use super::local::{LocalFolder, io_error, run_blocking};
use super::s3::Bucket;
use super::{Backend, Store, object_info};
use crate::error::{ErrorKind, Result};
use crate::layout::{LAYOUT_VERSION, PROBES};

const LISTING: &str = "listing uploads below";

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unfinished writes that were removed.
    pub removed: u64,
    /// Unfinished writes that may be somebody's.
    pub kept: u64,
}

impl Store {
    /// Removes what killed writers left behind and leaves all living ones alone, on whichever host they are.
    pub async fn sweep(&self) -> Result<Swept> {
        let (mut swept, age, ahead) = match &self.backend {
            Backend::Local(folder) => {
                let folder = Arc::clone(folder);
                let swept = run_blocking(move || sweep_folder(&folder)).await?;
                (swept, Limits::default().orphan_age, SignedDuration::ZERO)
            }
            Backend::S3(bucket) => {
                let swept = bucket.sweep().await?;
                (swept, bucket.limits.orphan_age, bucket.clock.ahead().unwrap_or_default())
            }
        };
        let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
        swept.removed += self.sweep_probes(Timestamp::now() - ahead - age).await?;
        Ok(swept)
    }

    /// Removes what checks that were killed wrote before `limit`, by the store's clock.
    async fn sweep_probes(&self, limit: Timestamp) -> Result<u64> {
        let (objects, folder) = self.objects(&Key::from(PROBES));
        let wrap = |source| self.error("sweeping", &PROBES, source);
        let mut removed = 0;
        let mut listing = objects.list(Some(&folder));
        while let Some(probe) = listing.try_next().await.map_err(wrap)? {
            if object_info(&probe).modified_at >= limit {
                continue;
            }
            match objects.delete(&probe.location).await {
                Err(object_store::Error::NotFound { .. }) => {}
                other => other.map_err(wrap)?,
            }
            removed += 1;
        }
        Ok(removed)
    }
}

/// A multipart upload that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unfinished {
    pub(super) key: Key,
    pub(super) id: String,
    /// By the store's clock; `None` where the store says nothing that can be read.
    pub(super) age: Option<SignedDuration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    upload: Vec<Listed>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

impl Bucket {
    async fn sweep(&self) -> Result<Swept> {
        let (living, orphans) = self.all_unfinished().await?;
        for upload in &orphans {
            match self.abort(upload).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Swept { removed: orphans.len() as u64, kept: living.len() as u64 })
    }

    /// All uploads below our names: those that may be somebody's, and those that are nobody's.
    async fn all_unfinished(&self) -> Result<(Vec<Unfinished>, Vec<Unfinished>)> {
        let limit = SignedDuration::try_from(self.limits.orphan_age).unwrap_or(SignedDuration::MAX);
        let mut all = self.unfinished(&Key::from(LAYOUT_VERSION)).await?;
        all.extend(self.unfinished(&Key::from(PROBES)).await?);
        Ok(all.into_iter().partition(|upload| upload.age.is_none_or(|age| age <= limit)))
    }

    /// How many uploads are open, and how many of them the next sweep will remove.
    pub(super) async fn count_unfinished(&self) -> Result<(usize, usize)> {
        let (living, orphans) = self.all_unfinished().await?;
        Ok((living.len() + orphans.len(), orphans.len()))
    }

    pub(super) async fn abort(&self, upload: &Unfinished) -> Result<()> {
        let aborted = self.writer(false).abort_multipart(&upload.key, &upload.id).await;
        aborted.map_err(|source| self.error("aborting an upload of", &upload.key, source))
    }

    /// Lists the unfinished uploads below a folder of ours (Amazon S3, `ListMultipartUploads`).
    pub(super) async fn unfinished(&self, folder: &Key) -> Result<Vec<Unfinished>> {
        let prefix = format!("{}/", self.key(folder));
        let (mut found, mut after) = (Vec::new(), (String::new(), String::new()));
        loop {
            let parameters = [
                ("uploads", ""),
                ("prefix", prefix.as_str()),
                ("key-marker", after.0.as_str()),
                ("upload-id-marker", after.1.as_str()),
            ];
            // Some stores take an empty marker for one.
            let parameters = if after.0.is_empty() { &parameters[..2] } else { &parameters[..] };
            let answer = self.ask(LISTING, parameters).await?;
            let now = clock::date(answer.headers());
            let wrap = |source: Box<dyn std::error::Error + Send + Sync>| {
                self.error(
                    "listing uploads below",
                    folder,
                    object_store::Error::Generic { store: "S3", source },
                )
            };
            let body = answer.into_body().bytes().await.map_err(|error| wrap(error.into()))?;
            let page: Page = quick_xml::de::from_reader(&body[..]).map_err(|error| wrap(error.into()))?;
            // The prefix is asked for, and not believed.
            let ours = page.upload.iter().filter(|upload| upload.key.starts_with(&prefix));
            found.extend(ours.filter_map(|upload| unfinished(upload, now)));
            match (page.is_truncated, page.next_key_marker) {
                (true, Some(key))
                    if (&key, page.next_upload_id_marker.as_ref()) != (&after.0, Some(&after.1)) =>
                {
                    after = (key, page.next_upload_id_marker.unwrap_or_default());
                }
                _ => return Ok(found),
            }
        }
    }
}

fn unfinished(listed: &Listed, now: Option<Timestamp>) -> Option<Unfinished> {
    let begun_at: Option<Timestamp> = listed.initiated.parse().ok();
    let age = now.zip(begun_at).map(|(now, begun_at)| now.duration_since(begun_at));
    Some(Unfinished { key: Key::parse(&listed.key).ok()?, id: listed.upload_id.clone(), age })
}

/// Sweeps once. Blocking. Writers of this or another process that are at work are left alone.
pub(super) fn sweep_folder(folder: &LocalFolder) -> Result<Swept> {
    let mut swept = Swept::default();
    let writing = folder.writing();
    for entry in fs::read_dir(&writing).map_err(io_error("listing", &writing))? {
        let path = entry.map_err(io_error("listing", &writing))?.path();
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
        {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing", &path)(error));
                }
                _ => swept.removed += 1,
            }
        } else {
            swept.kept += 1;
        }
    }
    remove_empty_folders_below(&folder.root().join(LAYOUT_VERSION));
    if swept.removed > 0 {
        tracing::info!(files = swept.removed, "removed what killed writers left behind");
    }
    Ok(swept)
}

/// Best effort: a folder that cannot be read or removed is not empty for our purpose. True if `folder` is gone.
fn remove_empty_folders_below(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut empty = true;
    for entry in entries {
        let removed = match entry {
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                remove_empty_folders_below(&entry.path())
            }
            _ => false,
        };
        empty &= removed;
    }
    empty && fs::remove_dir(folder).is_ok()
}
