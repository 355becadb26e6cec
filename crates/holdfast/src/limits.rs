//! What the system lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewer than this are soon used up: a service takes some ten, a restore some more, each client's connection one.
const FEW_FILES: u64 = 1024;

/// Takes as many open files as the system allows; the default of most shells is meant for programs that use `select`. Says so
/// where that is few: then connections wait until others end.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(files) if files < FEW_FILES => tracing::warn!(
            files,
            "few files may be open at once; raise the limit (ulimit -Hn, or LimitNOFILE= of the systemd unit)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}
