//! The queue, move by move: order, fencing, retries, cancelling, and what a worker needs to sleep and wake.

use std::time::Duration;

use holdfast_catalog::{Catalog, ErrorKind, JobFilter, NewJob, StepOutcome};
use holdfast_core::job::{Job, JobError, JobKind, JobState, Place, Progress, Step};
use holdfast_core::{AgentId, JobId, ServiceId};
use jiff::SignedDuration;
use serde_json::json;

use crate::fixture::{Fixture, at, new_job};

const LEASE: SignedDuration = SignedDuration::from_secs(30);

async fn lease(catalog: &Catalog, place: Place, seconds: i64) -> Option<Job> {
    catalog.lease(place, AgentId::random(), at(seconds), LEASE).await.unwrap()
}

async fn queue(catalog: &Catalog, service: ServiceId, kind: JobKind, seconds: i64) -> JobId {
    let job = new_job(service, kind, at(seconds));
    catalog.enqueue(&job).await.unwrap();
    job.id
}

async fn complete(catalog: &Catalog, job: &Job, seconds: i64) -> Job {
    let output = json!({ "step": job.step_index });
    catalog.complete_step(job.id, job.generation, job.step_index, output, at(seconds)).await.unwrap()
}

fn failure(retryable: bool) -> JobError {
    JobError { cause: "no_space".to_owned(), message: "The disk is full.".to_owned(), retryable }
}

#[tokio::test]
async fn a_job_goes_through_its_steps_in_their_places() {
    let mut fixture = Fixture::new().await;
    let service = fixture.service("orders").await;
    let id = queue(&fixture.catalog, service, JobKind::Backup, 0).await;
    let places = [Place::ControlPlane, Place::Agent, Place::ControlPlane];
    for (n, place) in places.into_iter().enumerate() {
        let elsewhere = if place == Place::Agent { Place::ControlPlane } else { Place::Agent };
        assert_eq!(lease(&fixture.catalog, elsewhere, 1).await, None, "step {n} in the wrong place");
        let job = lease(&fixture.catalog, place, 1).await.unwrap();
        assert_eq!((job.id, job.step_index as usize, job.generation, job.attempt), (id, n, n as i64 + 1, 1));
        assert_eq!(fixture.catalog.job(id).await.unwrap(), Some(job.clone()), "answer and row differ");
        fixture.crash().await;
        let after = complete(&fixture.catalog, &job, 2).await;
        assert_eq!(fixture.catalog.job(id).await.unwrap(), Some(after), "answer and row differ");
    }
    let job = fixture.catalog.job(id).await.unwrap().unwrap();
    assert_eq!((job.state, job.step(), job.finished_at), (JobState::Completed, None, Some(at(2))));
    let outputs =
        json!({ "prepare_keys": { "step": 0 }, "run_backup": { "step": 1 }, "record_backup": { "step": 2 } });
    assert_eq!(serde_json::Value::Object(job.outputs), outputs);
    let steps = fixture.catalog.job_steps(id).await.unwrap();
    assert!(steps.iter().all(|s| s.outcome == StepOutcome::Done && s.ended_at == Some(at(2))), "{steps:?}");
    assert_eq!(steps.len(), 3);
}

#[tokio::test]
async fn the_leases_of_dead_workers_need_not_run_out() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    queue(catalog, service, JobKind::Stop, 0).await;
    let dead = lease(catalog, Place::Agent, 0).await.unwrap();
    catalog.lapse_leases(Place::ControlPlane, at(1)).await.unwrap();
    assert_eq!(lease(catalog, Place::Agent, 1).await, None, "its place was not meant");
    catalog.lapse_leases(Place::Agent, at(1)).await.unwrap();
    let next = lease(catalog, Place::Agent, 1).await.unwrap();
    assert_eq!((next.id, next.generation), (dead.id, dead.generation + 1));
    let late = catalog.complete_step(dead.id, dead.generation, 0, json!("alive after all"), at(2)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn a_wait_written_by_a_clock_that_was_days_ahead_is_over_once_it_is_right() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let day = 86_400;
    let id = queue(catalog, service, JobKind::Backup, 42 * day).await;
    let job = lease(catalog, Place::ControlPlane, 42 * day).await.unwrap();
    let failed = catalog.fail_step(job.id, job.generation, 0, failure(true), at(42 * day)).await.unwrap();
    assert_eq!(failed.state, JobState::Queued);
    assert_eq!(lease(catalog, Place::ControlPlane, 42 * day).await, None, "it waits for its next try");
    assert_eq!(catalog.next_due(Place::ControlPlane, at(0)).await.unwrap(), Some(at(0)));
    assert_eq!(lease(catalog, Place::ControlPlane, 0).await.map(|job| job.id), Some(id));
}

#[tokio::test]
async fn old_jobs_are_forgotten_once_they_have_ended_and_been_settled() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let mut ids = Vec::new();
    for name in ["settled", "unsettled", "open"] {
        let service = fixture.service(name).await;
        ids.push(queue(catalog, service, JobKind::Stop, 0).await);
    }
    for id in &ids[..2] {
        catalog.cancel(*id, at(10)).await.unwrap();
    }
    catalog.settle_job(ids[0]).await.unwrap();
    catalog.prune_jobs(at(10)).await.unwrap(); // those that made the services
    assert!(catalog.job(ids[0]).await.unwrap().is_some(), "it ended just then");
    assert_eq!(catalog.prune_jobs(at(11)).await.unwrap(), 1);
    assert_eq!(catalog.job(ids[0]).await.unwrap(), None);
    assert!(catalog.job(ids[1]).await.unwrap().is_some() && catalog.job(ids[2]).await.unwrap().is_some());
}

#[tokio::test]
async fn a_late_worker_is_fenced_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Stop, 0).await;
    let late = lease(catalog, Place::Agent, 0).await.unwrap();
    assert_eq!(lease(catalog, Place::Agent, 30).await, None, "the lease holds up to its last instant");
    let quick = lease(catalog, Place::Agent, 31).await.unwrap();
    assert_eq!((quick.id, quick.generation, quick.attempt), (id, late.generation + 1, 2));

    let stored = catalog.job(id).await.unwrap();
    let reports = [
        catalog.complete_step(id, late.generation, 0, json!("late"), at(32)).await.unwrap_err(),
        catalog.fail_step(id, late.generation, 0, failure(false), at(32)).await.unwrap_err(),
        catalog.release(id, late.generation, at(32)).await.unwrap_err(),
        catalog.heartbeat(id, late.generation, at(32), LEASE, None).await.unwrap_err(),
        catalog.complete_step(id, quick.generation, 1, json!("wrong step"), at(32)).await.unwrap_err(),
        catalog.complete_step(id, quick.generation + 1, 0, json!("a guess"), at(32)).await.unwrap_err(),
    ];
    for error in reports {
        assert_eq!(error.kind(), ErrorKind::Stale, "{error:?}");
    }
    assert_eq!(catalog.job(id).await.unwrap(), stored);
    complete(catalog, &quick, 33).await;
    let outcomes: Vec<_> = catalog.job_steps(id).await.unwrap().iter().map(|s| s.outcome).collect();
    assert_eq!(outcomes, [StepOutcome::Lost, StepOutcome::Done]);
    let unknown = catalog.complete_step(JobId::random(), 1, 0, json!(null), at(1)).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_report_may_be_repeated_even_after_the_job_went_on() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    queue(catalog, service, JobKind::Stop, 0).await;
    let first = lease(catalog, Place::Agent, 0).await.unwrap();
    let after = complete(catalog, &first, 1).await;
    assert_eq!(complete(catalog, &first, 9).await, after);
    let finish = lease(catalog, Place::ControlPlane, 2).await.unwrap();
    assert_eq!(complete(catalog, &first, 9).await, finish);
    let differently = catalog.fail_step(first.id, first.generation, 0, failure(true), at(9)).await;
    assert_eq!(differently.unwrap_err().kind(), ErrorKind::Stale);

    let fail =
        async |now| catalog.fail_step(finish.id, finish.generation, 1, failure(true), at(now)).await.unwrap();
    let after = fail(10).await;
    assert_eq!((after.state, after.attempt), (JobState::Queued, 1));
    assert_eq!(fail(11).await, after, "counted twice");
}

#[tokio::test]
async fn a_job_that_goes_back_does_its_steps_anew() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Restore, 0).await;
    let shipped = lease(catalog, Place::Agent, 0).await.unwrap();
    complete(catalog, &shipped, 1).await;
    let planned = lease(catalog, Place::ControlPlane, 2).await.unwrap();
    complete(catalog, &planned, 3).await;
    let restoring = lease(catalog, Place::Agent, 4).await.unwrap();
    let go_back = async |now| {
        let (kept, error) = (("passed_over", json!(["a base"])), failure(false));
        let plan = Step::PlanRestore;
        catalog.go_back(id, restoring.generation, 2, plan, error, kept, at(now)).await.unwrap()
    };
    let back = go_back(5).await;
    assert_eq!((back.state, back.step(), back.attempt), (JobState::Queued, Some(Step::PlanRestore), 0));
    assert_eq!((back.outputs["passed_over"].clone(), back.error.is_some()), (json!(["a base"]), true));
    assert_eq!(go_back(6).await, back, "said again");
    let again = lease(catalog, Place::ControlPlane, 7).await.unwrap();
    complete(catalog, &again, 8).await;
    let restoring = lease(catalog, Place::Agent, 9).await.unwrap();
    assert_eq!(complete(catalog, &restoring, 10).await.error, None);
    use StepOutcome::{Done, Failed, Undone};
    let outcomes: Vec<_> = catalog.job_steps(id).await.unwrap().iter().map(|s| s.outcome).collect();
    assert_eq!(outcomes, [Done, Undone, Failed, Done, Done]);

    let last = lease(catalog, Place::ControlPlane, 11).await.unwrap();
    assert_eq!(complete(catalog, &last, 11).await.state, JobState::Completed);

    let other = queue(catalog, fixture.service("cancelled").await, JobKind::Restore, 11).await;
    for (place, now) in [(Place::Agent, 12), (Place::ControlPlane, 13)] {
        let step = lease(catalog, place, now).await.unwrap();
        assert_eq!(step.id, other);
        complete(catalog, &step, now).await;
    }
    let held = lease(catalog, Place::Agent, 14).await.unwrap();
    catalog.cancel(other, at(15)).await.unwrap();
    let kept = ("passed_over", json!([]));
    let ended =
        catalog.go_back(other, held.generation, 2, Step::PlanRestore, failure(false), kept, at(16)).await;
    assert_eq!(ended.unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn failures_are_retried_later_until_the_tries_are_used_up() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Stop, 0).await;
    let mut now = 0;
    for attempt in 1..=JobKind::Stop.max_attempts(0) {
        let job = lease(catalog, Place::Agent, now).await.unwrap();
        assert_eq!(job.attempt, attempt);
        let after = catalog.fail_step(id, job.generation, 0, failure(true), at(now)).await.unwrap();
        assert_eq!(after.error, Some(failure(true)));
        if attempt == JobKind::Stop.max_attempts(0) {
            assert_eq!(after.state, JobState::Failed);
            assert_eq!(catalog.next_due(Place::Agent, at(now)).await.unwrap(), None);
        } else {
            assert_eq!(lease(catalog, Place::Agent, now).await, None, "without a pause");
            assert_eq!(catalog.next_due(Place::Agent, at(now)).await.unwrap(), Some(after.not_before));
            now += (after.not_before - at(now)).get_seconds();
        }
    }
    let id = queue(catalog, service, JobKind::Stop, 100).await;
    let job = lease(catalog, Place::Agent, 100).await.unwrap();
    let after = catalog.fail_step(id, job.generation, 0, failure(false), at(101)).await.unwrap();
    assert_eq!(after.state, JobState::Failed, "another try cannot help");
}

#[tokio::test]
async fn a_step_that_kills_its_worker_every_time_ends_the_job() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Stop, 0).await;
    for n in 0..3 {
        lease(catalog, Place::Agent, n * 31).await.unwrap();
    }
    assert_eq!(lease(catalog, Place::ControlPlane, 3 * 31).await, None); // any worker's look ends it
    let job = catalog.job(id).await.unwrap().unwrap();
    assert_eq!((job.state, job.error.unwrap().cause), (JobState::Failed, "worker_lost".to_owned()));
    assert_eq!(catalog.unsettled_jobs(10).await.unwrap().iter().map(|j| j.id).collect::<Vec<_>>(), [id]);
    catalog.settle_job(id).await.unwrap();
    assert!(catalog.unsettled_jobs(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_released_step_is_due_at_once_and_its_try_is_not_counted() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Stop, 0).await;
    for n in 0..10 {
        let job = lease(catalog, Place::Agent, n).await.unwrap();
        assert_eq!((job.attempt, job.generation), (1, n + 1));
        catalog.release(id, job.generation, at(n)).await.unwrap();
    }
}

#[tokio::test]
async fn cancelling_takes_effect_between_steps() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;

    let waiting = queue(catalog, service, JobKind::Stop, 0).await;
    assert_eq!(catalog.cancel(waiting, at(1)).await.unwrap().state, JobState::Cancelled);

    let running = queue(catalog, service, JobKind::Stop, 1).await;
    let job = lease(catalog, Place::Agent, 1).await.unwrap();
    assert!(!catalog.heartbeat(running, job.generation, at(2), LEASE, None).await.unwrap().cancel_requested);
    assert_eq!(catalog.cancel(running, at(2)).await.unwrap().state, JobState::Running);
    assert!(catalog.heartbeat(running, job.generation, at(2), LEASE, None).await.unwrap().cancel_requested);
    assert_eq!(complete(catalog, &job, 3).await.state, JobState::Cancelled);

    let retried = queue(catalog, service, JobKind::Stop, 3).await;
    let job = lease(catalog, Place::Agent, 3).await.unwrap();
    catalog.cancel(retried, at(3)).await.unwrap();
    let after = catalog.fail_step(retried, job.generation, 0, failure(true), at(4)).await.unwrap();
    assert_eq!(after.state, JobState::Cancelled);

    let silent = queue(catalog, service, JobKind::Stop, 4).await;
    lease(catalog, Place::Agent, 4).await.unwrap();
    catalog.cancel(silent, at(4)).await.unwrap();
    assert_eq!(lease(catalog, Place::Agent, 35).await, None, "taken over although cancelled");
    assert_eq!(catalog.job(silent).await.unwrap().unwrap().state, JobState::Cancelled);

    let last = queue(catalog, service, JobKind::Stop, 40).await;
    let job = lease(catalog, Place::Agent, 40).await.unwrap();
    complete(catalog, &job, 41).await;
    let job = lease(catalog, Place::ControlPlane, 41).await.unwrap();
    catalog.cancel(last, at(42)).await.unwrap();
    assert_eq!(complete(catalog, &job, 43).await.state, JobState::Completed, "nothing was left to cancel");
    assert_eq!(catalog.cancel(last, at(44)).await.unwrap().state, JobState::Completed);

    let made = queue(catalog, service, JobKind::Backup, 50).await;
    for (place, second) in [(Place::ControlPlane, 50), (Place::Agent, 51)] {
        let job = lease(catalog, place, second).await.unwrap();
        if place == Place::Agent {
            catalog.cancel(made, at(second)).await.unwrap();
        }
        complete(catalog, &job, second).await;
    }
    assert_eq!(
        catalog.cancel(made, at(52)).await.unwrap().state,
        JobState::Queued,
        "it is there: it is recorded"
    );
    let job = lease(catalog, Place::ControlPlane, 52).await.unwrap();
    assert_eq!(complete(catalog, &job, 53).await.state, JobState::Completed);
}

#[tokio::test]
async fn jobs_of_a_service_go_one_after_another() {
    use JobKind::{Backup, Configure, DeleteService, Expire, ResetPassword, Start, Stop};
    // The first is asked for, and either not begun yet or waiting for its second try; then the second is asked for.
    let (untouched, begun, waits, passes) = (false, true, false, true);
    let rows = [
        (untouched, Stop, waits, Start),
        (begun, Stop, waits, Start),
        (begun, ResetPassword, waits, ResetPassword),
        (untouched, Configure, passes, DeleteService),
        (begun, Configure, waits, DeleteService),
        (begun, DeleteService, waits, Stop),
        (untouched, Backup, waits, Stop),
        (untouched, Backup, waits, Backup),
        (untouched, Expire, passes, Backup),
        (begun, Expire, passes, Backup),
        (begun, Expire, waits, Expire),
        (begun, Expire, passes, Stop),
        (begun, Stop, waits, Expire),
        (untouched, Backup, waits, Expire),
    ];
    for (begun, first, passes, second) in rows {
        let fixture = Fixture::new().await;
        let catalog = &fixture.catalog;
        let (service, other) = (fixture.service("orders").await, fixture.service("other").await);
        let first_id = queue(catalog, service, first, 0).await;
        if begun {
            let job = lease(catalog, first.steps()[0].place(), 0).await.unwrap();
            catalog.fail_step(first_id, job.generation, 0, failure(true), at(0)).await.unwrap();
        }
        let second_id = queue(catalog, service, second, 1).await;
        let elsewhere = queue(catalog, other, second, 1).await;
        let place = second.steps()[0].place();
        let mut had = Vec::new();
        while let Some(job) = lease(catalog, place, 1).await {
            had.push(job.id);
        }
        // Where both are due in one place, the older one is had first and holds the service whatever the rule.
        let first_taken = had.contains(&first_id);
        let case =
            format!("{second:?} after {first:?} (begun: {begun}): had {had:?}, {first_id} then {second_id}");
        assert_eq!(had.contains(&second_id), passes && !first_taken, "{case}");
        assert!(had.contains(&elsewhere), "{case}: another service's job had to wait");
        let jobs = catalog.jobs_of(service).await.unwrap();
        assert!(jobs.iter().filter(|j| j.state == JobState::Running).count() <= 1, "{case}");
    }
}

/// What an `expire` has chosen to go is marked by its second step: until that has begun, no backup may build on it.
#[tokio::test]
async fn a_backup_waits_for_an_expire_between_its_steps_and_not_between_its_tries() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let expire = queue(catalog, service, JobKind::Expire, 0).await;
    let job = lease(catalog, Place::ControlPlane, 0).await.unwrap();
    complete(catalog, &job, 0).await;
    let backup = queue(catalog, service, JobKind::Backup, 1).await;
    assert_eq!(lease(catalog, Place::ControlPlane, 1).await, None, "it has chosen what goes");
    let job = lease(catalog, Place::Agent, 1).await.unwrap();
    assert_eq!(lease(catalog, Place::ControlPlane, 1).await, None, "it is at work");
    catalog.fail_step(expire, job.generation, 1, failure(true), at(1)).await.unwrap();
    assert_eq!(lease(catalog, Place::ControlPlane, 1).await.unwrap().id, backup);
    assert_eq!(lease(catalog, Place::Agent, 1000).await, None, "now it waits for the backup");
}

#[tokio::test]
async fn what_is_planned_for_later_holds_up_nothing_and_backups_keep_their_order() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let later = NewJob { not_before: at(1000), ..new_job(service, JobKind::Backup, at(0)) };
    catalog.enqueue(&later).await.unwrap();
    assert_eq!(catalog.next_due(Place::ControlPlane, at(0)).await.unwrap(), Some(at(1000)));
    let first = queue(catalog, service, JobKind::Backup, 1).await;
    let second = queue(catalog, service, JobKind::Backup, 2).await;
    let mut order = Vec::new();
    for n in 0..6 {
        let place = [Place::ControlPlane, Place::Agent, Place::ControlPlane][n % 3];
        let job = lease(catalog, place, 10).await.unwrap();
        complete(catalog, &job, 10).await;
        order.push(job.id);
    }
    assert_eq!(order, [first, first, first, second, second, second]);
    assert_eq!(lease(catalog, Place::ControlPlane, 999).await, None);
    assert_eq!(lease(catalog, Place::ControlPlane, 1000).await.unwrap().id, later.id);
}

#[tokio::test]
async fn a_blocked_job_does_not_keep_a_worker_awake() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    queue(catalog, service, JobKind::Stop, 0).await;
    queue(catalog, service, JobKind::Backup, 1).await;
    assert_eq!(catalog.next_due(Place::ControlPlane, at(5)).await.unwrap(), None);
    assert_eq!(catalog.next_due(Place::Agent, at(5)).await.unwrap(), Some(at(0)));
    lease(catalog, Place::Agent, 5).await.unwrap();
    let lapse = catalog.next_due(Place::Agent, at(5)).await.unwrap().unwrap();
    assert_eq!(lapse, at(35) + SignedDuration::from_micros(1));
    assert!(catalog.lease(Place::Agent, AgentId::random(), lapse, LEASE).await.unwrap().is_some());
}

#[tokio::test]
async fn progress_is_shown_while_a_step_runs() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let id = queue(catalog, service, JobKind::Stop, 0).await;
    let job = lease(catalog, Place::Agent, 0).await.unwrap();
    let progress = Progress {
        phase: "shipping the last log".to_owned(),
        percent: Some(12.5),
        bytes_done: Some(1),
        bytes_total: Some(8),
        eta_seconds: None,
    };
    catalog.heartbeat(id, job.generation, at(20), LEASE, Some(&progress)).await.unwrap();
    catalog.heartbeat(id, job.generation, at(21), LEASE, None).await.unwrap();
    let stored = catalog.job(id).await.unwrap().unwrap();
    assert_eq!((stored.progress, stored.lease_until), (Some(progress), Some(at(51))));
    assert_eq!(complete(catalog, &job, 22).await.progress, None);
}

#[tokio::test]
async fn a_sleeping_worker_is_woken_by_what_makes_work() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let mut changed = catalog.changed();
    changed.mark_unchanged();
    assert!(!changed.has_changed().unwrap());
    let waiting = tokio::spawn(async move { changed.changed().await });
    queue(catalog, service, JobKind::Stop, 0).await;
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("woken").unwrap().unwrap();

    let mut changed = catalog.changed();
    let job = lease(catalog, Place::Agent, 0).await.unwrap();
    changed.mark_unchanged();
    complete(catalog, &job, 1).await;
    assert!(changed.has_changed().unwrap(), "the next step's worker sleeps on");
}

#[tokio::test]
async fn lists_can_be_narrowed() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let (one, two) = (fixture.service("one").await, fixture.service("two").await);
    let stop = queue(catalog, one, JobKind::Stop, 1).await;
    let backup = queue(catalog, one, JobKind::Backup, 2).await;
    let other = queue(catalog, two, JobKind::Backup, 3).await;
    catalog.cancel(stop, at(4)).await.unwrap();
    let list = async |limit, filter: JobFilter| {
        catalog.jobs(limit, &filter).await.unwrap().into_iter().map(|j| j.id).collect::<Vec<_>>()
    };
    assert_eq!(list(3, JobFilter::default()).await, [other, backup, stop]);
    let open = JobFilter { states: vec![JobState::Queued, JobState::Running], ..JobFilter::default() };
    assert_eq!(list(10, open.clone()).await, [other, backup]);
    assert_eq!(list(10, JobFilter { service_id: Some(one), ..open }).await, [backup]);
    let kind = JobFilter { kind: Some(JobKind::Stop), ..JobFilter::default() };
    assert_eq!(list(10, kind).await, [stop]);
    assert_eq!(catalog.open_jobs_of(one).await.unwrap().len(), 1);
    let again = NewJob { id: other, ..new_job(two, JobKind::Backup, at(9)) };
    assert_eq!(catalog.enqueue(&again).await.unwrap_err().kind(), ErrorKind::Conflict);
    let homeless = new_job(ServiceId::random(), JobKind::Backup, at(9));
    assert_eq!(catalog.enqueue(&homeless).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_workers_at_once_one_gets_the_job() {
    let fixture = Fixture::new().await;
    let services =
        [fixture.service("one").await, fixture.service("two").await, fixture.service("three").await];
    let handles = [fixture.catalog.clone(), Catalog::open(&fixture.path()).await.unwrap()];
    for service in services {
        queue(&fixture.catalog, service, JobKind::Stop, 0).await;
        queue(&fixture.catalog, service, JobKind::Stop, 1).await;
    }
    let workers: Vec<_> = (0..12)
        .map(|n| {
            let catalog = handles[n % 2].clone();
            tokio::spawn(async move { lease(&catalog, Place::Agent, 2).await })
        })
        .collect();
    let mut had = Vec::new();
    for worker in workers {
        had.extend(worker.await.unwrap().and_then(|job| job.service_id));
    }
    had.sort();
    let mut expected = services.to_vec();
    expected.sort();
    assert_eq!(had, expected, "each service's first job to one worker, its second to none");
}
