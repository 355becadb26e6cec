//! What can be created here.

use holdfast_core::engine::EngineKind;

use super::AppError;
use crate::ControlPlane;

/// A version that services can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedVersion {
    pub engine: EngineKind,
    pub version: &'static str,
    pub is_default: bool,
}

/// Versions that new services can have, of all engines or of one: what the release knows and a host can run.
///
/// # Errors
/// `Invalid` for an engine that the contract does not know.
pub async fn versions(cp: &ControlPlane, engine: Option<&str>) -> Result<Vec<OfferedVersion>, AppError> {
    let wanted: Option<EngineKind> = match engine.filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|e| AppError::invalid(format!("type: {e}")))?),
        None => None,
    };
    cp.live.versions_known().await;
    let engines = EngineKind::ALL.into_iter().filter(|kind| wanted.is_none_or(|wanted| wanted == *kind));
    Ok(engines
        .flat_map(|engine| {
            let all = offered(cp, engine);
            let default = default_version(engine, &all);
            all.into_iter().map(move |version| OfferedVersion {
                engine,
                version,
                is_default: default == Some(version),
            })
        })
        .collect())
}

/// The versions of an engine that can be had, oldest first. While no host has said what it can run, all that the
/// release knows.
pub(super) fn offered(cp: &ControlPlane, engine: EngineKind) -> Vec<&'static str> {
    let capability = engine.capability();
    if !capability.available {
        return Vec::new();
    }
    let runnable = cp.live.versions(engine);
    let can_run = |version: &&str| runnable.as_ref().is_none_or(|all| all.iter().any(|one| one == version));
    capability.versions.iter().copied().filter(can_run).collect()
}

/// The engine's usual version where it can be had, the newest one otherwise.
pub(super) fn default_version(engine: EngineKind, offered: &[&'static str]) -> Option<&'static str> {
    let usual = engine.capability().default_version;
    offered.iter().copied().find(|version| *version == usual).or(offered.last().copied())
}
