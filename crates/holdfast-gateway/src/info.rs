//! The `*.info` files, which pgBackRest rewrites, in a store whose objects are write-once: each rewrite is a new
//! generation, readers take the newest, and once a new one is confirmed the older ones go.
//!
//! A crash between the two leaves old generations behind, which the next rewrite removes. Two writers at once cannot
//! both win: the later one finds its generation taken and is told to try again.

use futures::TryStreamExt;
use holdfast_store::{
    LineageScope, ListedObject, ObjectInfo, ObjectName, ObjectPrefix, RepositoryPath, Result, Store,
    StoreError,
};

/// A folder that is rewritten while it is listed may show neither the generation that went nor the one that came (POSIX,
/// readdir), so an empty listing is asked for again.
const LISTINGS: usize = 3;

/// One rewritten file as it is now.
#[derive(Debug)]
pub(crate) struct InfoFile {
    pub(crate) path: RepositoryPath,
    pub(crate) generation: u64,
    pub(crate) info: ObjectInfo,
}

/// The newest generation of the file at `path`.
pub(crate) async fn newest(store: &Store, lineage: LineageScope, path: &RepositoryPath) -> Result<InfoFile> {
    for _ in 0..LISTINGS {
        if let Some(file) = all(store, lineage, Some(path)).await?.into_iter().next() {
            return Ok(file);
        }
    }
    Err(StoreError::NotFound { object: path.as_str().to_owned() })
}

/// The newest generation of every rewritten file below the lineage, or of the one at `path`.
pub(crate) async fn all(
    store: &Store,
    lineage: LineageScope,
    path: Option<&RepositoryPath>,
) -> Result<Vec<InfoFile>> {
    let mut files: Vec<InfoFile> = Vec::new();
    let mut listing = store.list(&ObjectPrefix::Info { lineage, path: path.cloned() });
    while let Some(ListedObject { name, info }) = listing.try_next().await? {
        let ObjectName::InfoGeneration { path, generation, .. } = name else { continue };
        match files.iter_mut().find(|file| file.path == path) {
            Some(file) if file.generation < generation => *file = InfoFile { path, generation, info },
            Some(_) => {}
            None => files.push(InfoFile { path, generation, info }),
        }
    }
    Ok(files)
}

/// The name for the next generation of the file at `path`.
pub(crate) async fn next_name(
    store: &Store,
    lineage: LineageScope,
    path: &RepositoryPath,
) -> Result<ObjectName> {
    let generation = match newest(store, lineage, path).await {
        Ok(file) => file.generation + 1,
        Err(StoreError::NotFound { .. }) => 1,
        Err(error) => return Err(error),
    };
    Ok(ObjectName::InfoGeneration { lineage, path: path.clone(), generation })
}

/// Removes the generations of the file at `path` below `generation`; all of them with `u64::MAX`.
pub(crate) async fn remove_below(
    store: &Store,
    lineage: LineageScope,
    path: &RepositoryPath,
    generation: u64,
) -> Result<()> {
    let mut listing = store.list(&ObjectPrefix::Info { lineage, path: Some(path.clone()) });
    while let Some(ListedObject { name, .. }) = listing.try_next().await? {
        if matches!(&name, ObjectName::InfoGeneration { generation: found, .. } if *found < generation) {
            store.delete(&name).await?;
        }
    }
    Ok(())
}
