//! System users for engines: each instance runs as one of its own, so that a superuser inside one database reaches
//! neither another service nor the agent's keys. Only a privileged agent can do that; an unprivileged one runs all
//! engines as itself.
//!
//! A user is claimed by a file in a folder that all agents of the host share; the file names the instance's folder, and a
//! claim whose folder is gone is free again.

use std::fs;
use std::io::Write;
use std::path::Path;

use holdfast_engines::RunAs;
use holdfast_engines::exec::{self, ProcessSpec};
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
    for number in 1..=POOL {
        let name = format!("{PREFIX}{number:03}");
        if take(&users_dir.join(&name), folder)? {
            let user = ensure_exists(&name).await?;
            if has_processes(user.uid) && !already_runs_here(folder) {
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

/// Gives the user back; its next owner must find none of its processes.
pub(crate) fn release(users_dir: &Path, user: Option<&RunAs>, folder: &Path) {
    let Some(user) = user else { return };
    let claim = users_dir.join(&user.name);
    if owner_of(&claim).is_some_and(|owner| owner == folder.to_string_lossy()) {
        let _ = fs::remove_file(claim); // a stale claim is found by its missing folder
    }
}

fn take(claim: &Path, folder: &Path) -> Result<bool, AgentError> {
    let text = folder.to_string_lossy();
    if let Some(owner) = owner_of(claim) {
        if owner == text {
            return Ok(true);
        }
        if owner.is_empty() || Path::new(&owner).exists() {
            return Ok(false);
        }
        let _ = fs::remove_file(claim); // somebody else may have done it: create_new below decides
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(claim) {
        Ok(mut file) => {
            // The folder must exist before the claim is read by others.
            fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
            file.write_all(text.as_bytes()).map_err(AgentError::file(claim))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(AgentError::file(claim)(error)),
    }
}

fn owner_of(claim: &Path) -> Option<String> {
    fs::read_to_string(claim).ok()
}

fn already_runs_here(folder: &Path) -> bool {
    folder.join("data/postmaster.pid").exists()
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
