//! The key-encryption keys.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use holdfast_api::keys::{Keys, StartedRotation};

use crate::ControlPlane;
use crate::app;
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::openapi::{Conflicting, Guarded};

/// The key-encryption keys, what each still wraps, and the newest rotation.
#[utoipa::path(get, operation_id = "get_keys", path = "/keys", tag = "keys", responses((status = 200, body = Keys), Guarded))]
pub(crate) async fn get(State(cp): State<ControlPlane>) -> Result<Json<Keys>, ApiError> {
    Ok(Json(convert::keys(app::keys::status(&cp).await?)))
}

/// Makes a new key-encryption key, wraps every data key and password by it, and removes the older ones. Touches no data.
/// One at a time: follow the job. A body is not read.
#[utoipa::path(post, operation_id = "rotate_keys", path = "/keys/rotate", tag = "keys",
    responses((status = 202, body = StartedRotation), Guarded, Conflicting))]
pub(crate) async fn rotate(
    State(cp): State<ControlPlane>,
) -> Result<(StatusCode, Json<StartedRotation>), ApiError> {
    let job = convert::job(app::keys::rotate(&cp).await?);
    let message = "the rotation is queued".to_owned();
    Ok((StatusCode::ACCEPTED, Json(StartedRotation { job_id: job.id, message, job })))
}
