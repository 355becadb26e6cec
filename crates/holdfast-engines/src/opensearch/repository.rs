//! The files of a repository of snapshots, on the engine's own disk.
//!
//! Segments of indices lie there as blobs, whose names (`__` and a random number) never stand for anything else; all other files are
//! small. Once a blob is in the object store its file is emptied: the server goes by its name, and makes the next snapshot of what
//! has come since. It deletes the files of blobs that no snapshot names any more.
//!
//! The folder belongs to the engine's user, who could put links into it: none is followed, nor any file touched that is not his.
//!
//! Source: OpenSearch 2.19, `BlobStoreRepository`; that emptied files are not missed was tried.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::config;
use crate::{EngineError, Instance, Result, RunAs};

/// Blobs of segments begin so; those with a `v` before it stand in other files.
const BLOB: &str = "__";
/// A repository has `indices/<index>/<shard>/<file>`, and nothing deeper.
const DEPTH: usize = 4;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Below the repository, with `/`.
    pub name: String,
    pub bytes: u64,
}

impl Found {
    pub(super) fn is_blob(&self) -> bool {
        self.name.rsplit('/').next().is_some_and(|name| name.starts_with(BLOB))
    }
}

/// An instance's folder for one repository.
pub(super) struct Repository {
    path: PathBuf,
    owner: u32,
}

impl Repository {
    pub(super) fn new(instance: &Instance, name: &str) -> Self {
        let owner = instance.run_as.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        Self { path: config::repositories(instance).join(name), owner }
    }

    /// What the server is told.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All files, by name. Empty where there is no folder yet.
    pub(super) fn files(&self) -> Result<Vec<Found>> {
        let list = || -> io::Result<Vec<Found>> {
            let mut found = Vec::new();
            match self.open("", OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
                root => drop(root?),
            }
            let mut folders = vec![String::new()];
            while let Some(folder) = folders.pop() {
                self.list(&folder, &mut folders, &mut found)?;
            }
            found.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(found)
        };
        list().map_err(EngineError::io("list the engine's repository"))
    }

    fn list(&self, folder: &str, folders: &mut Vec<String>, found: &mut Vec<Found>) -> io::Result<()> {
        let opened = self.open(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut entries = nix::dir::Dir::from_fd(opened)?;
        for entry in entries.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if [".", ".."].contains(&name) {
                continue;
            }
            let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            // One that was deleted meanwhile, or is none of the user's, is none.
            let Ok(opened) = self.open(&name, OFlag::O_RDONLY | OFlag::O_NONBLOCK) else { continue };
            let meta = File::from(opened).metadata()?;
            if meta.is_dir() && name.split('/').count() < DEPTH {
                folders.push(name);
            } else if meta.is_file() && meta.uid() == self.owner {
                found.push(Found { name, bytes: meta.len() });
            }
        }
        Ok(())
    }

    /// A file of this repository, for reading.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        self.own(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
    }

    /// Empties a file: what it held is in the object store.
    pub(super) fn empty(&self, name: &str) -> io::Result<()> {
        self.own(name, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?.set_len(0)
    }

    fn own(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let file = File::from(self.open(name, flags)?);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != self.owner || meta.nlink() != 1 {
            return Err(io::Error::other(format!("{name} is no file of the engine's")));
        }
        Ok(file)
    }

    fn open(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let folder = self.path.parent().unwrap_or(&self.path);
        let flags_of_folder = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = nix::fcntl::open(folder, flags_of_folder, Mode::empty())?;
        let within = Path::new(self.path.file_name().unwrap_or_default()).join(name);
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(&folder, &within, how)?)
    }

    /// Removes all of it.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(EngineError::io("remove the engine's repository")(error))
            }
            _ => Ok(()),
        }
    }

    /// A new file in it, of the engine's user, while nobody but the agent knows of the repository.
    pub(super) fn create(&self, name: &str, user: Option<&RunAs>) -> io::Result<File> {
        let path = self.path.join(name);
        let folder = path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder)?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Some(user) = user {
            let ids = (Some(user.uid), Some(user.gid));
            std::os::unix::fs::fchown(&file, ids.0, ids.1)?;
            for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.path)) {
                std::os::unix::fs::chown(folder, ids.0, ids.1)?;
            }
        }
        Ok(file)
    }
}

/// Whether a name from a backup is one of a repository, and leads nowhere else.
pub(super) fn is_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let is_plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with("..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    parts.len() <= DEPTH && parts.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["index-0", "index.latest", "indices/aB-_9/0/__x", "indices/a/meta-b.dat"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "indices/../x", "a//b", "a/b/c/d/e", "a b", "indices/a/0/"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let owner = nix::unistd::geteuid().as_raw();
        let repository = Repository { path: folder.path().join("repository"), owner };
        assert_eq!(repository.files().expect("nothing"), []);
        std::fs::create_dir_all(repository.path.join("indices/a/0")).expect("folders");
        std::fs::write(folder.path().join("secret"), "secret").expect("a file");
        std::fs::write(repository.path.join("indices/a/0/__b"), "blob").expect("a file");
        std::os::unix::fs::symlink("../secret", repository.path.join("link")).expect("a link");
        std::os::unix::fs::symlink("../..", repository.path.join("indices/away")).expect("a link");
        std::fs::hard_link(folder.path().join("secret"), repository.path.join("__hard")).expect("a link");
        let names: Vec<String> =
            repository.files().expect("files").into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["__hard", "indices/a/0/__b"]);
        for name in ["link", "indices/away/secret", "../secret", "__hard"] {
            repository.read(name).expect_err(name);
            repository.empty(name).expect_err(name);
        }
        repository.empty("indices/a/0/__b").expect("it is the engine's");
        assert_eq!(std::fs::read(folder.path().join("secret")).expect("it is there"), b"secret");
    }
}
