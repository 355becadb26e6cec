//! Entries that change collections, indexes and databases.

use bson::raw::RawDocument;

use super::catalog::view_options;
use super::fields::{Fields, Value};
use super::{Action, Namespace, ReplayError, Replayer, Stamp, Structure, malformed};

const BUCKETS: &str = "system.buckets.";

/// What servers tell of a collection and do not take when one is made: they see to it themselves.
pub(in crate::mongodb) fn is_told_only(option: &[u8]) -> bool {
    matches!(option, b"idIndex" | b"uuid" | b"o2" | b"recordIdsReplicated" | b"autoIndexId" | b"temp")
}

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
        let command = Fields::parse(object.as_bytes())?;
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
        let Some(collection) = command.get(name.as_str()).and_then(Value::as_str) else {
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
        command: Fields<'_>,
        at: Stamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        // A time series of such a name is refused, and nobody can use what the server leaves of it (6.0.5).
        if namespace.collection.strip_prefix(BUCKETS).is_some_and(|series| series.starts_with("system.")) {
            return Ok(());
        }
        match name {
            "create" => return self.create(namespace, command, actions),
            "drop" => {
                self.catalog.drop_collection(&namespace);
                let namespace = user_name(namespace);
                self.catalog.drop_collection(&namespace);
                actions.push(Action::Structure(Structure::Drop(namespace)));
            }
            "createIndexes" | "commitIndexBuild" => {
                let listed = user_name(namespace.clone());
                for index in index_specs(&command)? {
                    if listed != namespace {
                        // Built while the base was taken, which lists it under the time-series collection.
                        self.catalog.drop_index(&listed, index.get("name"))?;
                    }
                    self.catalog.create_index(&namespace, index)?;
                }
            }
            "dropIndexes" | "deleteIndexes" | "dropIndex" | "deleteIndex" => {
                self.catalog.drop_index(&namespace, command.get("index"))?;
                self.catalog.drop_index(&user_name(namespace), command.get("index"))?;
            }
            "collMod" => return self.coll_mod(namespace, command, actions),
            "convertToCapped" => {
                let size = command.get("size").cloned().unwrap_or_else(|| 4096_i32.into());
                let command = Fields::default()
                    .with("convertToCapped", namespace.collection.as_str())
                    .with("size", size)
                    .to_raw()?;
                self.catalog.capped.insert(namespace.clone());
                actions.push(Action::Structure(Structure::Run { database: namespace.database, command }));
            }
            "emptycapped" => actions.push(Action::Structure(Structure::Empty(namespace))),
            // Index builds count when they are committed; the rest is the source's own bookkeeping.
            "startIndexBuild" | "abortIndexBuild" | "dropIdent" | "createIdent" | "setMultikeyMetadata" => {}
            other => return Err(unknown(other, at)),
        }
        Ok(())
    }

    fn create(
        &mut self,
        namespace: Namespace,
        mut options: Fields<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        if options.get("viewOn").is_some() {
            self.catalog.views.insert(namespace, view_options(options)?);
            return Ok(());
        }
        let bucket = namespace.collection.starts_with(BUCKETS);
        options.retain(|name| match name {
            b"create" => false,
            name if is_told_only(name) => false,
            // A bucket collection comes with its time-series collection, which has none of these of its own.
            b"validator" | b"clusteredIndex" => !bucket,
            _ => true,
        });
        if options.get("capped").is_some_and(|capped| capped.is(true)) {
            self.catalog.capped.insert(namespace.clone());
        }
        let (namespace, options) = (user_name(namespace), options.to_raw()?);
        actions.push(Action::Structure(Structure::Create { namespace, options }));
        Ok(())
    }

    fn coll_mod(
        &mut self,
        namespace: Namespace,
        mut command: Fields<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        if let Some(raw) = self.catalog.views.get_mut(&namespace) {
            let view = raw.clone();
            let mut view = Fields::parse(view.as_bytes())?;
            for key in ["viewOn", "pipeline"] {
                if let Some(value) = command.remove(key) {
                    view.set(key, value);
                }
            }
            *raw = view.to_raw()?;
            return Ok(());
        }
        if let Some(change) = command.remove("index") {
            let change = change.fields()?;
            self.catalog.change_index(&namespace, &change)?;
            // Those of the base are listed under the time-series collection.
            self.catalog.change_index(&user_name(namespace.clone()), &change)?;
        }
        command.remove("collMod");
        if command.is_empty() {
            return Ok(());
        }
        let namespace = user_name(namespace);
        let mut all = Fields::default().with("collMod", namespace.collection.as_str());
        all.0.extend(command.0);
        let command = all.to_raw()?;
        actions.push(Action::Structure(Structure::Run { database: namespace.database, command }));
        Ok(())
    }

    fn rename(&mut self, command: &Fields<'_>, actions: &mut Vec<Action>) -> Result<(), ReplayError> {
        let name = |key| command.get(key).and_then(Value::as_str).and_then(Namespace::parse);
        let (Some(from), Some(to)) = (name("renameCollection"), name("to")) else {
            return Err(malformed("a renameCollection without names"));
        };
        if from.is_internal() && to.is_internal() {
            return Ok(());
        }
        self.catalog.rename(&from, &to);
        actions.push(Action::Structure(Structure::Rename { from, to }));
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
fn index_specs<'a>(command: &'a Fields<'a>) -> Result<Vec<Fields<'a>>, ReplayError> {
    if let Some(indexes) = command.get("indexes") {
        let all = indexes.fields()?;
        let mut specs = Vec::new();
        for (_, index) in &all.0 {
            specs.push(Fields::parse(&index.bytes)?.into_owned());
        }
        return Ok(specs);
    }
    let mut index = command.clone();
    index.remove("createIndexes");
    Ok(vec![index])
}

fn unknown(name: &str, at: Stamp) -> ReplayError {
    ReplayError::Unknown { what: format!("the command {name:?}"), at }
}
