//! What the agents of a host share, and each instance has for itself: a system user, a port. A name is claimed by a file in
//! a folder that all agents of the host have in common; the file names the instance's folder, and a claim whose folder
//! is gone is free again.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::AgentError;

/// Where this process claims: what root's agents share, or a folder of its own, for another's may not write there.
pub(crate) fn folder(shared: &Path, own: &Path) -> PathBuf {
    if nix::unistd::geteuid().is_root() { shared.to_owned() } else { own.join("claims") }
}

/// Whether the name is the folder's, now or already. One agent of the host at a time.
///
/// # Errors
/// When the claims cannot be read or written.
pub(crate) fn take(claims: &Path, name: &str, folder: &Path) -> Result<bool, AgentError> {
    let _alone = alone(claims)?;
    // An empty claim was cut off, one whose folder is gone is stale.
    match owner_of(claims, name) {
        Some(owner) if owner == folder.to_string_lossy() => return Ok(true),
        Some(owner) if !owner.is_empty() && Path::new(&owner).exists() => return Ok(false),
        _ => {}
    }
    // The folder must exist before the claim is read by others.
    fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
    let claim = claims.join(name);
    fs::write(&claim, folder.to_string_lossy().as_bytes()).map_err(AgentError::file(&claim))?;
    Ok(true)
}

fn alone(claims: &Path) -> Result<Flock<fs::File>, AgentError> {
    fs::create_dir_all(claims).map_err(AgentError::file(claims))?;
    let lock = claims.join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    Flock::lock(file.map_err(AgentError::file(&lock))?, FlockArg::LockExclusive)
        .map_err(|(_, error)| AgentError::file(&lock)(error.into()))
}

/// The folder that the name is claimed for.
pub(crate) fn owner_of(claims: &Path, name: &str) -> Option<String> {
    fs::read_to_string(claims.join(name)).ok()
}

/// Gives the name back, if it is the folder's.
pub(crate) fn release(claims: &Path, name: &str, folder: &Path) {
    if owner_of(claims, name).is_some_and(|owner| owner == folder.to_string_lossy()) {
        let _ = fs::remove_file(claims.join(name)); // a stale claim is found by its missing folder
    }
}

/// Gives back every name with this beginning that is the folder's, or whose folder is gone.
///
/// # Errors
/// When the claims cannot be read or written.
pub(crate) fn release_all(claims: &Path, prefix: &str, folder: &Path) -> Result<(), AgentError> {
    let _alone = alone(claims)?;
    for entry in fs::read_dir(claims).map_err(AgentError::file(claims))?.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let is_over = |owner: String| owner == folder.to_string_lossy() || !Path::new(&owner).exists();
        if name.starts_with(prefix) && owner_of(claims, &name).is_some_and(is_over) {
            fs::remove_file(entry.path()).map_err(AgentError::file(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_for_one_folder_until_that_is_gone() {
        let host = tempfile::tempdir().expect("a temporary folder");
        let claims = host.path().join("claims");
        let [first, second] = ["one", "two"].map(|name| host.path().join(name));
        let take = |folder: &Path| take(&claims, "holdfast-001", folder).expect("readable");
        assert!(take(&first) && take(&first), "the same one again");
        assert!(!take(&second));
        fs::remove_dir(&first).expect("claiming made it");
        assert!(take(&second), "the first one's folder is gone");
        release(&claims, "holdfast-001", &first);
        assert!(!take(&first), "only its owner gives it back");
        fs::write(claims.join("holdfast-001"), "").expect("writable");
        assert!(take(&first), "a claim that was cut off holds nobody");
        fs::create_dir_all(&second).expect("made");
        release_all(&claims, "other-", &first).expect("writable");
        release_all(&claims, "holdfast-", &second).expect("writable");
        assert!(!take(&second), "another's, and of another kind");
        fs::remove_dir(&first).expect("claiming made it");
        release_all(&claims, "holdfast-", &second).expect("writable");
        assert_eq!(owner_of(&claims, "holdfast-001"), None, "its folder is gone");
    }
}
