//! Base backups by pgBackRest, and their removal.

use holdfast_core::backup::BackupMode;
use holdfast_core::position::Position;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::position::parse_lsn;
use super::{Postgresql, databases, probe, wal_name_start};
use crate::exec;
use crate::progress::percent_in;
use crate::{BackupRequest, EngineError, Instance, ProgressSink, Result, ToolBackup};

/// A base backup of many terabytes takes hours; a hung one is seen by its missing progress, this is the last bound.
const BACKUP_SECONDS: u64 = 24 * 3600;
/// pgBackRest's exit code where another backup of the stanza runs (its lock is held).
const LOCK_HELD: i32 = 50;
const LOCK_TRIES: u32 = 30;
/// How often a backup is made anew because a database was copied file by file meanwhile.
const TRIES_BY_FILES: u32 = 3;

/// The part of `pgbackrest info --output=json` that is used.
#[derive(Debug, Deserialize)]
struct StanzaInfo {
    #[serde(default)]
    backup: Vec<BackupInfo>,
}

#[derive(Debug, Deserialize)]
struct BackupInfo {
    label: String,
    prior: Option<String>,
    #[serde(default)]
    annotation: Option<std::collections::HashMap<String, String>>,
    archive: ArchiveRange,
    lsn: LsnRange,
    timestamp: TimeRange,
    info: SizeInfo,
    #[serde(default)]
    error: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ArchiveRange {
    start: String,
}

#[derive(Debug, Deserialize)]
struct LsnRange {
    start: String,
    stop: String,
}

#[derive(Debug, Deserialize)]
struct TimeRange {
    stop: i64,
}

#[derive(Debug, Deserialize)]
struct SizeInfo {
    size: u64,
}

impl Postgresql {
    pub(super) async fn run_backup(
        &self,
        instance: &Instance,
        request: &BackupRequest<'_>,
        progress: &ProgressSink,
    ) -> Result<ToolBackup> {
        progress.phase("preparing");
        let database_bytes = probe::database_bytes(instance).await?;
        for _ in 0..TRIES_BY_FILES {
            let before = databases::look(instance).await?;
            progress.phase("copying files");
            self.copy_files(instance, request, database_bytes, progress).await?;
            let returned_at = Timestamp::now();
            progress.phase("checking");
            let found = self.find_backup(instance, request, returned_at).await?;
            let is_readable = self.read_back(instance, &found.label).await;
            if is_readable.is_ok() && !self.copied_by_files(instance, &before, &found).await? {
                return Ok(found);
            }
            self.expire_labels(instance, std::slice::from_ref(&found.label)).await?;
            is_readable?;
            tracing::info!(stanza = %instance.stanza, "a database was created by STRATEGY file_copy meanwhile; the backup is made again");
        }
        Err(EngineError::Unfit {
            doing: "copy the base backup".to_owned(),
            what: "each time a database was created by STRATEGY file_copy meanwhile, which no base backup holds \
                   exactly; leave the strategy out, or wait until the backup is made"
                .to_owned(),
        })
    }

    async fn copy_files(
        &self,
        instance: &Instance,
        request: &BackupRequest<'_>,
        database_bytes: u64,
        progress: &ProgressSink,
    ) -> Result<()> {
        let mode = match request.mode {
            BackupMode::Full => "full",
            BackupMode::Incremental => "incr",
        };
        let mut tries = 0;
        loop {
            let spec = self
                .pgbackrest_spec(instance, "pgbackrest.conf")?
                .args([format!("--type={mode}"), format!("--annotation=id={}", request.backup_id)])
                .args(["--log-level-console=detail", "backup"])
                .timeout_seconds(BACKUP_SECONDS);
            let ended = exec::run_lines(spec, |line| {
                if let Some(percent) = percent_in(line) {
                    progress.percent(percent, Some(database_bytes));
                }
            })
            .await;
            match ended {
                // A killed agent's tool is still letting go of its lock.
                Err(error) if error.exit_code() == Some(LOCK_HELD) && tries < LOCK_TRIES => {
                    tries += 1;
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                ended => return ended.map_err(EngineError::exec("copy the base backup")),
            }
        }
    }

    /// Has the tool read the backup's own list of files: what it cannot read it cannot restore.
    async fn read_back(&self, instance: &Instance, label: &str) -> Result<()> {
        let spec = self.pgbackrest_spec(instance, "pgbackrest.conf")?.args([
            "--log-level-console=off",
            "--output=json",
            &format!("--set={label}"),
            "info",
        ]);
        exec::run(spec).await.map(drop).map_err(EngineError::exec("read the backup's list of files back"))
    }

    async fn find_backup(
        &self,
        instance: &Instance,
        request: &BackupRequest<'_>,
        returned_at: Timestamp,
    ) -> Result<ToolBackup> {
        let doing = "read the backup's facts";
        let unexpected = |what: String| EngineError::Unexpected { doing: doing.to_owned(), what };
        let found = self
            .backups_in_repository(instance)
            .await?
            .into_iter()
            .rev()
            .find(|backup| {
                backup.annotation.as_ref().and_then(|a| a.get("id")).map(String::as_str)
                    == Some(request.backup_id.as_str())
            })
            .ok_or_else(|| unexpected("the repository does not list it".to_owned()))?;
        if found.error == Some(true) {
            // Set where a page's checksum was wrong while it was copied.
            return Err(unexpected(
                "the database has pages with wrong checksums; look into it before the next backup".to_owned(),
            ));
        }
        let timeline = wal_name_start(&found.archive.start)
            .ok_or_else(|| unexpected(found.archive.start.clone()))?
            .timeline;
        let lsn = |text: &str| {
            parse_lsn(text)
                .map(|offset| Position { timeline, offset })
                .ok_or_else(|| unexpected(text.to_owned()))
        };
        Ok(ToolBackup {
            start: lsn(&found.lsn.start)?,
            stop: lsn(&found.lsn.stop)?,
            consistent_at: consistent_at(found.timestamp.stop, returned_at),
            database_bytes: found.info.size,
            parent_label: found.prior,
            label: found.label,
        })
    }

    async fn backups_in_repository(&self, instance: &Instance) -> Result<Vec<BackupInfo>> {
        let spec = self.pgbackrest_spec(instance, "pgbackrest.conf")?.args([
            "--log-level-console=off",
            "--output=json",
            "info",
        ]);
        let text = exec::run(spec).await.map_err(EngineError::exec("list the repository's backups"))?;
        let stanzas: Vec<StanzaInfo> =
            serde_json::from_str(&text).map_err(|error| EngineError::Unexpected {
                doing: "list the repository's backups".to_owned(),
                what: error.to_string(),
            })?;
        Ok(stanzas.into_iter().flat_map(|stanza| stanza.backup).collect())
    }

    pub(super) async fn labels_in_repository(
        &self,
        instance: &Instance,
    ) -> Result<Vec<(String, Option<String>)>> {
        let backups = self.backups_in_repository(instance).await?;
        let id = |backup: &BackupInfo| backup.annotation.as_ref().and_then(|a| a.get("id")).cloned();
        Ok(backups.into_iter().map(|backup| (backup.label.clone(), id(&backup))).collect())
    }

    /// Removes the labels that the repository still knows; those that build on them go with them, so the caller names
    /// only what nothing kept needs.
    pub(super) async fn expire_labels(&self, instance: &Instance, labels: &[String]) -> Result<()> {
        for label in labels {
            let known = self.backups_in_repository(instance).await?;
            if !known.iter().any(|backup| backup.label == *label) {
                continue;
            }
            let spec = self
                .pgbackrest_spec(instance, "pgbackrest.conf")?
                .args([format!("--set={label}"), "expire".to_owned()]);
            exec::run(spec).await.map_err(EngineError::exec(format!("expire {label}")))?;
        }
        Ok(())
    }
}

/// pgBackRest tells the stop in whole seconds; every commit stamped after the second has passed lies behind the stop
/// position. The moment at which the tool returned is later than the stop too: the earlier of the two is the tighter bound.
fn consistent_at(stop_seconds: i64, returned_at: Timestamp) -> Timestamp {
    Timestamp::from_second(stop_seconds)
        .ok()
        .and_then(|stop| stop.checked_add(SignedDuration::from_secs(1)).ok())
        .map_or(returned_at, |bound| bound.min(returned_at))
}
