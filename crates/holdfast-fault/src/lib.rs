//! Fault points: places before and after every step of every job at which a test lets the step fail, wait, or the
//! process die. They exist in debug builds alone; a release build asks no file and never fails here.
//!
//! A test sets a point by a file in the folder that `HOLDFAST_FAULTS` names, and sees by its absence that it was met:
//! each is met once, also when the process that meets it dies of it.
//!
//! | | |
//! |---|---|
//! | name of the file | `<service id or any>.<kind>.<step>.<before or after>`; the step of a job that has ended is `settle` |
//! | `fail` | the step's try has failed and may be repeated; `after`: it was carried out and nobody hears of it |
//! | `fail-for-good` | the step has failed, and the job with it |
//! | `wait MS` | the step goes on after that time |
//! | `kill MS` | this process dies by SIGKILL after that time, whatever it does then |
//! | `kill-parent MS` | its parent does (an embedded agent's control plane, with which it dies) |

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::ServiceId;
use holdfast_core::job::{JobKind, Step};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

/// Before the step does anything, or after it has done everything and before its outcome is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    Before,
    After,
}

/// A fault point told the step to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fault point was set here")]
pub struct Injected {
    pub retryable: bool,
}

impl Injected {
    /// For the job's record.
    pub const CAUSE: &str = "fault_point";
}

/// Where fault points are set; nowhere by default.
#[derive(Debug, Clone, Default)]
pub struct FaultPoints {
    folder: Option<PathBuf>,
}

impl FaultPoints {
    /// Set by files in this folder. A release build forgets it.
    #[must_use]
    pub fn in_folder(folder: Option<PathBuf>) -> Self {
        Self { folder: folder.filter(|_| cfg!(debug_assertions)) }
    }

    /// A job of this service, or of none, has come to this point; `None` for the step: what follows from its end is about to be recorded.
    ///
    /// # Errors
    /// [`Injected`] where a test asks for it.
    pub async fn reached(
        &self,
        service: impl Into<Option<ServiceId>>,
        kind: JobKind,
        step: Option<Step>,
        moment: Moment,
    ) -> Result<(), Injected> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let step = step.map_or_else(|| "settle".to_owned(), word);
        let point = format!("{}.{step}.{}", word(kind), word(moment));
        let service = service.into().map(|id| id.to_string());
        let own = service.as_ref().and_then(|service| take(&folder.join(format!("{service}.{point}"))));
        let Some(action) = own.or_else(|| take(&folder.join(format!("any.{point}")))) else { return Ok(()) };
        tracing::warn!(service, point, action, "a fault point is met");
        act(&action).await
    }
}

fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).expect("an enum of plain words");
    value.as_str().unwrap_or_default().to_owned()
}

/// The file's content, once.
fn take(path: &Path) -> Option<String> {
    let action = std::fs::read_to_string(path).ok()?;
    std::fs::remove_file(path).ok()?;
    Some(action.trim().to_owned())
}

async fn act(action: &str) -> Result<(), Injected> {
    let (word, rest) = action.split_once(' ').unwrap_or((action, "0"));
    let after = Duration::from_millis(rest.parse().unwrap_or(0));
    match word {
        "fail" => return Err(Injected { retryable: true }),
        "fail-for-good" => return Err(Injected { retryable: false }),
        "wait" => tokio::time::sleep(after).await,
        "kill" => end(getpid(), after).await,
        "kill-parent" => end(getppid(), after).await,
        _ => tracing::error!(action, "a fault point asks for something unknown"),
    }
    Ok(())
}

/// At once: nothing more happens here. Later: the step goes on meanwhile.
async fn end(process: Pid, after: Duration) {
    if after.is_zero() {
        let _ = kill(process, Signal::SIGKILL);
        return std::future::pending().await;
    }
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        let _ = kill(process, Signal::SIGKILL);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_point_is_met_once_by_the_service_and_step_that_it_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let faults = FaultPoints::in_folder(Some(folder.path().to_owned()));
        let (service, other) = (ServiceId::random(), ServiceId::random());
        let set = |name: String, action| std::fs::write(folder.path().join(name), action).expect("written");
        set(format!("{service}.backup.run_backup.after"), "fail");
        set("any.restore.settle.before".to_owned(), "fail-for-good\n");
        let backup = |of| faults.reached(of, JobKind::Backup, Some(Step::RunBackup), Moment::After);
        assert_eq!(backup(other).await, Ok(()));
        assert_eq!(backup(service).await, Err(Injected { retryable: true }));
        assert_eq!(backup(service).await, Ok(()), "once");
        let settle = |moment| faults.reached(other, JobKind::Restore, None, moment);
        assert_eq!(settle(Moment::After).await, Ok(()));
        assert_eq!(settle(Moment::Before).await, Err(Injected { retryable: false }));
        assert_eq!(FaultPoints::default().reached(service, JobKind::Stop, None, Moment::After).await, Ok(()));
    }
}
