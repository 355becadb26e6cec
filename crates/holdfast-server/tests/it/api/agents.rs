//! What agents tell of their log, over their own routes.

use axum::body::Body;
use axum::http::{Request, header};
use holdfast_api::agent::{CoverageReport, Secret};
use holdfast_core::LineageId;
use holdfast_core::engine::EngineKind;
use holdfast_core::position::{Coverage, Position};
use holdfast_core::service::ServiceStatus;
use holdfast_server::jobs::agents;
use jiff::Timestamp;
use tower::ServiceExt as _;

use crate::api::harness::{Platform, platform};

const TOKEN: &str = "the agents' token";

async fn tell(p: &Platform, token: &str, newest: Vec<(LineageId, Coverage)>) -> u16 {
    let request = Request::post("/agent/v1/coverage")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(serde_json::to_vec(&CoverageReport { newest }).unwrap()))
        .unwrap();
    let app = agents::router(p.cp.clone(), Secret(TOKEN.to_owned()));
    app.oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn an_agent_lengthens_known_stretches_of_log_at_once_and_makes_none() {
    let p = platform().await;
    let service = p.service("orders", EngineKind::Postgresql, ServiceStatus::Running).await;
    let lineage = service.lineage_id;
    let stretch = |from, to, minute: i64| Coverage {
        from: Position { timeline: 1, offset: from },
        to: Position { timeline: 1, offset: to },
        complete_until: Some(Timestamp::from_second(60 * minute).unwrap()),
    };
    let known = stretch(100, 200, 2);
    p.cp.catalog.upsert_coverage(lineage, &known).await.unwrap();

    let longer = stretch(100, 300, 3);
    assert_eq!(tell(&p, "another", vec![(lineage, longer.clone())]).await, 401);
    assert_eq!(p.cp.catalog.coverage_of(lineage).await.unwrap(), [known], "nobody was asked");

    // Behind a gap that nobody has told of yet, and of a lineage that nobody knows: both wait.
    let stranger = LineageId::random();
    let all = vec![(lineage, stretch(400, 500, 4)), (stranger, stretch(0, 10, 4))];
    assert_eq!(tell(&p, TOKEN, all).await, 200);
    assert_eq!(tell(&p, TOKEN, vec![(lineage, longer.clone())]).await, 200);
    let late = stretch(100, 250, 1);
    assert_eq!(tell(&p, TOKEN, vec![(lineage, late)]).await, 200);
    assert_eq!(p.cp.catalog.coverage_of(lineage).await.unwrap(), [longer]);
    assert!(p.cp.catalog.coverage_of(stranger).await.unwrap().is_empty());
}
