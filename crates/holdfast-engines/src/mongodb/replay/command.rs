//! Entries that change collections, indexes and databases.

use bson::raw::RawDocument;
use bson::{Bson, Document};

use super::catalog::view_options;
use super::{Action, Namespace, ReplayError, Replayer, Stamp, Structure, malformed};

const BUCKETS: &str = "system.buckets.";

impl Replayer {
    /// The command `object` in `database`.
    pub(super) fn command(
        &mut self,
        database: &str,
        object: &RawDocument,
        at: Stamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        let (name, _) = object
            .into_iter()
            .next()
            .transpose()
            .map_err(malformed)?
            .ok_or_else(|| malformed("an empty command"))?;
        if name.as_str() == "applyOps" {
            for operation in object.get_array("applyOps").map_err(malformed)? {
                let operation = operation.map_err(malformed)?;
                let operation = operation.as_document().ok_or_else(|| malformed("an operation"))?;
                self.operation(operation, at, actions)?;
            }
            return Ok(());
        }
        let command = Document::try_from(object).map_err(malformed)?;
        if name.as_str() == "renameCollection" {
            return self.rename(&command, actions);
        }
        if name.as_str() == "dropDatabase" {
            if !matches!(database, "local" | "config" | "admin") {
                self.catalog.drop_database(database);
                actions.push(Action::Structure(Structure::DropDatabase(database.to_owned())));
            }
            return Ok(());
        }
        let Some(Bson::String(collection)) = command.get(name.as_str()) else {
            return Err(unknown(name.as_str(), at));
        };
        let namespace = Namespace::new(database, collection);
        if namespace.is_of_views() {
            return self.views_command(name.as_str(), database, at);
        }
        if namespace.is_internal() {
            return Ok(());
        }
        self.collection_command(name.as_str(), namespace, command, at, actions)
    }

    /// What happens to the collection that holds a database's views: it comes with the first one.
    fn views_command(&mut self, name: &str, database: &str, at: Stamp) -> Result<(), ReplayError> {
        match name {
            "create" | "createIndexes" | "setMultikeyMetadata" | "dropIdent" | "createIdent" => Ok(()),
            "drop" => {
                self.catalog.drop_views(database);
                Ok(())
            }
            other => Err(unknown(other, at)),
        }
    }

    fn collection_command(
        &mut self,
        name: &str,
        namespace: Namespace,
        mut command: Document,
        at: Stamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        match name {
            "create" => self.create(namespace, command, actions),
            "drop" => {
                self.catalog.drop_collection(&namespace);
                let namespace = user_name(namespace);
                self.catalog.drop_collection(&namespace);
                actions.push(Action::Structure(Structure::Drop(namespace)));
            }
            "createIndexes" | "commitIndexBuild" => {
                for index in index_specs(&mut command) {
                    self.catalog.create_index(&namespace, index);
                }
            }
            "dropIndexes" | "deleteIndexes" | "dropIndex" | "deleteIndex" => {
                self.catalog.drop_index(&namespace, command.get("index"));
                self.catalog.drop_index(&user_name(namespace), command.get("index"));
            }
            "collMod" => self.coll_mod(namespace, command, actions),
            "convertToCapped" => {
                let database = namespace.database.clone();
                let size = command.get("size").cloned().unwrap_or(Bson::Int32(4096));
                let command = bson::doc! { "convertToCapped": namespace.collection, "size": size };
                actions.push(Action::Structure(Structure::Run { database, command }));
            }
            "emptycapped" => actions.push(Action::Structure(Structure::Empty(namespace))),
            // Index builds count when they are committed; the rest is the source's own bookkeeping.
            "startIndexBuild" | "abortIndexBuild" | "dropIdent" | "createIdent" | "setMultikeyMetadata" => {}
            other => return Err(unknown(other, at)),
        }
        Ok(())
    }

    fn create(&mut self, namespace: Namespace, mut options: Document, actions: &mut Vec<Action>) {
        if let Some(pipeline) = options.remove("viewPipeline").or_else(|| options.remove("pipeline")) {
            options.insert("pipeline", pipeline);
        }
        if options.contains_key("viewOn") {
            self.catalog.views.insert(namespace, view_options(options));
            return;
        }
        let bucket = namespace.collection.starts_with(BUCKETS);
        let kept = |key: &str| match key {
            // The server makes these itself.
            "create" | "idIndex" | "uuid" | "o2" | "recordIdsReplicated" | "autoIndexId" | "temp" => false,
            // A bucket collection comes with its time-series collection, which has none of these of its own.
            "validator" | "clusteredIndex" => !bucket,
            _ => true,
        };
        let options = options.into_iter().filter(|(key, _)| kept(key)).collect();
        actions.push(Action::Structure(Structure::Create { namespace: user_name(namespace), options }));
    }

    fn coll_mod(&mut self, namespace: Namespace, mut command: Document, actions: &mut Vec<Action>) {
        if let Some(view) = self.catalog.views.get_mut(&namespace) {
            for key in ["viewOn", "pipeline"] {
                if let Some(value) = command.remove(key) {
                    view.insert(key, value);
                }
            }
            return;
        }
        if let Some(Bson::Document(change)) = command.remove("index") {
            self.catalog.change_index(&namespace, &change);
            // Those of the base are listed under the time-series collection.
            self.catalog.change_index(&user_name(namespace.clone()), &change);
        }
        command.remove("collMod");
        if command.is_empty() {
            return;
        }
        let namespace = user_name(namespace);
        let mut all = bson::doc! { "collMod": namespace.collection };
        all.extend(command);
        actions.push(Action::Structure(Structure::Run { database: namespace.database, command: all }));
    }

    fn rename(&mut self, command: &Document, actions: &mut Vec<Action>) -> Result<(), ReplayError> {
        let name = |key| command.get_str(key).ok().and_then(Namespace::parse);
        let (Some(from), Some(to)) = (name("renameCollection"), name("to")) else {
            return Err(malformed("a renameCollection without names"));
        };
        if from.is_internal() && to.is_internal() {
            return Ok(());
        }
        // A UUID of the collection that goes, or a boolean.
        let drop_target = !matches!(command.get("dropTarget"), None | Some(Bson::Boolean(false)));
        self.catalog.rename(&from, &to);
        actions.push(Action::Structure(Structure::Rename { from, to, drop_target }));
        Ok(())
    }
}

/// The time-series collection that a bucket collection belongs to; any other name as it is.
fn user_name(namespace: Namespace) -> Namespace {
    match namespace.collection.strip_prefix(BUCKETS) {
        Some(name) => Namespace::new(namespace.database, name),
        None => namespace,
    }
}

/// `createIndexes` carries one specification among its own fields; `commitIndexBuild` a list.
fn index_specs(command: &mut Document) -> Vec<Document> {
    if let Some(Bson::Array(indexes)) = command.remove("indexes") {
        return indexes
            .into_iter()
            .filter_map(|index| match index {
                Bson::Document(index) => Some(index),
                _ => None,
            })
            .collect();
    }
    command.remove("createIndexes");
    vec![std::mem::take(command)]
}

fn unknown(name: &str, at: Stamp) -> ReplayError {
    ReplayError::Unknown { what: format!("the command {name:?}"), at }
}
