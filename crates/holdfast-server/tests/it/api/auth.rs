//! Who gets in, and what every answer carries.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, header};
use holdfast_api::agent::Secret;
use holdfast_catalog::Organization;
use holdfast_core::engine::EngineKind;
use holdfast_core::service::ServiceStatus;
use holdfast_core::{AgentId, OrganizationId};
use holdfast_server::http::auth::PASSWORD_SETTING;
use holdfast_server::jobs::agents;
use serde_json::json;
use tower::ServiceExt as _;

use crate::api::harness::{PASSWORD, basic, minutes_ago, platform};

#[tokio::test]
async fn a_changed_password_shuts_remembered_callers_out_at_once() {
    let p = platform().await;
    for _ in 0..3 {
        p.get("/auth/me").await.expect(200);
    }
    let new = holdfast_server::http::hash_password("new").unwrap();
    p.cp.catalog.put_setting(PASSWORD_SETTING, &new).await.unwrap();
    assert_eq!(p.get("/auth/me").await.error(401), "wrong user or password");
    let request = Request::get("/auth/me").header(header::AUTHORIZATION, basic("admin", "new"));
    p.send(request.body(Body::empty()).unwrap()).await.expect(200);
}

#[tokio::test]
async fn the_scheme_is_read_in_any_case_and_the_password_may_hold_colons() {
    let p = platform().await;
    assert!(PASSWORD.contains(':'));
    let value = basic("admin", PASSWORD).replacen("Basic ", "bAsIc  ", 1);
    let request = Request::get("/auth/me").header(header::AUTHORIZATION, value);
    let me = p.send(request.body(Body::empty()).unwrap()).await.expect(200);
    assert_eq!(me["username"], "admin");
    assert_eq!(me["organizations"][0]["slug"], "personal");
}

#[tokio::test]
async fn two_authorization_headers_are_none() {
    let p = platform().await;
    let good = basic("admin", PASSWORD);
    let request = Request::get("/auth/me").header(header::AUTHORIZATION, &good);
    let request = request.header(header::AUTHORIZATION, &good).body(Body::empty()).unwrap();
    assert_eq!(p.send(request).await.error(401), "more than one Authorization header");
}

#[tokio::test]
async fn without_a_password_nobody_gets_in_but_health_answers() {
    let p = platform().await;
    let request = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let health = p.send(request("/health")).await.expect(200);
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    p.send(request("/health/")).await.expect(200);
    p.send(request("/openapi.json")).await.expect(200);
    let refused = p.send(request("/organizations")).await;
    assert!(
        refused.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic realm=\"holdfast\"")
    );
    refused.error(401);
    p.cp.catalog.put_setting(PASSWORD_SETTING, "no hash at all").await.unwrap();
    assert_eq!(p.get("/auth/me").await.error(401), "wrong user or password");
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let p = platform().await;
    for (given, echoed) in [("abc-123", true), ("a b", false), ("", false)] {
        let request = Request::get("/health").header("x-request-id", given).body(Body::empty()).unwrap();
        let answer = p.send(request).await;
        let id = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(id == given, echoed, "{given:?} became {id:?}");
        assert!(!id.is_empty());
    }
    assert_ne!(p.get("/plans").await.headers["x-request-id"], p.get("/plans").await.headers["x-request-id"]);
}

#[tokio::test]
async fn the_active_organization_scopes_lists_and_creates() {
    let p = platform().await;
    let team = Organization {
        id: OrganizationId::random(),
        name: "Team".to_owned(),
        slug: "team".to_owned(),
        is_personal: false,
        created_at: minutes_ago(50),
    };
    p.cp.catalog.insert_organization(&team).await.unwrap();
    p.service("mine", EngineKind::Postgresql, ServiceStatus::Running).await;
    let send = |method: &'static str, organization: String, body: String| {
        let request = Request::builder().method(method).uri("/managed-services");
        let request = request.header(header::AUTHORIZATION, basic("admin", PASSWORD));
        p.send(request.header("x-active-org-id", organization).body(Body::from(body)).unwrap())
    };
    // The same name in another organization is another name.
    let body = json!({"name": "mine", "database_type": "postgresql", "plan_name": "tier-1"}).to_string();
    let made = send("POST", "team".to_owned(), body).await.expect(201);
    assert_eq!(made["organization_id"], team.id.to_string());
    for (organization, total) in [(team.id.to_string(), 1), ("personal".to_owned(), 1), (String::new(), 2)] {
        let list = send("GET", organization.clone(), String::new()).await.expect(200);
        assert_eq!(list["total"], total, "{organization:?}");
        assert_eq!(list["services"].as_array().unwrap().len(), total, "{organization:?}");
    }
    assert_eq!(p.get("/managed-services").await.expect(200)["total"], 2);
    let organizations = p.get("/organizations/").await.expect(200);
    assert_eq!(organizations["organizations"][1]["slug"], "team");
    assert_eq!(p.get("/organizations/team").await.expect(200), organizations["organizations"][1]);
    assert_eq!(p.get(&format!("/organizations/{}", team.id)).await.expect(200)["is_personal"], false);
}

#[tokio::test]
async fn agents_are_served_on_this_host_only_and_with_their_token() {
    let p = platform().await;
    let router = agents::router(p.cp.clone(), Secret("agents-token".to_owned()));
    let answer = |peer: &str, token: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        let request = Request::post("/agent/v1/lease").extension(ConnectInfo(peer));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let asked = json!({"agent_id": AgentId::random(), "wait_ms": 0});
        let request =
            request.header(header::CONTENT_TYPE, "application/json").body(Body::from(asked.to_string()));
        let router = router.clone();
        async move { router.oneshot(request.unwrap()).await.unwrap().status().as_u16() }
    };
    for peer in ["10.1.2.3:40000", "[2001:db8::1]:40000", "[::ffff:10.1.2.3]:40000"] {
        assert_eq!(answer(peer, "agents-token").await, 403, "{peer}");
    }
    for peer in ["127.0.0.1:40000", "[::1]:40000", "[::ffff:127.0.0.1]:40000"] {
        assert_eq!(answer(peer, "").await, 401, "{peer}");
        assert_eq!(answer(peer, "agents-toke").await, 401, "{peer}");
    }
    assert_eq!(answer("127.0.0.1:40000", "agents-token").await, 200);
}
