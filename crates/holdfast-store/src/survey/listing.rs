//! What lies where, by names alone.

use std::collections::HashMap;

use futures::TryStreamExt;
use holdfast_core::position::{Piece, Position};
use holdfast_core::{LineageId, OrganizationId};

use super::SurveyProgress;
use crate::error::Result;
use crate::layout::{LineageScope, ObjectName, ObjectPrefix, ServiceScope};
use crate::log::reading::ListedSegment;
use crate::repository::{ObjectClass, classify, version_in};
use crate::store::Store;

/// Objects of a lineage.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Log that a tool archived, and that of `segments`.
    pub(super) pieces: Vec<Piece>,
    /// Log that was shipped by ourselves.
    pub(super) segments: Vec<ListedSegment>,
    /// Length of each file of a backup, by its name in the manifest.
    pub(super) backup_files: HashMap<String, u64>,
    /// The engine's major version, from the archive's folder `<version>-<number>`.
    pub(super) version: Option<String>,
}

/// All services, by their folders.
pub(super) async fn services(store: &Store) -> Result<Vec<ServiceScope>> {
    let mut found = Vec::new();
    let (_, organizations) = store.list_folder(&ObjectPrefix::All).await?;
    for organization in organizations.iter().filter_map(|name| name.parse::<OrganizationId>().ok()) {
        let (_, services) = store.list_folder(&ObjectPrefix::Organization(organization)).await?;
        let services = services.iter().filter_map(|name| name.parse().ok());
        found.extend(services.map(|service| ServiceScope { organization, service }));
    }
    found.sort();
    Ok(found)
}

/// The lineages of a service, by their folders. There is one, unless nothing but keys was ever stored.
pub(super) async fn lineages(store: &Store, scope: ServiceScope) -> Result<Vec<LineageId>> {
    let (_, folders) = store.list_folder(&ObjectPrefix::Service(scope)).await?;
    Ok(folders.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Whether nothing lies there: stores that are a file system keep the folders of a service that was removed.
pub(super) async fn is_empty(store: &Store, scope: ServiceScope) -> Result<bool> {
    Ok(store.list(&ObjectPrefix::Service(scope)).try_next().await?.is_none())
}

/// Lists what a lineage's backups and log consist of.
pub(super) async fn files(store: &Store, lineage: LineageScope, progress: &SurveyProgress) -> Result<Files> {
    let mut files = Files::default();
    // First the tail: in a bucket in use its pieces go once the repository has what they hold.
    let mut listed = store.list(&ObjectPrefix::Log(lineage));
    while let Some(object) = listed.try_next().await? {
        progress.seen(1);
        if let ObjectName::LogPiece { timeline, from, to, .. } = object.name {
            files.pieces.push((Position { timeline, offset: from }, Position { timeline, offset: to }));
            files.segments.push(ListedSegment { timeline, from, to, modified_at: object.info.modified_at });
        }
    }
    let mut listed = store.list(&ObjectPrefix::Repository { lineage, folder: None });
    while let Some(object) = listed.try_next().await? {
        progress.seen(1);
        let ObjectName::Repository { path, .. } = &object.name else { continue };
        match classify(path.as_str()) {
            ObjectClass::Log { from, to } => {
                files.pieces.push((from, to));
                files.version = files.version.or_else(|| version_in(path.as_str()));
            }
            ObjectClass::BackupFile { .. } => {
                files.backup_files.insert(object.name.relative(), object.info.sealed_bytes);
            }
            _ => {}
        }
    }
    for of_streams in [ObjectPrefix::BackupObjects { lineage, backup: None }, ObjectPrefix::Shared(lineage)] {
        let mut listed = store.list(&of_streams);
        while let Some(object) = listed.try_next().await? {
            progress.seen(1);
            files.backup_files.insert(object.name.relative(), object.info.sealed_bytes);
        }
    }
    Ok(files)
}
