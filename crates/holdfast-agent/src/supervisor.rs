//! Keeps instances running, watches how far their log is archived, and tells the control plane.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_api::agent::{AgentReport, ArchiveReport, InstanceMetrics, InstanceReport};
use holdfast_core::causes::chain;
use holdfast_core::disk::Level;
use holdfast_core::{ServiceId, Timestamp};
use holdfast_engines::{Probe, Statistics};

use crate::defect::contained;
use crate::error::AgentError;
use crate::instances::Local;
use crate::{Agent, disk};

const INTERVAL: Duration = Duration::from_secs(1);
/// A lag beyond this on a quiet database is log that nothing closes; see [`nudge`].
const NUDGE_LAG_SECONDS: f64 = 15.0;
const NUDGE_PAUSE: Duration = Duration::from_secs(30);
const SIZES_EVERY: Duration = Duration::from_secs(60);
const RESTART_PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut last_action: HashMap<ServiceId, Instant> = HashMap::new();
    loop {
        let began = Instant::now();
        let all = agent.instances.all();
        let looks = all.iter().map(|local| look(agent, local));
        let seen = futures::future::join_all(looks).await;
        let mut reports = Vec::new();
        for (local, (report, action)) in all.iter().zip(seen) {
            if let Some(action) = action {
                act(agent, local, action, &mut last_action).await;
            }
            guard(agent, local, &report);
            reports.push(report);
        }
        let report = AgentReport { agent_id: agent.host.id, versions: agent.versions(), instances: reports };
        if let Err(error) = agent.client.report(&report).await {
            tracing::debug!(error = %chain(&error), "the control plane did not take the report");
        }
        tokio::time::sleep(INTERVAL.saturating_sub(began.elapsed())).await;
    }
}

/// What a look calls for.
enum Action {
    /// The engine should run and does not.
    Start,
    /// The log's end lags although the engine is quiet.
    Nudge,
}

/// Measures the databases' sizes once a minute, beside everything else.
pub(crate) async fn measure_sizes(agent: &Arc<Agent>) {
    loop {
        for local in agent.instances.all() {
            let record = local.record();
            let Ok(driver) = agent.driver(record.spec.engine) else { continue };
            let size = async {
                let bytes = driver.database_bytes(&record.instance).await;
                bytes.map_err(AgentError::engine("measure the databases"))
            };
            if record.running
                && let Ok(bytes) = contained("measuring the databases", size).await
            {
                local.database_bytes.store(bytes, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(SIZES_EVERY).await;
    }
}

async fn look(agent: &Agent, local: &Local) -> (InstanceReport, Option<Action>) {
    let record = local.record();
    let mut report = InstanceReport {
        service_id: record.spec.service_id,
        lineage_id: record.spec.lineage_id,
        healthy: false,
        message: None,
        archive: None,
        metrics: None,
        disk: disk::look(agent, local, &record),
    };
    let mut action = None;
    let mut archiver_error = None;
    if record.running {
        match contained("looking at the engine", probe(agent, local)).await {
            Ok(probe) => {
                report.healthy = true;
                report.metrics = probe.statistics.as_ref().map(metrics);
                archiver_error = probe.statistics.and_then(|statistics| statistics.archiver_error);
                if let Some(mark) = probe.mark {
                    local.lineage.mark(mark);
                }
                let archive = local.lineage.archive();
                let lags = archive.lag(Timestamp::now()).0 > NUDGE_LAG_SECONDS
                    && agent.archiver(record.spec.engine).is_ok();
                if lags && archive.is_quiet() && archiver_error.is_none() {
                    action = Some(Action::Nudge);
                }
            }
            Err(error) => {
                let full = report.disk.as_ref().filter(|disk| disk.level == Level::Full);
                let full = full.and_then(|disk| disk.message.as_ref()).map(|text| format!("{text}; "));
                report.message = Some(full.unwrap_or_default() + &chain(&error));
                action = Some(Action::Start);
            }
        }
    }
    if record.log_dropped.is_some()
        && local.lineage.dropped().is_none()
        && let Err(error) = local.update(|record| record.log_dropped = None)
    {
        tracing::warn!(error = %chain(&error), "a gap that is recorded would be told of again");
    }
    let archive = local.lineage.archive();
    let (lag_seconds, lag_bytes) = archive.lag(Timestamp::now());
    report.archive = Some(ArchiveReport {
        coverage: archive.coverage().to_vec(),
        gaps: archive.gaps().to_vec(),
        lag_seconds,
        lag_bytes,
        // What the disk and the store say is nearer to the cause than what the engine's archiver says.
        last_error: disk::store_complaint(agent)
            .or_else(|| local.lineage.dropped())
            .or_else(|| local.lineage.trouble().filter(|_| lag_seconds > 0.0))
            .or_else(|| local.lineage.log_error())
            .or(archiver_error),
    });
    (report, action)
}

async fn probe(agent: &Agent, local: &Local) -> Result<Probe, AgentError> {
    let record = local.record();
    let driver = agent.driver(record.spec.engine)?;
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, driver.probe(&record.instance))
        .await
        .map_err(|_| AgentError::TooLong { doing: "looking at the engine", seconds: limit.as_secs() })?
        .map_err(AgentError::engine("look at the engine"))
}

fn metrics(probe: &Statistics) -> InstanceMetrics {
    InstanceMetrics {
        connections_active: probe.connections_active,
        database: probe.database.clone(),
        connections_max: probe.connections_max,
        transactions_total: probe.transactions_total,
        cache_hit_ratio: probe.cache_hit_ratio,
    }
}

/// Beside the loop, like every action.
fn guard(agent: &Arc<Agent>, local: &Arc<Local>, report: &InstanceReport) {
    let Some(disk) = report.disk.clone().filter(|_| report.healthy) else { return };
    let (agent, local) = (Arc::clone(agent), Arc::clone(local));
    tokio::spawn(async move {
        if let Err(error) = disk::guard(&agent, &local, &disk).await {
            let service = local.lineage.scope.service;
            tracing::warn!(%service, error = %chain(&error), "a full disk could not be guarded");
        }
    });
}

async fn act(agent: &Arc<Agent>, local: &Arc<Local>, action: Action, last: &mut HashMap<ServiceId, Instant>) {
    let service = local.lineage.scope.service;
    let pause = match action {
        Action::Start => RESTART_PAUSE,
        Action::Nudge => NUDGE_PAUSE,
    };
    if last.get(&service).is_some_and(|at| at.elapsed() < pause) {
        return;
    }
    last.insert(service, Instant::now());
    let (agent, local) = (Arc::clone(agent), Arc::clone(local));
    // Beside the loop: a slow start must not keep the other instances' reports back.
    tokio::spawn(async move {
        let done = match action {
            Action::Start => start(&agent, &local).await,
            Action::Nudge => nudge(&agent, &local).await,
        };
        if let Err(error) = done {
            tracing::warn!(%service, error = %chain(&error), "could not bring the instance into order");
        }
    });
}

async fn start(agent: &Agent, local: &Local) -> Result<(), AgentError> {
    // A step that stops or restores the engine has the say.
    let Ok(_busy) = local.busy.try_lock() else { return Ok(()) };
    let record = local.record();
    let driver = agent.driver(record.spec.engine)?;
    if !record.running || driver.is_running(&record.instance).await {
        return Ok(());
    }
    tracing::warn!(service = %record.spec.service_id, "the engine is not running; starting it");
    agent.ballast.release();
    driver.start(&record.instance).await.map_err(AgentError::engine("start the engine"))
}

/// A quiet database may sit on a few bytes of log that no commit follows and that the engine therefore never closes
/// (checkpoints are no reason to). After a restart the agent cannot know that they hold no commit, so it closes them itself.
async fn nudge(agent: &Agent, local: &Local) -> Result<(), AgentError> {
    let record = local.record();
    let mark = agent
        .archiver(record.spec.engine)?
        .cut_log(&record.instance)
        .await
        .map_err(AgentError::engine("close the current piece of log"))?;
    local.lineage.mark(mark);
    Ok(())
}
