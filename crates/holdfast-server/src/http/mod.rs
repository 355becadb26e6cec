//! The HTTP API: routes, credentials, the error shape, and the description of it all.

pub mod auth;
mod convert;
mod error;
mod extract;
mod openapi;
mod outer;
mod routes;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::{Extension, Router, middleware};
use tower::{Layer as _, util::MapRequestLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

pub use auth::hash_password;
use error::{ApiError, Kind};

use crate::ControlPlane;

/// The whole API. It answers every path that the router it is merged into does not: with a 404 in the error shape where
/// there is nothing.
pub fn router(cp: ControlPlane) -> Router {
    let max_body_bytes = cp.settings.max_body_bytes;
    let (routes, description) = described(&cp);
    let text: Arc<str> = description.to_json().expect("a description of plain types is JSON").into();
    let routes = routes
        .layer(Extension(openapi::DescriptionText(text)))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .with_state(cp);
    // The slash has to go before a route is looked for, hence a router around the router.
    let routes = MapRequestLayer::new(outer::without_trailing_slash).layer(routes);
    Router::new().fallback_service(routes).layer(middleware::from_fn(outer::outer))
}

/// The description of the API, as `/openapi.json` serves it.
fn described(cp: &ControlPlane) -> (Router<ControlPlane>, utoipa::openapi::OpenApi) {
    let state = auth::AuthState { cp: cp.clone(), gate: Arc::new(auth::Gate::new()) };
    let guarded = routes::guarded().route_layer(middleware::from_fn_with_state(state, auth::authenticate));
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .merge(guarded)
        .merge(routes::open())
        .split_for_parts()
}

async fn not_found() -> impl IntoResponse {
    ApiError::new(Kind::NotFound, "there is nothing at this path; see /openapi.json")
}

async fn method_not_allowed() -> impl IntoResponse {
    ApiError::new(Kind::MethodNotAllowed, "this path does not take that method; see the Allow header")
}
