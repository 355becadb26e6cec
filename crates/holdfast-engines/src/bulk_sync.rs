//! One `syncfs` in the place of an fsync a file, for steps that write a thousand small files and count as not begun until
//! they have ended (`docs/decisions/0007-restore-latency.md`).
//!
//! The folder is opened before the first file is written, for the kernel tells a descriptor of every write-back error on
//! its file system since it was opened (syncfs(2), Linux 5.8). So whatever of the step's files did not reach the disk fails
//! the step, as a failed fsync would.

use std::fs::File;
use std::path::Path;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

/// The kernel from which on `syncfs` tells of lost writes.
const TELLS_ERRORS: (u32, u32) = (5, 8);

/// A folder whose file system is brought to disk as a whole.
#[derive(Debug)]
pub(crate) struct BulkSync(File);

impl BulkSync {
    /// Opens `folder`, before anything is written to it. `None` where one call for all is not as good as one for each
    /// file: an older kernel, or a file system that is not known to pass it on (network, FUSE, overlays).
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        if !tells_errors(&kernel) {
            return None;
        }
        let folder = File::open(folder).ok()?;
        let kind = fstatfs(&folder).ok()?.filesystem_type();
        let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC];
        known.contains(&kind).then_some(Self(folder))
    }

    /// Everything written to the file system since [`Self::open`] is on disk when this returns.
    ///
    /// # Errors
    /// When something was lost on its way; what was made is to be thrown away.
    pub(crate) async fn finish(self) -> std::io::Result<()> {
        let sync = move || nix::unistd::syncfs(&self.0).map_err(std::io::Error::from);
        tokio::task::spawn_blocking(sync).await.map_err(std::io::Error::other)?
    }
}

fn tells_errors(kernel: &str) -> bool {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= TELLS_ERRORS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_keep_errors_to_themselves_are_not_trusted() {
        let rows = [
            ("6.1.0-28-amd64", true),
            ("5.8.0", true),
            ("5.7.19", false),
            ("4.18.0-553.el8", false),
            ("", false),
        ];
        for (kernel, expected) in rows {
            assert_eq!(tells_errors(kernel), expected, "{kernel}");
        }
    }

    #[tokio::test]
    async fn only_file_systems_that_pass_it_on_are_trusted() {
        assert!(BulkSync::open(Path::new("/proc")).is_none(), "no disk behind it");
        assert!(BulkSync::open(Path::new("/nowhere/at/all")).is_none());
        if let Some(sync) = BulkSync::open(&std::env::temp_dir()) {
            sync.finish().await.expect("nothing was lost");
        }
    }
}
