//! Backups on demand: the words, the rules of contract section 4, the list and its end.

use holdfast_core::backup::{BackupMode, BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobKind;
use holdfast_core::service::ServiceStatus;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::harness::{minutes_ago, platform};

const PG: EngineKind = EngineKind::Postgresql;

#[tokio::test]
async fn a_trigger_answers_with_the_whole_backup_and_both_ids() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    let asked = json!({"backup_type": "manual", "label": "vor der Migration 🎉", "retention_days": 30,
        "backup_method": "pgbackrest"});
    let made = p.post(&path, asked).await.expect(202);
    let (id, task) = (made["id"].as_str().unwrap(), made["task_id"].as_str().unwrap());
    let expected = json!({
        "id": id, "backup_id": id, "task_id": task, "message": "the backup is queued", "service_id": service.id,
        "backup_type": "manual", "status": "pending", "size_bytes": null, "backup_size_bytes": null,
        "size_label": null, "label": "vor der Migration 🎉", "encryption_enabled": true,
        "encryption_algorithm": "AES-256-GCM", "encryption_key_id": made["encryption_key_id"],
        "backup_method": "pgbackrest", "incremental": false, "retention_days": 30, "expires_at": null,
        "s3_path_prefix": format!("postgresql/{}", service.id), "error_message": null,
        "progress": {"phase": "queued", "percent": null, "bytes_done": null, "bytes_total": null, "eta_seconds": null},
        "created_at": made["created_at"], "started_at": null, "completed_at": null,
    });
    assert_eq!(made, expected);
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Backup]);
    let job = p.get(&format!("/jobs/{task}")).await.expect(200);
    assert_eq!((&job["kind"], &job["backup_id"]), (&json!("backup"), &json!(id)));
    let one = p.get(&format!("{path}/{id}/")).await.expect(200);
    assert_eq!(one["encryption_key_id"], made["encryption_key_id"]);
    assert_eq!(p.get(&path).await.expect(200), json!({"backups": [one]}));
}

#[tokio::test]
async fn nothing_at_all_asks_for_a_full_backup_kept_until_deleted() {
    let p = platform().await;
    for (n, body) in
        ["", "{}", "  ", r#"{"backup_type":""}"#, r#"{"backup_type":null,"label":""}"#].iter().enumerate()
    {
        let service = p.service(&format!("db-{n}"), PG, ServiceStatus::Running).await;
        let path = format!("/managed-services/{}/backups/", service.id);
        let made = p.call("POST", &path, *body).await.expect(202);
        assert_eq!((&made["retention_days"], &made["label"]), (&Value::Null, &Value::Null));
        let backup = p.cp.catalog.backups_of(service.id).await.unwrap().remove(0);
        assert_eq!((backup.mode, backup.backup_type), (BackupMode::Full, BackupType::Manual));
    }
}

#[tokio::test]
async fn the_words_of_the_request_all_list_as_manual() {
    let p = platform().await;
    for (word, mode) in
        [("full", BackupMode::Full), ("incremental", BackupMode::Incremental), ("pitr", BackupMode::Full)]
    {
        let service = p.service(&format!("db-{word}"), PG, ServiceStatus::Running).await;
        let path = format!("/managed-services/{}/backups", service.id);
        let made = p.post(&path, json!({"backup_type": word})).await.expect(202);
        assert_eq!(made["backup_type"], "manual");
        assert_eq!(made["incremental"], mode == BackupMode::Incremental);
        assert_eq!(p.cp.catalog.backups_of(service.id).await.unwrap()[0].mode, mode);
    }
}

#[tokio::test]
async fn only_another_backup_on_demand_refuses_a_trigger() {
    let p = platform().await;
    for status in [BackupStatus::Pending, BackupStatus::Running] {
        let service = p.service(&format!("auto-{status:?}").to_lowercase(), PG, ServiceStatus::Running).await;
        p.backup(&service, BackupType::Automated, status, 5).await;
        let path = format!("/managed-services/{}/backups", service.id);
        p.post(&path, json!({})).await.expect(202);
        assert_eq!(p.open_jobs(service.id).await, [JobKind::Backup, JobKind::Backup]);
        p.post(&path, json!({})).await.error(409);
    }
    for status in [BackupStatus::Completed, BackupStatus::Failed] {
        let service = p.service(&format!("man-{status:?}").to_lowercase(), PG, ServiceStatus::Running).await;
        p.backup(&service, BackupType::Manual, status, 5).await;
        p.post(&format!("/managed-services/{}/backups", service.id), json!({})).await.expect(202);
    }
}

#[tokio::test]
async fn of_many_triggers_at_once_one_wins() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    let answers = futures::future::join_all((0..8).map(|_| p.post(&path, json!({})))).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
    assert_eq!((count(202), count(409)), (1, 7));
    assert_eq!(p.cp.catalog.backups_of(service.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_is_newest_first_and_without_what_expired() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    assert_eq!(p.get(&path).await.expect(200), json!({"backups": []}));
    let days = 24 * 60;
    let expired = p.backup(&service, BackupType::Automated, BackupStatus::Completed, 7 * days + 2).await;
    let old_manual = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 60 * days).await;
    let nearly = p.backup(&service, BackupType::Automated, BackupStatus::Completed, 7 * days - 2).await;
    let failed = p.backup(&service, BackupType::Manual, BackupStatus::Failed, 30).await;
    let ids = || async {
        let list = p.get(&path).await.expect(200);
        let id = |backup: &Value| backup["id"].as_str().unwrap().to_owned();
        list["backups"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    // A clock that nothing vouches for yet makes nothing old.
    assert_eq!(ids().await, [&failed, &nearly, &expired, &old_manual].map(ToString::to_string));
    p.get(&format!("{path}/{expired}")).await.expect(200);
    p.trust_the_clock().await;
    assert_eq!(ids().await, [&failed, &nearly, &old_manual].map(ToString::to_string));
    p.get(&format!("{path}/{expired}")).await.error(404);
    let one = p.get(&format!("{path}/{nearly}")).await.expect(200);
    assert_eq!(one["backup_type"], "automated");
    assert_eq!((&one["size_bytes"], &one["backup_size_bytes"]), (&json!(3_145_728), &json!(3_145_728)));
    assert_eq!(one["size_label"], "3.0 MiB");
    assert_eq!(one["progress"], Value::Null);
    let at = |field: &str| one[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(at("expires_at").duration_since(at("completed_at")).as_hours(), 7 * 24);
    let one = p.get(&format!("{path}/{failed}")).await.expect(200);
    assert_eq!((&one["error_message"], &one["size_bytes"]), (&json!("the disk is full"), &Value::Null));
    assert_eq!(p.get(&format!("{path}/{old_manual}")).await.expect(200)["expires_at"], Value::Null);
}

#[tokio::test]
async fn a_manual_backup_is_deleted_and_its_removal_queued() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    let first = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 30).await;
    let second = p.backup(&service, BackupType::Manual, BackupStatus::Failed, 20).await;
    let gone = p.call("DELETE", &format!("{path}/{first}"), "").await;
    assert_eq!((gone.status.as_u16(), gone.bytes.len()), (204, 0));
    p.get(&format!("{path}/{first}")).await.error(404);
    p.call("DELETE", &format!("{path}/{first}"), "").await.error(404);
    assert_eq!(p.call("DELETE", &format!("{path}/{second}/"), "").await.status.as_u16(), 204);
    assert_eq!(p.get(&path).await.expect(200), json!({"backups": []}));
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Expire], "one job removes both");
    let row = p.cp.catalog.backup(&first).await.unwrap().unwrap();
    assert!(row.delisted_at.is_some() && row.shredded_at.is_none(), "shredding is the job's");
}

#[tokio::test]
async fn a_backup_being_restored_stays() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    let backup = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 30).await;
    let started = p.post(&format!("{path}/{backup}/restore"), json!({"target_service_name": "copy"})).await;
    let task = started.expect(202)["task_id"].as_str().unwrap().parse().unwrap();
    let text = p.call("DELETE", &format!("{path}/{backup}"), "").await.error(409);
    assert!(text.contains("is being restored into service"), "{text}");
    p.cp.catalog.cancel(task, Timestamp::now()).await.unwrap();
    assert_eq!(p.call("DELETE", &format!("{path}/{backup}"), "").await.status.as_u16(), 204);

    // A copy that runs has read it, also while its job is still to be noted as completed.
    let backup = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 30).await;
    p.post(&format!("{path}/{backup}/restore"), json!({"target_service_name": "another"})).await.expect(202);
    p.call("DELETE", &format!("{path}/{backup}"), "").await.error(409);
    let services = p.get("/managed-services").await.expect(200);
    let all = services["services"].as_array().or(services.as_array()).unwrap();
    let copy = all.iter().find(|service| service["name"] == "another").unwrap();
    p.set_status(copy["id"].as_str().unwrap().parse().unwrap(), ServiceStatus::Running).await;
    assert_eq!(p.call("DELETE", &format!("{path}/{backup}"), "").await.status.as_u16(), 204);
}

#[tokio::test]
async fn the_window_of_a_service_is_shown_with_its_gaps() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/pitr", service.id);
    let nothing = json!({"enabled": true, "archiving_active": false, "earliest_restore_point": null,
        "latest_restore_point": null, "archive_lag_seconds": null, "archive_lag_bytes": null, "last_error": null,
        "windows": [], "gaps": []});
    assert_eq!(p.get(&path).await.expect(200), nothing);
    p.backup(&service, BackupType::Automated, BackupStatus::Completed, 60).await;
    let position = |offset| holdfast_core::position::Position { timeline: 1, offset };
    let gap = holdfast_core::position::Gap {
        from: position(10),
        to: position(20),
        from_time: minutes_ago(90),
        to_time: minutes_ago(80),
        cause: "the host was away".to_owned(),
        acknowledged: false,
    };
    p.cp.catalog.insert_gap(service.lineage_id, &gap).await.unwrap();
    let shown = p.get(&format!("{path}/")).await.expect(200);
    assert_eq!(shown["gaps"][0]["cause"], "the host was away");
    let window =
        json!([{"earliest": shown["earliest_restore_point"], "latest": shown["latest_restore_point"]}]);
    assert_eq!(shown["windows"], window);
    let kafka = p.service("kafka", EngineKind::Kafka, ServiceStatus::Running).await;
    let shown = p.get(&format!("/managed-services/{}/pitr", kafka.id)).await.expect(200);
    assert_eq!(shown["enabled"], false);
}
