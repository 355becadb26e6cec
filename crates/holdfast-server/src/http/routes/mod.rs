//! The handlers: from request to application function, and its result to JSON. Nothing is decided here.

pub(crate) mod backups;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod platform;
pub(crate) mod services;
pub(crate) mod users;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ControlPlane;

/// All routes behind the log-in.
pub(crate) fn guarded() -> OpenApiRouter<ControlPlane> {
    OpenApiRouter::new()
        .routes(routes!(platform::me))
        .routes(routes!(platform::list_organizations))
        .routes(routes!(platform::get_organization))
        .routes(routes!(platform::plans))
        .routes(routes!(platform::zones))
        .routes(routes!(platform::database_versions))
        .routes(routes!(platform::presets))
        .routes(routes!(platform::presets_below_services))
        .routes(routes!(services::list, services::create))
        .routes(routes!(services::get, services::patch, services::delete))
        .routes(routes!(services::stop))
        .routes(routes!(services::start))
        .routes(routes!(services::metrics))
        .routes(routes!(services::current_metrics))
        .routes(routes!(services::pitr))
        .routes(routes!(backups::list, backups::trigger))
        .routes(routes!(backups::get, backups::delete))
        .routes(routes!(backups::restore_to_point))
        .routes(routes!(backups::restore_from_backup))
        .routes(routes!(users::list))
        .routes(routes!(users::reveal))
        .routes(routes!(users::reset))
        .routes(routes!(keys::get))
        .routes(routes!(keys::rotate))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::of_service))
        .routes(routes!(jobs::restores_of_service))
        .routes(routes!(jobs::restore_of_service))
}

/// Routes that anybody may ask.
pub(crate) fn open() -> OpenApiRouter<ControlPlane> {
    OpenApiRouter::new().routes(routes!(platform::health)).routes(routes!(platform::description))
}
