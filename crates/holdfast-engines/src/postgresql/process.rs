//! How an instance is made, starts, stops and is found again.

use std::path::Path;
use std::time::{Duration, Instant};

use super::position::{parse_lsn, segment_start};
use super::{Postgresql, config, restore, sql};
use crate::bulk_sync::BulkSync;
use crate::exec::{self, ProcessSpec};
use crate::files::{self, last_log_lines};
use crate::{EngineError, Instance, Mark, Paths, ProgressSink, Result, UserSpec};
use holdfast_core::Timestamp;
use holdfast_core::position::Position;

const START_SECONDS: u64 = 60;

/// Majors below `engines_dir`, ascending.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(engines_dir).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries
        .filter(|entry| entry.path().join("bin/postgres").is_file())
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("postgresql-")?.parse().ok())
        .collect();
    majors.sort_unstable();
    majors.into_iter().map(|major| major.to_string()).collect()
}

impl Postgresql {
    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("creating the database cluster");
        files::make_folders(instance)?;
        self.initdb(instance).await?;
        config::write_all(instance, &self.pgbackrest()?, self.tail)?;
        progress.phase("creating the backup repository");
        self.stanza_create(instance).await?;
        progress.phase("starting the engine");
        self.start_instance(instance).await?;
        progress.phase("creating users");
        sql::make_tenant(instance, users).await?;
        self.server_version(instance).await
    }

    async fn initdb(&self, instance: &Instance) -> Result<()> {
        let bulk = BulkSync::open(&Paths(&instance.folder).data());
        let spec = ProcessSpec::new(self.program(instance, "initdb")?, &instance.folder)
            .synced_by(bulk.as_ref())
            .args(["-U", "postgres", "--data-checksums", "--encoding=UTF8"])
            .args(["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"])
            .args(["--auth-local=peer", "--auth-host=scram-sha-256", "-D"])
            .args([Paths(&instance.folder).data()])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(300);
        exec::run(spec).await.map_err(EngineError::exec("create the database cluster"))?;
        match bulk {
            Some(bulk) => bulk.finish().await.map_err(EngineError::io("bring the database cluster to disk")),
            None => Ok(()),
        }
    }

    pub(super) async fn stanza_create(&self, instance: &Instance) -> Result<()> {
        let spec = self.pgbackrest_spec(instance, "pgbackrest.conf")?.args(["--no-online", "stanza-create"]);
        exec::run(spec).await.map(drop).map_err(EngineError::exec("create the backup repository"))
    }

    /// pgBackRest with a configuration file of the instance's and its stanza; the command's name is added by the caller.
    pub(super) fn pgbackrest_spec(&self, instance: &Instance, conf: &str) -> Result<ProcessSpec> {
        let conf = Paths(&instance.folder).conf().join(conf);
        Ok(ProcessSpec::new(self.pgbackrest()?, &instance.folder)
            .args([format!("--config={}", conf.display()), format!("--stanza={}", instance.stanza)])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(120))
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        config::write_all(instance, &self.pgbackrest()?, self.tail)?;
        if !self.is_postmaster_alive(instance).await {
            restore::clear_written_settings(instance)?;
            self.pg_ctl_start(instance, None).await?;
        }
        self.wait_ready(instance, Duration::from_secs(START_SECONDS)).await
    }

    /// Starts the postmaster, with `option` on its command line; it detaches itself and outlives the agent.
    pub(super) async fn pg_ctl_start(&self, instance: &Instance, option: Option<&str>) -> Result<()> {
        let paths = Paths(&instance.folder);
        let spec = ProcessSpec::new(self.program(instance, "pg_ctl")?, &instance.folder)
            .args(["start", "--no-wait", "-s", "-D"])
            .args([paths.data()])
            .args(["-l"])
            .args([paths.log().join("startup.log")])
            .args(option.map(|option| ["-o", option]).into_iter().flatten())
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(START_SECONDS)
            .outlives_agent();
        exec::run_detaching(spec).await.map_err(EngineError::exec("start the engine"))
    }

    /// Waits until the engine answers queries, or until its process is gone.
    async fn wait_ready(&self, instance: &Instance, limit: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let last = match sql::connect(instance, "postgres").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let gone = began.elapsed() > Duration::from_secs(3) && !self.is_postmaster_alive(instance).await;
            if gone || began.elapsed() > limit {
                let last = format!("{last}; its log says: {}", last_log_lines(instance));
                return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        if !self.is_postmaster_alive(instance).await {
            return Ok(());
        }
        match self.pg_ctl_stop(instance, "fast", timeout_seconds).await {
            Ok(()) => Ok(()),
            // It hangs on something: the log brings everything back at the next start.
            Err(_) => self.pg_ctl_stop(instance, "immediate", 20).await,
        }
    }

    pub(super) async fn pg_ctl_stop(&self, instance: &Instance, mode: &str, seconds: u64) -> Result<()> {
        let spec = ProcessSpec::new(self.program(instance, "pg_ctl")?, &instance.folder)
            .args(["stop", "-w", "-s", "-m", mode, "-t", &seconds.to_string(), "-D"])
            .args([Paths(&instance.folder).data()])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(seconds + 10);
        exec::run(spec).await.map(drop).map_err(EngineError::exec("stop the engine"))
    }

    /// `pg_ctl status` runs as the engine's user and judges the lock file itself; exit code 3 means not running, 4 no data
    /// folder (PostgreSQL 17, pg_ctl). Whatever else it says, the engine may be alive. Without a lock file it is not
    /// asked: in a folder that was copied half, with settings and no `PG_VERSION`, it reads those settings and fails.
    pub(super) async fn is_postmaster_alive(&self, instance: &Instance) -> bool {
        let lock_file = Paths(&instance.folder).data().join("postmaster.pid");
        if lock_file.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return false;
        }
        // Without its programs there is no engine that this host could have started.
        let Ok(program) = self.program(instance, "pg_ctl") else { return false };
        let spec = ProcessSpec::new(program, &instance.folder)
            .args(["status", "-D"])
            .args([Paths(&instance.folder).data()])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(10);
        match exec::run(spec).await {
            Ok(_) => true,
            Err(error) => !matches!(error.exit_code(), Some(3 | 4)),
        }
    }

    /// A clean shutdown closes the segment, lets the archiver ship it, and writes its checkpoint into the next one: what
    /// lies before the checkpoint's segment is everything that was ever committed.
    pub(super) async fn read_stopped_mark(&self, instance: &Instance) -> Result<Option<Mark>> {
        let spec = ProcessSpec::new(self.program(instance, "pg_controldata")?, &instance.folder)
            .args(["-D"])
            .args([Paths(&instance.folder).data()])
            .run_as(instance.run_as.as_ref());
        let text = exec::run(spec).await.map_err(EngineError::exec("read the control file"))?;
        Ok(stopped_mark_in(&text, Timestamp::now()))
    }

    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        config::write_all(instance, &self.pgbackrest()?, self.tail)?;
        if !self.is_postmaster_alive(instance).await {
            return Ok(());
        }
        let client = sql::connect(instance, "postgres").await?;
        let reload = "SELECT pg_reload_conf()";
        client.query_one(reload, &[]).await.map_err(EngineError::client("reload the settings"))?;
        let restart = "SELECT 1 FROM pg_settings WHERE name IN ('max_connections') AND setting <> $1 \
                       UNION ALL SELECT 1 FROM pg_settings WHERE name = 'shared_buffers' AND setting <> $2";
        let buffers = (instance.memory_mib / 4 * 128).to_string(); // in blocks of 8 KiB
        let pending = client
            .query(restart, &[&instance.max_connections.to_string(), &buffers])
            .await
            .map_err(EngineError::client("compare the settings"))?;
        drop(client);
        if pending.is_empty() {
            return Ok(());
        }
        self.stop_instance(instance, 30).await?;
        self.start_instance(instance).await
    }

    pub(super) async fn server_version(&self, instance: &Instance) -> Result<String> {
        let client = sql::connect(instance, "postgres").await?;
        let row = client
            .query_one("SELECT current_setting('server_version')", &[])
            .await
            .map_err(EngineError::client("read the engine's version"))?;
        Ok(row.get::<_, String>(0).split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Reads `pg_controldata`'s text (locale C).
fn stopped_mark_in(text: &str, at: Timestamp) -> Option<Mark> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("Database cluster state:")? != "shut down" {
        return None;
    }
    let checkpoint = parse_lsn(field("Latest checkpoint location:")?)?;
    let timeline = field("Latest checkpoint's TimeLineID:")?.parse().ok()?;
    let position = Position { timeline, offset: segment_start(checkpoint) };
    Some(Mark { at, position, last_commit: format!("shut down at {checkpoint}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_shutdown_closes_the_log() {
        let text = |state: &str| {
            format!(
                "pg_control version number:            1700\nDatabase cluster state:               {state}\n\
                 Latest checkpoint location:           0/5000028\n\
                 Latest checkpoint's TimeLineID:       2\n"
            )
        };
        let mark = stopped_mark_in(&text("shut down"), Timestamp::UNIX_EPOCH).expect("it was clean");
        assert_eq!(mark.position, Position { timeline: 2, offset: 0x500_0000 });
        for state in ["in production", "in archive recovery", "shut down in recovery"] {
            assert_eq!(stopped_mark_in(&text(state), Timestamp::UNIX_EPOCH), None, "{state}");
        }
    }
}
