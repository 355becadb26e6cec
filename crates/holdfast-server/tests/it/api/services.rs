//! Services from their creation to their end, and what is said of them meanwhile.

use holdfast_api::agent::{ArchiveReport, DiskReport, InstanceMetrics, InstanceReport};
use holdfast_core::ServiceId;
use holdfast_core::backup::{BackupStatus, BackupType};
use holdfast_core::disk::{Level, Space, Usage};
use holdfast_core::engine::EngineKind;
use holdfast_core::job::JobKind;
use holdfast_core::service::{Service, ServiceStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::harness::{minutes_ago, platform};

const PG: EngineKind = EngineKind::Postgresql;

fn id_of(service: &Value) -> ServiceId {
    service["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_new_service_has_every_field_of_the_contract() {
    let p = platform().await;
    let asked = json!({"name": "my-db", "database_type": "Postgre_SQL", "plan_name": "tier-2", "unknown": {"x": [1]}});
    let made = p.post("/managed-services/", asked).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "uuid": id, "organization_id": p.organization, "name": "my-db", "database_type": "postgresql",
        "version": "17", "engine_version": null, "status": "pending", "status_message": null, "plan_name": "tier-2",
        "zone": "se-sto1", "storage_size_gb": 50, "storage_tier": "maxiops", "node_count": 1,
        "auto_failover_enabled": false, "replication_mode": "async", "encryption_enabled": true, "allowed_cidrs": [],
        "maintenance_window": null, "labels": {}, "preset": null, "is_ephemeral": false, "ttl_hours": null,
        "scheduled_deletion_at": null, "agent_framework": null, "agent_purpose": null, "created_by_agent_id": null,
        "host": null, "port": null, "dns_records": [], "restored_from": null,
        "progress": {"phase": "queued", "percent": null, "bytes_done": null, "bytes_total": null, "eta_seconds": null},
        "created_at": made["created_at"], "updated_at": made["created_at"],
    });
    assert_eq!(made, expected);
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(p.open_jobs(id_of(&made)).await, [JobKind::Provision]);
    for path in ["/managed-services", "/managed-services/"] {
        let list = p.get(path).await.expect(200);
        assert_eq!(list, json!({"services": [made], "total": 1, "limit": 1, "offset": 0}));
    }
    for path in [format!("/managed-services/{id}"), format!("/managed-services/{id}/")] {
        assert_eq!(p.get(&path).await.expect(200), made);
    }
}

#[tokio::test]
async fn what_was_asked_for_is_echoed_in_its_order() {
    let p = platform().await;
    let asked = json!({
        "name": "a-1", "database_type": "postgresql", "plan_name": "tier-16", "version": "18", "zone": "de-fra1",
        "storage_size_gb": 16384, "storage_tier": "standard", "node_count": 3, "auto_failover_enabled": true,
        "replication_mode": "sync", "encryption_enabled": true,
        "allowed_cidrs": ["10.2.0.0/16", "::/0", "10.1.0.0/16"], "maintenance_window": "sun:03:00-sun:05:00",
        "labels": {"team": "größe 🎉"}, "ephemeral": true, "ttl_hours": 48, "agent_framework": "x",
        "agent_purpose": "y", "created_by_agent_id": "z",
    });
    let made = p.post("/managed-services", asked.clone()).await.expect(201);
    for (field, value) in asked.as_object().unwrap() {
        let field = if field == "ephemeral" { "is_ephemeral" } else { field };
        assert_eq!(&made[field], value, "{field}");
    }
    let at = |field: &str| made[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(at("scheduled_deletion_at").duration_since(at("created_at")).as_hours(), 48);
}

#[tokio::test]
async fn only_versions_that_a_host_can_run_are_offered() {
    let p = platform().await;
    let versions = p.get("/database-versions?type=postgresql").await.expect(200);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2, "{versions}");
    let both = vec!["16".to_owned(), "18".to_owned()];
    // 16 is on the host, but this release has no driver for it.
    p.cp.live.put_versions(holdfast_core::AgentId::random(), vec![(PG, both)]);
    let versions = p.get("/database-versions?type=PostgreSQL").await.expect(200);
    let one = |version: &str, default: bool| json!({"database_type": "postgresql", "version": version, "default": default});
    assert_eq!(versions, json!({"versions": [one("18", true)]}));
    assert_eq!(p.get("/database-versions?type=mssql").await.expect(200), json!({"versions": []}));
    let body = |version: &str| json!({"name": format!("v{version}-db"), "database_type": "postgresql", "plan_name": "tier-1", "version": version});
    let refused = p.post("/managed-services", body("17")).await.error(400);
    assert_eq!(refused, "no host here can run version 17 of postgresql; available: 18");
    assert_eq!(p.post("/managed-services", body("")).await.expect(201)["version"], "18");
}

#[tokio::test]
async fn changes_are_visible_at_once_and_reach_a_running_instance() {
    let p = platform().await;
    let service = p.service("before", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}", service.id);
    let patch = |body: Value| p.call("PATCH", &path, body.to_string());
    let same = patch(json!({})).await.expect(200);
    assert_eq!(same["updated_at"].as_str().unwrap(), service.updated_at.to_string());
    let changed =
        patch(json!({"name": "after", "storage_size_gb": 100, "maintenance_window": "mon:01:00-mon:02:00",
        "allowed_cidrs": null, "status": "failed", "id": "x"}));
    let changed = changed.await.expect(200);
    assert_eq!(changed["name"], "after");
    assert_eq!(changed["maintenance_window"], "mon:01:00-mon:02:00");
    assert_eq!(changed["status"], "running");
    assert_eq!(changed["allowed_cidrs"], same["allowed_cidrs"]);
    assert_eq!(changed["created_at"], same["created_at"]);
    assert_eq!(p.open_jobs(service.id).await, [], "nothing that the instance has to know has changed");
    let changed =
        patch(json!({"allowed_cidrs": ["10.9.0.0/16"], "maintenance_window": ""})).await.expect(200);
    assert_eq!(changed["allowed_cidrs"], json!(["10.9.0.0/16"]));
    assert_eq!(changed["maintenance_window"], Value::Null);
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Configure]);
    patch(json!({"allowed_cidrs": ["10.9.0.0/16"]})).await.expect(200);
    assert_eq!(p.open_jobs(service.id).await.len(), 1, "the same networks again are no change");
    patch(json!({"plan_name": "tier-4"})).await.expect(200);
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Configure, JobKind::Configure]);
    assert_eq!(p.get(&path).await.expect(200)["plan_name"], "tier-4");
    // The old name is free, the new one is taken.
    let body = |name: &str| json!({"name": name, "database_type": "postgresql", "plan_name": "tier-1"});
    p.post("/managed-services", body("after")).await.error(409);
    p.post("/managed-services", body("before")).await.expect(201);
}

#[tokio::test]
async fn services_stop_and_start_one_change_at_a_time() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}", service.id);
    let stop = format!("{path}/stop");
    assert_eq!(p.post(&stop, json!({})).await.expect(200)["status"], "running");
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Stop]);
    let text = p.post(&stop, json!({})).await.error(409);
    assert_eq!(text, "the service is just being stopped; wait for that to end");
    // Its status tells of the end a moment before its job does.
    p.set_status(service.id, ServiceStatus::Stopped).await;
    let start = format!("{path}/start/");
    assert_eq!(p.call("POST", &start, "").await.expect(200)["status"], "stopped");
    // What was changed while it was stopped follows.
    assert_eq!(p.open_jobs(service.id).await, [JobKind::Stop, JobKind::Start, JobKind::Configure]);
    let text = p.call("POST", &start, "").await.error(409);
    assert_eq!(text, "the service is just being started; wait for that to end");
}

#[tokio::test]
async fn a_deleted_service_is_gone_at_once_and_its_backups_are_not() {
    let p = platform().await;
    let service = p.service("doomed", PG, ServiceStatus::Running).await;
    let backup = p.backup(&service, BackupType::Manual, BackupStatus::Completed, 30).await;
    let path = format!("/managed-services/{}", service.id);
    p.post(&format!("{path}/backups"), json!({})).await.expect(202);
    let gone = p.call("DELETE", &path, "").await;
    assert_eq!((gone.status.as_u16(), gone.bytes.len()), (204, 0));
    p.get(&path).await.error(404);
    p.call("DELETE", &path, "").await.error(404);
    p.call("PATCH", &path, "{}").await.error(404);
    p.post(&format!("{path}/backups"), json!({})).await.error(404);
    p.get(&format!("{path}/metrics")).await.error(404);
    assert_eq!(p.get("/managed-services").await.expect(200)["total"], 0);
    assert_eq!(p.open_jobs(service.id).await, [JobKind::DeleteService], "what was queued is cancelled");
    let body = json!({"name": "doomed", "database_type": "postgresql", "plan_name": "tier-1"});
    p.post("/managed-services", body).await.expect(201);
    // Backups and both restores go on working.
    let list = p.get(&format!("{path}/backups")).await.expect(200);
    assert!(list["backups"].as_array().unwrap().iter().any(|b| b["id"] == backup.as_str()), "{list}");
    p.get(&format!("{path}/pitr")).await.expect(200);
    let target =
        |name: &str, point: Option<Timestamp>| json!({"target_service_name": name, "restore_point": point});
    let from = p.post(&format!("{path}/backups/{backup}/restore"), target("one", None)).await.expect(202);
    assert_eq!(from["source_service_id"], service.id.to_string());
    p.post(&format!("{path}/backups/restore"), target("two", Some(minutes_ago(10)))).await.expect(202);
    let text =
        p.post(&format!("{path}/backups/restore"), target("three", Some(Timestamp::now()))).await.error(400);
    assert!(text.contains("lies after the last archived log and the source does not run"), "{text}");
    assert_eq!(p.get(&format!("{path}/restore-jobs")).await.expect(200)["jobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn services_on_their_way_and_failed_ones_can_be_deleted() {
    let p = platform().await;
    for status in
        [ServiceStatus::Pending, ServiceStatus::Provisioning, ServiceStatus::Failed, ServiceStatus::Stopped]
    {
        let service = p.service("same-name", PG, status).await;
        let path = format!("/managed-services/{}", service.id);
        assert_eq!(p.call("DELETE", &path, "").await.status.as_u16(), 204, "{status:?}");
        assert_eq!(p.open_jobs(service.id).await, [JobKind::DeleteService], "{status:?}");
        p.get(&path).await.error(404);
        p.get(&format!("{path}/backups")).await.error(404);
    }
}

fn report(service: &Service, last_error: Option<&str>, lag_seconds: f64) -> InstanceReport {
    let archive = ArchiveReport {
        coverage: Vec::new(),
        gaps: Vec::new(),
        lag_seconds,
        lag_bytes: 4096,
        last_error: last_error.map(str::to_owned),
    };
    InstanceReport {
        service_id: service.id,
        lineage_id: service.lineage_id,
        healthy: true,
        message: None,
        archive: Some(archive),
        metrics: Some(InstanceMetrics {
            database: None,
            connections_active: 3,
            connections_max: 100,
            transactions_total: 7,
            cache_hit_ratio: Some(0.5),
        }),
        disk: Some(DiskReport {
            usage: Usage {
                volume: Space { total_bytes: 1000 << 20, free_bytes: 400 << 20 },
                database_bytes: 200 << 20,
                log_bytes: 50 << 20,
                waiting_log_bytes: 32 << 20,
                quota_bytes: 10 << 30,
            },
            level: Level::Filling,
            message: Some("the disk fills up".to_owned()),
            writes_refused: false,
        }),
    }
}

#[tokio::test]
async fn metrics_come_in_both_layouts_and_old_ones_are_unknown() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    p.backup(&service, BackupType::Automated, BackupStatus::Completed, 60).await;
    let path = format!("/managed-services/{}/metrics", service.id);
    let nothing = p.get(&path).await.expect(200);
    assert_eq!(nothing["connections"], Value::Null);
    assert_eq!(nothing["metrics"]["disk_usage_percent"], Value::Null);
    assert_eq!(nothing["pitr"]["archiving_active"], false);
    assert_eq!(nothing["pitr"]["enabled"], true);
    p.cp.live.put(Timestamp::now(), report(&service, None, 0.5));
    for path in [path.clone(), format!("{path}/current"), format!("{path}/current/")] {
        let all = p.get(&path).await.expect(200);
        for (pointer, value) in [
            ("/service_id", json!(service.id)),
            ("/database_type", json!("postgresql")),
            ("/connections", json!(3)),
            ("/connections_active", json!(3)),
            ("/connections_max", json!(100)),
            ("/disk_usage_percent", json!(60.0)),
            ("/storage_usage_percent", json!(25.0)),
            ("/storage_used_bytes", json!(250 << 20)),
            ("/storage_total_bytes", json!(1000 << 20)),
            ("/disk/level", json!("filling")),
            ("/disk/waiting_log_bytes", json!(32 << 20)),
            ("/disk/writes_refused", json!(false)),
            ("/cpu_usage_percent", Value::Null),
            ("/metrics/database_connections_active", json!(3)),
            ("/metrics/disk_usage_percent", json!(60.0)),
            ("/metrics/database_cache_hit_ratio", json!(0.5)),
            ("/pitr/enabled", json!(true)),
            ("/pitr/archiving_active", json!(true)),
            ("/pitr/archive_lag_seconds", json!(0.5)),
            ("/pitr/last_error", Value::Null),
        ] {
            assert_eq!(all.pointer(pointer), Some(&value), "{path} {pointer}");
        }
        assert!(
            all["pitr"]["earliest_restore_point"].as_str() < all["pitr"]["latest_restore_point"].as_str()
        );
    }
    for bad in [report(&service, Some("the bucket refuses"), 0.5), report(&service, None, 1e6)] {
        p.cp.live.put(Timestamp::now(), bad);
        assert_eq!(p.get(&path).await.expect(200)["pitr"]["archiving_active"], false);
    }
    p.cp.live.put(Timestamp::now() - jiff::SignedDuration::from_secs(31), report(&service, None, 0.5));
    let stale = p.get(&path).await.expect(200);
    assert_eq!((&stale["connections"], &stale["pitr"]["archiving_active"]), (&Value::Null, &json!(false)));
    assert_eq!(stale["pitr"]["archive_lag_seconds"], Value::Null);
}

#[tokio::test]
async fn a_running_service_says_what_its_agent_warns_of_while_it_does() {
    let p = platform().await;
    let service = p.service("db1", PG, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}", service.id);
    assert_eq!(p.get(&path).await.expect(200)["status_message"], Value::Null);
    p.cp.live.put(Timestamp::now(), report(&service, None, 0.5));
    assert_eq!(p.get(&path).await.expect(200)["status_message"], "the disk fills up");
    let listed = p.get("/managed-services").await.expect(200);
    assert_eq!(listed["services"][0]["status_message"], "the disk fills up");
    p.cp.live.put(Timestamp::now(), InstanceReport { disk: None, ..report(&service, None, 0.5) });
    assert_eq!(p.get(&path).await.expect(200)["status_message"], Value::Null);
}

#[tokio::test]
async fn jobs_show_their_steps_and_progress() {
    let p = platform().await;
    let made = json!({"name": "db1", "database_type": "postgresql", "plan_name": "tier-1"});
    let made = p.post("/managed-services", made).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let jobs = p.get(&format!("/managed-services/{id}/jobs")).await.expect(200);
    let job = &jobs["jobs"][0];
    assert_eq!(job["kind"], "provision");
    assert_eq!(job["status"], "queued");
    let pending = |name: &str| json!({"name": name, "status": "pending", "phases": []});
    assert_eq!(job["steps"], json!([pending("create_instance"), pending("activate")]));
    assert_eq!(job["progress"]["phase"], "queued");
    let lease_for = jiff::SignedDuration::from_secs(60);
    let agent = holdfast_core::AgentId::random();
    let now = Timestamp::now();
    let place = holdfast_core::job::Place::Agent;
    p.cp.catalog.lease(place, agent, now, lease_for).await.unwrap().expect("the job is due");
    let job = p.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&job["status"], &job["steps"][0]["status"]), (&json!("running"), &json!("running")));
    assert_eq!(job["progress"]["phase"], "creating the instance");
    assert_eq!(p.get(&format!("/jobs?service_id={id}")).await.expect(200)["jobs"], json!([job]));
    assert_eq!(p.get("/jobs/").await.expect(200)["jobs"], json!([job]));
    let other = "00000000-0000-4000-8000-000000000000";
    assert_eq!(p.get(&format!("/jobs?service_id={other}")).await.expect(200), json!({"jobs": []}));
}

#[tokio::test]
async fn the_platform_says_what_it_offers() {
    let p = platform().await;
    let plans = p.get("/plans").await.expect(200);
    assert_eq!(plans["plans"].as_array().unwrap().len(), 16);
    let smallest = json!({"name": "tier-1", "cpus": 1, "memory_mib": 2048, "max_connections": 100});
    assert_eq!(plans["plans"][0], smallest);
    assert_eq!(p.get("/zones/").await.expect(200)["zones"][0], "se-sto1");
    for path in ["/presets", "/presets/", "/managed-services/presets", "/managed-services/presets/"] {
        assert_eq!(p.get(path).await.expect(200), json!({"presets": []}));
    }
    p.service("one", PG, ServiceStatus::Running).await;
    p.service("two", PG, ServiceStatus::Running).await;
    let page = p.get("/managed-services?limit=1&offset=1&other=x").await.expect(200);
    assert_eq!((&page["total"], &page["limit"], &page["offset"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(page["services"].as_array().unwrap().len(), 1);
    let beyond = p.get("/managed-services?offset=4294967295&limit=0").await.expect(200);
    assert_eq!(beyond["services"], json!([]));
}

#[tokio::test]
async fn a_service_beyond_the_quota_is_refused_and_says_what_to_do() {
    let p = platform().await;
    for number in 0..crate::api::harness::MAX_SERVICES {
        let asked =
            json!({"name": format!("db-{number}"), "database_type": "postgresql", "plan_name": "tier-2"});
        p.post("/managed-services", asked).await.expect(201);
    }
    let said = p
        .post(
            "/managed-services",
            json!({"name": "more", "database_type": "postgresql", "plan_name": "tier-2"}),
        )
        .await;
    let said = said.expect(409);
    assert!(said["error"].as_str().unwrap().contains("raise max_services"), "{said}");
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_fraction_of_nothing() {
    let p = platform().await;
    let asked =
        json!({"name": "abc", "database_type": "postgresql", "plan_name": "tier-2", "storage_size_gb": 60.0});
    assert_eq!(p.post("/managed-services", asked).await.expect(201)["storage_size_gb"], 60);
}
