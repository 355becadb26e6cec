//! Backups: the rule for those on demand, and updates.

use holdfast_catalog::{ErrorKind, OnDemandRule};
use holdfast_core::backup::{Backup, BackupFacts, BackupStatus, BackupType};
use holdfast_core::job::JobKind;
use holdfast_core::position::Position;
use holdfast_core::{BackupId, ServiceId};

use crate::fixture::{Fixture, at, backup, new_job};

#[tokio::test]
async fn a_second_manual_backup_waits_for_the_first_to_end_and_automated_ones_refuse_nothing() {
    use BackupType::{Automated, Manual};
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let (mine, other) = (fixture.service("orders").await, fixture.service("other").await);
    let ask = async |service, backup_type, rule| {
        let backup = backup(service, backup_type, at(0));
        let job = new_job(service, JobKind::Backup, at(0));
        let answer = catalog.create_backup(&backup, &job, rule).await;
        let (stored, queued) =
            (catalog.backup(&backup.id).await.unwrap(), catalog.job(job.id).await.unwrap());
        assert_eq!((stored.is_some(), queued.is_some()), (answer.is_ok(), answer.is_ok()), "half of it");
        answer.map(|()| backup.id).map_err(|e| e.kind())
    };
    let rule = OnDemandRule::OneAtATime;
    ask(mine, Automated, rule).await.unwrap();
    let first = ask(mine, Manual, rule).await.unwrap();
    assert_eq!(ask(mine, Manual, rule).await, Err(ErrorKind::Conflict), "while pending");
    ask(mine, Automated, rule).await.unwrap();
    ask(other, Manual, rule).await.unwrap();
    ask(mine, Manual, OnDemandRule::Queue).await.unwrap();
    assert_eq!(ask(ServiceId::random(), Manual, rule).await, Err(ErrorKind::NotFound));

    catalog.update_backup(&first, |b| b.status = BackupStatus::Running).await.unwrap();
    assert_eq!(ask(mine, Manual, rule).await, Err(ErrorKind::Conflict), "while running");
    for backup in catalog.backups_of(mine).await.unwrap() {
        catalog.update_backup(&backup.id, |b| b.status = BackupStatus::Failed).await.unwrap();
    }
    ask(mine, Manual, rule).await.unwrap();
}

#[tokio::test]
async fn a_backup_keeps_its_facts_and_its_identity() {
    let mut fixture = Fixture::new().await;
    let service = fixture.service("orders").await;
    let method = Some("clone".to_owned());
    let one = Backup { method, ..backup(service, BackupType::Manual, at(3)) };
    let job = new_job(service, JobKind::Backup, at(0));
    fixture.catalog.create_backup(&one, &job, OnDemandRule::OneAtATime).await.unwrap();
    assert_eq!(fixture.catalog.backup(&one.id).await.unwrap(), Some(one.clone()));
    let job = new_job(service, JobKind::Backup, at(0));
    let again = fixture.catalog.create_backup(&one, &job, OnDemandRule::Queue);
    assert_eq!(again.await.unwrap_err().kind(), ErrorKind::Conflict);

    let facts = BackupFacts {
        tool_label: "20260105-120000F".to_owned(),
        parent: None,
        log: Some(holdfast_core::backup::LogSpan {
            start: Position { timeline: 1, offset: 100 },
            stop: Position { timeline: 1, offset: 200 },
        }),
        consistent_at: at(4),
        stored_bytes: u64::MAX,
        database_bytes: 1,
        manifest_sha256: "ab".repeat(32),
        engine: serde_json::Value::Null,
        instead: None,
    };
    let stranger = backup(ServiceId::random(), BackupType::Automated, at(100));
    let after = fixture
        .catalog
        .update_backup(&one.id, |b| {
            *b = stranger.clone();
            b.status = BackupStatus::Completed;
            b.completed_at = Some(at(5));
            b.facts = Some(facts.clone());
        })
        .await
        .unwrap();
    fixture.crash().await;
    assert_eq!(fixture.catalog.backup(&one.id).await.unwrap(), Some(after.clone()));
    assert_eq!((after.id, after.service_id, after.key_id), (one.id, one.service_id, one.key_id));
    assert_eq!((after.backup_type, after.created_at), (one.backup_type, one.created_at));
    assert_eq!((after.status, after.facts), (BackupStatus::Completed, Some(facts)));
    let nobody = fixture.catalog.update_backup(&BackupId::random(), |_| ()).await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn lists_are_newest_first_and_the_shredded_leave_only_the_second() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let service = fixture.service("orders").await;
    let mut ids = Vec::new();
    for seconds in [20, 10, 30] {
        let backup = backup(service, BackupType::Automated, at(seconds));
        let job = new_job(service, JobKind::Backup, at(0));
        catalog.create_backup(&backup, &job, OnDemandRule::OneAtATime).await.unwrap();
        ids.push(backup.id);
    }
    catalog.update_backup(&ids[1], |b| b.delisted_at = Some(at(40))).await.unwrap();
    catalog.update_backup(&ids[0], |b| b.shredded_at = Some(at(40))).await.unwrap();
    let listed =
        |backups: Vec<holdfast_core::backup::Backup>| backups.into_iter().map(|b| b.id).collect::<Vec<_>>();
    assert_eq!(
        listed(catalog.backups_of(service).await.unwrap()),
        [ids[2].clone(), ids[0].clone(), ids[1].clone()]
    );
    assert_eq!(listed(catalog.unshredded_backups().await.unwrap()), [ids[1].clone(), ids[2].clone()]);
}
