//! Incremental files that are kept until the archive has them.
//!
//! The server removes an incremental file once a newer base has taken its place. So each is hard-linked into a folder of the
//! agent's before the agent has the log rewritten (nobody else may), and stays there until the store has it for certain,
//! whatever becomes of the agent meanwhile. A link takes no room of its own while the server has the file too.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::aof::AofManifest;
use super::config::{AOF_FOLDER, AOF_NAME, spool_folder};
use super::cursor::Cursor;
use crate::files::{UntrustedFolder, link_open, open_untrusted};
use crate::{EngineError, Instance, LogOnDisk, Paths, Result, files};

const ARCHIVED: &str = "archived.json";
const SUFFIX: &str = ".incr";

fn link_of(instance: &Instance, seq: u64) -> PathBuf {
    spool_folder(instance).join(format!("{seq}{SUFFIX}"))
}

/// The server's own files. Its folder belongs to the engine's user; the one around it does not.
pub(super) fn server_files(instance: &Instance) -> Result<UntrustedFolder> {
    let data = Paths(&instance.folder).data();
    UntrustedFolder::open(&data, AOF_FOLDER, instance.run_as.as_ref())
        .map_err(EngineError::io(format!("open {}", data.join(AOF_FOLDER).display())))
}

pub(super) fn read_manifest(instance: &Instance) -> Result<AofManifest> {
    manifest_of(&server_files(instance)?)
}

pub(super) fn manifest_of(files: &UntrustedFolder) -> Result<AofManifest> {
    let name = format!("{AOF_NAME}.manifest");
    let path = files.path(&name);
    let text = files.read(&name).map_err(EngineError::io(format!("read {}", path.display())))?;
    AofManifest::parse(&text).filter(|manifest| manifest.live().is_some()).ok_or_else(|| {
        EngineError::Unexpected {
            doing: format!("read {}", path.display()),
            what: "it names no incremental file".to_owned(),
        }
    })
}

/// Links every incremental file of the server's that is not kept yet, and tells which files there are.
pub(super) fn keep(instance: &Instance) -> Result<AofManifest> {
    let files = server_files(instance)?;
    let manifest = manifest_of(&files)?;
    let mut linked = false;
    for (seq, name) in &manifest.incremental {
        let to = link_of(instance, *seq);
        let doing = || format!("keep {} for the archive", files.path(name).display());
        let (file, source) = match files.file(name).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((meta, file)) => (file, meta),
            // A rewrite took its place since the list was read; it was linked before that began.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(EngineError::io(doing())(error)),
        };
        match fs::symlink_metadata(&to) {
            Ok(kept) if (kept.dev(), kept.ino()) == (source.dev(), source.ino()) => continue,
            // Another file of this number: the data set was made anew.
            Ok(_) => fs::remove_file(&to).map_err(EngineError::io(doing()))?,
            Err(_) => {}
        }
        match link_open(&file, &to) {
            Ok(()) => linked = true,
            // Rewritten since the list was read, or linked by a backup and the log's reader at once.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(EngineError::io(doing())(error)),
        }
    }
    if linked {
        let folder = spool_folder(instance);
        let sync = File::open(&folder).and_then(|folder| folder.sync_all());
        sync.map_err(EngineError::io(format!("bring {} to disk", folder.display())))?;
    }
    Ok(manifest)
}

/// A kept file. `None` when it is not there.
pub(super) fn open(instance: &Instance, seq: u64) -> Result<Option<File>> {
    let path = link_of(instance, seq);
    match open_untrusted(&path) {
        Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => Ok(Some(file)),
        Ok(_) => {
            Err(EngineError::io(format!("open {}", path.display()))(std::io::Error::other("it is no file")))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io(format!("open {}", path.display()))(error)),
    }
}

/// Kept files, oldest first.
fn kept(instance: &Instance) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(spool_folder(instance)).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.strip_suffix(SUFFIX)?.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The store has everything before `archived`.
pub(super) fn release(instance: &Instance, archived: &Cursor) -> Result<()> {
    let text = serde_json::to_vec(archived).expect("a cursor has only string keys");
    files::write_secret(&spool_folder(instance).join(ARCHIVED), &text)?;
    for (seq, path) in kept(instance) {
        if seq < archived.seq {
            fs::remove_file(&path).map_err(EngineError::io(format!("remove {}", path.display())))?;
        }
    }
    Ok(())
}

fn archived(instance: &Instance) -> Option<Cursor> {
    serde_json::from_slice(&fs::read(spool_folder(instance).join(ARCHIVED)).ok()?).ok()
}

/// What kept files and the server's own take, and what of it the archive does not have.
pub(super) fn log_on_disk(instance: &Instance) -> Result<LogOnDisk> {
    let done = archived(instance);
    let kept = kept(instance);
    let mut log = LogOnDisk::default();
    for (seq, path) in &kept {
        let Ok(meta) = fs::symlink_metadata(path) else { continue };
        let has = match &done {
            Some(done) if done.seq == *seq => done.offset,
            Some(done) if done.seq > *seq => meta.len(),
            _ => 0,
        };
        log.total_bytes += meta.len();
        log.waiting_bytes += meta.len().saturating_sub(has);
    }
    // Before its first start, and while it is made anew, the server has no files.
    if let Ok(files) = server_files(instance)
        && let Ok(manifest) = manifest_of(&files)
    {
        let unkept =
            manifest.incremental.iter().filter(|(seq, _)| !kept.iter().any(|(known, _)| known == seq));
        log.total_bytes += unkept.map(|(_, name)| files.length(name).unwrap_or(0)).sum::<u64>();
    }
    Ok(log)
}

/// Gives up what is kept for the archive alone: the server has newer bases for it. Returns the bytes that this frees.
pub(super) fn drop_waiting(instance: &Instance) -> Result<u64> {
    let manifest = read_manifest(instance)?;
    let mut dropped = 0;
    for (seq, path) in kept(instance) {
        if manifest.incremental.iter().any(|(live, _)| *live == seq) {
            continue;
        }
        dropped += fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
        fs::remove_file(&path).map_err(EngineError::io(format!("remove {}", path.display())))?;
    }
    Ok(dropped)
}
