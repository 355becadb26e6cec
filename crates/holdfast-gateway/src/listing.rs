//! LIST: the write-once files and the newest generation of the rewritten ones, as one repository.
//!
//! Entries are in the order of their *encoded* paths, which is also what a continuation token holds. It differs from
//! S3's order only for names with characters that we encode; pgBackRest asks for no order.
//! Memory: one page, or with a delimiter the names of one folder.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use holdfast_store::{
    LineageScope, ListedObject, ObjectInfo, ObjectName, ObjectPrefix, RepositoryPath, Result, Store,
};

use crate::info;
use crate::reading::plain_len;
use crate::repository::Repository;

/// What is asked for.
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    /// Whether folders are folded into one entry each.
    pub(crate) by_folder: bool,
    /// Only entries behind this encoded path.
    pub(crate) after: Option<&'a str>,
    pub(crate) limit: usize,
}

#[derive(Debug)]
pub(crate) enum Entry {
    File { key: String, plain_bytes: u64, info: ObjectInfo },
    Folder { key: String },
}

/// The answer, and the token for the next one if there is more.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) next: Option<String>,
}

pub(crate) async fn list(store: &Store, repository: &Repository, query: &Query<'_>) -> Result<Page> {
    let mut found = Found { query, entries: BTreeMap::new() };
    // The prefix may end within a name; the store lists by whole folders.
    let folder = match query.prefix.rsplit_once('/') {
        None | Some(("", _)) => None,
        Some((folder, _)) => match RepositoryPath::new(folder) {
            Ok(folder) => Some(folder),
            Err(_) => return Ok(Page { entries: Vec::new(), next: None }),
        },
    };
    let lineage = repository.scope();
    if may_hold_info(folder.as_ref()) {
        for file in info::all(store, lineage, None).await? {
            let name =
                ObjectName::InfoGeneration { lineage, path: file.path.clone(), generation: file.generation };
            found.add(&file.path, plain_len(&name, &file.info), file.info);
        }
    }
    if query.by_folder {
        list_folder(store, lineage, folder, &mut found).await?;
    } else {
        let mut listing = store.list(&ObjectPrefix::Repository { lineage, folder });
        while let Some(object) = listing.try_next().await? {
            found.add_listed(object);
        }
    }
    Ok(found.into_page())
}

async fn list_folder(
    store: &Store,
    lineage: LineageScope,
    folder: Option<RepositoryPath>,
    found: &mut Found<'_>,
) -> Result<()> {
    let parent = folder.as_ref().map(|folder| format!("{}/", folder.as_str())).unwrap_or_default();
    let (objects, folders) = store.list_folder(&ObjectPrefix::Repository { lineage, folder }).await?;
    for object in objects {
        found.add_listed(object);
    }
    for name in folders {
        if let Ok(name) = RepositoryPath::decode(&name)
            && let Ok(path) = RepositoryPath::new(&format!("{parent}{}", name.as_str()))
        {
            found.add_folder(&path);
        }
    }
    Ok(())
}

/// The `*.info` files lie right below a stanza's folder, so nothing deeper has to look for them.
fn may_hold_info(folder: Option<&RepositoryPath>) -> bool {
    let Some(folder) = folder else { return true };
    let parts: Vec<&str> = folder.as_str().split('/').collect();
    match parts.iter().position(|part| matches!(*part, "archive" | "backup")) {
        Some(at) => parts.len() <= at + 2,
        None => true,
    }
}

struct Found<'a> {
    query: &'a Query<'a>,
    /// By encoded path; at most one more than the page holds.
    entries: BTreeMap<String, Entry>,
}

impl Found<'_> {
    fn add_listed(&mut self, ListedObject { name, info }: ListedObject) {
        if let ObjectName::Repository { path, .. } = &name {
            self.add(path, plain_len(&name, &info), info);
        }
    }

    fn add(&mut self, path: &RepositoryPath, plain_bytes: u64, info: ObjectInfo) {
        let Some(rest) = path.as_str().strip_prefix(self.query.prefix) else { return };
        if let Some((folder, _)) = rest.split_once('/').filter(|_| self.query.by_folder) {
            if let Ok(folder) = RepositoryPath::new(&format!("{}{folder}", self.query.prefix)) {
                self.add_folder(&folder);
            }
            return;
        }
        self.insert(path.to_string(), Entry::File { key: path.as_str().to_owned(), plain_bytes, info });
    }

    fn add_folder(&mut self, path: &RepositoryPath) {
        if path.as_str().starts_with(self.query.prefix) {
            self.insert(format!("{path}/"), Entry::Folder { key: format!("{}/", path.as_str()) });
        }
    }

    fn insert(&mut self, encoded: String, entry: Entry) {
        if self.query.after.is_some_and(|after| encoded.as_str() <= after) {
            return;
        }
        self.entries.insert(encoded, entry);
        if self.entries.len() > self.query.limit + 1 {
            self.entries.pop_last();
        }
    }

    fn into_page(mut self) -> Page {
        let more = self.entries.len() > self.query.limit;
        if more {
            self.entries.pop_last();
        }
        let next =
            if more { self.entries.last_key_value().map(|(encoded, _)| encoded.clone()) } else { None };
        Page { entries: self.entries.into_values().collect(), next }
    }
}
