//! Removes what killed writers and interrupted deletes left in a local folder: files in `.writing/` that no living
//! writer holds locked, and empty folders (a listing would show them).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::local::{LocalFolder, io_error};
use crate::error::Result;

/// Sweeps once. Blocking. Writers of this or another process that are at work are left alone.
pub(super) fn sweep(folder: &LocalFolder) -> Result<()> {
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
                _ => tracing::info!(path = %path.display(), "removed what a killed writer left behind"),
            }
        }
    }
    remove_empty_folders_below(&folder.root().join(crate::layout::LAYOUT_VERSION));
    Ok(())
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
