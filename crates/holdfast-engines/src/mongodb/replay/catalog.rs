//! Indexes and views: collected during a replay, made once all data is there. A copy that is not consistent yet may break a
//! unique index half way, and a TTL index would delete what is being restored.

use std::collections::BTreeMap;

use bson::raw::RawDocument;
use bson::{Bson, Document};

use super::{Namespace, ReplayError, diff, malformed};

/// What a view is made of, out of the options or the document that describe it.
pub(super) fn view_options(all: Document) -> Document {
    all.into_iter().filter(|(key, _)| matches!(key.as_str(), "viewOn" | "pipeline" | "collation")).collect()
}

/// What is built after the data.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Catalog {
    /// Specifications of secondary indexes, as `createIndexes` takes them.
    pub indexes: BTreeMap<Namespace, Vec<Document>>,
    /// `viewOn`, `pipeline` and `collation` of each view.
    pub views: BTreeMap<Namespace, Document>,
}

impl Catalog {
    /// Adds an index, in place of one of the same name.
    pub fn create_index(&mut self, namespace: &Namespace, mut index: Document) {
        index.remove("ns"); // older servers write the namespace into it
        // In either direction it is the one that comes by itself; hashed it is another.
        let is_id = index.get_document("key").is_ok_and(|key| {
            key.len() == 1 && key.get("_id").is_some_and(|direction| !matches!(direction, Bson::String(_)))
        });
        if is_id || index.contains_key("clustered") {
            return;
        }
        let indexes = self.indexes.entry(namespace.clone()).or_default();
        match indexes.iter_mut().find(|known| known.get("name") == index.get("name")) {
            Some(known) => *known = index,
            None => indexes.push(index),
        }
    }

    /// By name, or by key, or several names, or all (`*`).
    pub(super) fn drop_index(&mut self, namespace: &Namespace, which: Option<&Bson>) {
        let Some(indexes) = self.indexes.get_mut(namespace) else { return };
        indexes.retain(|index| match which {
            None => true,
            Some(Bson::String(all)) if all == "*" => false,
            Some(Bson::Array(names)) => !names.iter().any(|name| Some(name) == index.get("name")),
            Some(Bson::Document(key)) => index.get_document("key").ok() != Some(key),
            Some(name) => index.get("name") != Some(name),
        });
    }

    /// The index part of a `collMod`.
    pub(super) fn change_index(&mut self, namespace: &Namespace, change: &Document) {
        let indexes = self.indexes.get_mut(namespace).into_iter().flatten();
        let asked = |index: &&mut Document| match (change.get("name"), change.get("keyPattern")) {
            (Some(name), _) => index.get("name") == Some(name),
            (None, Some(key)) => index.get("key") == Some(key),
            (None, None) => false,
        };
        for index in indexes.filter(asked) {
            for (option, value) in change {
                match option.as_str() {
                    "name" | "keyPattern" => {}
                    "forceNonUnique" => drop((index.remove("unique"), index.remove("prepareUnique"))),
                    "unique" => {
                        index.remove("prepareUnique");
                        index.insert("unique", value.clone());
                    }
                    // False is how an index without it is described: not at all.
                    "hidden" | "prepareUnique" if *value == Bson::Boolean(false) => {
                        index.remove(option);
                    }
                    _ => drop(index.insert(option.clone(), value.clone())),
                }
            }
        }
    }

    pub(super) fn drop_collection(&mut self, namespace: &Namespace) {
        self.indexes.remove(namespace);
        self.views.remove(namespace);
    }

    /// All views of a database: the collection that held them was dropped.
    pub(super) fn drop_views(&mut self, database: &str) {
        self.views.retain(|namespace, _| namespace.database != database);
    }

    pub(super) fn drop_database(&mut self, database: &str) {
        self.indexes.retain(|namespace, _| namespace.database != database);
        self.drop_views(database);
    }

    pub(super) fn rename(&mut self, from: &Namespace, to: &Namespace) {
        match self.indexes.remove(from) {
            Some(indexes) => drop(self.indexes.insert(to.clone(), indexes)),
            None => drop(self.indexes.remove(to)),
        }
    }

    /// An entry of `system.views`: mongod keeps each view as a document there.
    pub(super) fn view_entry(
        &mut self,
        op: &str,
        database: &str,
        raw: &RawDocument,
    ) -> Result<(), ReplayError> {
        let object = Document::try_from(raw.get_document("o").map_err(malformed)?).map_err(malformed)?;
        let key = if op == "u" { raw.get_document("o2") } else { raw.get_document("o") };
        let id = key.and_then(|key| key.get_str("_id")).map_err(malformed)?;
        let prefix = format!("{database}.");
        let namespace = Namespace::new(database, id.strip_prefix(&prefix).unwrap_or(id));
        match op {
            "d" => drop(self.views.remove(&namespace)),
            // What users see of a time-series collection is a view that comes with it.
            _ if object.get_str("viewOn").is_ok_and(|on| on.starts_with("system.buckets.")) => {}
            "u" if object.contains_key("diff") => {
                if let (Some(view), Ok(change)) =
                    (self.views.get_mut(&namespace), object.get_document("diff"))
                {
                    diff::apply(view, change).map_err(ReplayError::Malformed)?;
                }
            }
            _ => drop(self.views.insert(namespace, view_options(object))),
        }
        Ok(())
    }
}
