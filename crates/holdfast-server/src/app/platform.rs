//! What can be created here.

use holdfast_core::engine::EngineKind;

use super::AppError;

/// A version that services can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedVersion {
    pub engine: EngineKind,
    pub version: &'static str,
    pub is_default: bool,
}

/// Versions of all engines of this release, or of one.
///
/// # Errors
/// `Invalid` for an engine that the contract does not know.
pub fn versions(engine: Option<&str>) -> Result<Vec<OfferedVersion>, AppError> {
    let wanted: Option<EngineKind> = match engine.filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|e| AppError::invalid(format!("type: {e}")))?),
        None => None,
    };
    let offered = EngineKind::ALL.into_iter().filter(|kind| wanted.is_none_or(|wanted| wanted == *kind));
    Ok(offered
        .map(|engine| (engine, engine.capability()))
        .filter(|(_, capability)| capability.available)
        .flat_map(|(engine, capability)| {
            capability.versions.iter().map(move |version| OfferedVersion {
                engine,
                version,
                is_default: *version == capability.default_version,
            })
        })
        .collect())
}
