//! Services: names, statuses, updates; settings, organizations and agents beside them.

use std::sync::Arc;

use holdfast_catalog::{Catalog, CatalogError, ErrorKind};
use holdfast_core::job::JobKind;
use holdfast_core::service::{RestoredFrom, Service, ServiceStatus};
use holdfast_core::{AgentId, BackupId, OrganizationId, ServiceId};

use crate::fixture::{Fixture, add_organization, at, new_job, service};

async fn create(fixture: &Fixture, service: &Service) -> Result<(), CatalogError> {
    fixture.catalog.create_service(service, &new_job(service.id, JobKind::Provision, at(0)), None).await
}

#[tokio::test]
async fn a_service_comes_back_as_it_went_in_with_its_job() {
    let fixture = Fixture::new().await;
    let mut service = service(fixture.organization, "orders");
    service.restored_from = Some(RestoredFrom {
        service_id: ServiceId::random(),
        backup_id: Some(BackupId::random()),
        restore_point: Some(at(-60)),
    });
    (service.host, service.port) = (Some("db.example".to_owned()), Some(65535));
    service.attributes.labels.insert("team".to_owned(), "größe \"quoted\"; DROP TABLE".to_owned());
    create(&fixture, &service).await.unwrap();
    assert_eq!(fixture.catalog.service(service.id).await.unwrap(), Some(service.clone()));
    assert_eq!(fixture.catalog.open_jobs_of(service.id).await.unwrap().len(), 1);
    assert_eq!(fixture.catalog.service(ServiceId::random()).await.unwrap(), None);
}

#[tokio::test]
async fn a_living_name_is_unique_within_its_organization() {
    let fixture = Fixture::new().await;
    let first = service(fixture.organization, "orders");
    create(&fixture, &first).await.unwrap();

    let second = service(fixture.organization, "orders");
    let error = create(&fixture, &second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken, "{error}");
    assert_eq!(fixture.catalog.service(second.id).await.unwrap(), None, "half a service");
    assert!(fixture.catalog.jobs_of(second.id).await.unwrap().is_empty(), "a job without its service");

    let other = add_organization(&fixture.catalog, "other").await;
    create(&fixture, &service(other, "orders")).await.unwrap();
    let nobody = service(OrganizationId::random(), "orders");
    assert_eq!(create(&fixture, &nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(create(&fixture, &first).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_quota_holds_against_creates_at_the_same_time_and_counts_the_living_of_its_organization() {
    let fixture = Arc::new(Fixture::new().await);
    let create = |organization, name: String| {
        let fixture = Arc::clone(&fixture);
        async move {
            let service = service(organization, &name);
            let job = new_job(service.id, JobKind::Provision, at(0));
            fixture.catalog.create_service(&service, &job, Some(3)).await.map(|()| service.id)
        }
    };
    let racing: Vec<_> =
        (0..8).map(|n| tokio::spawn(create(fixture.organization, format!("racer-{n}")))).collect();
    let mut made = Vec::new();
    for racer in racing {
        match racer.await.unwrap() {
            Ok(id) => made.push(id),
            Err(error) => assert!(matches!(error, CatalogError::QuotaReached { quota: 3 }), "{error}"),
        }
    }
    assert_eq!(made.len(), 3);
    let other = add_organization(&fixture.catalog, "other").await;
    create(other, "theirs".to_owned()).await.unwrap();
    let from = [ServiceStatus::Pending];
    assert!(
        fixture
            .catalog
            .set_service_status(made[0], &from, ServiceStatus::Deleting, None, at(5))
            .await
            .unwrap()
    );
    create(fixture.organization, "next".to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_name_is_free_again_once_its_service_is_being_deleted() {
    for gone in [ServiceStatus::Deleting, ServiceStatus::Deleted] {
        let fixture = Fixture::new().await;
        let old = service(fixture.organization, "orders");
        create(&fixture, &old).await.unwrap();
        let from = [ServiceStatus::Pending];
        assert!(fixture.catalog.set_service_status(old.id, &from, gone, None, at(5)).await.unwrap());

        create(&fixture, &service(fixture.organization, "orders")).await.unwrap();
        let back =
            fixture.catalog.set_service_status(old.id, &[gone], ServiceStatus::Running, None, at(6)).await;
        assert_eq!(back.unwrap_err().kind(), ErrorKind::NameTaken, "two living services of one name");
        let stored = fixture.catalog.service(old.id).await.unwrap().unwrap();
        assert_eq!((stored.status, stored.updated_at), (gone, at(5)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let fixture = Fixture::new().await;
    // Two handles on the file: one process's queue must not be what keeps names apart.
    let handles = [fixture.catalog.clone(), Catalog::open(&fixture.path()).await.unwrap()];
    let organization = fixture.organization;
    let tries: Vec<_> = (0..16)
        .map(|n| {
            let catalog = handles[n % 2].clone();
            tokio::spawn(async move {
                let service = service(organization, "orders");
                catalog.create_service(&service, &new_job(service.id, JobKind::Provision, at(0)), None).await
            })
        })
        .collect();
    let mut winners = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(()) => winners += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NameTaken, "{error:?}"),
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(fixture.catalog.services(Some(organization)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn lists_show_what_is_not_deleted_oldest_first() {
    let fixture = Fixture::new().await;
    let other = add_organization(&fixture.catalog, "other").await;
    let mut ids = Vec::new();
    for (n, organization) in
        [fixture.organization, other, fixture.organization, other].into_iter().enumerate()
    {
        let mut service = service(organization, &format!("service-{n}"));
        service.created_at = at(-(n as i64));
        create(&fixture, &service).await.unwrap();
        ids.push(service.id);
    }
    let pending = [ServiceStatus::Pending];
    let catalog = &fixture.catalog;
    assert!(catalog.set_service_status(ids[1], &pending, ServiceStatus::Deleted, None, at(1)).await.unwrap());
    assert!(
        catalog.set_service_status(ids[2], &pending, ServiceStatus::Deleting, None, at(1)).await.unwrap()
    );

    let listed = |services: Vec<Service>| services.into_iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(listed(catalog.services(None).await.unwrap()), [ids[3], ids[2], ids[0]]);
    assert_eq!(listed(catalog.services(Some(fixture.organization)).await.unwrap()), [ids[2], ids[0]]);
    let rows = [
        (None, None, 0, vec![ids[3], ids[0]], 2),
        (None, Some(1), 0, vec![ids[3]], 2),
        (None, Some(1), 1, vec![ids[0]], 2),
        (None, Some(5), 2, vec![], 2),
        (Some(fixture.organization), None, 0, vec![ids[0]], 1),
        (Some(other), Some(u32::MAX), 0, vec![ids[3]], 1),
    ];
    for (organization, limit, offset, expected, total) in rows {
        let (page, found) = catalog.living_services(organization, limit, offset).await.unwrap();
        assert_eq!((listed(page), found), (expected, total), "{organization:?} {limit:?} {offset}");
    }
    let deleted = catalog.service(ids[1]).await.unwrap().unwrap();
    assert_eq!((deleted.status, deleted.deleted_at), (ServiceStatus::Deleted, Some(at(1))));
}

#[tokio::test]
async fn a_status_moves_only_from_where_it_may() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let id = fixture.service("orders").await;
    let running = [ServiceStatus::Running, ServiceStatus::Error];
    assert!(
        !catalog.set_service_status(id, &running, ServiceStatus::Stopped, Some("x"), at(1)).await.unwrap()
    );
    let stored = catalog.service(id).await.unwrap().unwrap();
    assert_eq!(
        (stored.status, stored.status_message, stored.updated_at),
        (ServiceStatus::Pending, None, at(0))
    );

    let pending = [ServiceStatus::Pending];
    assert!(
        catalog
            .set_service_status(id, &pending, ServiceStatus::Failed, Some("no disk"), at(2))
            .await
            .unwrap()
    );
    let stored = catalog.service(id).await.unwrap().unwrap();
    assert_eq!(stored.status_message.as_deref(), Some("no disk"));
    assert_eq!((stored.status, stored.updated_at), (ServiceStatus::Failed, at(2)));
    let nobody =
        catalog.set_service_status(ServiceId::random(), &pending, ServiceStatus::Failed, None, at(2)).await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_update_is_lost_to_another() {
    let fixture = Fixture::new().await;
    let id = fixture.service("orders").await;
    let handles = Arc::new([fixture.catalog.clone(), Catalog::open(&fixture.path()).await.unwrap()]);
    let tasks: Vec<_> = (0..4_usize)
        .map(|n| {
            let handles = Arc::clone(&handles);
            tokio::spawn(async move {
                for round in 0..10 {
                    let change = |s: &mut Service| s.allowed_cidrs.push(format!("10.{n}.{round}.0/24"));
                    handles[n % 2].update_service(id, at(1), change).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stored = fixture.catalog.service(id).await.unwrap().unwrap();
    assert_eq!(stored.allowed_cidrs.len(), 1 + 4 * 10);
}

#[tokio::test]
async fn an_update_cannot_change_who_the_service_is() {
    let fixture = Fixture::new().await;
    let id = fixture.service("orders").await;
    let before = fixture.catalog.service(id).await.unwrap().unwrap();
    let other = service(OrganizationId::random(), "renamed");
    let after = fixture.catalog.update_service(id, at(9), |s| *s = other.clone()).await.unwrap();
    assert_eq!(
        (after.id, after.organization_id, after.lineage_id),
        (id, before.organization_id, before.lineage_id)
    );
    assert_eq!((after.name.as_str(), after.updated_at), ("renamed", at(9)));
    assert_eq!(fixture.catalog.service(id).await.unwrap(), Some(after));
}

#[tokio::test]
async fn settings_organizations_and_agents_are_kept() {
    let mut fixture = Fixture::new().await;
    let agent = AgentId::random();
    let catalog = &fixture.catalog;
    assert_eq!(catalog.setting("admin").await.unwrap(), None);
    assert!(catalog.put_setting_if_absent("admin", "one").await.unwrap());
    assert!(!catalog.put_setting_if_absent("admin", "two").await.unwrap());
    assert_eq!(catalog.setting("admin").await.unwrap().as_deref(), Some("one"));
    catalog.put_setting("admin", "three").await.unwrap();
    for seconds in [5, 9, 7] {
        catalog.record_agent_seen(agent, at(seconds)).await.unwrap();
    }
    let taken = holdfast_catalog::Organization {
        id: OrganizationId::random(),
        name: "Another".to_owned(),
        slug: "acme".to_owned(),
        is_personal: true,
        created_at: at(0),
    };
    assert_eq!(catalog.insert_organization(&taken).await.unwrap_err().kind(), ErrorKind::NameTaken);

    fixture.crash().await;
    let catalog = &fixture.catalog;
    assert_eq!(catalog.setting("admin").await.unwrap().as_deref(), Some("three"));
    let seen = catalog.agent(agent).await.unwrap().unwrap();
    assert_eq!((seen.first_seen_at, seen.last_seen_at), (at(5), at(9)));
    let by_slug = catalog.organization("acme").await.unwrap().unwrap();
    let by_id = catalog.organization(&fixture.organization.to_string()).await.unwrap().unwrap();
    assert_eq!((&by_slug, by_slug.id), (&by_id, fixture.organization));
    assert_eq!(catalog.organizations().await.unwrap(), [by_id]);
    assert_eq!(catalog.organization("nobody").await.unwrap(), None);
}
