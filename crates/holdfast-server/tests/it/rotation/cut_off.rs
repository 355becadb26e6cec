//! The process ends anywhere in a rotation, again and again: every key opens at every moment, and in the end one KEK is
//! left.

use std::time::Duration;

use holdfast_core::Timestamp;
use holdfast_core::job::JobState;
use holdfast_testkit::seed;
use rand::Rng as _;

use crate::rotation::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_cut_off_anywhere_goes_on_and_loses_nothing() {
    let mut random = seed::generator("a_rotation_that_is_cut_off_anywhere_goes_on_and_loses_nothing");
    let mut p = Platform::new(3, 60).await;
    let first = p.services[0].clone();
    let mut now = Timestamp::now();
    for round in 2..=4 {
        let job = p.ask(true).await;
        let mut lives = 0;
        // The longer it goes on, the longer a process lives, so that it ends.
        while p.step(Duration::from_micros(random.random_range(0..20_000 * (lives + 1))), &mut now).await {
            lives += 1;
            p.start_again().await;
            p.everything_opens().await;
            if random.random_bool(0.2) {
                p.key(&first).await;
            }
        }
        let job = p.cp.catalog.job(job).await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Completed, "{job:?}");
        println!("rotation to version {round}: {lives} lives");
        p.only(round).await;
    }
}

/// What is wrapped by the old KEK and stored only after the keys were walked through is found, or refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_writer_leaves_nothing_to_the_old_kek() {
    let mut p = Platform::new(1, 2).await;
    let service = p.services[0].clone();
    let owner = (service.organization_id, service.id, service.lineage_id);
    let late = [holdfast_core::KeyId::random(), holdfast_core::KeyId::random()]
        .map(|id| p.cp.vault.mint(id, owner, holdfast_core::key::KeyPurpose::Epoch, Timestamp::now()));
    let job = p.ask(true).await;
    let (mut now, long) = (Timestamp::now(), Duration::from_secs(60));
    assert!(p.step(long, &mut now).await && p.step(long, &mut now).await, "made and rewrapped");
    p.cp.catalog.insert_key(&late[0]).await.unwrap();
    p.keys.push((late[0].id, p.cp.vault.unwrap(&late[0]).unwrap().expose().to_vec()));
    assert!(p.step(long, &mut now).await);
    assert_eq!(p.cp.catalog.job(job).await.unwrap().unwrap().state, JobState::Completed);
    p.everything_opens().await;
    p.only(2).await;
    p.cp.catalog.insert_key(&late[1]).await.unwrap_err();
}
