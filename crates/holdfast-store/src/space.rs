//! Asks the file system how much room there is.

use std::io;
use std::path::Path;

use holdfast_core::disk::Space;

use crate::error::{Result, StoreError};
use crate::store::Store;

/// The volume that `path` lies on.
///
/// # Errors
/// When the file system does not tell.
pub fn space_of(path: &Path) -> io::Result<Space> {
    let told = nix::sys::statvfs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
    // As df counts: what only root may take belongs to nobody here.
    let used = told.blocks().saturating_sub(told.blocks_free());
    let total_bytes = bytes(used.saturating_add(told.blocks_available()));
    Ok(Space { total_bytes, free_bytes: bytes(told.blocks_available()) })
}

/// Room for log in a local object store: it may use half of the reserve, which is kept for cleaning up.
///
/// # Errors
/// [`StoreError::Full`].
pub fn ensure_log_room(store: &Store) -> Result<()> {
    ensure_room(store, |reserve_bytes| reserve_bytes / 2)
}

/// Room for a backup's objects: they stop where the reserve begins.
///
/// # Errors
/// [`StoreError::Full`].
pub fn ensure_backup_room(store: &Store) -> Result<()> {
    ensure_room(store, |reserve_bytes| reserve_bytes)
}

fn ensure_room(store: &Store, kept: impl Fn(u64) -> u64) -> Result<()> {
    let Some(space) = store.space() else { return Ok(()) };
    let kept_bytes = kept(space.reserve_bytes());
    if space.free_bytes < kept_bytes {
        return Err(StoreError::Full { free_bytes: space.free_bytes, kept_bytes });
    }
    Ok(())
}
