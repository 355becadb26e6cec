//! Rotations that nothing disturbs, or only other work.

use std::time::Instant;

use holdfast_catalog::{ErrorKind, JobFilter};
use holdfast_core::Timestamp;
use holdfast_core::job::{JobKind, JobState};
use holdfast_core::retention::ClockReading;
use holdfast_server::jobs::{rotation, scheduler};
use jiff::SignedDuration;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::rotation::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
async fn three_rotations_leave_one_kek_and_a_kit_that_opens_everything() {
    let mut p = Platform::new(3, 5).await;
    let first = p.services[0].clone();
    for round in 2..=4 {
        let job = p.rotate().await;
        assert_eq!(job.outputs["make_kek"], json!({ "version": round }));
        assert_eq!(job.outputs["retire_keks"], json!({ "retired": [round - 1] }));
        p.only(round).await;
        p.key(&first).await;
        p.everything_opens().await;
    }
    p.start_again().await;
    p.only(4).await;
    p.everything_opens().await;
    let keks = p.cp.catalog.keks().await.unwrap();
    let retired: Vec<_> = keks.iter().map(|kek| (kek.version, kek.retired_at.is_some())).collect();
    assert_eq!(retired, [(1, true), (2, true), (3, true), (4, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_rotation_at_a_time_and_a_platform_without_keys_has_none_to_rewrap() {
    let p = Platform::new(0, 0).await;
    let job = p.ask(true).await;
    let second = p.cp.catalog.enqueue(&rotation::new_job(&p.cp, true, Timestamp::now())).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(p.end(job).await.state, JobState::Completed);
    p.only(2).await;
    // To bring an earlier one to its end makes no new KEK.
    assert_eq!(p.end(p.ask(false).await).await.state, JobState::Completed);
    p.only(2).await;
}

/// The trusted time as the scheduler keeps it from one look to the next.
async fn trust_the_clock(p: &Platform) {
    let read = |file: &str| std::fs::read_to_string(file).unwrap();
    let boot_seconds: i64 = read("/proc/uptime").split('.').next().unwrap().parse().unwrap();
    let kept = json!({
        "reading": ClockReading::confirmed(Timestamp::now()),
        "boot_id": read("/proc/sys/kernel/random/boot_id").trim(),
        "boot_seconds": boot_seconds,
    });
    p.cp.catalog.put_setting("clock_reading", &kept.to_string()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_replaces_a_kek_of_age_once() {
    let p = Platform::new(1, 2).await;
    let days_ago = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    let rotations = async || {
        let filter = JobFilter { kind: Some(JobKind::RotateKeys), ..JobFilter::default() };
        p.cp.catalog.jobs(10, &filter).await.unwrap()
    };
    // It looks once before it asks whether to stop.
    let look = async || {
        let stop = CancellationToken::new();
        stop.cancel();
        scheduler::run(p.cp.clone(), stop).await;
    };
    p.cp.catalog.stamp_kek(1, days_ago(91)).await.unwrap();
    look().await;
    assert!(rotations().await.is_empty(), "no time is trusted yet");
    trust_the_clock(&p).await;
    p.cp.catalog.stamp_kek(1, days_ago(89)).await.unwrap();
    look().await;
    assert!(rotations().await.is_empty(), "it is young");
    p.cp.catalog.stamp_kek(1, days_ago(91)).await.unwrap();
    look().await;
    look().await;
    let asked = rotations().await;
    assert_eq!(asked.len(), 1);
    assert_eq!(p.end(asked[0].id).await.state, JobState::Completed);
    p.only(2).await;
    look().await;
    assert_eq!(rotations().await.len(), 1);
    let made = p.cp.catalog.keks().await.unwrap().pop().unwrap().created_at;
    assert!(made > days_ago(1), "{made}");
}

/// Not asserted: a figure for `docs/decisions`. `HOLDFAST_KEYS` says how many.
#[tokio::test(flavor = "multi_thread")]
async fn rewrapping_takes_seconds() {
    let count: usize = std::env::var("HOLDFAST_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let p = Platform::new(4, count / 4).await;
    let started = Instant::now();
    p.rotate().await;
    println!("{count} keys rewrapped in {:.2} s", started.elapsed().as_secs_f64());
    p.only(2).await;
}
