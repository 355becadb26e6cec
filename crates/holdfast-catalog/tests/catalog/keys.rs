//! Keys, passwords and secrets: kept wrapped, and gone when destroyed.

use holdfast_catalog::{Credential, ErrorKind};
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::{KeyId, LineageId, ServiceId};

use crate::fixture::{Fixture, at};

fn key(fixture: &Fixture, service_id: ServiceId, kek_version: u32) -> KeyRecord {
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
    assert!(!catalog.rewrap_key(one.id, 1, 2, b"alive?").await.unwrap());
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
async fn a_rotation_finds_what_is_left_to_rewrap() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let keys = [key(&fixture, service, 1), key(&fixture, service, 1), key(&fixture, service, 2)];
    for key in &keys {
        catalog.insert_key(key).await.unwrap();
    }
    assert_eq!(catalog.keys_by_kek(1).await.unwrap().len(), 2);
    assert!(catalog.rewrap_key(keys[0].id, 1, 2, b"anew").await.unwrap());
    assert!(!catalog.rewrap_key(keys[0].id, 1, 2, b"a late worker's").await.unwrap());
    catalog.destroy_key(keys[1].id, at(1)).await.unwrap();
    assert!(catalog.keys_by_kek(1).await.unwrap().is_empty());
    let rewrapped = catalog.key(keys[0].id).await.unwrap().unwrap();
    assert_eq!((rewrapped.wrapped.as_slice(), rewrapped.kek_version), (b"anew".as_slice(), 2));
    assert_eq!(rewrapped.recovery_wrapped, keys[0].recovery_wrapped);
}

#[tokio::test]
async fn passwords_and_secrets_are_replaced_in_place() {
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

    catalog.put_secret(service_id, "repository", 1, b"first").await.unwrap();
    catalog.put_secret(service_id, "repository", 2, b"second").await.unwrap();
    assert_eq!(catalog.secret(service_id, "repository").await.unwrap(), Some((2, b"second".to_vec())));
    assert_eq!(catalog.secret(service_id, "other").await.unwrap(), None);
    let nobody = catalog.put_secret(ServiceId::random(), "repository", 1, b"x").await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}
