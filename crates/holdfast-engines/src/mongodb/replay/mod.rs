//! From oplog entries to ordinary writes. Pure: nothing here talks to a server.
//!
//! `applyOps` is not needed: [`Replayer`] turns each entry into [`Action`]s, [`Batch`] folds a run of them into one write a
//! document, and what concerns indexes, views and time-series collections is collected in the [`Catalog`], which is built
//! once all data is there. Applying entries twice, or entries that the data already holds, ends in the same data as long
//! as the last of them comes last: that is what lets a fuzzy copy become a consistent one.
//!
//! Sources: the oplog format as recorded from mongod 3.6 to 8.0 (`docs/engines/mongodb.md`), the MongoDB manual on the oplog.

mod batch;
mod catalog;
mod command;
mod diff;
mod entry;
mod fields;
mod frames;

use std::collections::HashMap;

use bson::RawDocumentBuf;
use bson::raw::{RawBsonRef, RawDocument};

pub use batch::{Batch, Key, Write};
pub use catalog::Catalog;
pub(super) use command::is_told_only;
pub use diff::apply as apply_diff;
pub use entry::{Entry, Moves, Stamp};
pub(super) use fields::TIMESTAMP;
pub use fields::{Fields, Value};
pub use frames::Frames;

/// Why an entry cannot be replayed. Going on would make other data than the source had.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the oplog holds an entry that is cut or damaged: {0}")]
    Malformed(String),
    #[error("the oplog holds {what} (at {at}), which this release cannot replay")]
    Unknown { what: String, at: Stamp },
}

/// `database.collection`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    pub database: String,
    pub collection: String,
}

impl Namespace {
    pub fn new(database: impl Into<String>, collection: impl Into<String>) -> Self {
        Self { database: database.into(), collection: collection.into() }
    }

    /// Splits at the first dot: database names have none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (database, collection) = text.split_once('.')?;
        (!database.is_empty() && !collection.is_empty()).then(|| Self::new(database, collection))
    }

    /// Where the server keeps the views of a database that users may have views in; of the server's own, `admin` is one.
    pub(super) fn is_of_views(&self) -> bool {
        self.collection == "system.views" && !matches!(self.database.as_str(), "local" | "config")
    }

    /// Whether it belongs to the server itself and is neither dumped nor replayed. Users and roles are handled apart.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let own = self.collection.starts_with("system.") && !self.is_of_tenants();
        matches!(self.database.as_str(), "local" | "config")
            || (self.database == "admin" && own)
            || self.collection == "system.profile"
    }

    /// Functions and what time series hold, which tenants may have in any database.
    fn is_of_tenants(&self) -> bool {
        self.collection == "system.js" || self.collection.starts_with("system.buckets.")
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// How a document changes, given its image from before: mongod's `$v: 2` diff. Kept as it came: what is parsed takes many
/// times as much memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Change(pub RawDocumentBuf);

impl Change {
    fn size_bytes(&self) -> usize {
        self.0.as_bytes().len()
    }

    fn apply(&self, document: &[u8]) -> Result<Vec<u8>, ReplayError> {
        diff::apply(document, self.0.as_bytes())
    }
}

/// One write, or one change of the catalog, in the oplog's order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The document is now this one.
    Put {
        namespace: Namespace,
        document: RawDocumentBuf,
    },
    Delete {
        namespace: Namespace,
        id: Value<'static>,
    },
    /// The document, if it is there, changes. One that is not there was deleted later.
    Change {
        namespace: Namespace,
        id: Value<'static>,
        change: Change,
    },
    /// An update by operators, as mongod wrote them up to 4.4 (`$set`, `$unset`), and clients do by `applyOps`.
    Operators {
        namespace: Namespace,
        id: Value<'static>,
        update: RawDocumentBuf,
    },
    Structure(Structure),
}

/// What a replay does to collections and databases.
#[derive(Debug, Clone, PartialEq)]
pub enum Structure {
    /// Unless it exists.
    Create {
        namespace: Namespace,
        options: RawDocumentBuf,
    },
    Drop(Namespace),
    DropDatabase(String),
    /// Whatever has the new name goes: if the source had nothing of it, it is what a copy of a later moment has.
    Rename {
        from: Namespace,
        to: Namespace,
    },
    /// A command that names the collection in its first field.
    Run {
        database: String,
        command: RawDocumentBuf,
    },
    /// Removes all documents.
    Empty(Namespace),
}

/// Identity of a transaction: session and number.
type TransactionId = (Vec<u8>, i64);

/// Turns entries into actions. Keeps the operations of transactions that have not been committed yet, and the catalog.
#[derive(Debug, Default)]
pub struct Replayer {
    pub catalog: Catalog,
    open: HashMap<TransactionId, Vec<RawDocumentBuf>>,
}

impl Replayer {
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, open: HashMap::new() }
    }

    /// What the entry does.
    ///
    /// # Errors
    /// An entry that is damaged, or of a kind that is not known.
    pub fn feed(&mut self, entry: &Entry) -> Result<Vec<Action>, ReplayError> {
        let mut actions = Vec::new();
        if entry.op() == "c" && self.transaction(entry, &mut actions)? {
            return Ok(actions);
        }
        self.operation(entry.raw(), entry.stamp(), &mut actions)?;
        Ok(actions)
    }

    /// Handles an entry that belongs to a transaction of several entries; `false` for any other.
    fn transaction(&mut self, entry: &Entry, actions: &mut Vec<Action>) -> Result<bool, ReplayError> {
        let Some(id) = entry.transaction_id() else { return Ok(false) };
        let command = entry.object()?;
        let flag = |name| matches!(command.get(name), Ok(Some(RawBsonRef::Boolean(true))));
        if command.get("commitTransaction").map_err(malformed)?.is_some() {
            // A commit that is repeated finds nothing.
            for operation in self.open.remove(&id).unwrap_or_default() {
                self.operation(&operation, entry.stamp(), actions)?;
            }
            return Ok(true);
        }
        if command.get("abortTransaction").map_err(malformed)?.is_some() {
            self.open.remove(&id);
            return Ok(true);
        }
        let Some(operations) = command.get("applyOps").map_err(malformed)? else { return Ok(false) };
        // A vectored insert of 8.0 carries a session too, and stands alone.
        if entry.is_vectored() {
            return Ok(false);
        }
        let mut all = self.open.remove(&id).unwrap_or_default();
        for operation in operations.as_array().ok_or_else(|| malformed("applyOps is no array"))? {
            let operation = operation.map_err(malformed)?;
            let operation =
                operation.as_document().ok_or_else(|| malformed("an operation is no document"))?;
            all.push(operation.to_owned());
        }
        if flag("partialTxn") || flag("prepare") {
            self.open.insert(id, all);
            return Ok(true);
        }
        for operation in all {
            self.operation(&operation, entry.stamp(), actions)?;
        }
        Ok(true)
    }

    /// One operation: an entry of its own or one inside `applyOps`.
    fn operation(
        &mut self,
        raw: &RawDocument,
        at: Stamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), ReplayError> {
        let op = raw.get_str("op").map_err(malformed)?;
        let namespace = match op {
            // Nothing, and what mongod 8 notes about containers and its own bookkeeping.
            "n" | "cd" | "ci" | "cu" | "km" => return Ok(()),
            _ => raw.get_str("ns").map_err(malformed)?,
        };
        let namespace =
            Namespace::parse(namespace).ok_or_else(|| malformed(format!("namespace {namespace:?}")))?;
        let object = raw.get_document("o").map_err(malformed)?;
        if op == "c" {
            return self.command(&namespace.database, object, at, actions);
        }
        if namespace.is_of_views() {
            return self.catalog.view_entry(op, &namespace.database, &Fields::parse(raw.as_bytes())?);
        }
        if namespace.is_internal() {
            return Ok(());
        }
        // There a document that comes again comes last, wherever a copy has it.
        if op == "i" && self.catalog.capped.contains(&namespace) {
            let id = id_of(object.as_bytes())?;
            actions.push(Action::Delete { namespace: namespace.clone(), id });
        }
        actions.push(match op {
            "i" => Action::Put { namespace, document: object.to_owned() },
            "d" => Action::Delete { namespace, id: id_alone(object.as_bytes(), at)? },
            "u" => update(namespace, raw, object, at)?,
            other => return Err(ReplayError::Unknown { what: format!("operation {other:?}"), at }),
        });
        Ok(())
    }
}

/// An update: the whole new document, operators, or a diff.
fn update(
    namespace: Namespace,
    raw: &RawDocument,
    object: &RawDocument,
    at: Stamp,
) -> Result<Action, ReplayError> {
    let id = id_alone(raw.get_document("o2").map_err(malformed)?.as_bytes(), at)?;
    let mut fields = Fields::parse(object.as_bytes())?;
    let by_operators = fields.iter().next().is_some_and(|(name, _)| name.first() == Some(&b'$'));
    // The whole document has its _id, whatever its other fields are called (SERVER-124369).
    if fields.get("_id").is_some() || !by_operators {
        return Ok(Action::Put { namespace, document: object.to_owned() });
    }
    let version = match fields.remove("$v") {
        None => 1,
        Some(version) => version.as_integer().unwrap_or(-1),
    };
    if let (2, Some(diff)) = (version, fields.get("diff").filter(|diff| diff.is_document())) {
        return Ok(Action::Change { namespace, id, change: Change(diff.fields()?.to_raw()?) });
    }
    if version == 1 && fields.iter().all(|(name, _)| is_repeatable(name)) {
        return Ok(Action::Operators { namespace, id, update: fields.to_raw()? });
    }
    let names: Vec<_> = fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    Err(ReplayError::Unknown { what: format!("an update of version {version} with {names:?}"), at })
}

/// Operators that give the same once more on the same document. Old servers log the first two alone; the others stand in the log
/// where a client wrote entries itself (`applyOps`, which tenants may).
fn is_repeatable(operator: &[u8]) -> bool {
    const REPEATABLE: &str =
        " $set $unset $inc $mul $min $max $bit $rename $push $pop $pull $pullAll $addToSet ";
    std::str::from_utf8(operator).is_ok_and(|name| REPEATABLE.contains(&format!(" {name} ")))
}

fn id_of(document: &[u8]) -> Result<Value<'static>, ReplayError> {
    let fields = Fields::parse(document)?;
    let id = fields.get("_id").ok_or_else(|| malformed("an operation without an _id"))?;
    Ok(id.clone().into_owned())
}

/// The `_id` of the one document that is meant. A client's own entry (`applyOps`) may have a condition there, by which the server
/// looked for a document: nobody can tell which it found.
fn id_alone(document: &[u8], at: Stamp) -> Result<Value<'static>, ReplayError> {
    let id = id_of(document)?;
    if id.is_condition()? {
        return Err(ReplayError::Unknown { what: "a condition for an _id".to_owned(), at });
    }
    Ok(id)
}

fn malformed(error: impl std::fmt::Display) -> ReplayError {
    ReplayError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests;
