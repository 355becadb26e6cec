//! Watches the disks that engines and the local object store write to, and acts before one is full.
//!
//! When less than the reserve is free on an instance's disk, its engine refuses writes until there is room again: stopped
//! by a full disk, it would ship none of the log that fills it. Only where the settings say so ([`OnLogFull::Break`]), log
//! that waits for the object store is given up instead, and a gap tells of it; where there is none that can be, writes are
//! refused all the same.
//!
//! Should a disk fill up nevertheless, so that an engine cannot even start, a file that was kept for this is removed.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_api::agent::DiskReport;
use holdfast_core::ServiceId;
use holdfast_core::causes::chain;
use holdfast_core::disk::{Level, Size, Space, Usage, level, warning};
use holdfast_engines::Driver;
use holdfast_store::space_of;

use crate::Agent;
use crate::error::AgentError;
use crate::instances::{Local, Record};

/// What happens when log that waits for the object store is about to fill a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLogFull {
    /// Writes are refused until it has gone to the store; nothing is lost.
    #[default]
    Stop,
    /// It is given up: writes go on, and nothing between it and the next base backup can be restored to.
    Break,
}

/// Looks at the disk of an instance; tells the log whenever its level changes.
pub(crate) fn look(agent: &Agent, local: &Local, record: &Record) -> Option<DiskReport> {
    let driver = agent.driver(record.spec.engine).ok()?;
    let volume = space_of(&record.instance.folder).ok()?;
    let log = driver.log_on_disk(&record.instance).unwrap_or_default();
    let usage = Usage {
        volume,
        database_bytes: local.database_bytes.load(Ordering::Relaxed),
        log_bytes: log.total_bytes,
        waiting_log_bytes: log.waiting_bytes,
        quota_bytes: record.spec.storage_bytes,
    };
    let mut known = local.disk_level.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let now = level(&usage, *known);
    let mut message = warning(&usage, now);
    if now != *known {
        tell(record.spec.service_id, now, *known, message.as_deref());
        *known = now;
    }
    let writes_refused = driver.is_read_only(&record.instance);
    if let Some(text) = message.as_mut().filter(|_| writes_refused) {
        text.insert_str(0, "writes are refused until there is room again: ");
    }
    Some(DiskReport { usage, level: now, message, writes_refused })
}

fn tell(service: ServiceId, now: Level, before: Level, message: Option<&str>) {
    let message = message.unwrap_or("there is room again");
    match now {
        Level::Full => tracing::error!(%service, "{message}"),
        _ if now > before => tracing::warn!(%service, "{message}"),
        _ => tracing::info!(%service, level = ?now, "{message}"),
    }
}

/// Does what the report calls for on a running engine; repeated with every look.
pub(crate) async fn guard(agent: &Agent, local: &Local, report: &DiskReport) -> Result<(), AgentError> {
    let Ok(_busy) = local.busy.try_lock() else { return Ok(()) };
    let record = local.record();
    let driver = agent.driver(record.spec.engine)?;
    let guarded = driver.is_guarded(&record.instance);
    match decide(report, guarded, agent.config.on_log_full) {
        Some(action) => act(local, &record, driver, &action, report.writes_refused).await,
        None => Ok(()),
    }
}

async fn act(
    local: &Local,
    record: &Record,
    driver: &dyn Driver,
    action: &Guard,
    writes_refused: bool,
) -> Result<(), AgentError> {
    let read_only = match action {
        Guard::ReadOnly(read_only) => *read_only,
        Guard::GiveUpLog if give_up_log(local, record, driver).await? => return Ok(()),
        // The file that the engine writes to cannot be given up, and if that is all there is, it would fill the disk.
        Guard::GiveUpLog => true,
    };
    if read_only != writes_refused {
        tracing::warn!(service = %record.spec.service_id, read_only, "the disk's guard");
    }
    let done = driver.set_read_only(&record.instance, read_only).await;
    done.map_err(AgentError::engine("refuse writes on a full disk, or let them in again"))
}

#[derive(Debug, PartialEq, Eq)]
enum Guard {
    ReadOnly(bool),
    GiveUpLog,
}

fn decide(report: &DiskReport, guarded: bool, policy: OnLogFull) -> Option<Guard> {
    let usage = &report.usage;
    match report.level {
        // Where log is not what fills the disk, giving it up would lose much and help little.
        Level::Full
            if policy == OnLogFull::Break
                && usage.volume.is_low()
                && usage.waiting_log_bytes >= usage.volume.reserve_bytes() / 2 =>
        {
            Some(Guard::GiveUpLog)
        }
        Level::Full => Some(Guard::ReadOnly(true)),
        _ => guarded.then_some(Guard::ReadOnly(false)),
    }
}

/// Says whether anything went.
async fn give_up_log(local: &Local, record: &Record, driver: &dyn Driver) -> Result<bool, AgentError> {
    let service = record.spec.service_id;
    let dropped = driver
        .drop_waiting_log(&record.instance)
        .await
        .map_err(AgentError::engine("give up log that waits for the object store"))?;
    if dropped == 0 {
        return Ok(false);
    }
    let cause = "log was given up before it reached the object store, because it filled the disk (on_log_full = break)";
    tracing::error!(%service, dropped = %Size(dropped), "{cause}");
    local.lineage.note_dropped(Some(cause.to_owned()));
    local.update(|record| record.log_dropped = Some(cause.to_owned())).map(|_| true)
}

/// Room for a new instance's files, before anything of it is made.
///
/// # Errors
/// [`AgentError::NoRoom`], with what is needed and where.
pub(crate) fn require_room(folder: &Path, doing: &'static str, needed_bytes: u64) -> Result<(), AgentError> {
    fs::create_dir_all(folder).map_err(AgentError::file(folder))?;
    let space = space_of(folder).map_err(AgentError::file(folder))?;
    if needed_bytes <= space.room_bytes() {
        return Ok(());
    }
    Err(AgentError::NoRoom { doing, needed_bytes, space, folder: folder.to_owned() })
}

/// Room in a local object store for a backup of about `needed_bytes`.
///
/// # Errors
/// [`AgentError::StoreNoRoom`].
pub(crate) fn require_store_room(agent: &Agent, needed_bytes: u64) -> Result<(), AgentError> {
    match agent.store.space() {
        Some(space) if needed_bytes > space.room_bytes() || space.is_low() => {
            Err(AgentError::StoreNoRoom { needed_bytes, space })
        }
        _ => Ok(()),
    }
}

/// What to say of a local object store that takes no more log.
pub(crate) fn store_complaint(agent: &Agent) -> Option<String> {
    let space = agent.store.space().filter(|space| space.is_low())?;
    Some(format!(
        "the object store's disk is full ({} free): make room there, or delete backups that are not needed",
        Size(space.free_bytes)
    ))
}

/// A file that holds room on the instances' disk, for an engine to start in when there is no other.
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    pub(crate) fn new(instances_dir: &Path) -> Self {
        Self(instances_dir.join(".ballast"))
    }

    /// Makes the file when there is plenty of room.
    pub(crate) fn hold(&self) {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        let Ok(space) = space_of(folder) else { return };
        if self.0.exists() || space.free_bytes < 2 * space.reserve_bytes() {
            return;
        }
        if let Err(error) = self.make(ballast_bytes(space)) {
            let _ = fs::remove_file(&self.0); // half of it helps nobody
            tracing::warn!(error = %chain(&error), "no room can be held for a full disk");
        }
    }

    fn make(&self, bytes: u64) -> Result<(), AgentError> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0);
        let file = file.map_err(AgentError::file(&self.0))?;
        let length = i64::try_from(bytes).unwrap_or(i64::MAX);
        nix::fcntl::posix_fallocate(&file, 0, length).map_err(|error| AgentError::file(&self.0)(error.into()))
    }

    /// Gives the room away if it is needed: less is free than the reserve.
    pub(crate) fn release(&self) {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        if space_of(folder).is_ok_and(Space::is_low) && fs::remove_file(&self.0).is_ok() {
            tracing::warn!("the disk of the instances is full; the room that was held for this is free now");
        }
    }
}

fn ballast_bytes(space: Space) -> u64 {
    (space.total_bytes / 16).min(64 << 20)
}

/// Holds the ballast, from the start and whenever there is room for it again.
pub(crate) async fn keep_ballast(agent: &Arc<Agent>) {
    loop {
        agent.ballast.hold();
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Bench, Fake};

    fn report(level: Level, free_mib: u64, waiting_mib: u64, writes_refused: bool) -> DiskReport {
        let volume = Space { total_bytes: 2 << 30, free_bytes: free_mib << 20 };
        let usage = Usage { volume, waiting_log_bytes: waiting_mib << 20, ..Usage::default() };
        DiskReport { usage, level, message: None, writes_refused }
    }

    #[test]
    fn log_is_given_up_only_on_demand_and_only_where_that_helps() {
        use OnLogFull::{Break, Stop};
        let rows = [
            (report(Level::NearlyFull, 300, 900, false), Break, None),
            (report(Level::Full, 10, 900, false), Stop, Some(Guard::ReadOnly(true))),
            (report(Level::Full, 10, 900, false), Break, Some(Guard::GiveUpLog)),
            (report(Level::Full, 10, 16, false), Break, Some(Guard::ReadOnly(true))),
            (report(Level::Full, 80, 900, false), Break, Some(Guard::ReadOnly(true))),
            (report(Level::Fine, 1900, 0, true), Stop, Some(Guard::ReadOnly(false))),
            (report(Level::Fine, 1900, 0, false), Stop, None),
        ];
        for (report, policy, expected) in rows {
            assert_eq!(decide(&report, report.writes_refused, policy), expected, "{report:?} {policy:?}");
        }
    }

    #[tokio::test]
    async fn writes_are_refused_where_no_log_can_be_given_up() {
        for (droppable, expected) in
            [(7, vec!["drop_waiting_log"]), (0, vec!["drop_waiting_log", "set_read_only true"])]
        {
            let bench = Bench::new(Fake { droppable, ..Fake::default() });
            let record = bench.local.record();
            act(&bench.local, &record, &bench.driver, &Guard::GiveUpLog, false).await.expect("guarded");
            assert_eq!(bench.driver.called(), expected);
            assert_eq!(bench.local.record().log_dropped.is_some(), droppable > 0);
        }
    }
}
