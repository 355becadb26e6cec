//! A change that the bucket's description does not tell yet is found until it is told, also after a crash.

use holdfast_catalog::OnDemandRule;
use holdfast_core::backup::{BackupStatus, BackupType};
use holdfast_core::job::JobKind;
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::{KeyId, LineageId, ServiceId};

use crate::fixture::{Fixture, at, backup, new_job};

async fn pending(fixture: &Fixture) -> Vec<(ServiceId, i64)> {
    let all = fixture.catalog.undescribed_services(false).await.unwrap();
    all.iter().map(|found| (found.service.id, found.changes)).collect()
}

async fn describe_all(fixture: &Fixture) {
    for (id, changes) in pending(fixture).await {
        fixture.catalog.mark_described(id, changes, Some("hash")).await.unwrap();
    }
    assert_eq!(pending(fixture).await, []);
}

#[tokio::test]
async fn every_change_that_a_description_tells_is_found() {
    let mut fixture = Fixture::new().await;
    let id = fixture.service("orders").await;
    assert_eq!(pending(&fixture).await.len(), 1, "a new service");
    describe_all(&fixture).await;

    fixture.catalog.update_service(id, at(1), |service| service.plan_name = "tier-3".into()).await.unwrap();
    fixture.crash().await;
    assert_eq!(pending(&fixture).await.len(), 1, "a changed setting");
    describe_all(&fixture).await;

    let made = backup(id, BackupType::Manual, at(2));
    let job = new_job(id, JobKind::Backup, at(2));
    fixture.catalog.create_backup(&made, &job, OnDemandRule::Queue).await.unwrap();
    assert_eq!(pending(&fixture).await.len(), 1, "a new backup");
    describe_all(&fixture).await;
    fixture.catalog.update_backup(&made.id, |backup| backup.status = BackupStatus::Running).await.unwrap();
    assert_eq!(pending(&fixture).await.len(), 1, "a changed backup");
    describe_all(&fixture).await;

    let service = fixture.catalog.service(id).await.unwrap().unwrap();
    let key = KeyRecord {
        id: KeyId::random(),
        organization_id: service.organization_id,
        service_id: id,
        lineage_id: LineageId::random(),
        purpose: KeyPurpose::Epoch,
        kek_version: 1,
        wrapped: vec![1],
        recovery_wrapped: vec![2],
        created_at: at(3),
        destroyed_at: None,
    };
    fixture.catalog.insert_key(&key).await.unwrap();
    assert_eq!(pending(&fixture).await.len(), 1, "a new key");
    describe_all(&fixture).await;
    fixture.catalog.destroy_key(key.id, at(4)).await.unwrap();
    assert_eq!(pending(&fixture).await.len(), 1, "a destroyed key");
    describe_all(&fixture).await;
    assert_eq!(fixture.catalog.undescribed_services(true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_changed_while_it_was_described_stays_to_be_described() {
    let fixture = Fixture::new().await;
    let id = fixture.service("orders").await;
    let before = pending(&fixture).await[0].1;
    fixture.catalog.update_service(id, at(1), |service| service.zone = "fi-hel1".into()).await.unwrap();
    fixture.catalog.mark_described(id, before, Some("old")).await.unwrap();
    assert_eq!(pending(&fixture).await, [(id, before + 1)]);
    // A late one changes nothing.
    fixture.catalog.mark_described(id, before + 1, Some("new")).await.unwrap();
    fixture.catalog.mark_described(id, before, Some("old")).await.unwrap();
    let all = fixture.catalog.undescribed_services(true).await.unwrap();
    assert_eq!(all[0].described_sha256.as_deref(), Some("new"));
    assert_eq!(pending(&fixture).await, []);
}
