//! The short steps: settings, stop, start, passwords, shipping the log, removal.

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::agent::{ApplySettings, ClosedLog, SetPassword, ShipLog, ShippedLog, StoppedLog};
use holdfast_core::ServiceId;
use holdfast_core::causes::chain;
use holdfast_engines::{Driver, Log, ProgressSink, UserSpec};

use crate::error::AgentError;
use crate::instances::Local;
use crate::{Agent, adoption, coverage, instances};

/// Longest wait for the object store to confirm the log that was cut.
const SHIP_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for the last of a followed log.
const LAST_LOG_LIMIT: Duration = Duration::from_secs(20);
const STOP_SECONDS: u64 = 60;

pub(super) async fn ship_log(
    agent: &Arc<Agent>,
    service: ServiceId,
    input: &ShipLog,
    progress: &ProgressSink,
) -> Result<ShippedLog, AgentError> {
    progress.phase("shipping log");
    let local = agent.instances.get(service).filter(|local| local.record().running);
    let Some(local) = local else { return Err(AgentError::NotRunning(service)) };
    let known = local.lineage.archive().newest_coverage().cloned();
    if let Some(coverage) = known.filter(|c| c.complete_until.is_some_and(|until| until >= input.until)) {
        return Ok(ShippedLog { coverage });
    }
    let record = local.record();
    let until = match agent.driver(record.spec.engine)?.data_path().log {
        Log::Repository(driver) => {
            let cut = driver.cut_log(&record.instance).await;
            let mark = cut.map_err(AgentError::engine("close the current piece of log"))?;
            local.lineage.mark(mark.clone());
            mark.at
        }
        Log::Followed(_) => input.until, // shipped several times a second anyway
        Log::None => return Err(AgentError::NoDriver(record.spec.engine)), // the control plane asks for none
    };
    let coverage =
        tokio::time::timeout(SHIP_LIMIT, local.lineage.wait_complete(until)).await.map_err(|_| {
            AgentError::TooLong {
                doing: "shipping the log to the object store",
                seconds: SHIP_LIMIT.as_secs(),
            }
        })?;
    Ok(ShippedLog { coverage })
}

pub(super) async fn apply_settings(agent: &Arc<Agent>, input: &ApplySettings) -> Result<(), AgentError> {
    let local = agent.instances.require(input.instance.service_id)?;
    let _busy = local.busy.lock().await;
    let record = local.update(|record| {
        record.instance.memory_mib = input.instance.memory_mib;
        record.instance.max_connections = input.instance.max_connections;
        record.instance.allowed_cidrs.clone_from(&input.instance.allowed_cidrs);
        record.spec.clone_from(&input.instance);
    })?;
    let driver = agent.driver(record.spec.engine)?;
    driver.apply_settings(&record.instance).await.map_err(AgentError::engine("apply the settings"))
}

pub(super) async fn stop(agent: &Arc<Agent>, service: ServiceId) -> Result<StoppedLog, AgentError> {
    let local = agent.instances.require(service)?;
    let _busy = local.busy.lock().await;
    end(&local, agent.driver(local.record().spec.engine)?).await?;
    close_log(agent, &local).await?;
    if let Err(error) = coverage::write(agent, &local.lineage).await {
        tracing::warn!(%service, error = %chain(&error), "the last coverage of a stopped service is not stored yet");
    }
    let coverage = local.lineage.archive().coverage().to_vec();
    Ok(StoppedLog { coverage })
}

/// Ships what is left of the log and stops the engine. If that fails the engine goes on: it is looked after, and its clients
/// write again.
async fn end(local: &Local, driver: &dyn Driver) -> Result<(), AgentError> {
    ship_the_end(local, driver).await;
    let instance = local.instance();
    let stop = async {
        // The record first: a supervisor that finds the engine stopped must not start it again.
        local.update(|record| record.running = false)?;
        driver.stop(&instance, STOP_SECONDS).await.map_err(AgentError::engine("stop the engine"))
    };
    let Err(error) = stop.await else { return Ok(()) };
    let service = local.lineage.scope.service;
    if let Err(left) = local.update(|record| record.running = true) {
        tracing::warn!(%service, error = %chain(&left), "an engine that could not be stopped is not looked after");
    }
    if let Log::Followed(driver) = driver.data_path().log
        && let Err(left) = driver.unquiesce(&instance).await
    {
        tracing::warn!(%service, error = %chain(&left), "clients cannot write until the engine's next start");
    }
    Err(error)
}

/// Where Holdfast follows the log: keeps clients from writing and waits until all of it is archived. What is not in time
/// stays in the engine's log and is shipped at the next start.
async fn ship_the_end(local: &Local, driver: &dyn Driver) {
    let record = local.record();
    let service = record.spec.service_id;
    let Log::Followed(driver) = driver.data_path().log else { return };
    if let Err(error) = driver.quiesce(&record.instance).await {
        tracing::warn!(%service, error = %chain(&error), "clients may write until the engine stops");
    }
    let all = local.lineage.wait_complete(holdfast_core::Timestamp::now());
    if tokio::time::timeout(LAST_LOG_LIMIT, all).await.is_err() {
        tracing::warn!(%service, "the end of the log is not archived before the engine stops");
    }
}

/// At a clean shutdown the engine ships the last of its log by itself; from then on every instant until now is covered.
/// If the store was away, the log is shipped at the next start.
async fn close_log(agent: &Agent, local: &Local) -> Result<(), AgentError> {
    let record = local.record();
    let Log::Repository(driver) = agent.driver(record.spec.engine)?.data_path().log else { return Ok(()) };
    let mark =
        driver.stopped_mark(&record.instance).await.map_err(AgentError::engine("read the last position"))?;
    if let Some(mark) = mark {
        local.lineage.mark(mark);
    }
    Ok(())
}

pub(super) async fn start(agent: &Arc<Agent>, service: ServiceId) -> Result<(), AgentError> {
    let local = agent.instances.require(service)?;
    let _busy = local.busy.lock().await;
    let record = local.update(|record| record.running = true)?;
    let driver = agent.driver(record.spec.engine)?;
    driver.start(&record.instance).await.map_err(AgentError::engine("start the engine"))
}

pub(super) async fn set_password(
    agent: &Arc<Agent>,
    service: ServiceId,
    input: &SetPassword,
) -> Result<(), AgentError> {
    let local = agent.instances.require(service)?;
    let record = local.record();
    let user = UserSpec {
        username: input.username.clone(),
        role: String::new(),
        password: input.password.0.clone(),
    };
    let driver = agent.driver(record.spec.engine)?;
    driver.set_password(&record.instance, &user).await.map_err(AgentError::engine("set a password"))
}

pub(super) async fn remove(
    agent: &Arc<Agent>,
    service: ServiceId,
    progress: &ProgressSink,
) -> Result<ClosedLog, AgentError> {
    let Some(local) = agent.instances.get(service) else {
        // Never made, or removed by an earlier try.
        let folder = instances::folder_of(agent, service);
        if folder.exists() {
            tracing::warn!(%service, "removing what is left of a half-made instance");
            adoption::discard_leftover(agent, service).await?;
        }
        return Ok(ClosedLog::default());
    };
    let _busy = local.busy.lock().await;
    let record = local.record();
    if record.running {
        progress.phase("shipping log");
        end(&local, agent.driver(record.spec.engine)?).await?;
        if let Err(error) = close_log(agent, &local).await {
            tracing::warn!(%service, error = %chain(&error), "the end of a deleted service's log is not known");
        }
    }
    if let Err(error) = coverage::write(agent, &local.lineage).await {
        tracing::warn!(%service, error = %chain(&error), "the last coverage of a deleted service was not stored");
    }
    let closed = {
        let archive = local.lineage.archive();
        ClosedLog { coverage: archive.coverage().to_vec(), gaps: archive.gaps().to_vec() }
    };
    progress.phase("removing the instance");
    adoption::discard(agent, &record.spec, &record.instance).await?;
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use holdfast_core::Timestamp;
    use holdfast_core::position::Position;
    use holdfast_engines::Mark;

    use super::*;
    use crate::fake::{Bench, Fake};

    #[tokio::test]
    async fn an_engine_that_does_not_stop_takes_writes_again() {
        for stops in [true, false] {
            let bench = Bench::new(Fake { stops, ..Fake::default() });
            // All of its log is archived.
            bench.local.lineage.log_stored(0, 1, None);
            let at = Timestamp::now() + Duration::from_secs(60);
            let position = Position { timeline: 0, offset: 1 };
            bench.local.lineage.mark(Mark { at, position, last_commit: String::new() });
            let ended = end(&bench.local, &bench.driver).await;
            let expected: &[_] = if stops { &["quiesce", "stop"] } else { &["quiesce", "stop", "unquiesce"] };
            assert_eq!(bench.driver.called(), expected);
            assert_eq!((ended.is_ok(), bench.local.record().running), (stops, !stops));
        }
    }
}
