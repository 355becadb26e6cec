//! Database users and their passwords.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use holdfast_api::user::{Credentials, DatabaseUserList};
use holdfast_core::ServiceId;

use crate::ControlPlane;
use crate::app;
use crate::http::convert;
use crate::http::error::ApiError;
use crate::http::extract::{PathId, PathIds, UserName};
use crate::http::openapi::{Conflicting, Guarded, Missing};

type Uncached = [(HeaderName, HeaderValue); 1];

/// A password stays in no cache on its way.
fn uncached() -> Uncached {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// The users; none before the service has been provisioned.
#[utoipa::path(get, operation_id = "list_database_users", path = "/managed-services/{id}/database-users", tag = "users", params(("id" = Uuid, Path)),
    responses((status = 200, body = DatabaseUserList), Guarded, Missing))]
pub(crate) async fn list(
    State(cp): State<ControlPlane>,
    PathId(id): PathId<ServiceId>,
) -> Result<Json<DatabaseUserList>, ApiError> {
    let users = app::users::list(&cp, id).await?.into_iter().map(convert::user).collect();
    Ok(Json(DatabaseUserList { users }))
}

/// The user's password and everything else needed to connect.
#[utoipa::path(post, operation_id = "reveal_password", path = "/managed-services/{id}/database-users/{username}/reveal-password", tag = "users",
    params(("id" = Uuid, Path), ("username" = String, Path)),
    responses((status = 200, body = Credentials), Guarded, Missing, Conflicting))]
pub(crate) async fn reveal(
    State(cp): State<ControlPlane>,
    PathIds(id, UserName(user)): PathIds<UserName>,
) -> Result<(Uncached, Json<Credentials>), ApiError> {
    let revealed = app::users::reveal(&cp, id, &user).await?;
    Ok((uncached(), Json(convert::credentials(revealed))))
}

/// Gives the user a new random password.
#[utoipa::path(post, operation_id = "reset_password", path = "/managed-services/{id}/database-users/{username}/reset-password", tag = "users",
    params(("id" = Uuid, Path), ("username" = String, Path)),
    responses((status = 200, body = Credentials), Guarded, Missing, Conflicting))]
pub(crate) async fn reset(
    State(cp): State<ControlPlane>,
    PathIds(id, UserName(user)): PathIds<UserName>,
) -> Result<(Uncached, Json<Credentials>), ApiError> {
    let revealed = app::users::reset_password(&cp, id, &user, app::users::RESET_PATIENCE).await?;
    Ok((uncached(), Json(convert::credentials(revealed))))
}
