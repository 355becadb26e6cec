//! Restores to a point and from a backup: the answer, the new service, the untouched source.

use holdfast_core::backup::{BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobKind;
use holdfast_core::service::ServiceStatus;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::harness::{minutes_ago, platform};

const PG: EngineKind = EngineKind::Postgresql;

#[tokio::test]
async fn a_restore_makes_a_new_service_and_leaves_the_source() {
    let p = platform().await;
    let source = p.service("source", PG, ServiceStatus::Running).await;
    p.backup(&source, BackupType::Automated, BackupStatus::Completed, 60).await;
    let point = minutes_ago(10);
    let path = format!("/managed-services/{}/backups/restore", source.id);
    let asked = json!({"restore_point": point, "target_service_name": "copy", "plan_name": "tier-4", "zone": "se-sto1"});
    let started = p.post(&path, asked).await.expect(202);
    let id = started["id"].as_str().unwrap();
    let point = Timestamp::from_microsecond(point.as_microsecond()).unwrap();
    for (field, value) in [
        ("service_id", json!(id)),
        ("restored_service_id", json!(id)),
        ("uuid", json!(id)),
        ("source_service_id", json!(source.id)),
        ("backup_id", Value::Null),
        ("restore_point", json!(point)),
        ("status", json!("pending")),
        ("name", json!("copy")),
        ("plan_name", json!("tier-4")),
        ("zone", json!("se-sto1")),
        ("version", json!(source.version)),
        ("storage_size_gb", json!(100)),
        ("storage_tier", json!("standard")),
        ("allowed_cidrs", json!(source.allowed_cidrs)),
        ("host", Value::Null),
        ("dns_records", json!([])),
        ("restored_from", json!({"service_id": source.id, "backup_id": null, "restore_point": point})),
    ] {
        assert_eq!(started[field], value, "{field}");
    }
    let new = p.cp.catalog.service(id.parse().unwrap()).await.unwrap().unwrap();
    assert_ne!(new.lineage_id, source.lineage_id);
    assert_eq!(p.open_jobs(new.id).await, [JobKind::Restore]);
    assert_eq!(p.cp.catalog.service(source.id).await.unwrap().unwrap(), source);
    assert_eq!(p.open_jobs(source.id).await, []);
    let task = started["task_id"].as_str().unwrap();
    let jobs = p.get(&format!("/managed-services/{}/restore-jobs", source.id)).await.expect(200);
    assert_eq!(jobs["jobs"][0]["id"], task);
    assert_eq!(jobs["jobs"][0]["source_service_id"], source.id.to_string());
    assert_eq!(jobs["jobs"][0]["restore_point"], json!(point));
    let step = json!({"name": "restore_instance", "status": "pending", "phases": []});
    assert_eq!(jobs["jobs"][0]["steps"][2], step);
    let service = p.get(&format!("/managed-services/{id}")).await.expect(200);
    assert_eq!(service["progress"]["phase"], "queued");
}

#[tokio::test]
async fn a_backup_is_restored_with_the_sources_plan_and_zone() {
    let p = platform().await;
    let source = p.service("source", PG, ServiceStatus::Stopped).await;
    let backup = p.backup(&source, BackupType::Automated, BackupStatus::Completed, 60).await;
    let path = format!("/managed-services/{}/backups/{backup}/restore/", source.id);
    let asked = json!({"target_service_name": "copy", "plan_name": "", "zone": null});
    let started = p.post(&path, asked).await.expect(202);
    assert_eq!((&started["plan_name"], &started["zone"]), (&json!("tier-2"), &json!("fi-hel1")));
    assert_eq!(started["backup_id"], backup.as_str());
    assert_eq!(started["restored_from"]["backup_id"], backup.as_str());
    assert_eq!(started["restore_point"], Value::Null);
    let text = p.post(&path, json!({"target_service_name": "copy"})).await.error(409);
    assert_eq!(text, "a service named \"copy\" exists already");
}

#[tokio::test]
async fn any_notation_of_an_instant_names_the_same_instant() {
    let p = platform().await;
    let source = p.service("source", PG, ServiceStatus::Running).await;
    p.backup(&source, BackupType::Automated, BackupStatus::Completed, 600).await;
    let path = format!("/managed-services/{}/backups/restore", source.id);
    let second = minutes_ago(300).as_second();
    let point = Timestamp::from_second(second).unwrap();
    let zoned = |hours| point.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(hours)));
    let cases = [
        (point.to_string(), point),
        (point.to_string().to_lowercase(), point),
        (zoned(2).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(), point),
        (zoned(-11).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(), point),
        (point.to_string().replace('Z', ".5Z"), point + SignedDuration::from_millis(500)),
        (point.to_string().replace('Z', ".123456789Z"), point + SignedDuration::from_micros(123_456)),
        (point.to_string().replace('Z', "-00:00"), point),
    ];
    for (n, (text, expected)) in cases.into_iter().enumerate() {
        let asked = json!({"restore_point": text, "target_service_name": format!("copy-{n}")});
        let started = p.post(&path, asked).await.expect(202);
        assert_eq!(started["restore_point"], json!(expected), "{text}");
    }
}

#[tokio::test]
async fn the_edges_of_the_window_are_inside_and_a_microsecond_further_is_outside() {
    let p = platform().await;
    let source = p.service("source", PG, ServiceStatus::Stopped).await;
    p.backup(&source, BackupType::Automated, BackupStatus::Completed, 60).await;
    let window = p.get(&format!("/managed-services/{}/pitr", source.id)).await.expect(200);
    let edge = |field: &str| window[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    let (first, last) = (edge("earliest_restore_point"), edge("latest_restore_point"));
    let one = SignedDuration::from_micros(1);
    let path = format!("/managed-services/{}/backups/restore", source.id);
    let cases = [
        (first - one, 400),
        (first, 202),
        (first + one, 202),
        (last - one, 202),
        (last, 202),
        (last + one, 400),
    ];
    for (n, (point, status)) in cases.into_iter().enumerate() {
        let asked = json!({"restore_point": point, "target_service_name": format!("copy-{n}")});
        let answer = p.post(&path, asked).await.expect(status);
        if status == 400 {
            let text = answer["error"].as_str().unwrap();
            assert!(text.contains(&first.to_string()) && text.contains(&last.to_string()), "{text}");
        }
    }
    // A source that runs ships its log first: anything up to now can be asked for, nothing later.
    p.set_status(source.id, ServiceStatus::Running).await;
    let ask = |name: &str, point: Timestamp| json!({"restore_point": point, "target_service_name": name});
    p.post(&path, ask("live", Timestamp::now())).await.expect(202);
    let text = p.post(&path, ask("later", Timestamp::now() + SignedDuration::from_secs(60))).await.error(400);
    assert!(text.contains("lies in the future"), "{text}");
}

#[tokio::test]
async fn an_engine_without_a_log_restores_backups_only() {
    let p = platform().await;
    let source = p.service("kafka", EngineKind::Kafka, ServiceStatus::Running).await;
    let backup = p.backup(&source, BackupType::Automated, BackupStatus::Completed, 60).await;
    let path = format!("/managed-services/{}/backups", source.id);
    let asked = json!({"target_service_name": "copy", "restore_point": minutes_ago(5)});
    let text = p.post(&format!("{path}/restore"), asked.clone()).await.error(400);
    assert_eq!(text, "kafka has no point-in-time recovery; restore one of the service's backups instead");
    let started = p.post(&format!("{path}/{backup}/restore"), asked).await.expect(202);
    assert_eq!(started["backup_method"], Value::Null);
    assert_eq!(started["database_type"], "kafka");
}
