//! Asks the file system how much room there is.

use std::io;
use std::path::Path;

use holdfast_core::disk::Space;

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
