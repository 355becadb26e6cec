//! Room in the data folder: below the reserve nothing new is begun, so that what runs can end and somebody can clean up.

use std::time::Duration;

use holdfast_core::disk::{Level, Size, Usage, level};
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::ControlPlane;

const SCAN: Duration = Duration::from_secs(5);

/// What is said when the catalog itself cannot be written.
pub(crate) const CATALOG_FULL: &str = "the disk of Holdfast's data folder is full, so nothing can be recorded: make \
     room there and try again (databases go on running and archiving meanwhile)";

/// # Errors
/// `NoRoom` when less than the reserve is free.
pub(super) fn require(cp: &ControlPlane) -> Result<(), AppError> {
    // Where the system does not tell, the write itself will.
    let Ok(space) = holdfast_store::space_of(&cp.settings.data_dir) else { return Ok(()) };
    if !space.is_low() {
        return Ok(());
    }
    Err(AppError::NoRoom(format!(
        "the disk of Holdfast's data folder {} is full: {} free, {} are kept for cleaning up; make room there, delete \
         backups that are not needed, and try again",
        cp.settings.data_dir.display(),
        Size(space.free_bytes),
        Size(space.reserve_bytes())
    )))
}

/// Tells the log whenever the data folder's disk reaches or leaves 60 %, 80 % or the reserve.
pub async fn watch(cp: ControlPlane, stop: CancellationToken) {
    let mut before = Level::Fine;
    loop {
        if let Ok(volume) = holdfast_store::space_of(&cp.settings.data_dir) {
            let now = level(&Usage { volume, ..Usage::default() }, before);
            if now != before {
                tell(&cp, now, before, volume.used_percent(), Size(volume.free_bytes));
            }
            before = now;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}

fn tell(cp: &ControlPlane, now: Level, before: Level, used_percent: f64, free: Size) {
    let used_percent = used_percent.round();
    let folder = cp.settings.data_dir.display();
    match now {
        Level::Full => tracing::error!(
            %folder, %free,
            "the data folder's disk is full: no services, backups or restores are begun until there is room"
        ),
        _ if now > before => {
            tracing::warn!(%folder, %free, used_percent, "the data folder's disk is filling up")
        }
        _ => tracing::info!(%folder, %free, used_percent, "the data folder's disk has room again"),
    }
}
