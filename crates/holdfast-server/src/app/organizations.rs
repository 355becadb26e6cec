//! The owners of services.

use holdfast_catalog::Organization;
use holdfast_core::OrganizationId;

use super::{AppError, Caller};
use crate::ControlPlane;

/// All organizations of the caller, oldest first; the administrator belongs to every one.
///
/// # Errors
/// The catalog failed.
pub async fn list(cp: &ControlPlane) -> Result<Vec<Organization>, AppError> {
    Ok(cp.catalog.organizations().await?)
}

/// By id or slug.
///
/// # Errors
/// `NotFound`.
pub async fn get(cp: &ControlPlane, id_or_slug: &str) -> Result<Organization, AppError> {
    cp.catalog.organization(id_or_slug).await?.ok_or(AppError::NotFound("organization"))
}

/// The organization that a request names as the active one.
///
/// # Errors
/// `Forbidden` when the caller is no member of it, or it does not exist: the two look alike.
pub async fn active(cp: &ControlPlane, id_or_slug: &str) -> Result<OrganizationId, AppError> {
    match cp.catalog.organization(id_or_slug).await? {
        Some(organization) => Ok(organization.id),
        None => Err(AppError::Forbidden(
            "X-Active-Org-ID names no organization that you are a member of".to_owned(),
        )),
    }
}

/// Where the caller's creates go.
///
/// # Errors
/// `Unavailable` before the first start has made the personal organization.
pub(super) async fn home(cp: &ControlPlane, caller: &Caller) -> Result<OrganizationId, AppError> {
    if let Some(active) = caller.active {
        return Ok(active);
    }
    let all = cp.catalog.organizations().await?;
    let personal = all.iter().find(|organization| organization.is_personal);
    personal.map(|organization| organization.id).ok_or_else(|| {
        AppError::Unavailable("the first start has not finished: no organization exists yet".to_owned())
    })
}
