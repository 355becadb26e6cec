//! A local folder as object store. Finding and listing are `object_store`'s. Reading is here because its own is slow ([`read`]),
//! and writing because we want files with mode 0600 in folders with mode 0700, create-only writes of any length, and every
//! folder on the way flushed.
//!
//! A write goes into a file of its own in `.writing/`, locked while its writer lives, is flushed, gets its name in one
//! step (a hard link, or a rename to overwrite) and then all folders up to the root are flushed. So after a crash an
//! object is whole or absent, and a leftover in `.writing/` that nobody holds a lock on is garbage (`sweep.rs`).

use std::fs::{DirBuilder, File};
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::error::{Result, StoreError};

/// Where objects are written before they have their name.
pub(super) const WRITING: &str = ".writing";
/// How often a folder that a concurrent delete removed is made anew before the write gives up.
const FOLDER_TRIES: usize = 16;
/// As much of a file is read at once. Each read costs a hop to another thread; the 8 KiB of `object_store`'s own stream made these
/// hops most of a restore.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct LocalFolder {
    root: PathBuf,
    objects: Arc<LocalFileSystem>,
}

/// A file being written, not yet visible. Dropped, it is gone; [`LocalFolder::publish`] gives it a name that stays.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already after a rename. What cannot be removed is found by the sweep.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A range of an object's file, piece by piece.
pub(super) fn read(mut file: File, range: Range<u64>) -> BoxStream<'static, object_store::Result<Bytes>> {
    let failed = |source| object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::<io::Error>::new(source),
    };
    if let Err(error) = file.seek(SeekFrom::Start(range.start)) {
        return futures::stream::once(std::future::ready(Err(failed(error)))).boxed();
    }
    let file = tokio::fs::File::from_std(file).take(range.end.saturating_sub(range.start));
    ReaderStream::with_capacity(file, READ_BYTES).map_err(failed).boxed()
}

impl LocalFolder {
    pub(super) fn open(root: &FilePath) -> Result<Self> {
        make_folder(root)?;
        let root = root.canonicalize().map_err(io_error("opening", root))?;
        make_folder(&root.join(WRITING))?;
        flush_folder(&root)?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| StoreError::store("opening", &root.display(), source))?;
        Ok(Self { root, objects: Arc::new(objects) })
    }

    pub(super) fn root(&self) -> &FilePath {
        &self.root
    }

    pub(super) fn writing(&self) -> PathBuf {
        self.root.join(WRITING)
    }

    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects) as Arc<dyn ObjectStore>
    }

    /// Opens a new file to write into. Blocking.
    pub(super) fn stage(&self) -> Result<Staged> {
        loop {
            let path = self.writing().join(Uuid::new_v4().to_string());
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path).map_err(io_error("creating", &path))?;
            // A sweep may have come between creation and lock; then the file has lost its name.
            if file.try_lock().is_ok() && path.exists() {
                return Ok(Staged { file, path });
            }
        }
    }

    /// Flushes a staged file and gives it its name. Blocking. What holds after a crash: the object is there whole, or
    /// not at all; after `Ok` it is there.
    pub(super) fn publish(&self, staged: Staged, object: &Path, if_absent: bool) -> Result<()> {
        staged.file.sync_all().map_err(io_error("flushing", &staged.path))?;
        let target = self.file_path(object)?;
        let folder = target.parent().expect("an object lies below the root").to_owned();
        for attempt in 1.. {
            match create_folder(&folder) {
                // A delete beside us removes folders that fell empty, also while this one is made.
                Err(error) if is_race(&error) && attempt < FOLDER_TRIES => continue,
                made => made.map_err(io_error("creating", &folder))?,
            }
            let named = if if_absent {
                std::fs::hard_link(&staged.path, &target)
            } else {
                std::fs::rename(&staged.path, &target)
            };
            match named {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::AlreadyExists { object: object.to_string() });
                }
                // A delete beside us removed the folder when it fell empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < FOLDER_TRIES => {}
                Err(source) => return Err(StoreError::Io { operation: "naming", path: target, source }),
            }
        }
        self.flush_up_to_root(&folder)
    }

    /// Removes an object and the folders that fall empty. Durable after `Ok`.
    pub(super) async fn delete(self: &Arc<Self>, object: &Path) -> Result<()> {
        let folder = Arc::clone(self);
        let object = object.clone();
        run_blocking(move || {
            let target = folder.file_path(&object)?;
            std::fs::remove_file(&target).map_err(io_error("deleting", &target))?;
            folder.remove_empty_folders(target.parent().expect("an object lies below the root"))
        })
        .await
    }

    /// Removes `folder` and its parents as long as they are empty, and flushes the first one that stays.
    fn remove_empty_folders(&self, folder: &FilePath) -> Result<()> {
        let mut folder = folder;
        while folder != self.root && std::fs::remove_dir(folder).is_ok() {
            folder = folder.parent().expect("the root is above every folder of an object");
        }
        match File::open(folder).and_then(|file| file.sync_all()) {
            // Somebody else removed it meanwhile, and flushes what is above.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("flushing", folder)),
        }
    }

    /// Flushing a folder that has no changes costs next to nothing, so nobody keeps a list of flushed ones.
    fn flush_up_to_root(&self, folder: &FilePath) -> Result<()> {
        let mut folder = folder;
        loop {
            flush_folder(folder)?;
            if folder == self.root {
                return Ok(());
            }
            folder = folder.parent().expect("the root is above every folder of an object");
        }
    }

    fn file_path(&self, object: &Path) -> Result<PathBuf> {
        self.objects.path_to_filesystem(object).map_err(|source| StoreError::store("naming", object, source))
    }
}

/// Runs file work on a thread of its own kind.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Not started before the runtime shut down.
            Err(_) => Err(StoreError::Io {
                operation: "working",
                path: PathBuf::new(),
                source: io::Error::from(io::ErrorKind::Interrupted),
            }),
        },
    }
}

pub(super) fn io_error(operation: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}

fn make_folder(folder: &FilePath) -> Result<()> {
    create_folder(folder).map_err(io_error("creating", folder))
}

fn create_folder(folder: &FilePath) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn is_race(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

fn flush_folder(folder: &FilePath) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(io_error("flushing", folder))
}
