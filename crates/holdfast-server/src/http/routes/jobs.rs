//! Jobs: what is being done, and how far it is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use holdfast_api::error::ErrorBody;
use holdfast_api::job::{Job, JobList};
use holdfast_core::{JobId, ServiceId};
use serde::Deserialize;

use crate::ControlPlane;
use crate::app;
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::extract::{PathId, PathIds, QueryOf};
use crate::http::openapi::{Conflicting, Guarded, Missing};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsQuery {
    /// Only this service's.
    #[param(format = Uuid)]
    service_id: Option<String>,
}

/// The newest jobs, newest first.
#[utoipa::path(get, operation_id = "list_jobs", path = "/jobs", tag = "jobs", params(JobsQuery), responses(
    (status = 200, body = JobList),
    (status = 400, body = ErrorBody, description = "service_id is no id"),
    Guarded
))]
pub(crate) async fn list(
    State(cp): State<ControlPlane>,
    QueryOf(query): QueryOf<JobsQuery>,
) -> Result<Json<JobList>, ApiError> {
    let id = |text: String| text.parse().map_err(|_| ApiError::invalid("service_id is no service id"));
    let service = query.service_id.map(id).transpose()?;
    Ok(Json(JobList { jobs: app::jobs::list(&cp, service).await?.into_iter().map(convert::job).collect() }))
}

/// One job with its steps and its progress.
#[utoipa::path(get, operation_id = "get_job", path = "/jobs/{id}", tag = "jobs", params(("id" = Uuid, Path)),
    responses((status = 200, body = Job), Guarded, Missing))]
pub(crate) async fn get(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<JobId>,
) -> Result<Json<Job>, ApiError> {
    Ok(Json(convert::job(app::jobs::get(&cp, id).await?)))
}

/// Ends a backup, a restore or the making of a service. It takes effect within seconds: follow the job. A body is not read.
#[utoipa::path(post, operation_id = "cancel_job", path = "/jobs/{id}/cancel", tag = "jobs", params(("id" = Uuid, Path)),
    responses((status = 202, body = Job), Guarded, Missing, Conflicting))]
pub(crate) async fn cancel(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<JobId>,
) -> Result<(StatusCode, Json<Job>), ApiError> {
    Ok((StatusCode::ACCEPTED, Json(convert::job(app::jobs::cancel(&cp, id).await?))))
}

/// All jobs of a service, newest first.
#[utoipa::path(get, operation_id = "list_service_jobs", path = "/managed-services/{id}/jobs", tag = "jobs", params(("id" = Uuid, Path)),
    responses((status = 200, body = JobList), Guarded, Missing))]
pub(crate) async fn of_service(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<JobList>, ApiError> {
    Ok(Json(JobList { jobs: app::jobs::of_service(&cp, id).await?.into_iter().map(convert::job).collect() }))
}

/// The restores that read from a service, newest first.
#[utoipa::path(get, operation_id = "list_restore_jobs", path = "/managed-services/{id}/restore-jobs", tag = "jobs", params(("id" = Uuid, Path)),
    responses((status = 200, body = JobList), Guarded, Missing))]
pub(crate) async fn restores_of_service(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<JobList>, ApiError> {
    Ok(Json(JobList {
        jobs: app::jobs::restores_from(&cp, id).await?.into_iter().map(convert::job).collect(),
    }))
}

/// One restore that reads from a service.
#[utoipa::path(get, operation_id = "get_restore_job", path = "/managed-services/{id}/restore-jobs/{job_id}", tag = "jobs",
    params(("id" = Uuid, Path), ("job_id" = Uuid, Path)), responses((status = 200, body = Job), Guarded, Missing))]
pub(crate) async fn restore_of_service(
    State(cp): State<ControlPlane>,
    PathIds(id, job): PathIds<JobId>,
) -> Result<Json<Job>, ApiError> {
    Ok(Json(convert::job(app::jobs::restore_from(&cp, id, job).await?)))
}
