//! What differs from engine to engine, as clients see it: all of it is data of `core::engine`.

use holdfast_core::AgentId;
use holdfast_core::engine::EngineKind;
use holdfast_core::service::ServiceStatus;
use serde_json::json;

use crate::api::harness::platform;
use EngineKind::{Mongodb, Mysql, Postgresql, Valkey};

#[tokio::test]
async fn connection_strings_are_the_engines_own_and_say_whether_there_is_tls() {
    let p = platform().await;
    for (engine, database, expected) in [
        (Postgresql, "defaultdb", "postgresql://app_user:s%2F@127.0.0.1:5432/defaultdb?sslmode=require"),
        (Mysql, "defaultdb", "mysql://app_user:s%2F@127.0.0.1:5432/defaultdb?ssl-mode=REQUIRED"),
        (
            Mongodb,
            "defaultdb",
            "mongodb://app_user:s%2F@127.0.0.1:5432/defaultdb?authSource=admin&directConnection=true&tls=true&tlsAllowInvalidCertificates=true",
        ),
        (Valkey, "0", "redis://app_user:s%2F@127.0.0.1:5432/0"),
    ] {
        let service = p.service(&format!("a-{engine}"), engine, ServiceStatus::Running).await;
        p.user(&service, "app_user", "s/", 0).await;
        let path = format!("/managed-services/{}/database-users/app_user/reveal-password", service.id);
        let revealed = p.post(&path, json!({})).await.expect(200);
        assert_eq!(revealed["database"], database, "{engine}");
        assert_eq!(revealed["connection_string"], expected, "{engine}");
    }
}

#[tokio::test]
async fn networks_that_an_engine_cannot_enforce_are_refused_and_change_nothing() {
    let p = platform().await;
    let by_network = "does not tell clients by their network here";
    let single_ipv6 = "mysql cannot let in single networks of IPv6";
    for (engine, networks, refused) in [
        (Postgresql, json!(["2001:db8::/32", "10.0.0.0/8"]), None),
        (Mysql, json!(["10.0.0.0/8", "192.168.0.0/16"]), None),
        (Mysql, json!(["10.0.0.0/8", "2001:db8::/32"]), Some(format!("allowed_cidrs[1]: {single_ipv6}"))),
        (Mongodb, json!(["0.0.0.0/0", "10.0.0.0/8"]), None),
        (Mongodb, json!(["10.0.0.0/8", "2001:db8::/32"]), None),
        (Valkey, json!([]), None),
        (Valkey, json!(["127.0.0.0/8"]), None),
        (
            Valkey,
            json!(["127.0.0.0/8", "10.0.0.0/8"]),
            Some(format!("allowed_cidrs[1]: valkey {by_network}")),
        ),
    ] {
        let name = format!("db-{}", rand::random::<u32>());
        let service = p.service(&name, engine, ServiceStatus::Running).await;
        let path = format!("/managed-services/{}", service.id);
        let answer = p.call("PATCH", &path, json!({"allowed_cidrs": networks}).to_string()).await;
        match refused {
            None => assert_eq!(answer.expect(200)["allowed_cidrs"], networks, "{engine}"),
            Some(text) => {
                let said = answer.error(400);
                assert!(said.starts_with(&text), "{engine}: {said}");
                assert_eq!(p.get(&path).await.expect(200)["allowed_cidrs"], json!(service.allowed_cidrs));
                assert_eq!(p.open_jobs(service.id).await, []);
            }
        }
    }
}

#[tokio::test]
async fn a_method_that_the_engine_does_not_have_is_refused() {
    let p = platform().await;
    let service = p.service("db1", Mysql, ServiceStatus::Running).await;
    let path = format!("/managed-services/{}/backups", service.id);
    let refused = p.post(&path, json!({"backup_method": "pgbackrest"})).await.error(400);
    assert_eq!(refused, "backup_method \"pgbackrest\": backups of mysql are made with mysqldump or clone");
    let made = p.post(&path, json!({"backup_type": "pitr"})).await.expect(202);
    assert_eq!(made["backup_method"], "mysqldump", "what is usual needs no word");
}

#[tokio::test]
async fn a_version_that_no_host_runs_is_refused_with_those_that_one_does() {
    let p = platform().await;
    for engine in EngineKind::ALL.into_iter().filter(|engine| engine.capability().available) {
        let versions = engine.capability().versions;
        let (oldest, newest) = (versions[0], versions[versions.len() - 1]);
        let ask = |name: &str, version: &str| {
            json!({"name": format!("{name}-{engine}"), "database_type": engine.as_str(),
                "plan_name": "tier-1", "version": version})
        };
        let agent = AgentId::random();
        p.cp.live.put_versions(agent, vec![(engine, vec![newest.to_owned()])]);
        if oldest != newest {
            let refused = p.post("/managed-services", ask("old", oldest)).await.error(400);
            let expected = format!("no host here can run version {oldest} of {engine}; available: {newest}");
            assert_eq!(refused, expected);
        }
        let refused = p.post("/managed-services", ask("odd", "0.1")).await.error(400);
        assert_eq!(refused, format!("unknown version \"0.1\" of {engine}; available: {newest}"));
        let made = p.post("/managed-services", ask("usual", "")).await.expect(201);
        assert_eq!(made["version"], newest, "the default is one that can be had");
        p.cp.live.put_versions(agent, vec![(engine, Vec::new())]);
        for version in ["", newest] {
            let refused = p.post("/managed-services", ask("none", version)).await.error(400);
            assert!(refused.starts_with(&format!("no host here can run {engine}: ")), "{refused}");
        }
    }
}

#[tokio::test]
async fn an_engine_without_a_driver_yet_is_refused() {
    let p = platform().await;
    for engine in EngineKind::ALL.into_iter().filter(|engine| !engine.capability().available) {
        let asked = json!({"name": "new-one", "database_type": engine.as_str(), "plan_name": "tier-1"});
        let refused = p.post("/managed-services", asked).await.error(400);
        let text = format!("database_type {engine} is not available yet in this release");
        assert!(refused.starts_with(&text), "{refused}");
    }
}
