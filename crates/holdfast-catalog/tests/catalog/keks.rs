//! Key-encryption keys: what they wrap is counted, moved to a newer one, and never left to one that is gone.

use holdfast_catalog::{Catalog, Credential, ErrorKind, KekUse, NewJob, Rewrapped};
use holdfast_core::job::JobKind;
use holdfast_core::{AgentId, ServiceId};
use serde_json::json;

use crate::fixture::{Fixture, at};
use crate::keys::key;

fn user(service_id: ServiceId, kek_version: u32, wrapped: &[u8]) -> Credential {
    Credential {
        service_id,
        username: "app_user".to_owned(),
        kek_version,
        wrapped: wrapped.to_vec(),
        roles: vec!["admin".to_owned()],
        privileges: String::new(),
        position: 0,
        created_at: at(0),
    }
}

fn reset(service: ServiceId, kek_version: u32) -> NewJob {
    NewJob {
        kek_version: Some(kek_version),
        ..NewJob::new(JobKind::ResetPassword, service, json!({}), at(0))
    }
}

async fn used(catalog: &Catalog, version: u32) -> KekUse {
    catalog.kek_uses().await.unwrap().get(&version).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_rotation_finds_what_is_left_to_rewrap_and_changes_only_that() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let mut keys = [1, 1, 1, 2].map(|version| key(&fixture, service, version));
    keys.sort_by_key(|key| (key.kek_version, key.id.to_string()));
    for key in &keys {
        catalog.insert_key(key).await.unwrap();
    }
    let ids = |keys: Vec<holdfast_core::key::KeyRecord>| keys.iter().map(|key| key.id).collect::<Vec<_>>();
    assert_eq!(ids(catalog.keys_by_kek(1, None, 2).await.unwrap()), [keys[0].id, keys[1].id]);
    assert_eq!(ids(catalog.keys_by_kek(1, Some(keys[1].id), 2).await.unwrap()), [keys[2].id]);
    assert_eq!(used(catalog, 1).await, KekUse { keys: 3, ..KekUse::default() });

    let anew = |key: usize| Rewrapped {
        of: keys[key].id,
        before: keys[key].wrapped.clone(),
        after: b"anew".to_vec(),
    };
    catalog.destroy_key(keys[1].id, at(1)).await.unwrap();
    assert_eq!(catalog.rewrap_keys(2, &[anew(0), anew(1)]).await.unwrap(), 1);
    assert_eq!(catalog.rewrap_keys(2, &[anew(0)]).await.unwrap(), 0, "a late worker's");
    assert_eq!(ids(catalog.keys_by_kek(1, None, 9).await.unwrap()), [keys[2].id]);
    let rewrapped = catalog.key(keys[0].id).await.unwrap().unwrap();
    assert_eq!((rewrapped.wrapped.as_slice(), rewrapped.kek_version), (b"anew".as_slice(), 2));
    assert_eq!(rewrapped.recovery_wrapped, keys[0].recovery_wrapped);
    let shown = format!("{:?}", anew(0));
    assert!(!shown.contains("97, 110"), "{shown}");
    assert_eq!(catalog.services_with_keys().await.unwrap(), [(fixture.organization, service)]);

    catalog.upsert_credential(&user(service, 1, b"one")).await.unwrap();
    let listed = catalog.credentials_by_kek(1).await.unwrap();
    assert_eq!(listed, [user(service, 1, b"one")]);
    let of = (service, "app_user".to_owned());
    let anew = Rewrapped { of, before: b"one".to_vec(), after: b"two".to_vec() };
    assert_eq!(catalog.rewrap_passwords(2, std::slice::from_ref(&anew)).await.unwrap(), 1);
    assert_eq!(catalog.rewrap_passwords(2, &[anew]).await.unwrap(), 0, "it is another password now");
    assert_eq!(catalog.credential(service, "app_user").await.unwrap(), Some(user(service, 2, b"two")));
}

#[tokio::test]
async fn a_kek_that_wraps_anything_is_not_retired() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    catalog.note_kek(1, at(0)).await.unwrap();
    catalog.note_kek(1, at(9)).await.unwrap();
    let one = key(&fixture, service, 1);
    catalog.insert_key(&one).await.unwrap();
    catalog.upsert_credential(&user(service, 1, b"one")).await.unwrap();
    let job = reset(service, 1);
    catalog.enqueue(&job).await.unwrap();
    assert_eq!(catalog.retire_kek(1, at(1)).await.unwrap(), KekUse { keys: 1, passwords: 1, jobs: 1 });
    catalog.destroy_key(one.id, at(1)).await.unwrap();
    catalog.upsert_credential(&user(service, 2, b"two")).await.unwrap();
    assert_eq!(catalog.retire_kek(1, at(1)).await.unwrap(), KekUse { jobs: 1, ..KekUse::default() });
    let (place, lease_for) = (holdfast_core::job::Place::Agent, jiff::SignedDuration::from_secs(9));
    assert!(catalog.lease(place, AgentId::random(), at(1), lease_for).await.unwrap().is_some());
    assert_eq!(catalog.retire_kek(1, at(1)).await.unwrap().jobs, 1, "one that runs counts too");
    catalog.cancel(job.id, at(1)).await.unwrap();
    catalog.end_abandoned(at(60)).await.unwrap();
    assert_eq!(catalog.keks().await.unwrap()[0].retired_at, None);
    assert!(catalog.retire_kek(1, at(2)).await.unwrap().is_none());
    assert!(catalog.retire_kek(1, at(3)).await.unwrap().is_none());
    let keks = catalog.keks().await.unwrap();
    assert_eq!(keks.len(), 1);
    assert_eq!((keks[0].version, keks[0].created_at, keks[0].retired_at), (1, at(0), Some(at(2))));
}

#[tokio::test]
async fn nothing_comes_to_be_wrapped_by_a_retired_kek() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let two = key(&fixture, service, 2);
    catalog.insert_key(&two).await.unwrap();
    assert!(catalog.retire_kek(1, at(0)).await.unwrap().is_none());
    let refused = [
        catalog.insert_key(&key(&fixture, service, 1)).await,
        catalog.upsert_credential(&user(service, 1, b"late")).await,
        catalog.enqueue(&reset(service, 1)).await,
        catalog.rewrap_keys(1, &[]).await.map(drop),
        catalog.rewrap_passwords(1, &[]).await.map(drop),
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(used(catalog, 1).await.is_none());
    catalog.insert_key(&key(&fixture, service, 2)).await.unwrap();
}

#[tokio::test]
async fn a_rotation_waits_for_no_service_and_none_for_it() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let rotation = || NewJob::of_platform(JobKind::RotateKeys, json!({}), at(0));
    let first = rotation();
    catalog.enqueue(&first).await.unwrap();
    assert_eq!(catalog.enqueue(&rotation()).await.unwrap_err().kind(), ErrorKind::Conflict);
    let service = fixture.service("orders").await;
    let backup = NewJob::new(JobKind::Backup, service, json!({}), at(0));
    catalog.enqueue(&backup).await.unwrap();
    let lease = async || {
        let (place, lease_for) =
            (holdfast_core::job::Place::ControlPlane, jiff::SignedDuration::from_secs(9));
        let job = catalog.lease(place, AgentId::random(), at(1), lease_for).await.unwrap();
        job.map(|job| job.id)
    };
    let mut leased = [lease().await, lease().await];
    leased.sort();
    let mut expected = [Some(first.id), Some(backup.id)];
    expected.sort();
    assert_eq!(leased, expected);
    assert_eq!(catalog.enqueue(&rotation()).await.unwrap_err().kind(), ErrorKind::Conflict, "it runs");
    assert_eq!(catalog.job(first.id).await.unwrap().unwrap().service_id, None);
    catalog.cancel(first.id, at(1)).await.unwrap();
    catalog.end_abandoned(at(60)).await.unwrap();
    catalog.enqueue(&rotation()).await.unwrap();
}
