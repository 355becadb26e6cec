//! Keys and passwords: kept wrapped, and gone when destroyed.

use holdfast_catalog::{Credential, ErrorKind, Rewrapped};
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::{KeyId, LineageId, ServiceId};

use crate::fixture::{Fixture, at};

pub(crate) fn key(fixture: &Fixture, service_id: ServiceId, kek_version: u32) -> KeyRecord {
    KeyRecord {
        id: KeyId::random(),
        organization_id: fixture.organization,
        service_id,
        lineage_id: LineageId::random(),
        purpose: KeyPurpose::Epoch,
        kek_version,
        wrapped: b"wrapped-by-the-kek-0123456789".to_vec(),
        recovery_wrapped: b"wrapped-for-recovery-0123456789".to_vec(),
        created_at: at(0),
        destroyed_at: None,
    }
}

#[tokio::test]
async fn the_same_key_may_come_twice_and_another_one_may_not() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let one = key(&fixture, service, 1);
    catalog.insert_key(&one).await.unwrap();
    catalog.insert_key(&one).await.unwrap();
    assert_eq!(catalog.key(one.id).await.unwrap(), Some(one.clone()));
    let other = KeyRecord { wrapped: b"something else".to_vec(), ..one.clone() };
    assert_eq!(catalog.insert_key(&other).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(catalog.keys_of(service).await.unwrap(), [one]);
    let homeless = key(&fixture, ServiceId::random(), 1);
    assert_eq!(catalog.insert_key(&homeless).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_destroyed_key_leaves_no_byte_in_any_file_of_the_catalog() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let one = key(&fixture, service, 1);
    catalog.insert_key(&one).await.unwrap();
    assert!(!files_with(&fixture, &one.wrapped).is_empty(), "the search finds nothing even where it should");

    catalog.destroy_key(one.id, at(7)).await.unwrap();
    catalog.destroy_key(one.id, at(8)).await.unwrap();
    assert_eq!(files_with(&fixture, &one.wrapped), Vec::<String>::new());
    assert_eq!(files_with(&fixture, &one.recovery_wrapped), Vec::<String>::new());
    let gone = catalog.key(one.id).await.unwrap().unwrap();
    let empty =
        KeyRecord { wrapped: vec![], recovery_wrapped: vec![], destroyed_at: Some(at(7)), ..one.clone() };
    assert_eq!(gone, empty);
    assert_eq!(
        catalog.insert_key(&one).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "it came back to life"
    );
    for before in [one.wrapped.clone(), Vec::new()] {
        let late = Rewrapped { of: one.id, before, after: b"alive?".to_vec() };
        assert_eq!(catalog.rewrap_keys(2, &[late]).await.unwrap(), 0);
    }
    assert_eq!(catalog.destroy_key(KeyId::random(), at(7)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn files_with(fixture: &Fixture, needle: &[u8]) -> Vec<String> {
    let folder = fixture.path().parent().unwrap().to_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The shared-memory index holds page numbers, never contents.
        let content = std::fs::read(&path).unwrap();
        if content.windows(needle.len()).any(|window| window == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn passwords_are_replaced_in_place() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service_id = fixture.service("orders").await;
    let user = |username: &str, position, wrapped: &[u8]| Credential {
        service_id,
        username: username.to_owned(),
        kek_version: 1,
        wrapped: wrapped.to_vec(),
        roles: vec!["admin".to_owned()],
        privileges: String::new(),
        position,
        created_at: at(0),
    };
    catalog.upsert_credential(&user("a_reader", 1, b"one")).await.unwrap();
    catalog.upsert_credential(&user("app_user", 0, b"two")).await.unwrap();
    let late = Credential { created_at: at(99), ..user("app_user", 0, b"three") };
    catalog.upsert_credential(&late).await.unwrap();
    let listed = catalog.credentials_of(service_id).await.unwrap();
    assert_eq!(listed, [user("app_user", 0, b"three"), user("a_reader", 1, b"one")]);
    assert_eq!(catalog.credential(service_id, "app_user").await.unwrap().as_ref(), Some(&listed[0]));
    assert_eq!(catalog.credential(service_id, "nobody").await.unwrap(), None);
    let shown = format!("{:?}", listed[0]);
    // Neither as text nor as a list of numbers.
    assert!(!shown.contains("three") && !shown.contains("116, 104"), "{shown}");
}
