//! KEK files that are lost, and what else keeps an old KEK: it is said, nothing is destroyed, and the next rotation goes on.

use holdfast_catalog::NewJob;
use holdfast_core::job::{Job, JobKind, JobState};
use holdfast_core::{KeyId, Timestamp};
use holdfast_server::jobs::repository;
use holdfast_store::{ObjectName, ServiceScope};
use holdfast_testkit::wait_for;
use serde_json::json;

use crate::rotation::platform::Platform;

fn failed(job: &Job, says: &[&str]) {
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    let error = job.error.as_ref().unwrap();
    assert_eq!(error.cause, "kek_kept");
    for part in says {
        assert!(error.message.contains(part), "{:?} lacks {part:?}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kek_that_is_lost_is_named_and_what_it_wraps_stays_until_it_is_back() {
    let mut p = Platform::new(2, 3).await;
    let aside = p.kek_file(1).with_file_name("aside");
    p.cp.vault.add_kek(2).unwrap();
    let second = p.services[1].clone();
    p.key(&second).await;
    std::fs::rename(p.kek_file(1), &aside).unwrap();
    p.start_again().await;
    let newer = p.keys.pop().unwrap();

    let job = p.end(p.ask(true).await).await;
    failed(
        &job,
        &[
            "version 1",
            "keys/kek-1",
            "6 keys and 2 passwords",
            "copy of the data folder",
            "nothing was removed",
        ],
    );
    // What could be rewrapped was; the rest lies where it lay.
    assert_eq!(p.cp.catalog.key(newer.0).await.unwrap().unwrap().kek_version, 3);
    assert_eq!(p.cp.vault.kek_versions(), [2, 3]);
    for (id, _) in &p.keys {
        let record = p.cp.catalog.key(*id).await.unwrap().unwrap();
        assert_eq!((record.kek_version, p.in_bucket(&record).await), (1, vec![0, 1]));
        let text = p.cp.vault.unwrap(&record).map(drop).unwrap_err().to_string();
        assert!(text.contains("kek-1") && text.contains("bring the file back"), "{text}");
    }

    std::fs::rename(&aside, p.kek_file(1)).unwrap();
    p.start_again().await;
    p.keys.push(newer);
    p.everything_opens().await;
    assert_eq!(p.end(p.ask(false).await).await.state, JobState::Completed);
    p.everything_opens().await;
    p.only(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kek_whose_file_is_lost_while_it_is_in_use_is_replaced_without_loss() {
    let mut p = Platform::new(1, 3).await;
    std::fs::remove_file(p.kek_file(1)).unwrap();
    p.rotate().await;
    p.start_again().await;
    p.everything_opens().await;
    p.only(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_that_does_not_open_keeps_the_kek_and_not_the_others() {
    let p = Platform::new(1, 5).await;
    let bad = p.cp.catalog.key(p.keys[2].0).await.unwrap().unwrap();
    let mut wrapped = bad.wrapped.clone();
    *wrapped.last_mut().unwrap() ^= 1;
    let damage =
        holdfast_catalog::Rewrapped { of: bad.id, before: bad.wrapped.clone(), after: wrapped.clone() };
    assert_eq!(p.cp.catalog.rewrap_keys(1, &[damage]).await.unwrap(), 1);
    let job = p.end(p.ask(true).await).await;
    failed(&job, &["version 1", &bad.id.to_string()]);
    for (id, _) in &p.keys {
        let record = p.cp.catalog.key(*id).await.unwrap().unwrap();
        let expected = if *id == bad.id { (1, vec![0, 1]) } else { (2, vec![0, 2]) };
        assert_eq!((record.kek_version, p.in_bucket(&record).await), expected);
    }
    assert!(p.kek_file(1).exists());
    // Mended, by whatever means: the rest is done.
    let mend = holdfast_catalog::Rewrapped { of: bad.id, before: wrapped, after: bad.wrapped };
    assert_eq!(p.cp.catalog.rewrap_keys(1, &[mend]).await.unwrap(), 1);
    assert_eq!(p.end(p.ask(false).await).await.state, JobState::Completed);
    p.everything_opens().await;
    p.only(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_bucket_that_the_catalog_does_not_know_keeps_its_kek() {
    let p = Platform::new(1, 2).await;
    let known = p.cp.catalog.key(p.keys[0].0).await.unwrap().unwrap();
    let service = ServiceScope { organization: known.organization_id, service: known.service_id };
    let stray = ObjectName::Key { service, key: KeyId::random(), kek_version: 1 };
    p.cp.store.put(&stray, known.wrapped.clone().into()).await.unwrap();
    let job = p.end(p.ask(true).await).await;
    failed(&job, &["version 1", "does not know 1 keys", &stray.to_string()]);
    assert_eq!(p.cp.vault.kek_versions(), [1, 2]);
    assert_eq!(p.read(&stray).await, known.wrapped, "left alone");
    p.everything_opens().await;
    p.cp.store.delete(&stray).await.unwrap();
    assert_eq!(p.end(p.ask(false).await).await.state, JobState::Completed);
    p.only(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_and_keys_that_were_put_back_to_an_older_state_rotate_under_new_names() {
    let mut p = Platform::new(1, 2).await;
    let mut before = Vec::new();
    for (id, _) in &p.keys {
        before.push(p.cp.catalog.key(*id).await.unwrap().unwrap());
    }
    let kek_1 = std::fs::read(p.kek_file(1)).unwrap();
    p.rotate().await;
    // The same folder as it was before: KEK 1, keys wrapped by it, and a bucket that knows more.
    std::fs::remove_file(p.kek_file(2)).unwrap();
    std::fs::write(p.kek_file(1), kek_1).unwrap();
    p.start_again_from(&before).await;
    p.rotate().await;
    p.everything_opens().await;
    assert_eq!(p.cp.vault.kek_versions(), [3], "2 is in use in the bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_on_its_way_keeps_its_kek_until_it_has_arrived() {
    let mut p = Platform::new(1, 1).await;
    let service = p.services[0].clone();
    let wrapped = p.cp.vault.wrap_secret(&service, "user:app_user", "another password of it");
    let input = json!({ "username": "app_user", "wrapped_hex": hex::encode(&wrapped.bytes) });
    let reset = NewJob {
        kek_version: Some(wrapped.kek_version),
        ..NewJob::new(JobKind::ResetPassword, service.id, input, Timestamp::now())
    };
    p.cp.catalog.enqueue(&reset).await.unwrap();
    let job = p.ask(true).await;
    let end = p.end(job);
    let arrive = async {
        wait_for("the rotation waits", 60, || async {
            let waiting = p.cp.catalog.job(job).await?.and_then(|job| job.error);
            Ok(waiting.filter(|error| error.message.contains("1 unfinished jobs")))
        })
        .await
        .unwrap();
        assert!(p.kek_file(1).exists());
        // What the agent would say; the control plane's own last step follows in the runner.
        let lease_for = jiff::SignedDuration::from_mins(1);
        let place = holdfast_core::job::Place::Agent;
        let agent = holdfast_core::AgentId::random();
        let job = p.cp.catalog.lease(place, agent, Timestamp::now(), lease_for).await.unwrap().unwrap();
        p.cp.catalog.complete_step(job.id, job.generation, 0, json!({}), Timestamp::now()).await.unwrap();
    };
    let (ended, ()) = tokio::join!(end, arrive);
    assert_eq!(ended.state, JobState::Completed, "{ended:?}");
    let user = p.cp.catalog.credential(service.id, "app_user").await.unwrap().unwrap();
    let password = p.cp.vault.unwrap_secret(&service, "user:app_user", &user.wrapped).unwrap();
    assert_eq!((user.kek_version, password.as_str()), (2, "another password of it"));
    p.key(&service).await;
    p.only(2).await;
    repository::ensure_key(&p.cp, &service, p.keys[0].0, holdfast_core::key::KeyPurpose::Epoch)
        .await
        .unwrap();
    p.everything_opens().await;
}
