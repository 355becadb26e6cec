//! The key-encryption keys over HTTP: what is said of them, and a rotation on command.

use holdfast_core::KeyId;
use holdfast_core::engine::EngineKind;
use holdfast_core::key::KeyPurpose;
use holdfast_core::service::ServiceStatus;
use holdfast_server::jobs::{repository, runner};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::harness::{Platform, platform};

async fn run(p: &Platform, job: &str) -> Value {
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner::run(p.cp.clone(), stop.clone()));
    let ended = holdfast_testkit::wait_for("the job has ended", 60, || async {
        let job = p.get(&format!("/jobs/{job}")).await.expect(200);
        Ok((job["finished_at"] != Value::Null).then_some(job))
    });
    let ended = ended.await.unwrap();
    stop.cancel();
    running.await.unwrap();
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_on_command_is_followed_from_queue_to_end() {
    let p = platform().await;
    let made_at = Timestamp::now();
    p.cp.catalog.note_kek(1, made_at).await.unwrap();
    let service = p.service("orders", EngineKind::Postgresql, ServiceStatus::Running).await;
    p.user(&service, "app_user", "secret", 0).await;
    for _ in 0..2 {
        repository::ensure_key(&p.cp, &service, KeyId::random(), KeyPurpose::Epoch).await.unwrap();
    }
    let keys = p.get("/keys").await.expect(200);
    let first = &keys["versions"][0];
    assert_eq!((&first["version"], &first["status"]), (&json!(1), &json!("current")), "{keys}");
    assert_eq!((&first["wrapped_keys"], &first["wrapped_passwords"]), (&json!(2), &json!(1)), "{keys}");
    assert_eq!((&keys["current_version"], &keys["rotate_after_days"]), (&json!(1), &json!(90)), "{keys}");
    assert_eq!(keys["rotation"], Value::Null);
    let next: Timestamp = keys["next_rotation_at"].as_str().unwrap().parse().unwrap();
    let days = next.duration_since(made_at) - SignedDuration::from_hours(90 * 24);
    assert!(days.abs() < SignedDuration::from_secs(1), "{keys}");

    let started = p.post("/keys/rotate", json!({})).await.expect(202);
    let id = started["job_id"].as_str().unwrap().to_owned();
    assert_eq!(started["job"]["kind"], "rotate_keys");
    assert_eq!(started["job"]["service_id"], Value::Null);
    assert_eq!(p.get("/keys").await.expect(200)["rotation"], p.get(&format!("/jobs/{id}")).await.expect(200));
    let refused = p.post("/keys/rotate", json!({})).await.error(409);
    assert!(refused.contains("is under way") && refused.contains(&id), "{refused}");

    let ended = run(&p, &id).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let steps: Vec<&str> =
        ended["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(steps, ["make_kek", "rewrap_keys", "retire_keks"]);
    let keys = p.get("/keys").await.expect(200);
    let versions: Vec<(&Value, &Value, &Value)> = (keys["versions"].as_array().unwrap().iter())
        .map(|kek| (&kek["version"], &kek["status"], &kek["wrapped_keys"]))
        .collect();
    let expected = [(json!(2), json!("current"), json!(2)), (json!(1), json!("retired"), json!(0))];
    assert_eq!(
        versions,
        expected.each_ref().map(|(version, status, keys)| (version, status, keys)),
        "{keys}"
    );
    assert!(keys["versions"][1]["retired_at"].is_string(), "{keys}");
    assert_eq!(keys["rotation"]["id"].as_str(), Some(id.as_str()));
    let path = format!("/managed-services/{}/database-users/app_user/reveal-password", service.id);
    assert_eq!(p.post(&path, json!({})).await.expect(200)["password"], "secret");
    // The platform's job shows among all, and among no service's.
    let listed = p.get("/jobs").await.expect(200);
    assert!(listed["jobs"].as_array().unwrap().iter().any(|job| job["id"] == id.as_str()), "{listed}");
    let own = p.get(&format!("/managed-services/{}/jobs", service.id)).await.expect(200);
    assert!(own["jobs"].as_array().unwrap().iter().all(|job| job["id"] != id.as_str()), "{own}");
}

#[tokio::test]
async fn a_kek_that_is_needed_and_not_there_is_shown_as_missing() {
    let p = platform().await;
    let service = p.service("orders", EngineKind::Postgresql, ServiceStatus::Running).await;
    p.user(&service, "app_user", "secret", 0).await;
    p.cp.vault.add_kek(2).unwrap();
    p.cp.vault.remove_kek(1).unwrap();
    let keys = p.get("/keys").await.expect(200);
    assert_eq!(keys["versions"][1]["status"], "missing", "{keys}");
    assert_eq!(keys["versions"][1]["wrapped_passwords"], 1, "{keys}");
    let path = format!("/managed-services/{}/database-users/app_user/reveal-password", service.id);
    let text = p.post(&path, json!({})).await.error(503);
    assert!(text.contains("keys/kek-1") && text.contains("bring the file back"), "{text}");
}
