//! Database users: the list, their passwords, and new ones.

use holdfast_catalog::{Catalog, Credential};
use holdfast_core::AgentId;
use holdfast_core::engine::EngineKind;
use holdfast_core::job::{JobError, JobKind, Place};
use holdfast_core::service::ServiceStatus;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::api::harness::platform;

const PG: EngineKind = EngineKind::Postgresql;

#[tokio::test]
async fn users_are_listed_and_revealed_with_all_six_fields() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/database-users", service.id);
    assert_eq!(p.get(&path).await.expect(200), json!({"users": []}));
    p.user(&service, "admin", "x", 1).await;
    p.user(&service, "app_user", "p@ss:w/rd?", 0).await;
    let list = p.get(&format!("{path}/")).await.expect(200);
    let first = json!({"username": "app_user", "roles": ["admin"], "privileges": "admin",
        "created_at": list["users"][0]["created_at"]});
    assert_eq!(list["users"][0], first);
    assert_eq!(list["users"][1]["username"], "admin");
    for body in ["", "{}"] {
        let answer = p.call("POST", &format!("{path}/app_user/reveal-password"), body).await;
        assert_eq!(answer.headers["cache-control"], "no-store");
        let expected = json!({
            "username": "app_user", "password": "p@ss:w/rd?", "host": "127.0.0.1", "port": 5432,
            "database": "defaultdb",
            "connection_string":
                "postgresql://app_user:p%40ss%3Aw%2Frd%3F@127.0.0.1:5432/defaultdb?sslmode=require",
        });
        assert_eq!(answer.expect(200), expected);
    }
    // A service on its way up has no users yet, and says why.
    let pending = p.service("db2", PG, ServiceStatus::Provisioning).await;
    let path = format!("/managed-services/{}/database-users/app_user/reveal-password", pending.id);
    let text = p.post(&path, json!({})).await.error(409);
    assert_eq!(text, "the service is provisioning: it has no address; wait until it is running");
}

#[tokio::test]
async fn a_password_of_another_service_does_not_open() {
    let p = platform().await;
    let (one, two) = (
        p.service("one", PG, ServiceStatus::Running).await,
        p.service("two", PG, ServiceStatus::Running).await,
    );
    p.user(&one, "app_user", "secret", 0).await;
    let stolen = p.cp.catalog.credential(one.id, "app_user").await.unwrap().unwrap();
    p.cp.catalog.upsert_credential(&Credential { service_id: two.id, ..stolen }).await.unwrap();
    let path = format!("/managed-services/{}/database-users/app_user/reveal-password", two.id);
    let answer = p.post(&path, json!({})).await;
    let text = answer.error(500);
    let id = answer.headers["x-request-id"].to_str().unwrap();
    assert_eq!(text, format!("the server failed at this request; request id {id}"), "internals stay inside");
}

/// Carries a reset out as runner and agent would; or lets it fail.
async fn work(catalog: Catalog, agent: AgentId, fails: bool) {
    let lease_for = SignedDuration::from_secs(60);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut changed = catalog.changed();
    for place in [Place::Agent, Place::ControlPlane] {
        let job = loop {
            assert!(tokio::time::Instant::now() < deadline, "no job for {place:?} turned up");
            match catalog.lease(place, agent, Timestamp::now(), lease_for).await.unwrap() {
                Some(job) => break job,
                None => {
                    drop(tokio::time::timeout(std::time::Duration::from_millis(50), changed.changed()).await)
                }
            }
        };
        let now = Timestamp::now();
        assert_eq!(job.kind, JobKind::ResetPassword);
        if fails {
            let message = "the database refuses".to_owned();
            let error = JobError { cause: "refused".to_owned(), message, retryable: false };
            catalog.fail_step(job.id, job.generation, job.step_index, error, now).await.unwrap();
            return;
        }
        if place == Place::ControlPlane {
            let wrapped = hex::decode(job.input["wrapped_hex"].as_str().unwrap()).unwrap();
            let user = job.input["username"].as_str().unwrap();
            let old = catalog.credential(job.service_id.unwrap(), user).await.unwrap().unwrap();
            catalog.upsert_credential(&Credential { wrapped, ..old }).await.unwrap();
        }
        catalog.complete_step(job.id, job.generation, job.step_index, json!({}), now).await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_answers_with_the_new_password_once_it_works() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    p.user(&service, "app_user", "old", 0).await;
    let path = format!("/managed-services/{}/database-users/app_user", service.id);
    let reset = format!("{path}/reset-password");
    let worker = tokio::spawn(work(p.cp.catalog.clone(), AgentId::random(), false));
    let answer = p.post(&reset, json!({})).await.expect(200);
    worker.await.unwrap();
    let password = answer["password"].as_str().unwrap();
    assert_eq!(password.len(), 32);
    assert!(password.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{password}");
    assert_eq!(p.post(&format!("{path}/reveal-password"), json!({})).await.expect(200), answer);
    let job =
        p.cp.catalog
            .jobs_of(service.id)
            .await
            .unwrap()
            .into_iter()
            .find(|j| j.kind == JobKind::ResetPassword);
    let job = serde_json::to_string(&job.unwrap()).unwrap();
    assert!(!job.contains(password), "the catalog holds the password in the clear");
    let worker = tokio::spawn(work(p.cp.catalog.clone(), AgentId::random(), true));
    let text = p.post(&reset, json!({})).await.error(503);
    worker.await.unwrap();
    assert!(text.starts_with("the password was not changed: the database refuses"), "{text}");
}

#[tokio::test]
async fn a_reset_that_takes_too_long_says_that_it_goes_on() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    p.user(&service, "app_user", "old", 0).await;
    let patience = std::time::Duration::from_millis(20);
    let ended = holdfast_server::app::users::reset_password(&p.cp, service.id, "app_user", patience).await;
    let Err(error) = ended else { panic!("nobody carried it out") };
    assert_eq!(error.kind(), holdfast_server::app::ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("the password is still being changed; see job "), "{error}");
    assert_eq!(p.open_jobs(service.id).await, [JobKind::ResetPassword]);
}
