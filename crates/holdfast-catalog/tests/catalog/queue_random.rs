//! Random interleavings of two workers, three services, lapsing leases, cancellations and crashes. A small model keeps
//! what must be true; proptest prints the seed and the shortest sequence of a failure.

use std::collections::BTreeMap;

use holdfast_catalog::{CatalogError, ErrorKind, JobFilter, StepOutcome};
use holdfast_core::job::{Job, JobError, JobKind, JobState, Place};
use holdfast_core::{AgentId, JobId, ServiceId};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use crate::fixture::{Fixture, at, new_job};

const LEASE: SignedDuration = SignedDuration::from_secs(30);
#[derive(Debug, Clone)]
enum Op {
    Wait {
        seconds: i64,
    },
    Enqueue {
        service: usize,
        kind: usize,
        delay: i64,
    },
    Lease {
        worker: usize,
        agent: bool,
    },
    /// What a worker says of one of the leases it ever had, held or long lost.
    Report {
        worker: usize,
        lease: usize,
        report: Report,
        twice: bool,
    },
    Cancel {
        job: usize,
    },
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Report {
    Heartbeat,
    Complete,
    Fail { retryable: bool },
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let report = prop_oneof![
        2 => Just(Report::Heartbeat),
        5 => Just(Report::Complete),
        2 => any::<bool>().prop_map(|retryable| Report::Fail { retryable }),
        1 => Just(Report::Release),
    ];
    prop_oneof![
        3 => (0..40_i64).prop_map(|seconds| Op::Wait { seconds }),
        4 => (0..3_usize, 0..JobKind::ALL.len(), prop_oneof![3 => Just(0), 1 => 0..60_i64])
            .prop_map(|(service, kind, delay)| Op::Enqueue { service, kind, delay }),
        8 => (0..2_usize, any::<bool>()).prop_map(|(worker, agent)| Op::Lease { worker, agent }),
        // Mostly the newest leases: old ones are all stale.
        8 => (0..2_usize, prop_oneof![4 => 0..2_usize, 1 => 0..20_usize], report, any::<bool>())
            .prop_map(|(worker, lease, report, twice)| Op::Report { worker, lease, report, twice }),
        1 => (0..20_usize).prop_map(|job| Op::Cancel { job }),
        1 => Just(Op::Crash),
    ]
}

/// Who holds a job, as far as anybody was told.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Holder {
    generation: i64,
    until: Timestamp,
}

struct World {
    fixture: Fixture,
    services: Vec<ServiceId>,
    now: Timestamp,
    /// In the order of their creation.
    jobs: Vec<JobId>,
    holders: BTreeMap<JobId, Holder>,
    /// All leases that each worker ever got, newest last.
    leases: [Vec<Job>; 2],
    workers: [AgentId; 2],
    /// The output that was accepted for each step.
    accepted: BTreeMap<(JobId, u32), i64>,
}

impl World {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let mut services = Vec::new();
        for name in ["one", "two", "three"] {
            services.push(fixture.service(name).await);
        }
        Self {
            fixture,
            services,
            now: at(0),
            jobs: Vec::new(),
            holders: BTreeMap::new(),
            leases: [Vec::new(), Vec::new()],
            workers: [AgentId::random(), AgentId::random()],
            accepted: BTreeMap::new(),
        }
    }

    /// Every operation takes a moment, so that no two jobs are of one age.
    fn tick(&mut self) {
        self.now += SignedDuration::from_millis(1);
    }

    async fn run(&mut self, op: &Op) {
        self.tick();
        match *op {
            Op::Wait { seconds } => self.now += SignedDuration::from_secs(seconds),
            Op::Enqueue { service, kind, delay } => {
                let mut job = new_job(self.services[service], JobKind::ALL[kind], self.now);
                job.not_before = self.now + SignedDuration::from_secs(delay);
                let open_rotation = self.open_rotation().await;
                match self.fixture.catalog.enqueue(&job).await {
                    Ok(()) => {
                        assert!(job.kind != JobKind::RotateKeys || open_rotation.is_none(), "two rotations");
                        self.jobs.push(job.id);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                        assert!(job.kind == JobKind::RotateKeys && open_rotation.is_some(), "{error:?}");
                    }
                }
            }
            Op::Lease { worker, agent } => {
                self.lease(worker, if agent { Place::Agent } else { Place::ControlPlane }).await;
            }
            Op::Report { worker, lease, report, twice } => {
                let known = self.leases[worker].len();
                let Some(index) = known.checked_sub(lease + 1) else { return };
                let job = self.leases[worker][index].clone();
                self.report(&job, report).await;
                if twice {
                    self.tick();
                    self.report(&job, report).await;
                }
            }
            Op::Cancel { job } => {
                let Some(id) = self.jobs.get(job).copied() else { return };
                let after = self.fixture.catalog.cancel(id, self.now).await.unwrap();
                assert!(after.state.is_terminal() || after.cancel_requested);
            }
            Op::Crash => self.fixture.crash().await,
        }
        self.check().await;
    }

    async fn open_rotation(&self) -> Option<Job> {
        let states = vec![JobState::Queued, JobState::Running];
        let filter = JobFilter { kind: Some(JobKind::RotateKeys), states, service_id: None };
        let mut open = self.fixture.catalog.jobs(10, &filter).await.unwrap();
        assert!(open.len() <= 1, "{open:#?}");
        open.pop()
    }

    async fn lease(&mut self, worker: usize, place: Place) -> Option<Job> {
        let catalog = self.fixture.catalog.clone();
        // Also ends what nobody may take over, so that `may_go` judges the state that the lease meets.
        for ended in catalog.end_abandoned(self.now).await.unwrap() {
            let holder = self.holders.remove(&ended.id).expect("only a held job can be abandoned");
            assert!(holder.until < self.now, "ended under a living holder: {ended:?}");
        }
        let before = catalog.jobs(1000, &Default::default()).await.unwrap();
        let due = catalog.next_due(place, self.now).await.unwrap();
        let job = catalog.lease(place, self.workers[worker], self.now, LEASE).await.unwrap();
        let may_go = |job: &&Job| may_go(job, &before, place, self.now);
        let expected = before.iter().filter(may_go).min_by_key(|j| (j.created_at, j.id)).map(|j| j.id);
        assert_eq!(job.as_ref().map(|j| j.id), expected, "of {before:#?}");
        assert_eq!(job.is_some(), due.is_some_and(|due| due <= self.now), "next_due said {due:?}");
        let job = job?;
        if let Some(holder) = self.holders.get(&job.id) {
            assert!(holder.until < self.now, "two living holders of {job:?}");
            assert!(holder.generation < job.generation);
        }
        let until = job.lease_until.expect("a leased job says until when");
        self.holders.insert(job.id, Holder { generation: job.generation, until });
        self.leases[worker].push(job.clone());
        Some(job)
    }

    async fn report(&mut self, job: &Job, report: Report) {
        let catalog = &self.fixture.catalog;
        let (id, generation, step) = (job.id, job.generation, job.step_index);
        let held = self.holders.get(&id).is_some_and(|holder| holder.generation == generation);
        let before = catalog.job(id).await.unwrap().unwrap();
        let answer = match report {
            Report::Heartbeat => {
                let beat = catalog.heartbeat(id, generation, self.now, LEASE, None).await;
                if beat.is_ok() {
                    self.holders.insert(id, Holder { generation, until: self.now + LEASE });
                }
                beat.map(|_| before.clone())
            }
            // The generation stands for who did it: the accepted output must be the holder's.
            Report::Complete => {
                catalog.complete_step(id, generation, step, json!(generation), self.now).await
            }
            Report::Fail { retryable } => {
                let error = JobError {
                    cause: "chance".to_owned(),
                    message: "It was so rolled.".to_owned(),
                    retryable,
                };
                catalog.fail_step(id, generation, step, error, self.now).await
            }
            Report::Release => catalog.release(id, generation, self.now).await,
        };
        match answer {
            Ok(after) if held => {
                if report != Report::Heartbeat {
                    self.holders.remove(&id);
                }
                if report == Report::Complete {
                    let earlier = self.accepted.insert((id, step), generation);
                    assert_eq!(earlier, None, "step {step} completed twice: {after:?}");
                }
            }
            // Said before by the same holder: fine, and nothing moves.
            Ok(after) => assert_eq!(after, before, "{report:?} of a worker that no longer holds it"),
            Err(error) => self.must_be_stale(&error, held, &before).await,
        }
    }

    async fn must_be_stale(&self, error: &CatalogError, held: bool, before: &Job) {
        assert_eq!(error.kind(), ErrorKind::Stale, "{error:?}");
        assert!(!held, "the holder was refused: {error:?}");
        let after = self.fixture.catalog.job(before.id).await.unwrap();
        assert_eq!(after.as_ref(), Some(before), "a refused report changed something");
    }

    /// What holds after every operation.
    async fn check(&self) {
        let catalog = &self.fixture.catalog;
        for service in &self.services {
            let jobs = catalog.jobs_of(*service).await.unwrap();
            let running: Vec<_> = jobs.iter().filter(|j| j.state == JobState::Running).collect();
            assert!(running.len() <= 1, "two at once: {running:#?}");
            for job in running {
                let holder = self.holders.get(&job.id).expect("what runs is held");
                let stored = Holder { generation: job.generation, until: job.lease_until.unwrap() };
                assert_eq!(*holder, stored);
            }
        }
        for id in &self.jobs {
            let job = catalog.job(*id).await.unwrap().unwrap();
            let steps = catalog.job_steps(*id).await.unwrap();
            assert_eq!(job.outputs.len(), job.step_index as usize, "{job:?}");
            for index in 0..job.step_index {
                let done: Vec<_> = steps
                    .iter()
                    .filter(|s| s.step_index == index && s.outcome == StepOutcome::Done)
                    .collect();
                assert_eq!(done.len(), 1, "step {index} of {job:?}: {steps:?}");
                assert_eq!(Some(&done[0].generation), self.accepted.get(&(*id, index)));
            }
            let under_way = steps.iter().filter(|s| s.outcome == StepOutcome::Started).count();
            assert_eq!(under_way, usize::from(job.state == JobState::Running), "{job:?}: {steps:?}");
            assert_eq!(job.finished_at.is_some(), job.state.is_terminal(), "{job:?}");
            assert!(job.attempt <= job.kind.max_attempts(job.step_index), "{job:?}");
        }
    }

    /// Two sound workers finish what is left.
    async fn drain(&mut self) {
        for _ in 0..2000 {
            let mut worked = false;
            for (worker, place) in [(0, Place::Agent), (1, Place::ControlPlane)] {
                self.tick();
                if let Some(job) = self.lease(worker, place).await {
                    self.report(&job, Report::Complete).await;
                    worked = true;
                }
            }
            if worked {
                continue;
            }
            let mut due = Vec::new();
            for place in [Place::Agent, Place::ControlPlane] {
                due.extend(self.fixture.catalog.next_due(place, self.now).await.unwrap());
            }
            match due.into_iter().min() {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        self.check().await;
        for id in &self.jobs {
            let job = self.fixture.catalog.job(*id).await.unwrap().unwrap();
            assert!(job.state.is_terminal(), "never ends: {job:?}");
        }
        assert_eq!(self.fixture.catalog.unsettled_jobs(1000).await.unwrap().len(), self.jobs.len());
    }
}

/// The rule of who may go, said a second time, without SQL.
fn may_go(job: &Job, all: &[Job], place: Place, now: Timestamp) -> bool {
    let here = job.step().is_some_and(|step| step.place() == place);
    let due = match job.state {
        JobState::Queued => job.not_before <= now,
        JobState::Running => job.lease_until.is_some_and(|until| until < now),
        _ => false,
    };
    let goes_first = |other: &&Job| {
        if other.id == job.id
            || other.state.is_terminal()
            || job.service_id.is_none_or(|id| other.service_id != Some(id))
        {
            return false;
        }
        let expire = other.kind == JobKind::Expire;
        match (other.state, other.started_at.is_some()) {
            (JobState::Running, _) => true,
            (_, true) => {
                !expire || job.kind == JobKind::Expire || (job.kind == JobKind::Backup && other.attempt == 0)
            }
            (_, false) => {
                job.started_at.is_none()
                    && other.not_before <= now
                    && !expire
                    && job.kind != JobKind::DeleteService
                    && other.created_at < job.created_at
            }
        }
    };
    here && due && !all.iter().any(|other| goes_first(&other))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        max_shrink_iters: 200,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_order_no_step_is_done_twice_and_every_job_ends(
        ops in prop::collection::vec(op(), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in &ops {
                world.run(op).await;
            }
            world.drain().await;
        });
    }
}
