//! Keys that are destroyed while a rotation rewraps them stay destroyed: no wrapping of them comes back into the bucket.

use std::time::Duration;

use futures::TryStreamExt as _;
use holdfast_core::{KeyId, Timestamp};
use holdfast_server::jobs::{repository, wrappings};
use holdfast_store::{ObjectName, ObjectPrefix, ServiceScope};
use holdfast_testkit::seed;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use crate::rotation::platform::Platform;

/// What the control plane and then the agent do.
async fn shred(p: &Platform, key: KeyId) {
    while let Err(error) = wrappings::destroy(&p.cp, &[key]).await {
        assert_eq!(error.to_job_error().cause, "keys_busy", "{error:?}");
    }
    let record = p.cp.catalog.key(key).await.unwrap().unwrap();
    let service = ServiceScope { organization: record.organization_id, service: record.service_id };
    let prefix = ObjectPrefix::Keys { service, key: Some(key) };
    let listed: Vec<_> = p.cp.store.list(&prefix).try_collect().await.unwrap();
    for object in listed {
        p.cp.store.delete(&object.name).await.unwrap();
    }
}

async fn must_be_gone(p: &Platform, keys: &[KeyId]) {
    for key in keys {
        let record = p.cp.catalog.key(*key).await.unwrap().unwrap();
        assert!(record.destroyed_at.is_some() && record.wrapped.is_empty(), "{record:?}");
        assert_eq!(p.in_bucket(&record).await, Vec::<u32>::new(), "{key} came back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_that_is_shredded_during_a_rotation_comes_back() {
    let mut random = seed::generator("no_key_that_is_shredded_during_a_rotation_comes_back");
    let mut p = Platform::new(2, 150).await;
    let (mut now, long) = (Timestamp::now(), Duration::from_secs(120));
    for version in 2..=3 {
        p.ask(true).await;
        assert!(p.step(long, &mut now).await, "the KEK is made");
        p.keys.shuffle(&mut random);
        let going: Vec<KeyId> = p.keys.drain(..50).map(|(id, _)| id).collect();
        let pauses: Vec<u64> = going.iter().map(|_| random.random_range(0..8)).collect();
        let shredding = async {
            for (key, pause) in going.iter().zip(pauses) {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                shred(&p, *key).await;
            }
        };
        let (stepped, ()) = tokio::join!(p.step(long, &mut now), shredding);
        assert!(stepped);
        // Before the last step, which would find what came back.
        must_be_gone(&p, &going).await;
        p.everything_opens().await;
        assert!(p.step(long, &mut now).await);
        must_be_gone(&p, &going).await;
        p.only(version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_half_rewrapped_when_the_process_ended_is_shredded_whole() {
    let p = Platform::new(1, 1).await;
    let (key, _) = p.keys[0];
    let record = p.cp.catalog.key(key).await.unwrap().unwrap();
    p.cp.vault.add_kek(2).unwrap();
    let service = ServiceScope { organization: record.organization_id, service: record.service_id };
    let half = ObjectName::Key { service, key, kek_version: 2 };
    p.cp.store.put_if_absent(&half, p.cp.vault.rewrap(&record, 2).unwrap().into()).await.unwrap();
    shred(&p, key).await;
    must_be_gone(&p, &[key]).await;
    // A step of a backup that was deleted meanwhile is repeated: it makes nothing of the destroyed key.
    let again = repository::ensure_key(&p.cp, &p.services[0], key, record.purpose).await;
    assert!(again.unwrap_err().to_string().contains("key"), "refused");
    must_be_gone(&p, &[key]).await;
}

/// Whatever put them there: the last step leaves nothing of a destroyed key in the bucket, and nothing older than the
/// catalog's wrapping of a living one, whose own is put back if it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_brought_to_what_the_catalog_says() {
    let mut p = Platform::new(1, 3).await;
    let mut records = Vec::new();
    for (id, _) in &p.keys {
        records.push(p.cp.catalog.key(*id).await.unwrap().unwrap());
    }
    p.rotate().await;
    let service = ServiceScope { organization: records[0].organization_id, service: records[0].service_id };
    let name = |key, kek_version| ObjectName::Key { service, key, kek_version };
    p.cp.store.put(&name(records[0].id, 1), records[0].wrapped.clone().into()).await.unwrap();
    p.cp.store.delete(&name(records[1].id, 2)).await.unwrap();
    p.cp.store.delete(&ObjectName::KeyRecovery { service, key: records[1].id }).await.unwrap();
    p.cp.catalog.destroy_key(records[2].id, Timestamp::now()).await.unwrap();
    p.keys.truncate(2);
    p.rotate().await;
    must_be_gone(&p, &[records[2].id]).await;
    p.everything_opens().await;
    p.only(3).await;
}
