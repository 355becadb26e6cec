//! What agents tell of their log, over their own routes.

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use holdfast_api::agent::{
    AgentReport, ArchiveReport, CoverageReport, InstanceReport, LeaseRequest, LeasedStep, RemoveExpired,
    Secret, StepInput, StepOutput, StepResult,
};
use holdfast_catalog::NewJob;
use holdfast_core::backup::{BackupFacts, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::{JobError, JobKind, JobState};
use holdfast_core::key::KeyPurpose;
use holdfast_core::position::{Coverage, Gap, Position};
use holdfast_core::service::{Service, ServiceStatus};
use holdfast_core::{AgentId, KeyId, LineageId};
use holdfast_server::jobs::{agents, repository, runner};
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

use crate::api::harness::{Platform, minutes_ago, platform};

const TOKEN: &str = "the agents' token";

async fn post(p: &Platform, token: &str, path: &str, body: &impl Serialize) -> (u16, Vec<u8>) {
    let request = Request::post(format!("/agent/v1/{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap();
    let app = agents::router(p.cp.clone(), Secret(TOKEN.to_owned()));
    let answer = app.oneshot(request).await.unwrap();
    (answer.status().as_u16(), to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec())
}

async fn tell(p: &Platform, token: &str, newest: Vec<(LineageId, Coverage)>) -> u16 {
    post(p, token, "coverage", &CoverageReport { newest }).await.0
}

/// The next step for an agent.
async fn leased(p: &Platform, agent: AgentId) -> Option<LeasedStep> {
    let asked = LeaseRequest { agent_id: agent, wait_ms: 1_000, fresh: false };
    let (status, body) = post(p, TOKEN, "lease", &asked).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// Tells how a step ended.
async fn end(p: &Platform, agent: AgentId, step: &LeasedStep, outcome: Result<StepOutput, JobError>) -> u16 {
    let LeasedStep { job_id, generation, step_index, .. } = *step;
    let result = StepResult { agent_id: agent, generation, step_index, outcome, phases: Vec::new() };
    post(p, TOKEN, &format!("jobs/{job_id}/result"), &result).await.0
}

/// The control plane's own worker, until it is dropped.
fn work(p: &Platform) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(runner::run(p.cp.clone(), stop.clone()));
    stop.drop_guard()
}

#[tokio::test]
async fn an_agent_lengthens_known_stretches_of_log_at_once_and_makes_none() {
    let p = platform().await;
    let service = p.service("orders", EngineKind::Postgresql, ServiceStatus::Running).await;
    let lineage = service.lineage_id;
    let stretch = |from, to, minute: i64| Coverage {
        from: Position { timeline: 1, offset: from },
        to: Position { timeline: 1, offset: to },
        complete_until: Some(Timestamp::from_second(60 * minute).unwrap()),
    };
    let known = stretch(100, 200, 2);
    p.cp.catalog.upsert_coverage(lineage, &known).await.unwrap();

    let longer = stretch(100, 300, 3);
    assert_eq!(tell(&p, "another", vec![(lineage, longer.clone())]).await, 401);
    assert_eq!(p.cp.catalog.coverage_of(lineage).await.unwrap(), [known], "nobody was asked");

    // Behind a gap that nobody has told of yet, and of a lineage that nobody knows: both wait.
    let stranger = LineageId::random();
    let all = vec![(lineage, stretch(400, 500, 4)), (stranger, stretch(0, 10, 4))];
    assert_eq!(tell(&p, TOKEN, all).await, 200);
    assert_eq!(tell(&p, TOKEN, vec![(lineage, longer.clone())]).await, 200);
    let late = stretch(100, 250, 1);
    assert_eq!(tell(&p, TOKEN, vec![(lineage, late)]).await, 200);
    assert_eq!(p.cp.catalog.coverage_of(lineage).await.unwrap(), [longer]);
    assert!(p.cp.catalog.coverage_of(stranger).await.unwrap().is_empty());
}

fn at(offset: u64) -> Position {
    Position { timeline: 1, offset }
}

/// What an agent tells of a base that it made.
fn facts(engine: serde_json::Value) -> BackupFacts {
    BackupFacts {
        tool_label: String::new(),
        parent: None,
        log: Some(holdfast_core::backup::LogSpan { start: at(1), stop: at(2) }),
        consistent_at: minutes_ago(0),
        stored_bytes: 1,
        database_bytes: 1,
        manifest_sha256: "00".repeat(32),
        engine,
        instead: None,
    }
}

/// MongoDB's facts tell of every collection and index: of 20,000 they are larger than what web frameworks take by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_megabytes_of_facts_is_recorded() {
    let p = platform().await;
    let service = p.service("wide", EngineKind::Mongodb, ServiceStatus::Running).await;
    let id = p.backup(&service, BackupType::Manual, BackupStatus::Pending, 1).await;
    let _worker = work(&p);
    let agent = AgentId::random();
    let step = leased(&p, agent).await.expect("the backup is to be made");
    let fingerprints: serde_json::Map<String, serde_json::Value> =
        (0..20_000).map(|n| (format!("shop/collection-{n}.bson"), format!("{n:0160}").into())).collect();
    let facts = facts(serde_json::json!({ "fingerprints": fingerprints }));
    assert!(serde_json::to_vec(&facts).unwrap().len() > 3 << 20);
    assert_eq!(end(&p, agent, &step, Ok(StepOutput::RunBackup(facts.clone()))).await, 200);
    for _ in 0..200 {
        let backup = p.cp.catalog.backup(&id).await.unwrap().unwrap();
        if backup.status == BackupStatus::Completed {
            return assert_eq!(backup.facts.unwrap().engine, facts.engine);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it was never recorded: {:?}", p.cp.catalog.job(step.job_id).await.unwrap());
}

/// A base that is still to be copied reaches behind the gap; one whose copy has run does not, though its job waits too.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_asks_for_a_base_unless_one_is_still_to_be_copied() {
    let p = platform().await;
    let service = p.service("torn", EngineKind::Mongodb, ServiceStatus::Running).await;
    p.backup(&service, BackupType::Manual, BackupStatus::Pending, 1).await;
    let agent = AgentId::random();
    let torn = async |from: u64, to: u64| {
        let (from_time, to_time) = (minutes_ago(2), minutes_ago(1));
        let cause = "the host was away".to_owned();
        let gap = Gap { from: at(from), to: at(to), from_time, to_time, cause, acknowledged: false };
        let archive = ArchiveReport {
            coverage: Vec::new(),
            gaps: vec![gap],
            lag_seconds: 0.0,
            lag_bytes: 0,
            last_error: None,
        };
        let instance = InstanceReport {
            service_id: service.id,
            lineage_id: service.lineage_id,
            healthy: true,
            message: None,
            archive: Some(archive),
            metrics: None,
            disk: None,
        };
        let report = AgentReport { agent_id: agent, versions: Vec::new(), instances: vec![instance] };
        assert_eq!(post(&p, TOKEN, "report", &report).await.0, 200);
        p.open_jobs(service.id).await.len()
    };
    assert_eq!(torn(10, 20).await, 1, "the one that waits comes after the gap");
    let stop = CancellationToken::new();
    let worker = tokio::spawn(runner::run(p.cp.clone(), stop.clone()));
    let step = leased(&p, agent).await.expect("the backup is to be made");
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(end(&p, agent, &step, Ok(StepOutput::RunBackup(facts(serde_json::json!({}))))).await, 200);
    let job = p.cp.catalog.job(step.job_id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Queued, "{job:?}");
    assert_eq!(torn(30, 40).await, 2, "this gap came after the copy");
    assert_eq!(torn(30, 40).await, 2, "it is told again and again");
}

/// Asks for an expiry; what the agent is to remove, if anything.
async fn expiry(p: &Platform, service: &Service, agent: AgentId) -> Option<(LeasedStep, RemoveExpired)> {
    let job = NewJob::new(JobKind::Expire, service.id, serde_json::json!({}), Timestamp::now());
    p.cp.catalog.enqueue(&job).await.unwrap();
    for _ in 0..20 {
        if let Some(step) = leased(p, agent).await {
            let StepInput::RemoveExpired(input) = step.input.clone() else { panic!("{step:?}") };
            return Some((step, *input));
        }
        if ended(p, job.id).await == Some(JobState::Completed) {
            return None;
        }
    }
    panic!("{:?}", p.cp.catalog.job(job.id).await.unwrap());
}

async fn ended(p: &Platform, id: holdfast_core::JobId) -> Option<JobState> {
    let job = p.cp.catalog.job(id).await.unwrap().unwrap();
    Some(job.state).filter(|state| state.is_terminal())
}

async fn wait_ended(p: &Platform, id: holdfast_core::JobId, expected: JobState) {
    for _ in 0..200 {
        if let Some(state) = ended(p, id).await {
            return assert_eq!(state, expected);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{id} has not ended");
}

/// A store that refuses every delete for longer than an expiry is tried (an object lock, a lost permission): the next expiry
/// takes up what that one left, keys of the log among them, however long ago it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_expiry_left_is_removed_by_the_next_one() {
    let p = platform().await;
    p.trust_the_clock().await;
    let service = p.service("orders", EngineKind::Valkey, ServiceStatus::Running).await;
    let old = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 28_800).await;
    p.backup(&service, BackupType::Manual, BackupStatus::Completed, 14_400).await;
    p.cp.catalog.update_backup(&old, |backup| backup.delisted_at = Some(minutes_ago(20))).await.unwrap();
    let key = p.cp.catalog.backup(&old).await.unwrap().unwrap().key_id;
    repository::ensure_key(&p.cp, &service, key, KeyPurpose::Backup).await.unwrap();
    let epoch = KeyId::random();
    repository::ensure_key(&p.cp, &service, epoch, KeyPurpose::Epoch).await.unwrap();
    p.cp.catalog.destroy_key(epoch, minutes_ago(100_000)).await.unwrap();
    for purpose in [KeyPurpose::Repository, KeyPurpose::Coverage] {
        repository::ensure_key(&p.cp, &service, KeyId::random(), purpose).await.unwrap();
    }
    let (_worker, agent) = (work(&p), AgentId::random());

    let refused = JobError { cause: "store_permission".into(), message: "403".into(), retryable: false };
    for _ in 0..2 {
        let (step, input) = expiry(&p, &service, agent).await.expect("something is to be removed");
        assert_eq!(input.backups.iter().map(|b| &b.backup_id).collect::<Vec<_>>(), [&old]);
        assert!([key, epoch].iter().all(|id| input.destroy_keys.contains(id)), "{:?}", input.destroy_keys);
        assert_eq!(end(&p, agent, &step, Err(refused.clone())).await, 200);
        wait_ended(&p, step.job_id, JobState::Failed).await;
        let backup = p.cp.catalog.backup(&old).await.unwrap().unwrap();
        assert!(backup.shredded_at.is_some() && backup.removed_at.is_none(), "{backup:?}");
    }
    let (step, _) = expiry(&p, &service, agent).await.expect("it is still to be removed");
    assert_eq!(end(&p, agent, &step, Ok(StepOutput::Done)).await, 200);
    wait_ended(&p, step.job_id, JobState::Completed).await;
    assert!(p.cp.catalog.backup(&old).await.unwrap().unwrap().removed_at.is_some());
    assert!(p.cp.catalog.unremoved_keys(service.id).await.unwrap().is_empty());
    assert!(expiry(&p, &service, agent).await.is_none(), "nothing is left to be removed");
}
