//! Valkey: base backups are the server's own snapshots, the log is its append-only file.
//!
//! What it can do: full base backups, restore to any whole second. Quirks that shape this code:
//! - the append-only file is rewritten, and what was rewritten is removed: only the agent may have that done, and keeps what
//!   is not archived yet ([`spool`]);
//! - commands are stamped with whole seconds, so a restore to an instant goes to the second that it lies in ([`aof`]);
//! - deadlines of keys are absolute: a restore moves them ([`restore`]);
//! - it does not look where clients come from, and the usual builds speak no TLS: `core::engine` says so.
//!
//! Users: `docs/engines/valkey.md`. Sources: Valkey 9.1, `aof.c`, `rdb.c`, `valkey.conf`, and what was seen by running it.

pub mod aof;
mod archive;
mod backup;
mod client;
mod config;
mod cursor;
mod disk;
mod probe;
mod process;
mod restore;
mod rewrite;
mod spool;
mod users;
mod verify;

use std::convert::Infallible;
use std::path::PathBuf;

use async_trait::async_trait;

use holdfast_core::engine::EngineKind;

use crate::registry::Engine;
use crate::{
    BackupSink, Base, DataPath, Driver, Instance, Log, LogCursor, LogDriver, LogFeed, Probe, Program,
    ProgressSink, RestoreSource, Result, StreamBackup, StreamBackupRequest, StreamDriver, StreamRestore,
    StreamRestored, UserSpec,
};

pub use config::valkey_conf;

/// Drives Valkey with the programs below `engines_dir`: `valkey-<release>/bin/valkey-server`.
#[derive(Debug, Clone)]
pub struct Valkey {
    engines_dir: PathBuf,
}

pub(crate) const ENGINE: Engine = Engine {
    kind: EngineKind::Valkey,
    driver: |engines_dir, _| Box::new(Valkey::new(engines_dir)),
    settings: &[],
};

impl Valkey {
    #[must_use]
    pub fn new(engines_dir: impl Into<PathBuf>) -> Self {
        Self { engines_dir: engines_dir.into() }
    }
}

#[async_trait]
impl Driver for Valkey {
    async fn create(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        self.create_instance(instance, users, progress).await
    }

    async fn start(&self, instance: &Instance) -> Result<()> {
        self.start_instance(instance).await
    }

    async fn stop(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        self.stop_instance(instance, timeout_seconds).await
    }

    async fn is_running(&self, instance: &Instance) -> bool {
        !process::processes(instance).is_empty()
    }

    async fn apply_settings(&self, instance: &Instance) -> Result<()> {
        self.apply(instance).await
    }

    async fn set_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        users::put(instance, std::slice::from_ref(user)).await
    }

    async fn probe(&self, instance: &Instance) -> Result<Probe> {
        probe::probe(instance).await
    }

    async fn database_bytes(&self, instance: &Instance) -> Result<u64> {
        probe::database_bytes(instance).await
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { base: Base::Streams(self), log: Log::Followed(self) }
    }

    fn versions(&self) -> Vec<String> {
        process::installed_versions(&self.engines_dir)
    }

    fn programs(&self) -> Vec<Program> {
        let program = |version: String| {
            let path = self.engines_dir.join(format!("valkey-{version}/bin")).join(process::SERVER);
            Program { name: "Valkey", path, argument: "--version" }
        };
        self.versions().into_iter().map(program).collect()
    }
}

#[async_trait]
impl StreamDriver for Valkey {
    async fn backup(
        &self,
        instance: &Instance,
        _request: &StreamBackupRequest<'_>,
        sink: &dyn BackupSink,
        progress: &ProgressSink,
    ) -> Result<StreamBackup> {
        backup::run(instance, sink, progress).await
    }

    async fn restore(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        self.restore_instance(instance, request, source, progress).await
    }
}

#[async_trait]
impl LogDriver for Valkey {
    async fn follow(
        &self,
        instance: &Instance,
        from: Option<&LogCursor>,
        feed: &LogFeed,
    ) -> Result<Infallible> {
        archive::follow(instance, from, feed).await
    }

    async fn release_log(&self, instance: &Instance, archived: &LogCursor) -> Result<()> {
        spool::release(instance, &cursor::Cursor::parse(archived)?)
    }

    async fn quiesce(&self, instance: &Instance) -> Result<()> {
        let mut client = client::connect(instance).await?;
        client::ask(
            &mut client,
            &client::words("CLIENT PAUSE 3600000 WRITE"),
            "hold writes until the next start",
        )
        .await
    }

    async fn unquiesce(&self, instance: &Instance) -> Result<()> {
        let mut client = client::connect(instance).await?;
        client::ask(&mut client, &client::words("CLIENT UNPAUSE"), "let writes go on").await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::Instance;

    pub(crate) fn instance(folder: &Path) -> Instance {
        Instance {
            folder: folder.to_owned(),
            stanza: "hf-test".to_owned(),
            version: "9.1".to_owned(),
            listen: "127.0.0.1".parse().expect("an address"),
            port: 0,
            run_as: None,
            memory_mib: 256,
            max_connections: 100,
            allowed_cidrs: Vec::new(),
            repository: None,
        }
    }
}
