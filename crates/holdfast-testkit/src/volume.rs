//! Small file systems that a test can fill up.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A file system in memory, mounted until it is dropped.
pub struct Volume(PathBuf);

impl Volume {
    /// Mounts one of `mib` MiB at `path`, a folder that is made.
    ///
    /// # Errors
    /// When mounting is not permitted; see [`can_mount`].
    pub fn mount(path: &Path, mib: u64) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let size = format!("size={mib}m,mode=711");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "holdfast-test"]).arg(path).output()?;
        ensure!(done.status.success(), "mount: {}", String::from_utf8_lossy(&done.stderr));
        Ok(Self(path.to_owned()))
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// When that is not permitted.
    pub fn resize(&self, mib: u64) -> Result<()> {
        let size = format!("remount,size={mib}m");
        let done = Command::new("mount").args(["-o", &size]).arg(&self.0).output()?;
        ensure!(done.status.success(), "mount: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    #[must_use]
    pub fn free_mib(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.0)
            .map_or(0, |told| (told.blocks_available() * told.fragment_size()) >> 20)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all room but `leave_mib` MiB, more or less than before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn fill(&self, leave_mib: u64) -> Result<()> {
        self.empty()?;
        let file = std::fs::File::create(self.filler())?;
        let mut length = i64::try_from(self.free_mib().saturating_sub(leave_mib) << 20)?;
        // Others may take of it between the look and the grab.
        while length > 0 && nix::fcntl::posix_fallocate(&file, 0, length).is_err() {
            length -= 1 << 20;
        }
        if leave_mib == 0 {
            // The last bytes, until nothing more is taken.
            let rest = std::fs::File::options().append(true).open(self.filler())?;
            while std::io::Write::write(&mut &rest, &[0; 4096]).is_ok_and(|n| n > 0) {}
        }
        Ok(())
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn empty(&self) -> Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open does not keep the name.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Whether this process may mount; says so on the test's output when it may not.
#[must_use]
pub fn can_mount() -> bool {
    let folder = std::env::temp_dir().join(format!("holdfast-mount-{}", rand::random::<u32>()));
    let tried = Volume::mount(&folder, 1);
    let can = tried.is_ok();
    if let Err(error) = tried {
        println!("SKIPPED: a small file system cannot be mounted: {error:#}");
    }
    let _ = std::fs::remove_dir(&folder); // after the unmount above
    can
}
