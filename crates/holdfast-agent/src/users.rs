//! System users for engines: each instance runs as one of its own, so that a superuser inside one database reaches
//! neither another service nor the agent's keys. Only a privileged agent can do that; an unprivileged one runs all
//! engines as itself.
//!
//! Who has which is told by a claim ([`crate::claims`]).

use std::fs;
use std::path::Path;

use holdfast_engines::RunAs;
use holdfast_engines::exec::{self, ProcessSpec};
use nix::unistd::User;

use crate::claims;
use crate::error::AgentError;

const PREFIX: &str = "holdfast-";
const POOL: u32 = 200;

/// Claims a free user for the instance in `folder`; the same one again if it has one already.
pub(crate) async fn claim(claims: &Path, folder: &Path) -> Result<Option<RunAs>, AgentError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    if let Some(name) = name_claimed_for(claims, folder) {
        return ensure_exists(&name).await.map(Some);
    }
    for number in 1..=POOL {
        let name = format!("{PREFIX}{number:03}");
        if claims::take(claims, &name, folder)? {
            let user = ensure_exists(&name).await?;
            if has_processes(user.uid) {
                // Left by an instance whose folder somebody removed: not ours to touch.
                release(claims, Some(&user), folder);
                tracing::debug!(
                    user = name,
                    "a user of the pool has processes that belong to no instance; passing it over"
                );
                continue;
            }
            return Ok(Some(user));
        }
    }
    Err(AgentError::Unusable(format!("all {POOL} users of the pool are taken; see {}", claims.display())))
}

/// Claims the user that an instance which is taken up runs as, should its claim be gone: the folder of claims is a
/// cache, and a second instance must not get the same user.
pub(crate) fn claim_again(claims: &Path, user: &RunAs, folder: &Path) -> Result<(), AgentError> {
    if claims::take(claims, &user.name, folder)? {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "the user {} of {} is claimed for another instance",
        user.name,
        folder.display()
    )))
}

fn name_claimed_for(claims: &Path, folder: &Path) -> Option<String> {
    let mut names = (1..=POOL).map(|number| format!("{PREFIX}{number:03}"));
    names.find(|name| claims::owner_of(claims, name).is_some_and(|owner| owner == folder.to_string_lossy()))
}

/// Gives the user back; its next owner must find none of its processes.
pub(crate) fn release(claims: &Path, user: Option<&RunAs>, folder: &Path) {
    if let Some(user) = user {
        claims::release(claims, &user.name, folder);
    }
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
