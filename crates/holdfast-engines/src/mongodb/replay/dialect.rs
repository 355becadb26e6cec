//! The update entries of the tests' stand-in for mongod: a change stream's description of the update, with dotted paths.
//! mongod never writes them into its oplog; real diffs are in [`super::diff`].

use bson::{Bson, Document};

/// `{updatedFields, removedFields, truncatedArrays}`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Dotted {
    updated: Document,
    removed: Vec<String>,
    /// Path and new length.
    truncated: Vec<(String, usize)>,
}

impl Dotted {
    /// `None` for a diff of mongod's.
    pub(super) fn parse(diff: &Document) -> Option<Self> {
        let updated = diff.get_document("updatedFields").ok()?.clone();
        let list = |name| diff.get_array(name).map(Vec::as_slice).unwrap_or_default();
        let removed =
            list("removedFields").iter().filter_map(|path| path.as_str().map(str::to_owned)).collect();
        let truncated = list("truncatedArrays").iter().filter_map(|one| {
            let one = one.as_document()?;
            let length = match one.get("newSize")? {
                Bson::Int32(length) => usize::try_from(*length).ok()?,
                Bson::Int64(length) => usize::try_from(*length).ok()?,
                _ => return None,
            };
            Some((one.get_str("field").ok()?.to_owned(), length))
        });
        Some(Self { updated, removed, truncated: truncated.collect() })
    }

    pub(super) fn apply(&self, document: &mut Document) {
        let mut root = Bson::Document(std::mem::take(document));
        for (path, length) in &self.truncated {
            if let Some(Bson::Array(array)) = find(&mut root, path, false) {
                array.truncate(*length);
            }
        }
        for path in &self.removed {
            remove(&mut root, path);
        }
        for (path, value) in &self.updated {
            if let Some(place) = find(&mut root, path, true) {
                *place = value.clone();
            }
        }
        if let Bson::Document(changed) = root {
            *document = changed;
        }
    }
}

/// The value at a path; made, with what leads to it, if `make`. `None` where the path runs into a plain value: a later entry
/// explains that.
fn find<'a>(root: &'a mut Bson, path: &str, make: bool) -> Option<&'a mut Bson> {
    let mut place = root;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let leads_on = names.peek().is_some();
        let empty = || if leads_on { Bson::Document(Document::new()) } else { Bson::Null };
        place = match place {
            Bson::Document(document) => {
                if make && !document.contains_key(name) {
                    document.insert(name, empty());
                }
                document.get_mut(name)?
            }
            Bson::Array(array) => {
                let at: usize = name.parse().ok()?;
                if make && array.len() <= at {
                    array.resize(at, Bson::Null);
                    array.push(empty());
                }
                array.get_mut(at)?
            }
            _ => return None,
        };
    }
    Some(place)
}

fn remove(root: &mut Bson, path: &str) {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (find(root, parent, false), name),
        None => (Some(root), path),
    };
    match parent {
        Some(Bson::Document(document)) => drop(document.remove(name)),
        // `$unset` of an element leaves null in its place.
        Some(Bson::Array(array)) => {
            if let Some(element) = name.parse().ok().and_then(|at: usize| array.get_mut(at)) {
                *element = Bson::Null;
            }
        }
        _ => {}
    }
}
