//! Ships the log that an engine with a backup tool of its own (PostgreSQL) is writing, ahead of the tool's archive of whole
//! pieces: losing the host loses about a second instead of a piece.
//!
//! Reading begins where the proven coverage ends. A part is cut some hundred milliseconds after its first byte, sealed and
//! stored, and only then counts, judged like a segment of the tool's. When the tool has archived the segment that a part
//! lies in, the part goes ([`pieces`]). A restore puts what is left behind the tool's archive ([`mod@rebuild`]).
//!
//! Nothing of this is kept on the host: whatever ends a connection or the agent, reading begins anew behind what the store
//! has, and the engine keeps what the archive does not have.

mod cut;
pub(crate) mod pieces;
mod rebuild;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use holdfast_core::causes::chain;
use holdfast_core::position::Position;
use holdfast_core::{ServiceId, Timestamp};
use holdfast_engines::LogTail;
use holdfast_store::log::{SEGMENT_FORMAT, SegmentHeader, segment_name, write_segment};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout, timeout_at};

use self::cut::Cut;
use crate::Agent;
use crate::defect::contained;
use crate::error::AgentError;
use crate::instances::Local;
use crate::lineage::Lineage;

pub(crate) use rebuild::rebuild;

/// As long as a synchronous commit waits for others to come along.
const SYNCHRONOUS_INTERVAL: Duration = Duration::from_millis(20);
/// Between two marks: they cost a query each.
const MARK_EVERY: Duration = Duration::from_millis(250);
const MARK_LIMIT: Duration = Duration::from_secs(1);
/// As long as a part waits for the log that its mark speaks of.
const SETTLE: Duration = Duration::from_millis(30);
/// How often the engine hears of us, and we look whether it is still to be followed.
const ALIVE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(1);
const REMOVE_EVERY: Duration = Duration::from_secs(5);

/// Follows every instance of this host.
pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut followed: HashMap<ServiceId, (Arc<Local>, JoinHandle<()>)> = HashMap::new();
    loop {
        followed.retain(|_, (local, _)| is_ours(agent, local));
        for local in agent.instances.all() {
            let service = local.lineage.scope.service;
            let has_archiver = agent.archiver(local.record().spec.engine).is_ok();
            if has_archiver && !followed.contains_key(&service) {
                let task = tokio::spawn(keep(Arc::clone(agent), Arc::clone(&local)));
                followed.insert(service, (local, task));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_ours(agent: &Agent, local: &Arc<Local>) -> bool {
    agent.instances.get(local.lineage.scope.service).is_some_and(|now| Arc::ptr_eq(&now, local))
}

/// Why an instance is not followed at the moment.
#[derive(PartialEq, Eq)]
enum End {
    /// It does not run, or nothing of its log is archived yet.
    NotNow,
    /// The settings say so.
    Off,
}

async fn keep(agent: Arc<Agent>, local: Arc<Local>) {
    let mut told = String::new();
    while is_ours(&agent, &local) {
        match contained("following the log", follow(&agent, &local)).await {
            Ok(End::Off) => return,
            Ok(End::NotNow) => told.clear(),
            Err(error) => {
                let text = chain(&error);
                if text != told && local.record().running {
                    tracing::info!(service = %local.lineage.scope.service, error = %text, "the log's tail is not followed now");
                    told = text;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Follows the running engine until something ends it.
async fn follow(agent: &Agent, local: &Arc<Local>) -> Result<End, AgentError> {
    let (record, lineage) = (local.record(), &local.lineage);
    if !record.running || !lineage.is_listed() {
        return Ok(End::NotNow);
    }
    let Some(from) = lineage.archive().newest_coverage().map(|newest| newest.to) else {
        return Ok(End::NotNow);
    };
    let doing = || AgentError::engine("follow the engine's log");
    let driver = agent.archiver(record.spec.engine)?;
    let Some(mut log) = driver.tail(&record.instance, from).await.map_err(doing())? else {
        return Ok(End::Off);
    };
    let awaited = log.is_awaited();
    let every = if awaited { SYNCHRONOUS_INTERVAL } else { agent.config.log_interval };
    let mut cut = Cut::new(from, every, driver.log_piece());
    let mut marked = Instant::now();
    let mut upload: Option<BoxFuture<'_, Result<u64, AgentError>>> = None;
    let mut alive = interval(ALIVE);
    loop {
        tokio::select! {
            next = log.next(), if cut.has_room() => {
                let (_, bytes) = next.map_err(doing())?;
                cut.push(&bytes);
            }
            Some(stored) = OptionFuture::from(upload.as_mut()) => {
                upload = None;
                log.confirm(stored?).await.map_err(doing())?;
            }
            () = cut.due(), if upload.is_none() => {
                if marked.elapsed() >= MARK_EVERY {
                    marked = Instant::now();
                    settle(&mut *log, &mut cut, lineage).await.map_err(doing())?;
                }
                let (at, bytes) = cut.take();
                upload = Some(Box::pin(ship(agent, lineage, at, bytes, awaited)));
            }
            _ = alive.tick() => {
                if !is_ours(agent, local) || !local.record().running {
                    return Ok(End::NotNow);
                }
                log.confirm(from.offset).await.map_err(doing())?;
                if upload.is_none() && cut.is_empty() && lineage.archive().waits_behind(cut.end()) {
                    log.flush().await.map_err(doing())?;
                }
            }
        }
    }
}

/// Takes a mark, and the log up to it if that comes at once: then the part that is about to be cut covers it. An engine that is
/// too busy for a mark gets the next one; its log goes on.
async fn settle(log: &mut dyn LogTail, cut: &mut Cut, lineage: &Lineage) -> holdfast_engines::Result<()> {
    let mark = match timeout(MARK_LIMIT, log.mark()).await {
        Ok(Ok(mark)) => mark,
        Ok(Err(error)) => {
            tracing::debug!(service = %lineage.scope.service, error = %chain(&error), "no mark was taken");
            return Ok(());
        }
        Err(_) => return Ok(()),
    };
    let until = Instant::now() + SETTLE;
    while cut.end().offset < mark.position.offset && cut.has_room() {
        match timeout_at(until, log.next()).await {
            Ok(next) => cut.push(&next?.1),
            Err(_) => break,
        }
    }
    lineage.mark(mark);
    Ok(())
}

/// Stores a part of the log; returns where it ends. One that the archive has already is left out.
async fn ship(
    agent: &Agent,
    lineage: &Lineage,
    at: Position,
    log: Bytes,
    awaited: bool,
) -> Result<u64, AgentError> {
    let to = Position { offset: at.offset + log.len() as u64, ..at };
    let complete_until = {
        let archive = lineage.archive();
        if archive.holds(to) {
            return Ok(to.offset);
        }
        // Whoever waits for the store has been told of nothing behind this part: it is complete until now.
        archive.complete_with(to).max(awaited.then(Timestamp::now))
    };
    let key = lineage.keys.epoch_key();
    let key = key.ok_or_else(|| AgentError::Unusable("there is no key to seal log with".to_owned()))?;
    let name = segment_name(lineage.scope, at.timeline, at.offset, to.offset);
    let header = SegmentHeader {
        format: SEGMENT_FORMAT,
        from: Value::Null,
        to: Value::Null,
        complete_until,
        gap: None,
    };
    match write_segment(&agent.prompt_store, &name, &key, &|id| lineage.keys.key(id), &header, &log).await {
        Ok(_) => {
            lineage.shipped((at, to));
            Ok(to.offset)
        }
        Err(error) => {
            lineage.note_trouble(&error);
            Err(AgentError::store("store the log's tail")(error))
        }
    }
}

/// Removes parts whose segments the tool has archived.
pub(crate) async fn remove_spent(agent: &Arc<Agent>) {
    loop {
        tokio::time::sleep(REMOVE_EVERY).await;
        for local in agent.instances.all() {
            let lineage = &local.lineage;
            let mut spent = lineage.tail().take_spent();
            while let Some((from, to)) = spent.pop() {
                let name = segment_name(lineage.scope, from.timeline, from.offset, to.offset);
                if let Err(error) = agent.prompt_store.delete(&name).await {
                    tracing::debug!(%name, error = %chain(&error), "a spent part of the log's tail stays for now");
                    spent.push((from, to));
                    break;
                }
            }
            lineage.tail().give_back(spent);
        }
    }
}
