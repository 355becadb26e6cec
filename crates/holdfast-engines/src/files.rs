//! Files in an instance's folder: some belong to the engine's user, some it may only read, some are for the agent alone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::Mode;

use crate::exec::RunAs;
use crate::{EngineError, Instance, Paths, Result};

/// Longest file of the engine's that is read whole.
const UNTRUSTED_LIMIT: u64 = 1 << 20;

/// Writes a file whole or not at all, for the agent alone.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    write_file(path, content, 0o600, None)
}

/// Writes a file whole or not at all, for the engine's user and nobody else.
pub(crate) fn write_private(path: &Path, content: &[u8], user: Option<&RunAs>) -> Result<()> {
    write_file(path, content, 0o600, user.map(|user| (user.uid, user.gid)))
}

/// A configuration file of the instance's: as [`write_private`], but the engine's user may only read it. (PostgreSQL takes a TLS key that root owns and a group
/// may read: PostgreSQL 17, 18.9.)
pub(crate) fn write_readable(path: &Path, content: &[u8], user: Option<&RunAs>) -> Result<()> {
    match user {
        Some(user) => write_file(path, content, 0o640, Some((0, user.gid))),
        None => write_file(path, content, 0o600, None),
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let doing = || format!("write {}", path.display());
    // Its own name whole: files that differ in the extension alone may be written at once.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".holdfast-new");
    let temporary = Path::new(&temporary);
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(temporary); // left by a killed writer
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(content)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().map_err(EngineError::io(doing()))
}

/// Reads a file in a folder that belongs to the engine's user: never through a link, for whoever is superuser inside the
/// database could point one at a file that only the agent may read.
pub(crate) fn read_untrusted(path: &Path) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let file = open_untrusted(path)?;
        let mut text = String::new();
        file.take(UNTRUSTED_LIMIT).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(EngineError::io(format!("read {}", path.display())))
}

/// Makes the instance's folders. Those that the engine writes belong to its user; the instance's own and `conf` do not.
pub(crate) fn make_folders(instance: &Instance) -> Result<()> {
    let paths = Paths(&instance.folder);
    let user = instance.run_as.as_ref();
    make_folder(&instance.folder, 0o711, None)?;
    make_folder(&paths.conf(), 0o711, None)?;
    for folder in [paths.data(), paths.log(), paths.lock(), paths.spool(), paths.run()] {
        make_folder(&folder, 0o700, user)?;
    }
    Ok(())
}

pub(crate) fn make_folder(path: &Path, mode: u32, owner: Option<&RunAs>) -> Result<()> {
    let make = || -> std::io::Result<()> {
        fs::create_dir_all(path)?;
        // In a folder that all may write to, somebody else may have been there first.
        let found = fs::symlink_metadata(path)?;
        let expected = [nix::unistd::geteuid().as_raw(), owner.map_or(0, |user| user.uid)];
        if !found.is_dir() || !expected.contains(&found.uid()) {
            return Err(std::io::Error::other("it is no folder of ours"));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match owner {
            Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    };
    make().map_err(EngineError::io(format!("make the folder {}", path.display())))
}

/// Never through a link: the folder belongs to the engine's user.
pub(crate) fn open_untrusted(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// A folder of the engine's user's, whose files are read, or kept, with the agent's rights. The user could put links into it, or
/// one in its place: so no link is followed on the way, and a file that is not the user's own is not touched.
pub(crate) struct UntrustedFolder {
    folder: OwnedFd,
    path: PathBuf,
    owner: u32,
}

impl UntrustedFolder {
    /// Opens the folder of this name in one that the engine's user cannot replace.
    pub(crate) fn open(within: &Path, name: &str, owner: Option<&RunAs>) -> std::io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let within_fd = nix::fcntl::open(within, flags, Mode::empty())?;
        let folder = nix::fcntl::openat(&within_fd, name, flags, Mode::empty())?;
        let owner = owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        Ok(Self { folder, path: within.join(name), owner })
    }

    /// Where the file of this name lies, for people.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A plain file of the user's, opened for reading.
    pub(crate) fn file(&self, name: &str) -> std::io::Result<fs::File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if name.contains('/') {
            return Err(std::io::Error::other("it is no name of a file"));
        }
        let file = fs::File::from(nix::fcntl::openat(&self.folder, name, flags, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        if meta.uid() != self.owner {
            return Err(std::io::Error::other("it belongs to somebody else than the engine's user"));
        }
        Ok(file)
    }

    /// A short file, whole.
    pub(crate) fn read(&self, name: &str) -> std::io::Result<String> {
        let mut text = String::new();
        self.file(name)?.take(UNTRUSTED_LIMIT).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Bytes of a file.
    pub(crate) fn length(&self, name: &str) -> std::io::Result<u64> {
        Ok(self.file(name)?.metadata()?.len())
    }
}

/// Gives an open file another name: this file, whatever lies under its first name by now.
pub(crate) fn link_open(file: &fs::File, to: &Path) -> std::io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(AT_FDCWD, from.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?;
    Ok(())
}

/// The last lines of the engine's logs, for error texts.
pub(crate) fn last_log_lines(instance: &Instance) -> String {
    let mut lines = recent_log(instance, 16 << 10);
    let from = lines.len().saturating_sub(6);
    lines.drain(..from);
    lines.join("; ")
}

/// The newest log file's last `bytes`, as lines.
pub(crate) fn recent_log(instance: &Instance, bytes: u64) -> Vec<String> {
    use std::io::{Seek as _, SeekFrom};
    let entries = std::fs::read_dir(Paths(&instance.folder).log()).into_iter().flatten().flatten();
    let newest = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"))
        .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok());
    let read = || -> std::io::Result<Vec<u8>> {
        let Some(entry) = newest else { return Ok(Vec::new()) };
        let mut file = open_untrusted(&entry.path())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut content = Vec::new();
        file.take(bytes).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().unwrap_or_default();
    String::from_utf8_lossy(&content).lines().map(str::to_owned).collect()
}
