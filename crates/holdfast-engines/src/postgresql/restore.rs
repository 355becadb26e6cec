//! A base backup and its log into a new instance, at the exact instant.
//!
//! Recovery goes behind the last commit or abort that is not later than the instant, where reading the log tells which that is
//! ([`super::cut`]). Otherwise to the time: it stops at the first commit or abort record later than it, and three ends are
//! possible, each checked, never trusted:
//! - such a record was met: the instance holds exactly what was committed up to the instant;
//! - the log ended before, at or behind the position up to which the archive is proven: nothing was committed between the
//!   last record and the instant. PostgreSQL gives up here; recovery is repeated to the very record it ended at;
//! - the log ended before that position: there is a hole, and the restore fails.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_core::position::Position;
use jiff::Timestamp;

use super::cut::Cut;
use super::position::{SEGMENT_BYTES, format_lsn, lsn_after};
use super::replaying::{TELL, Watch};
use super::{Postgresql, config, sql};
use crate::bulk_sync::BulkSync;
use crate::exec;
use crate::files::{self, last_log_lines, recent_log};
use crate::progress::percent_in;
use crate::{EngineError, Instance, Paths, ProgressSink, RestoreRequest, RestoreTo, Restored, Result};

const COPY_SECONDS: u64 = 24 * 3600;
const START_GRACE: Duration = Duration::from_secs(5);
/// PostgreSQL 17, 19.11 (there since 14).
const SYNC_AT_ONCE: &str = "-c recovery_init_sync_method=syncfs";

/// A standby that answers queries waits for ever where it may have fewer connections than its source had; nobody asks a copy
/// before it is there (PostgreSQL 17, 26.4.3).
const NOT_HOT: &str = "-c hot_standby=off";

/// How a round of recovery ended.
enum Ended {
    Promoted,
    /// The log ended before a commit later than the target; the last record replayed starts here.
    OutOfLog {
        last_record: u64,
    },
}

impl Postgresql {
    pub(super) async fn restore_instance(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<Restored> {
        files::make_folders(instance)?;
        progress.phase("copying files");
        let bulk = BulkSync::open(&Paths(&instance.folder).data());
        self.copy_base(instance, request, bulk.as_ref(), progress).await?;
        if let Some(bulk) = bulk {
            progress.phase("writing to disk");
            bulk.finish().await.map_err(EngineError::io("bring the copied files to disk"))?;
        }
        progress.phase("creating the backup repository");
        config::write_private_all(instance, &self.pgbackrest()?, self.tail)?;
        if request.archives {
            self.stanza_create(instance).await?;
        } else {
            config::stop_archiving(instance)?;
        }
        let reader = Instance { stanza: request.source_stanza.to_owned(), ..instance.clone() };
        let cut = match &request.target {
            Some(to) => {
                progress.phase("finding the restore point");
                self.find_cut(&reader, request, to).await?
            }
            None => Cut::Unknown,
        };
        tracing::debug!(stanza = %instance.stanza, ?cut, "where the restore ends");
        match cut {
            Cut::Behind(lsn) => self.target_record(instance, lsn)?,
            Cut::Base => target(instance, "recovery_target = 'immediate'\n")?,
            Cut::Unknown => {}
        }
        progress.phase("replaying log");
        let replayed_to = self.replay(instance, request, cut, progress).await?;
        progress.phase("setting credentials");
        self.clear_recovery_settings(instance).await?;
        sql::make_users(instance, request.users).await?;
        self.let_in(instance, request.archives).await?;
        let engine_version = self.server_version(instance).await?;
        Ok(Restored { engine_version, replayed_to })
    }

    /// Lets those in who may come, now that the passwords are the copy's own. Back once the engine goes by it.
    async fn let_in(&self, instance: &Instance, archives: bool) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const LOADED: &str = "SELECT pg_conf_load_time()::text";
        let doing = "let clients in";
        config::write_all(instance, &self.pgbackrest()?, self.tail)?;
        if !archives {
            config::stop_archiving(instance)?;
        }
        // A new session has the time at which the one that lets it in has read its settings.
        let loaded = async || -> Result<String> {
            let client = sql::connect(instance, "postgres").await?;
            Ok(client.query_one(LOADED, &[]).await.map_err(EngineError::client(doing))?.get(0))
        };
        let before = loaded().await?;
        let client = sql::connect(instance, "postgres").await?;
        client.query_one("SELECT pg_reload_conf()", &[]).await.map_err(EngineError::client(doing))?;
        let began = Instant::now();
        while loaded().await? == before {
            if began.elapsed() > PATIENCE {
                let last = last_log_lines(instance);
                return Err(EngineError::NotReady { seconds: PATIENCE.as_secs(), last });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn copy_base(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        bulk: Option<&BulkSync>,
        progress: &ProgressSink,
    ) -> Result<()> {
        // The source's stanza with this instance's folders; its credentials open the source's repository for reading only.
        let reader = Instance { stanza: request.source_stanza.to_owned(), ..instance.clone() };
        config::write_pgbackrest_conf(&reader, request.source, config::SOURCE_CONF)?;
        let mut spec = self
            .pgbackrest_spec(&reader, config::SOURCE_CONF)?
            .args([format!("--set={}", request.base_label)])
            .args(["--log-level-console=detail", "--target-action=promote"])
            .progress_mark(" DETAIL: ")
            .synced_by(bulk)
            .timeout_seconds(COPY_SECONDS);
        spec = match &request.target {
            Some(to) => spec.args([
                "--type=time".to_owned(),
                format!("--target={}", target_text(to.point)),
                format!("--target-timeline=0x{:X}", request.base_stop.timeline),
            ]),
            None => spec.args(["--type=immediate"]),
        };
        let tail = Paths(&instance.folder).tail();
        if tail.exists() {
            spec = spec.args([format!(
                "--recovery-option=restore_command={}",
                config::restore_command(&self.pgbackrest()?, &reader)
            )]);
        }
        let spec = spec.args(["restore"]);
        exec::run_lines(spec, |line| {
            if let Some(percent) = percent_in(line) {
                progress.percent(percent, Some(request.database_bytes));
            }
        })
        .await
        .map_err(EngineError::exec("copy the base backup into the new instance"))
    }

    async fn replay(
        &self,
        instance: &Instance,
        request: &RestoreRequest<'_>,
        cut: Cut,
        progress: &ProgressSink,
    ) -> Result<Position> {
        let Position { timeline, offset: base } = request.base_stop;
        let end = match (cut, &request.target) {
            (Cut::Behind(record), _) => record,
            (Cut::Unknown, Some(to)) => to.covered_to.offset,
            (Cut::Base, _) | (_, None) => base,
        };
        match self.recover_once(instance, Watch::new(progress, base, end)).await? {
            Ended::Promoted => {}
            Ended::OutOfLog { last_record } => {
                let Some(to) = &request.target else {
                    return Err(self.hole(instance, last_record, request.base_stop.offset));
                };
                if cut != Cut::Unknown || last_record_is_before(last_record, to) {
                    return Err(self.hole(instance, last_record, to.covered_to.offset));
                }
                tracing::info!(
                    stanza = %instance.stanza,
                    "nothing was committed between the end of the log and the restore point; ending at its last record"
                );
                self.target_record(instance, last_record)?;
                let again = Watch::new(progress, base, last_record);
                if let Ended::OutOfLog { last_record } = self.recover_once(instance, again).await? {
                    return Err(self.hole(instance, last_record, to.covered_to.offset));
                }
            }
        }
        let offset = recent_log(instance, 256 << 10)
            .iter()
            .rev()
            .find_map(|line| lsn_after(line, "redo done at "))
            .unwrap_or(request.base_stop.offset);
        Ok(Position { timeline, offset })
    }

    /// Starts the instance and waits until it has promoted itself or given up.
    async fn recover_once(&self, instance: &Instance, mut watch: Watch<'_>) -> Result<Ended> {
        // What is read below is this round's.
        remove_logs(instance)?;
        // The engine, too, brings every file of a copied cluster to disk before it recovers, one by one by default.
        let at_once = BulkSync::open(&Paths(&instance.folder).data()).map_or("", |_| SYNC_AT_ONCE);
        self.pg_ctl_start(instance, Some(&format!("{NOT_HOT} {TELL} {at_once}"))).await?;
        let began = Instant::now();
        loop {
            if promoted(instance).await {
                return Ok(Ended::Promoted);
            }
            if !self.is_postmaster_alive(instance).await {
                if let Some(ended) = out_of_log(instance) {
                    return Ok(ended);
                }
                // The starter returns before the engine has written its lock file.
                if began.elapsed() > START_GRACE {
                    let last = format!("it ended during replay; its log says: {}", last_log_lines(instance));
                    return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
                }
            }
            watch.look(instance)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes the end of a record the end of the next round, so that log behind it is not replayed: `recovery_target_lsn` is
    /// inclusive and compares the record's start.
    #[expect(clippy::unused_self, reason = "reads as part of the driver")]
    fn target_record(&self, instance: &Instance, record: u64) -> Result<()> {
        target(instance, &format!("recovery_target_lsn = '{}'\n", format_lsn(record)))
    }

    /// The source's repository is out of reach from here on. The targets stay until the next start, which removes them
    /// ([`clear_written_settings`]): a running server could not take their removal.
    async fn clear_recovery_settings(&self, instance: &Instance) -> Result<()> {
        rewrite_auto_conf(instance, |line| !line.starts_with("restore_command"))?;
        let source = Paths(&instance.folder).conf().join(config::SOURCE_CONF);
        std::fs::remove_file(&source).map_err(EngineError::io(format!("remove {}", source.display())))?;
        let tail = Paths(&instance.folder).tail();
        if tail.exists() {
            std::fs::remove_dir_all(&tail).map_err(EngineError::io(format!("remove {}", tail.display())))?;
        }
        let client = sql::connect(instance, "postgres").await?;
        client
            .query_one("SELECT pg_reload_conf()", &[])
            .await
            .map_err(EngineError::client("reload the settings"))?;
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "reads as part of the driver")]
    fn hole(&self, instance: &Instance, reached: u64, expected: u64) -> EngineError {
        tracing::error!(stanza = %instance.stanza, log = %last_log_lines(instance), "replay met a hole in the log");
        EngineError::Hole { reached: format_lsn(reached), expected: format_lsn(expected) }
    }
}

/// Where the archive is proven up to a segment's end, a log that ends inside that last segment is whole (the rest of a closed
/// segment is empty), one that ends in an earlier segment is not. Where it is proven up to a byte of a tail, that byte was
/// there before the restore began, and the last record may begin a segment before it.
fn last_record_is_before(last_record: u64, to: &RestoreTo) -> bool {
    last_record + SEGMENT_BYTES < to.covered_to.offset
}

/// Names another target than the time that the tool wrote.
fn target(instance: &Instance, line: &str) -> Result<()> {
    rewrite_auto_conf(instance, |line| {
        !line.starts_with("recovery_target_time ") && !line.starts_with("recovery_target_time=")
    })?;
    append_auto_conf(instance, line)
}

fn auto_conf(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).data().join("postgresql.auto.conf")
}

fn rewrite_auto_conf(instance: &Instance, keep: impl Fn(&str) -> bool) -> Result<()> {
    let path = auto_conf(instance);
    let old = files::read_untrusted(&path)?;
    let text = old.lines().filter(|line| keep(line)).fold(String::new(), |text, line| text + line + "\n");
    files::write_private(&path, text.as_bytes(), instance.run_as.as_ref())
}

fn append_auto_conf(instance: &Instance, line: &str) -> Result<()> {
    let path = auto_conf(instance);
    let old = files::read_untrusted(&path)?;
    files::write_private(&path, (old + line).as_bytes(), instance.run_as.as_ref())
}

/// Empties the file that the engine itself writes its settings into: what a finished recovery left there, and whatever
/// somebody inside the database may have set. Before a start, never during a recovery.
pub(super) fn clear_written_settings(instance: &Instance) -> Result<()> {
    let data = Paths(&instance.folder).data();
    if data.join("recovery.signal").exists() || !auto_conf(instance).exists() {
        return Ok(());
    }
    files::write_private(&auto_conf(instance), b"", instance.run_as.as_ref())
}

fn remove_logs(instance: &Instance) -> Result<()> {
    let folder = Paths(&instance.folder).log();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        std::fs::remove_file(entry.path()).map_err(EngineError::io("remove the log of an earlier round"))?;
    }
    Ok(())
}

async fn promoted(instance: &Instance) -> bool {
    let Ok(client) = sql::connect(instance, "postgres").await else { return false };
    match client.query_one("SELECT pg_is_in_recovery()", &[]).await {
        Ok(row) => !row.get::<_, bool>(0),
        Err(_) => false,
    }
}

/// Reads from the engine's log whether it gave up because the log ended, and where.
fn out_of_log(instance: &Instance) -> Option<Ended> {
    let lines = recent_log(instance, 256 << 10);
    let gave_up = lines
        .iter()
        .rposition(|line| line.contains("recovery ended before configured recovery target was reached"))?;
    let last_record = lines[..gave_up].iter().rev().find_map(|line| lsn_after(line, "redo done at "))?;
    Some(Ended::OutOfLog { last_record })
}

/// `recovery_target_time` as pgBackRest takes it: a space, no `T`, and an offset in digits.
fn target_text(point: Timestamp) -> String {
    point.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::exec::ProcessSpec;

    pub(in crate::postgresql) fn instance(folder: &std::path::Path) -> Instance {
        Instance {
            folder: folder.join("instance"),
            stanza: "hf-test".to_owned(),
            version: "17".to_owned(),
            listen: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 0,
            run_as: None,
            memory_mib: 256,
            max_connections: 100,
            allowed_cidrs: Vec::new(),
            repository: None,
        }
    }

    #[test]
    fn the_target_is_written_as_the_tool_reads_it() {
        let point: Timestamp = "2026-03-15T14:30:00.25Z".parse().expect("a timestamp");
        assert_eq!(target_text(point), "2026-03-15 14:30:00.250000+00");
    }

    #[test]
    fn a_log_that_ends_in_an_earlier_segment_has_a_hole() {
        let to =
            |offset| RestoreTo { point: Timestamp::UNIX_EPOCH, covered_to: Position { timeline: 1, offset } };
        assert!(!last_record_is_before(0x400_0110, &to(0x500_0000)), "inside the last proven segment");
        assert!(last_record_is_before(0x3FF_FF00, &to(0x500_0000)), "a segment early");
        assert!(!last_record_is_before(0x500_0028, &to(0x500_0000)), "beyond what was proven");
    }

    #[tokio::test]
    async fn the_tail_stands_in_only_where_the_repository_says_that_it_has_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let tool = folder.path().join("engines/pgbackrest/usr/bin/pgbackrest");
        std::fs::create_dir_all(tool.parent().expect("it has one")).expect("made");
        let driver = Postgresql::new(folder.path().join("engines"));
        let instance = instance(folder.path());
        let tail = Paths(&instance.folder).tail();
        std::fs::create_dir_all(&tail).expect("made");
        std::fs::write(&tool, "").expect("written");
        let pgbackrest = driver.pgbackrest().expect("the tool is there");
        let command = config::restore_command(&pgbackrest, &instance);
        let (segment, got) = ("000000010000000000000002", folder.path().join("got"));
        std::fs::write(tail.join(segment), "from the tail").expect("written");
        let command = command.replace("%f", segment).replace("%p", &got.display().to_string());
        let script = folder.path().join("restore");
        std::fs::write(&script, command).expect("written");
        for (code, expected) in [(0, None), (1, Some("from the tail")), (25, None), (103, None)] {
            std::fs::write(&tool, format!("#!/bin/sh\nexit {code}\n")).expect("written");
            std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("made");
            let ran = exec::run(ProcessSpec::new("/bin/sh", folder.path()).args([&script])).await;
            let found = std::fs::read_to_string(&got).ok();
            assert_eq!(found.as_deref(), expected, "{code}");
            assert_eq!(ran.is_ok(), code < 2, "{code}: {ran:?}");
            let _ = std::fs::remove_file(&got);
        }
    }
}
