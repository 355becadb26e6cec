//! The description of the API: whole, and true of what the routes answer.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

use crate::api::harness::platform;

/// Every route that this release answers, as the contract writes it.
const ROUTES: [(&str, &str); 37] = [
    ("get", "/health"),
    ("get", "/auth/me"),
    ("get", "/organizations"),
    ("get", "/organizations/{id}"),
    ("get", "/plans"),
    ("get", "/zones"),
    ("get", "/database-versions"),
    ("get", "/presets"),
    ("get", "/managed-services/presets"),
    ("get", "/managed-services"),
    ("post", "/managed-services"),
    ("get", "/managed-services/{id}"),
    ("patch", "/managed-services/{id}"),
    ("delete", "/managed-services/{id}"),
    ("post", "/managed-services/{id}/stop"),
    ("post", "/managed-services/{id}/start"),
    ("get", "/managed-services/{id}/metrics"),
    ("get", "/managed-services/{id}/metrics/current"),
    ("get", "/managed-services/{id}/pitr"),
    ("get", "/managed-services/{id}/backups"),
    ("post", "/managed-services/{id}/backups"),
    ("get", "/managed-services/{id}/backups/{backup_id}"),
    ("delete", "/managed-services/{id}/backups/{backup_id}"),
    ("post", "/managed-services/{id}/backups/restore"),
    ("post", "/managed-services/{id}/backups/{backup_id}/restore"),
    ("get", "/managed-services/{id}/database-users"),
    ("post", "/managed-services/{id}/database-users/{username}/reveal-password"),
    ("post", "/managed-services/{id}/database-users/{username}/reset-password"),
    ("get", "/keys"),
    ("post", "/keys/rotate"),
    ("get", "/jobs"),
    ("get", "/jobs/{id}"),
    ("post", "/jobs/{id}/cancel"),
    ("get", "/managed-services/{id}/jobs"),
    ("get", "/managed-services/{id}/restore-jobs"),
    ("get", "/managed-services/{id}/restore-jobs/{job_id}"),
    ("get", "/openapi.json"),
];

async fn description() -> Value {
    let p = platform().await;
    let answer = p.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.expect(200)
}

/// All operations: method, path, operation.
fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    all
}

#[tokio::test]
async fn the_description_covers_every_route_and_no_other() {
    let described: BTreeSet<(String, String)> =
        operations(&description().await).into_iter().map(|(method, path, _)| (method, path)).collect();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described, routes);
}

#[tokio::test]
async fn every_described_route_answers_with_a_described_status_in_both_spellings() {
    let p = platform().await;
    for (method, path, operation) in operations(&description().await) {
        let described: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
        let path = path.replace("{id}", "00000000-0000-4000-8000-000000000000");
        let path = path.replace("{backup_id}", "bkp_aaaaaaaaaaaaaaaa").replace("{username}", "app_user");
        let path = path.replace("{job_id}", "00000000-0000-4000-8000-000000000000");
        for path in [path.clone(), format!("{path}/")] {
            for body in ["", "{}", "[]"] {
                let answer = p.call(&method.to_uppercase(), &path, body).await;
                let status = answer.status.as_u16().to_string();
                assert!(described.contains(&&status), "{method} {path} {body:?}: {status} is not described");
                assert!(
                    !String::from_utf8_lossy(&answer.bytes).contains("nothing at this path"),
                    "{method} {path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn everything_but_health_and_the_description_needs_credentials() {
    let p = platform().await;
    let description = description().await;
    assert_eq!(description["components"]["securitySchemes"]["basic"]["scheme"], "basic");
    assert_eq!(description["security"], serde_json::json!([{"basic": []}]));
    for (method, path, operation) in operations(&description) {
        let open = ["/health", "/openapi.json"].contains(&path.as_str());
        let request = Request::builder().method(method.to_uppercase().as_str());
        let request = request.uri(path.replace(['{', '}'], "")).body(Body::empty()).unwrap();
        let status = p.send(request).await.status.as_u16();
        assert_eq!(status == 401, !open, "{method} {path}: {status}");
        assert_eq!(operation["responses"].get("401").is_some(), !open, "{method} {path}");
        assert_eq!(
            operation["security"],
            if open { serde_json::json!([{}]) } else { Value::Null },
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_operation_has_an_id() {
    let description = description().await;
    let mut references = Vec::new();
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(all) => all.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    collect(&description, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("all references are local");
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let all = operations(&description);
    let ids: BTreeSet<&str> = all.iter().map(|(_, _, o)| o["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "operation ids must differ: {ids:?}");
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(description["info"]["title"], "Holdfast");
}
