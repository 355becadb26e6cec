//! The routes that agents use. They carry keys: only over loopback, only with the agents' token, never logged.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use holdfast_api::agent::{
    AgentReport, CoverageReport, InstanceReport, LeaseRequest, LeasedStep, ProgressAnswer, ProgressReport,
    StepResult,
};
use holdfast_catalog::{CatalogError, ErrorKind};
use holdfast_core::backup::BackupMode;
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobError, JobKind, JobState, Place, Step};
use holdfast_core::position::Coverage;
use holdfast_core::service::ServiceStatus;
use holdfast_core::{AgentId, JobId, LineageId, Timestamp};
use jiff::SignedDuration;
use tokio::sync::watch;

use super::steps::enqueue_automated;
use super::{StepError, fallback, grant};
use crate::ControlPlane;

const LEASE_SECONDS: i64 = 10;
/// How long keys may take on their way into the store before the step is tried again; with [`LONGEST_WAIT`] less
/// than an agent waits for an answer (70 s).
const EQUIP_PATIENCE: Duration = Duration::from_secs(30);
/// A result carries a backup's facts: of MongoDB some 200 bytes for each collection and index. With room for some 200,000.
const LARGEST_BODY: usize = 64 << 20;
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// How often coverage that only grew in time is written to the catalog.
const COVERAGE_EVERY: SignedDuration = SignedDuration::from_secs(5);
/// Where a step's output names the phases that it went through.
pub(crate) const PHASES: &str = "phases";
/// An engine that does not answer for so long puts its service into status `error`.
const UNHEALTHY_AFTER: SignedDuration = SignedDuration::from_secs(20);

/// The routes below `/agent/v1`, all behind the agents' token.
pub fn router(cp: ControlPlane, token: holdfast_api::agent::Secret) -> Router {
    Router::new()
        .route("/agent/v1/lease", post(lease))
        .route("/agent/v1/jobs/{id}/progress", post(progress))
        .route("/agent/v1/jobs/{id}/result", post(result))
        .route("/agent/v1/report", post(report))
        .route("/agent/v1/coverage", post(coverage))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(token, require_token))
        .layer(from_fn(require_loopback))
        .with_state(cp)
}

/// The listener speaks plain HTTP, and keys do not leave the host in the clear.
async fn require_loopback(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if peer.is_none_or(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
        return next.run(request).await;
    }
    let text = "agents are served on this host only";
    (StatusCode::FORBIDDEN, Json(serde_json::json!({"error": text, "message": text}))).into_response()
}

async fn require_token(
    State(token): State<holdfast_api::agent::Secret>,
    request: Request,
    next: Next,
) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.0.as_bytes()).is_ok() {
        next.run(request).await
    } else {
        (
            StatusCode::UNAUTHORIZED,
            Json(serde_json::json!({"error": "unknown agent", "message": "unknown agent"})),
        )
            .into_response()
    }
}

/// What went wrong, as a status for the agent.
struct Refusal(StatusCode, String);

impl From<StepError> for Refusal {
    fn from(error: StepError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        let status = match error.kind() {
            ErrorKind::Stale => StatusCode::CONFLICT,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, chain(&error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.0.is_server_error() {
            tracing::error!(error = self.1, "an agent's message could not be handled");
        }
        (self.0, Json(serde_json::json!({"error": self.1, "message": self.1}))).into_response()
    }
}

/// A long poll: answers as soon as there is a step to do.
async fn lease(
    State(cp): State<ControlPlane>,
    Json(asked): Json<LeaseRequest>,
) -> Result<Json<Option<LeasedStep>>, Refusal> {
    only_agent(&cp, asked.agent_id).await?;
    cp.catalog.record_agent_seen(asked.agent_id, Timestamp::now()).await?;
    if asked.fresh {
        cp.catalog.lapse_leases(Place::Agent, Timestamp::now()).await?;
    }
    let deadline = tokio::time::Instant::now() + Duration::from_millis(asked.wait_ms).min(LONGEST_WAIT);
    let mut changed = cp.catalog.changed();
    loop {
        changed.mark_unchanged();
        let lease_for = SignedDuration::from_secs(LEASE_SECONDS);
        if let Some(job) = cp.catalog.lease(Place::Agent, asked.agent_id, Timestamp::now(), lease_for).await?
        {
            if let Some(step) = hand_over(&cp, &job).await? {
                return Ok(Json(Some(step)));
            }
            continue;
        }
        // A lapsed lease or a retry makes no signal: look again every second.
        let wake = tokio::time::Instant::now() + Duration::from_secs(1);
        if tokio::time::Instant::now() >= deadline {
            return Ok(Json(None));
        }
        let _ = tokio::time::timeout_at(wake.min(deadline), changed.changed()).await;
    }
}

/// Steps are not routed to hosts yet, so there is one agent: a second would be handed steps for instances that it does not
/// have.
async fn only_agent(cp: &ControlPlane, id: AgentId) -> Result<(), Refusal> {
    let text = id.to_string();
    if cp.catalog.put_setting_if_absent("agent_id", &text).await? {
        return Ok(());
    }
    match cp.catalog.setting("agent_id").await? {
        Some(known) if known == text => Ok(()),
        _ => Err(Refusal(
            StatusCode::FORBIDDEN,
            "another agent serves this control plane; this release knows one host".to_owned(),
        )),
    }
}

/// Equips a leased job; `None` where its step had nothing to do or could not be equipped.
async fn hand_over(cp: &ControlPlane, job: &Job) -> Result<Option<LeasedStep>, Refusal> {
    let now = Timestamp::now();
    let nothing_said = watch::Sender::new(None);
    let equipped = tokio::select! {
        equipped = tokio::time::timeout(EQUIP_PATIENCE, grant::equip(cp, job)) =>
            equipped.unwrap_or(Err(StepError::Slow { seconds: EQUIP_PATIENCE.as_secs() })),
        // A slow store is no silent worker.
        () = super::runner::keep_lease(cp, job, &nothing_said) =>
            return Err(CatalogError::Stale { job: job.id, generation: job.generation }.into()),
    };
    match equipped {
        Ok(grant::Equipped::Run(service_id, input)) => {
            let step = job.step().expect("a leased job stands at a step");
            if matches!(
                step,
                holdfast_core::job::Step::CreateInstance | holdfast_core::job::Step::RestoreInstance
            ) {
                let from = [ServiceStatus::Pending];
                cp.catalog
                    .set_service_status(
                        grant::service_id(job)?,
                        &from,
                        ServiceStatus::Provisioning,
                        None,
                        now,
                    )
                    .await?;
            }
            Ok(Some(LeasedStep {
                job_id: job.id,
                kind: job.kind,
                generation: job.generation,
                step_index: job.step_index,
                step,
                service_id,
                input: *input,
            }))
        }
        Ok(grant::Equipped::Skip) => {
            let skipped = serde_json::json!({"skipped": true});
            cp.catalog.complete_step(job.id, job.generation, job.step_index, skipped, now).await?;
            Ok(None)
        }
        Err(error) => {
            tracing::error!(job = %job.id, error = %chain(&error), "a step could not be equipped");
            cp.catalog.fail_step(job.id, job.generation, job.step_index, error.to_job_error(), now).await?;
            Ok(None)
        }
    }
}

async fn progress(
    State(cp): State<ControlPlane>,
    Path(id): Path<JobId>,
    Json(report): Json<ProgressReport>,
) -> Result<Json<ProgressAnswer>, Refusal> {
    let lease_for = SignedDuration::from_secs(LEASE_SECONDS);
    let answer = cp
        .catalog
        .heartbeat(id, report.generation, Timestamp::now(), lease_for, report.progress.as_ref())
        .await?;
    Ok(Json(ProgressAnswer { cancel_requested: answer.cancel_requested }))
}

async fn result(
    State(cp): State<ControlPlane>,
    Path(id): Path<JobId>,
    Json(result): Json<StepResult>,
) -> Result<Json<()>, Refusal> {
    let now = Timestamp::now();
    match result.outcome {
        Ok(output) => {
            let mut output = serde_json::to_value(output).expect("an output has only string keys");
            output[PHASES] = serde_json::to_value(result.phases).expect("a phase has only string keys");
            cp.catalog.complete_step(id, result.generation, result.step_index, output, now).await?;
        }
        Err(error) => failed(&cp, id, result.generation, result.step_index, error, now).await?,
    }
    Ok(Json(()))
}

async fn failed(
    cp: &ControlPlane,
    id: JobId,
    generation: i64,
    step_index: u32,
    error: JobError,
    now: Timestamp,
) -> Result<(), Refusal> {
    let job = cp.catalog.job(id).await?;
    let held = job.filter(|job| job.generation == generation && job.step_index == step_index);
    let instead = match &held {
        Some(job) => fallback::instead(cp, job, &error, now).await?,
        None => None,
    };
    match instead {
        Some(passed) => {
            tracing::error!(job = %id, why = error.message, "a base cannot be loaded; the restore goes on with an older one");
            let passed = serde_json::to_value(passed).expect("it has only string keys");
            let kept = (fallback::PASSED_OVER, passed);
            cp.catalog.go_back(id, generation, step_index, Step::PlanRestore, error, kept, now).await?;
        }
        None => {
            cp.catalog.fail_step(id, generation, step_index, error, now).await?;
        }
    }
    Ok(())
}

async fn report(
    State(cp): State<ControlPlane>,
    Json(report): Json<AgentReport>,
) -> Result<Json<()>, Refusal> {
    let now = Timestamp::now();
    cp.live.put_versions(report.agent_id, report.versions);
    for instance in report.instances {
        take_instance(&cp, now, instance).await?;
    }
    Ok(Json(()))
}

/// Lengthens known stretches. A new one waits for the report that brings the gap before it.
async fn coverage(
    State(cp): State<ControlPlane>,
    Json(report): Json<CoverageReport>,
) -> Result<Json<()>, Refusal> {
    let mut news = Vec::new();
    for (lineage, stretch) in report.newest {
        let known = cp.catalog.coverage_of(lineage).await?;
        if known.iter().any(|before| before.from == stretch.from) && is_news(&known, &stretch) {
            news.push((lineage, stretch));
        }
    }
    take_news(&cp, news).await?;
    Ok(Json(()))
}

async fn take_news(cp: &ControlPlane, news: Vec<(LineageId, Coverage)>) -> Result<(), Refusal> {
    if !news.is_empty() {
        cp.catalog.upsert_all_coverage(&news).await?;
    }
    Ok(())
}

async fn take_instance(cp: &ControlPlane, now: Timestamp, report: InstanceReport) -> Result<(), Refusal> {
    if let Some(archive) = &report.archive {
        let known = cp.catalog.coverage_of(report.lineage_id).await?;
        let news = archive.coverage.iter().filter(|stretch| is_news(&known, stretch));
        take_news(cp, news.map(|stretch| (report.lineage_id, stretch.clone())).collect()).await?;
        if !archive.gaps.is_empty() {
            take_gaps(cp, &report).await?;
        }
    }
    take_health(cp, now, &report).await?;
    cp.live.put(now, report);
    Ok(())
}

fn is_news(known: &[Coverage], stretch: &Coverage) -> bool {
    let Some(before) = known.iter().find(|c| c.from == stretch.from) else { return true };
    let later = match (before.complete_until, stretch.complete_until) {
        (Some(before), Some(now)) => now.duration_since(before) >= COVERAGE_EVERY,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    before.to != stretch.to || later
}

/// A new gap is answered with a new base backup at once (R8): behind it every point is reachable again.
async fn take_gaps(cp: &ControlPlane, report: &InstanceReport) -> Result<(), Refusal> {
    let Some(archive) = &report.archive else { return Ok(()) };
    let known = cp.catalog.gaps_of(report.lineage_id).await?;
    for gap in &archive.gaps {
        if known.iter().any(|old| old.from == gap.from && old.to == gap.to) {
            continue;
        }
        tracing::error!(service = %report.service_id, cause = gap.cause, "a gap in the log archive; taking a new base backup");
        let open = cp.catalog.open_jobs_of(report.service_id).await?;
        // One whose copy has run waits in the queue too, to be recorded.
        let is_to_run = |job: &Job| {
            let waits = job.kind == JobKind::Backup && job.state == JobState::Queued;
            waits && !job.kind.only_records(job.step_index)
        };
        if !open.iter().any(is_to_run) {
            enqueue_automated(cp, report.service_id, BackupMode::Full).await?;
        }
        // Last, so that a crash in between asks for the backup again rather than never.
        cp.catalog.insert_gap(report.lineage_id, gap).await?;
    }
    Ok(())
}

async fn take_health(cp: &ControlPlane, now: Timestamp, report: &InstanceReport) -> Result<(), Refusal> {
    // One that is stopped on purpose has nothing to say and is not unhealthy.
    let since = cp.live.unhealthy_since(report.service_id, now, report.message.is_none());
    let Some(message) = &report.message else {
        if report.healthy && cp.live.was_in_error(report.service_id) {
            let from = [ServiceStatus::Error];
            cp.catalog
                .set_service_status(report.service_id, &from, ServiceStatus::Running, None, now)
                .await?;
            cp.live.set_in_error(report.service_id, false);
        }
        return Ok(());
    };
    if now.duration_since(since) >= UNHEALTHY_AFTER {
        let from = [ServiceStatus::Running];
        cp.catalog
            .set_service_status(report.service_id, &from, ServiceStatus::Error, Some(message), now)
            .await?;
        cp.live.set_in_error(report.service_id, true);
    }
    Ok(())
}
