//! System users for engines: each instance runs as one of its own, so that a superuser inside one database reaches
//! neither another service nor the agent's keys. Only a privileged agent can do that; an unprivileged one runs all
//! engines as itself.
//!
//! A user is claimed by a file in a folder that all agents of the host share; the file names the instance's folder, and a
//! claim whose folder is gone is free again.

use std::fs;
use std::path::Path;

use holdfast_engines::RunAs;
use holdfast_engines::exec::{self, ProcessSpec};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::User;

use crate::error::AgentError;

const PREFIX: &str = "holdfast-";
const POOL: u32 = 200;

/// Claims a free user for the instance in `folder`; the same one again if it has one already.
pub(crate) async fn claim(users_dir: &Path, folder: &Path) -> Result<Option<RunAs>, AgentError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    fs::create_dir_all(users_dir).map_err(AgentError::file(users_dir))?;
    if let Some(name) = name_claimed_for(users_dir, folder) {
        return ensure_exists(&name).await.map(Some);
    }
    for number in 1..=POOL {
        let name = format!("{PREFIX}{number:03}");
        if take(users_dir, &name, folder)? {
            let user = ensure_exists(&name).await?;
            if has_processes(user.uid) {
                // Left by an instance whose folder somebody removed: not ours to touch.
                release(users_dir, Some(&user), folder);
                tracing::debug!(
                    user = name,
                    "a user of the pool has processes that belong to no instance; passing it over"
                );
                continue;
            }
            return Ok(Some(user));
        }
    }
    Err(AgentError::Unusable(format!("all {POOL} users of the pool are taken; see {}", users_dir.display())))
}

/// Claims the user that an instance which is taken up runs as, should its claim be gone: the folder of claims is a
/// cache, and a second instance must not get the same user.
pub(crate) fn claim_again(users_dir: &Path, user: &RunAs, folder: &Path) -> Result<(), AgentError> {
    fs::create_dir_all(users_dir).map_err(AgentError::file(users_dir))?;
    if take(users_dir, &user.name, folder)? {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "the user {} of {} is claimed for another instance",
        user.name,
        folder.display()
    )))
}

fn name_claimed_for(users_dir: &Path, folder: &Path) -> Option<String> {
    let mut names = (1..=POOL).map(|number| format!("{PREFIX}{number:03}"));
    names.find(|name| owner_of(&users_dir.join(name)).is_some_and(|owner| owner == folder.to_string_lossy()))
}

/// Gives the user back; its next owner must find none of its processes.
pub(crate) fn release(users_dir: &Path, user: Option<&RunAs>, folder: &Path) {
    let Some(user) = user else { return };
    let claim = users_dir.join(&user.name);
    if owner_of(&claim).is_some_and(|owner| owner == folder.to_string_lossy()) {
        let _ = fs::remove_file(claim); // a stale claim is found by its missing folder
    }
}

/// Whether the user is the folder's, now or already. One agent of the host at a time.
fn take(users_dir: &Path, name: &str, folder: &Path) -> Result<bool, AgentError> {
    let lock = users_dir.join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    let _alone = Flock::lock(file.map_err(AgentError::file(&lock))?, FlockArg::LockExclusive)
        .map_err(|(_, error)| AgentError::file(&lock)(error.into()))?;
    let claim = users_dir.join(name);
    // An empty claim was cut off, one whose folder is gone is stale.
    match owner_of(&claim) {
        Some(owner) if owner == folder.to_string_lossy() => return Ok(true),
        Some(owner) if !owner.is_empty() && Path::new(&owner).exists() => return Ok(false),
        _ => {}
    }
    // The folder must exist before the claim is read by others.
    fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
    fs::write(&claim, folder.to_string_lossy().as_bytes()).map_err(AgentError::file(&claim))?;
    Ok(true)
}

fn owner_of(claim: &Path) -> Option<String> {
    fs::read_to_string(claim).ok()
}

fn has_processes(uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .any(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == uid))
}

async fn ensure_exists(name: &str) -> Result<RunAs, AgentError> {
    for attempt in 0..5_u32 {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(RunAs { name: name.to_owned(), uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        }
        let spec = ProcessSpec::new("/usr/sbin/useradd", "/").args([
            "--system",
            "--no-create-home",
            "--user-group",
            "--shell",
            "/usr/sbin/nologin",
            name,
        ]);
        if let Err(error) = exec::run(spec).await {
            tracing::warn!(%error, attempt, "cannot make the system user {name} yet");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
    Err(AgentError::Unusable(format!("cannot make the system user {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_claimed_for_one_folder_until_that_is_gone() {
        let host = tempfile::tempdir().expect("a temporary folder");
        let users = host.path();
        let [first, second] = ["one", "two"].map(|name| users.join(name));
        let take = |folder: &Path| take(users, "holdfast-001", folder).expect("readable");
        assert!(take(&first) && take(&first), "the same one again");
        assert!(!take(&second));
        assert_eq!(name_claimed_for(users, &first).as_deref(), Some("holdfast-001"));
        fs::remove_dir(&first).expect("claiming made it");
        assert!(take(&second), "the first one's folder is gone");
        fs::write(users.join("holdfast-001"), "").expect("writable");
        assert!(take(&first), "a claim that was cut off holds nobody");
    }
}
