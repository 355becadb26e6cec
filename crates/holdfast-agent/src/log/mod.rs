//! The log archive of engines whose log Holdfast reads itself: follows each engine, cuts its log into segments, and counts
//! as archived what the store has confirmed (R1).
//!
//! Nothing is kept on this host: the engine's own log on disk is the spool, given up ([`LogDriver::release_log`]) once the
//! store has it. After a kill, reading goes on from the last segment in the store.

pub(crate) mod cutter;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::causes::chain;
use holdfast_core::position::Position;
use holdfast_core::{ServiceId, Timestamp};
use holdfast_engines::{FeedItem, Instance, Log, LogCursor, LogDriver, LogFeed, Mark};
use holdfast_store::StoreError;
use holdfast_store::log::{compaction, last_segment, segment_name, write_segment};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use cutter::LogEnd;
use cutter::{Cut, Cutter};

use crate::Agent;
use crate::defect::contained;
use crate::error::AgentError;
use crate::instances::Local;

/// Items on their way from the engine's reader.
const ITEMS_WAITING: usize = 64;
const LOOK: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const RELEASE_EVERY: Duration = Duration::from_secs(3);
const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// Keeps one follower at every running instance whose log is a stream.
pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut followers: HashMap<ServiceId, JoinHandle<()>> = HashMap::new();
    loop {
        let all = agent.instances.all();
        followers.retain(|service, task| {
            let is_there = agent.instances.get(*service).is_some();
            if !is_there {
                task.abort(); // removed: nobody needs its log
            }
            is_there && !task.is_finished()
        });
        for local in all {
            let record = local.record();
            let is_followed =
                agent.driver(record.spec.engine).is_ok_and(|d| matches!(d.data_path().log, Log::Followed(_)));
            if is_followed && record.running && local.lineage.is_listed() {
                followers
                    .entry(record.spec.service_id)
                    .or_insert_with(|| tokio::spawn(keep_following(Arc::clone(agent), local)));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Follows until the instance is to stop, again and again.
async fn keep_following(agent: Arc<Agent>, local: Arc<Local>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = tokio::time::Instant::now();
        let error = match contained("following the log", follow(&agent, &local)).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if !local.record().running {
            return;
        }
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let text = chain(&error);
        tracing::warn!(service = %local.lineage.scope.service, error = %text, "following the log is interrupted");
        local.lineage.note_log_error(Some(text));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow(agent: &Arc<Agent>, local: &Local) -> Result<Infallible, AgentError> {
    let record = local.record();
    let Log::Followed(driver) = agent.driver(record.spec.engine)?.data_path().log else {
        return Err(AgentError::NoDriver(record.spec.engine));
    };
    let end = end_of_log(agent, local).await?;
    let from = end.as_ref().map(|end| end.cursor.clone());
    let (feed, items) = LogFeed::new(ITEMS_WAITING, local.lineage.asked());
    let (archived, released) = watch::channel(from.clone());
    let reading = async move {
        // The feed ends with the reading, and with it, when all is stored, the archiving.
        driver.follow(&record.instance, from.as_ref(), &feed).await
    };
    let archiving = archive(agent, local, Cutter::new(end, agent.config.log_interval), items, archived);
    let instance = local.instance();
    let (read, stored, ()) = tokio::join!(reading, archiving, release(driver, &instance, released));
    stored?;
    read.map_err(AgentError::engine("follow the engine's log"))
}

/// Where the archived log ends: as the store says after a restart.
async fn end_of_log(agent: &Agent, local: &Local) -> Result<Option<LogEnd>, AgentError> {
    let lineage = &local.lineage;
    if let Some(end) = lineage.log_end() {
        return Ok(Some(end));
    }
    // What lies there and was not counted would be a hole once the next segment is.
    lineage.take_listed(&agent.prompt_store).await.map_err(AgentError::store("list the log archive"))?;
    let find = |id| lineage.keys.key(id);
    let end = match last_segment(&agent.prompt_store, lineage.scope, &find).await {
        Ok(last) => last.map(|(offset, header)| LogEnd { offset, cursor: LogCursor(header.to) }),
        // Its key is gone with its epoch: nobody can tell from where to read on, and the driver begins anew, behind a gap.
        Err(StoreError::NoKey { .. }) => {
            let offset = lineage.archive().newest_coverage().map_or(0, |coverage| coverage.to.offset);
            Some(LogEnd { offset, cursor: LogCursor::unknown() })
        }
        Err(error) => return Err(AgentError::store("read the last segment of the log")(error)),
    };
    lineage.set_log_end(end.clone());
    Ok(end)
}

/// Stores what comes, until nothing comes any more and all of it is stored.
async fn archive(
    agent: &Agent,
    local: &Local,
    mut cutter: Cutter,
    mut items: mpsc::Receiver<FeedItem>,
    archived: watch::Sender<Option<LogCursor>>,
) -> Result<(), AgentError> {
    let mut open = true;
    loop {
        let cut = loop {
            match cutter.next() {
                Some(cut) => break cut,
                None if !open => return Ok(()),
                None => gather(local, &mut cutter, &mut items, &mut open).await,
            }
        };
        let storing = store(agent, local, &cut);
        tokio::pin!(storing);
        loop {
            tokio::select! {
                biased;
                stored = &mut storing => break stored?,
                () = gather(local, &mut cutter, &mut items, &mut open) => {}
            }
        }
        archived.send_replace(Some(cut.end().cursor));
    }
}

/// Takes one item, or cuts because it is time; waits while the archive is behind.
async fn gather(local: &Local, cutter: &mut Cutter, items: &mut mpsc::Receiver<FeedItem>, open: &mut bool) {
    let due = cutter.due().map(tokio::time::Instant::from_std);
    let (may_take, may_cut) = (*open && cutter.has_room(), due.is_some());
    tokio::select! {
        item = items.recv(), if may_take => match item {
            Some(item) => take(local, cutter, item),
            None => {
                *open = false;
                cutter.cut();
            }
        },
        () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if may_cut => cutter.cut(),
        () = std::future::pending(), if !may_take && !may_cut => {}
    }
}

fn take(local: &Local, cutter: &mut Cutter, item: FeedItem) {
    if let FeedItem::Begin { cause: Some(cause), .. } = &item {
        tracing::error!(service = %local.lineage.scope.service, %cause, "the log cannot be followed without a gap");
    }
    if let Some((at, offset)) = cutter.take(item, std::time::Instant::now()) {
        local.lineage.note_log_error(None);
        let position = Position { timeline: 0, offset };
        local.lineage.mark(Mark { at, position, last_commit: offset.to_string() });
        if local.lineage.is_awaited(at) {
            cutter.cut();
        }
    }
}

/// Stores one segment, however long that takes, and counts it.
async fn store(agent: &Agent, local: &Local, cut: &Cut) -> Result<(), AgentError> {
    let lineage = &local.lineage;
    let name = segment_name(lineage.scope, 0, cut.from, cut.to());
    let mut pause = FIRST_PAUSE;
    loop {
        let key = lineage.keys.epoch_key().ok_or_else(|| {
            AgentError::Unusable("there is no key to seal log with: take a backup, it brings one".to_owned())
        })?;
        lineage.keys.seals_tail(key.key_id);
        let find = |id| lineage.keys.key(id);
        match write_segment(&agent.prompt_store, &name, &key, &find, &cut.header, &cut.log).await {
            Ok(_) => break,
            Err(error) if error.kind() == holdfast_store::ErrorKind::AlreadyExists => {
                lineage.set_log_end(None); // what the store holds counts
                return Err(AgentError::store("store a segment of log")(error));
            }
            Err(error) => {
                let error = AgentError::store("store a segment of log")(error);
                tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "log waits on the instance's disk");
                lineage.note_log_error(Some(chain(&error)));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    lineage.note_log_error(None);
    lineage.log_stored(cut.from, cut.to(), cut.header.gap.as_deref());
    lineage.set_log_end(Some(cut.end()));
    if lineage.keys.tail_changed() {
        local.keep_keys(agent)?;
    }
    Ok(())
}

/// Lets the engine give up log that the store has; ends with the archiving.
async fn release(
    driver: &dyn LogDriver,
    instance: &Instance,
    mut archived: watch::Receiver<Option<LogCursor>>,
) {
    loop {
        if archived.changed().await.is_err() {
            return;
        }
        let cursor = archived.borrow_and_update().clone();
        if let Some(cursor) = cursor
            && let Err(error) = driver.release_log(instance, &cursor).await
        {
            tracing::debug!(error = %chain(&error), "archived log stays on the instance's disk for now");
        }
        tokio::time::sleep(RELEASE_EVERY).await;
    }
}

/// Makes few segments of many, once a minute.
pub(crate) async fn compact(agent: &Arc<Agent>) {
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        for local in agent.instances.all() {
            let lineage = &local.lineage;
            if lineage.log_end().is_none() {
                continue;
            }
            let find = |id| lineage.keys.key(id);
            match compaction::compact(&agent.store, lineage.scope, &find, Timestamp::now()).await {
                Ok(done) if done.merged > 0 => {
                    tracing::debug!(service = %lineage.scope.service, ?done, "small segments of log became larger ones");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(service = %lineage.scope.service, error = %chain(&error), "small segments of log stay for now");
                }
            }
        }
    }
}
