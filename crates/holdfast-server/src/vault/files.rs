//! The vault's files: `kek-<version>`, 64 hex digits, mode 0600.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_seal::Kek;
use zeroize::Zeroizing;

use super::VaultError;

pub(super) fn kek_path(folder: &Path, version: u32) -> PathBuf {
    folder.join(format!("kek-{version}"))
}

pub(super) fn list_kek_versions(folder: &Path) -> Result<Vec<u32>, VaultError> {
    let fail = |source| VaultError::File { path: folder.to_owned(), source };
    let mut versions = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if let Some(version) = name.to_str().and_then(|n| n.strip_prefix("kek-")).and_then(|v| v.parse().ok())
        {
            versions.push(version);
        }
    }
    Ok(versions)
}

pub(super) fn read_kek(folder: &Path, version: u32) -> Result<Kek, VaultError> {
    let path = kek_path(folder, version);
    let text = fs::read_to_string(&path)
        .map(Zeroizing::new)
        .map_err(|source| VaultError::File { path: path.clone(), source })?;
    let damaged = || VaultError::Damaged { path: path.clone(), what: "not 64 hex digits".to_owned() };
    let bytes = Zeroizing::new(hex::decode(text.trim()).map_err(|_| damaged())?);
    let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| damaged())?;
    Ok(Kek::from_bytes(version, bytes))
}

/// Writes a file of mode 0600 so that it is there whole or not at all, also after a power cut.
///
/// # Errors
/// Whatever the file system says.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), VaultError> {
    let fail = |source| VaultError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(fail)
}

pub(super) fn write_kek(folder: &Path, kek: &Kek) -> Result<(), VaultError> {
    let hex = Zeroizing::new(hex::encode(kek.expose()));
    write_secret(&kek_path(folder, kek.version()), hex.as_bytes())
}

/// Removes the file, also after a power cut; one that is not there is fine.
pub(super) fn remove_kek(folder: &Path, version: u32) -> Result<(), VaultError> {
    let path = kek_path(folder, version);
    let remove = || -> std::io::Result<()> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::File::open(folder)?.sync_all()
    };
    remove().map_err(|source| VaultError::File { path: path.clone(), source })
}
