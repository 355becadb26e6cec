//! Starts a process whose `fsync` and `fdatasync` do nothing and say that all is well, as `systemd-nspawn --suppress-sync`
//! does it: a seccomp filter, which a thread lays on itself and its children inherit (seccomp(2)). Only for tools whose
//! files [`crate::bulk_sync::BulkSync`] brings to disk afterwards.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

/// Held as long as the process is wanted: the kernel tells a child of the end of the thread that started it (prctl(2),
/// `PR_SET_PDEATHSIG`), so that thread waits for this to be dropped.
pub(crate) struct Starter {
    _wanted: Sender<()>,
}

/// As `command.spawn()`. Where no filter can be laid (a sandbox that forbids it), the process syncs as ever.
pub(crate) fn spawn(mut command: Command) -> std::io::Result<(Child, Starter)> {
    let runtime = Handle::current();
    let (give, take) = channel();
    let (wanted, unwanted) = channel::<()>();
    thread::Builder::new().name("unsynced".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        if let Err(error) = suppress() {
            tracing::debug!(error, "no filter could be laid; the tool brings each file to disk by itself");
        }
        let _ = give.send(command.spawn());
        let _ = unwanted.recv(); // ends with an error when the other side is dropped, which is what is waited for
    })?;
    let child = take.recv().map_err(std::io::Error::other)??;
    Ok((child, Starter { _wanted: wanted }))
}

/// Lays the filter on this thread.
fn suppress() -> Result<(), String> {
    let calls = [libc::SYS_fsync, libc::SYS_fdatasync].map(|call| (call, Vec::new()));
    let architecture = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    let says_done = SeccompAction::Errno(0);
    let filter =
        SeccompFilter::new(calls.into_iter().collect(), SeccompAction::Allow, says_done, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| format!("{error}"))?;
    apply_filter(&program).map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use crate::exec::{ProcessSpec, run};

    /// `sync FILE` is an fsync; one of a file below `/proc` is refused by the kernel.
    #[tokio::test]
    async fn a_filtered_process_syncs_nothing_and_others_do() {
        let sync = |unsynced| ProcessSpec { unsynced, ..ProcessSpec::new("/usr/bin/sync", "/") };
        let refused = |unsynced| run(sync(unsynced).args(["/proc/self/status"]));
        assert!(refused(false).await.is_err(), "an fsync that reaches the kernel is refused");
        refused(true).await.expect("one that does nothing is not");
        assert!(refused(false).await.is_err(), "the filter stays with its thread");
        let long = ProcessSpec { unsynced: true, ..ProcessSpec::new("/usr/bin/sleep", "/") };
        run(long.args(["1"])).await.expect("the thread that started it outlives it");
    }
}
