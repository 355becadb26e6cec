//! What the platform offers, and who the caller is.

use axum::extract::{Path, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::{Extension, Json};
use holdfast_api::error::ErrorBody;
use holdfast_api::platform::{
    DatabaseVersionList, Health, Me, Organization, OrganizationList, PlanList, PresetList, ZoneList,
};
use serde::Deserialize;

use crate::ControlPlane;
use crate::app::{self, AppError, Caller};
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::extract::QueryOf;
use crate::http::openapi::{DescriptionText, Guarded, Missing};

/// Whether the control plane answers and reaches its catalog. Needs no credentials.
#[utoipa::path(get, operation_id = "health", path = "/health", tag = "platform", security(()), responses(
    (status = 200, body = Health),
    (status = 503, body = ErrorBody, description = "the catalog cannot be read")
))]
pub(crate) async fn health(State(cp): State<ControlPlane>) -> Result<Json<Health>, ApiError> {
    cp.catalog.setting(crate::http::auth::PASSWORD_SETTING).await.map_err(AppError::from)?;
    Ok(Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }))
}

/// This description. Needs no credentials.
#[utoipa::path(get, operation_id = "description", path = "/openapi.json", tag = "platform", security(()),
    responses((status = 200, body = Value, description = "OpenAPI 3.1")))]
pub(crate) async fn description(
    Extension(DescriptionText(text)): Extension<DescriptionText>,
) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/json")], text.to_string())
}

/// Who the credentials belong to.
#[utoipa::path(get, operation_id = "me", path = "/auth/me", tag = "platform", responses((status = 200, body = Me), Guarded))]
pub(crate) async fn me(
    State(cp): State<ControlPlane>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Me>, ApiError> {
    let organizations = app::organizations::list(&cp).await?.into_iter().map(convert::organization).collect();
    Ok(Json(Me { username: caller.username, role: "owner".to_owned(), organizations }))
}

/// The caller's organizations.
#[utoipa::path(get, operation_id = "list_organizations", path = "/organizations", tag = "organizations",
    responses((status = 200, body = OrganizationList), Guarded))]
pub(crate) async fn list_organizations(
    State(cp): State<ControlPlane>,
) -> Result<Json<OrganizationList>, ApiError> {
    let organizations = app::organizations::list(&cp).await?.into_iter().map(convert::organization).collect();
    Ok(Json(OrganizationList { organizations }))
}

/// One organization, by id or slug.
#[utoipa::path(get, operation_id = "get_organization", path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path)),
    responses((status = 200, body = Organization), Guarded, Missing))]
pub(crate) async fn get_organization(
    State(cp): State<ControlPlane>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Organization>, ApiError> {
    let Path(id) = id.map_err(|_| AppError::NotFound("organization"))?;
    Ok(Json(convert::organization(app::organizations::get(&cp, &id).await?)))
}

/// The size tiers, smallest first.
#[utoipa::path(get, operation_id = "list_plans", path = "/plans", tag = "platform", responses((status = 200, body = PlanList), Guarded))]
pub(crate) async fn plans() -> Json<PlanList> {
    Json(PlanList { plans: holdfast_core::size::plans().iter().map(convert::plan).collect() })
}

/// The zones that clients know; any other of the same form is accepted too.
#[utoipa::path(get, operation_id = "list_zones", path = "/zones", tag = "platform", responses((status = 200, body = ZoneList), Guarded))]
pub(crate) async fn zones() -> Json<ZoneList> {
    Json(ZoneList { zones: holdfast_core::name::ZONES.map(str::to_owned).to_vec() })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct VersionsQuery {
    /// Only this engine's.
    #[serde(rename = "type")]
    #[param(schema_with = holdfast_api::service::engine_or_none_schema, required = false)]
    engine: Option<String>,
}

/// The versions that new services can have.
#[utoipa::path(get, operation_id = "list_database_versions", path = "/database-versions", tag = "platform", params(VersionsQuery), responses(
    (status = 200, body = DatabaseVersionList),
    (status = 400, body = ErrorBody, description = "unknown engine"),
    Guarded
))]
pub(crate) async fn database_versions(
    State(cp): State<ControlPlane>,
    QueryOf(query): QueryOf<VersionsQuery>,
) -> Result<Json<DatabaseVersionList>, ApiError> {
    let versions = app::platform::versions(&cp, query.engine.as_deref()).await?;
    Ok(Json(DatabaseVersionList { versions: versions.into_iter().map(convert::version).collect() }))
}

/// Named sets of values for new services; this release has none.
#[utoipa::path(get, operation_id = "list_presets", path = "/presets", tag = "platform", responses((status = 200, body = PresetList), Guarded))]
pub(crate) async fn presets() -> Json<PresetList> {
    Json(PresetList { presets: Vec::new() })
}

/// The same as `/presets`.
#[utoipa::path(get, operation_id = "list_service_presets", path = "/managed-services/presets", tag = "platform",
    responses((status = 200, body = PresetList), Guarded))]
pub(crate) async fn presets_below_services() -> Json<PresetList> {
    presets().await
}
