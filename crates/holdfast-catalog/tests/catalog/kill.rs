//! A process that writes to the catalog is killed without warning, again and again; what it had been told was done is
//! there afterwards, and nothing is half done.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_catalog::{Catalog, StepOutcome};
use holdfast_core::job::{JobKind, JobState, Place};
use holdfast_core::{AgentId, ServiceId};
use jiff::SignedDuration;
use serde_json::json;

use crate::fixture::{Fixture, at, new_job};

const FILE: &str = "HOLDFAST_KILL_TEST_FILE";
const SERVICE: &str = "HOLDFAST_KILL_TEST_SERVICE";
const ROUND: &str = "HOLDFAST_KILL_TEST_ROUND";

/// The process that gets killed: only a helper of the test below.
#[tokio::test]
#[ignore = "a part of a_killed_writer_loses_nothing_that_was_acknowledged, which starts it"]
async fn child() {
    let (Ok(file), Ok(service)) = (std::env::var(FILE), std::env::var(SERVICE)) else { return };
    let service: ServiceId = service.parse().unwrap();
    let catalog = Catalog::open(&PathBuf::from(file)).await.unwrap();
    let round: i64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let mut count: i64 = catalog.setting("count").await.unwrap().map_or(0, |text| text.parse().unwrap());
    // The clock is ours: at the next life's beginning the leases of this one have lapsed.
    let now = at(round * 1000);
    loop {
        count += 1;
        catalog.enqueue(&new_job(service, JobKind::Stop, now)).await.unwrap();
        while !catalog.open_jobs_of(service).await.unwrap().is_empty() {
            for place in [Place::Agent, Place::ControlPlane] {
                let lease = catalog
                    .lease(place, AgentId::random(), now, SignedDuration::from_secs(60))
                    .await
                    .unwrap();
                let Some(job) = lease else { continue };
                let done = catalog.complete_step(job.id, job.generation, job.step_index, json!(count), now);
                done.await.unwrap();
            }
        }
        catalog.put_setting("count", &count.to_string()).await.unwrap();
        writeln!(std::io::stderr(), "done {count}").unwrap(); // the acknowledgement
    }
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_that_was_acknowledged() {
    let fixture = Fixture::new().await;
    let service = fixture.service("orders").await;
    let path = fixture.path();
    fixture.catalog.close().await;
    let mut acknowledged = 0;
    for round in 1..=8 {
        acknowledged = run_and_kill(&path, service, round).unwrap_or(acknowledged);
        let catalog = Catalog::open(&path).await.unwrap();
        check(&catalog, service, acknowledged).await;
        catalog.close().await;
    }
    assert!(acknowledged > 8, "the child did hardly anything: {acknowledged}");
}

/// Lets a child work until it has said three times `round` that something is done, kills it in the midst of what it does
/// next, and returns the last count it was sure of.
fn run_and_kill(path: &Path, service: ServiceId, round: usize) -> Option<i64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .env(FILE, path)
        .env(SERVICE, service.to_string())
        .env(ROUND, round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stderr.take().unwrap()).lines();
    let count = |line: String| line.strip_prefix("done ").and_then(|n| n.parse::<i64>().ok());
    let mut last = None;
    for line in output.by_ref().map_while(Result::ok).filter_map(count).take(3 * round) {
        last = Some(line);
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    output.map_while(Result::ok).filter_map(count).last().or(last)
}

async fn check(catalog: &Catalog, service: ServiceId, acknowledged: i64) {
    let count: i64 = catalog.setting("count").await.unwrap().unwrap().parse().unwrap();
    assert!(
        count == acknowledged || count == acknowledged + 1,
        "{count} stored, {acknowledged} acknowledged"
    );
    let jobs = catalog.jobs_of(service).await.unwrap();
    let completed = jobs.iter().filter(|j| j.state == JobState::Completed).count() as i64;
    assert!(completed >= count, "{completed} jobs completed, {count} acknowledged");
    let open = catalog.open_jobs_of(service).await.unwrap();
    assert!(open.len() <= 1, "{open:?}");
    for job in jobs {
        let steps = catalog.job_steps(job.id).await.unwrap();
        let done = steps.iter().filter(|s| s.outcome == StepOutcome::Done).count();
        assert_eq!(
            (done, job.outputs.len()),
            (job.step_index as usize, job.step_index as usize),
            "{job:?} {steps:?}"
        );
        let started = steps.iter().filter(|s| s.outcome == StepOutcome::Started).count();
        assert_eq!(started, usize::from(job.state == JobState::Running), "{job:?} {steps:?}");
    }
}
