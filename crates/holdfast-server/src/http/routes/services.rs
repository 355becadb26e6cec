//! Services, their metrics and their recovery window.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use holdfast_api::metrics::Metrics;
use holdfast_api::restore::Pitr;
use holdfast_api::service::{CreateService, PatchService, Service, ServiceList};
use holdfast_core::ServiceId;
use serde::Deserialize;

use crate::ControlPlane;
use crate::app::{self, Caller};
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::extract::{Body, PathId, QueryOf};
use crate::http::openapi::{Conflicting, Guarded, Missing, WithBody};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Show at most so many; absent: all.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4294967295_i64)]
    limit: Option<u32>,
    /// Leave out so many first.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4294967295_i64)]
    offset: Option<u32>,
}

/// The living services, oldest first; of one organization with `X-Active-Org-ID`.
#[utoipa::path(get, operation_id = "list_services", path = "/managed-services", tag = "services",
    params(Page, ("X-Active-Org-ID" = Option<String>, Header, description = "organization id or slug")),
    responses((status = 200, body = ServiceList),
        (status = 400, body = holdfast_api::error::ErrorBody, description = "limit or offset is no count"), Guarded))]
pub(crate) async fn list(
    State(cp): State<ControlPlane>,
    Extension(caller): Extension<Caller>,
    QueryOf(page): QueryOf<Page>,
) -> Result<Json<ServiceList>, ApiError> {
    let offset = page.offset.unwrap_or(0);
    let (services, total) = app::services::list(&cp, &caller, page.limit, offset).await?;
    Ok(Json(ServiceList {
        services: services.into_iter().map(convert::service).collect(),
        total,
        limit: page.limit.map_or(total, u64::from),
        offset: offset.into(),
    }))
}

/// Makes a service; it is `pending` at first.
#[utoipa::path(post, operation_id = "create_service", path = "/managed-services", tag = "services", request_body = CreateService,
    params(("X-Active-Org-ID" = Option<String>, Header, description = "organization id or slug")),
    responses((status = 201, body = Service), Guarded, WithBody, Conflicting))]
pub(crate) async fn create(
    State(cp): State<ControlPlane>,
    Extension(caller): Extension<Caller>,
    Body(asked): Body<CreateService>,
) -> Result<(StatusCode, Json<Service>), ApiError> {
    let view = app::services::create(&cp, &caller, asked).await?;
    Ok((StatusCode::CREATED, Json(convert::service(view))))
}

/// One service.
#[utoipa::path(get, operation_id = "get_service", path = "/managed-services/{id}", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = Service), Guarded, Missing))]
pub(crate) async fn get(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<Service>, ApiError> {
    Ok(Json(convert::service(app::services::get(&cp, id).await?)))
}

/// Changes what is given; the answer shows it already.
#[utoipa::path(patch, operation_id = "change_service", path = "/managed-services/{id}", tag = "services", params(("id" = Uuid, Path)),
    request_body = Option<PatchService>,
    responses((status = 200, body = Service), Guarded, WithBody, Missing, Conflicting))]
pub(crate) async fn patch(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
    Body(asked): Body<PatchService>,
) -> Result<Json<Service>, ApiError> {
    Ok(Json(convert::service(app::services::patch(&cp, id, asked).await?)))
}

/// Deletes a service for good. Its backups stay restorable until they expire.
#[utoipa::path(delete, operation_id = "delete_service", path = "/managed-services/{id}", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 204, description = "gone"), Guarded, Missing))]
pub(crate) async fn delete(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<StatusCode, ApiError> {
    app::services::delete(&cp, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops a running service.
#[utoipa::path(post, operation_id = "stop_service", path = "/managed-services/{id}/stop", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = Service), Guarded, Missing, Conflicting))]
pub(crate) async fn stop(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<Service>, ApiError> {
    Ok(Json(convert::service(app::services::stop(&cp, id).await?)))
}

/// Starts a stopped service.
#[utoipa::path(post, operation_id = "start_service", path = "/managed-services/{id}/start", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = Service), Guarded, Missing, Conflicting))]
pub(crate) async fn start(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<Service>, ApiError> {
    Ok(Json(convert::service(app::services::start(&cp, id).await?)))
}

/// What the service's agent measured last, and the state of point-in-time recovery.
#[utoipa::path(get, operation_id = "get_metrics", path = "/managed-services/{id}/metrics", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = Metrics), Guarded, Missing))]
pub(crate) async fn metrics(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<Metrics>, ApiError> {
    Ok(Json(convert::metrics(app::metrics::current(&cp, id).await?)))
}

/// The same as `/metrics`.
#[utoipa::path(get, operation_id = "get_current_metrics", path = "/managed-services/{id}/metrics/current", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = Metrics), Guarded, Missing))]
pub(crate) async fn current_metrics(
    state: State<ControlPlane>,
    id: PathId<ServiceId>,
) -> Result<Json<Metrics>, ApiError> {
    metrics(state, id).await
}

/// The recovery window, the log archive's state and its gaps.
#[utoipa::path(get, operation_id = "get_pitr", path = "/managed-services/{id}/pitr", tag = "backups", params(("id" = Uuid, Path)),
    responses((status = 200, body = Pitr), Guarded, Missing))]
pub(crate) async fn pitr(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<Pitr>, ApiError> {
    Ok(Json(convert::pitr(app::pitr::get(&cp, id).await?)))
}
