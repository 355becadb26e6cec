//! Indexes and views: collected during a replay, made once all data is there. A copy that is not consistent yet may break a
//! unique index half way, and a TTL index would delete what is being restored.

use std::collections::{BTreeMap, BTreeSet};

use bson::RawDocumentBuf;

use super::fields::{Fields, Value};
use super::{Namespace, ReplayError, diff, malformed};

/// What a view is made of, out of the options or the document that describe it.
pub(super) fn view_options(mut all: Fields<'_>) -> Result<RawDocumentBuf, ReplayError> {
    all.retain(|name| matches!(name, b"viewOn" | b"pipeline" | b"collation"));
    all.to_raw()
}

/// What is built after the data.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Catalog {
    /// Specifications of secondary indexes, as `createIndexes` takes them.
    pub indexes: BTreeMap<Namespace, Vec<RawDocumentBuf>>,
    /// `viewOn`, `pipeline` and `collation` of each view.
    pub views: BTreeMap<Namespace, RawDocumentBuf>,
    /// Collections whose documents have an order.
    pub capped: BTreeSet<Namespace>,
    /// Time series of the base, whose indexes were listed as those of what users see.
    pub series: BTreeSet<Namespace>,
}

impl Catalog {
    /// Adds an index, in place of one of the same name.
    ///
    /// # Errors
    /// A specification that is damaged.
    pub fn create_index(&mut self, namespace: &Namespace, mut index: Fields<'_>) -> Result<(), ReplayError> {
        index.remove("ns"); // older servers write the namespace into it
        if is_of_id(&index)? || index.get("clustered").is_some() {
            return Ok(());
        }
        let name = name_of(&index);
        let indexes = self.indexes.entry(namespace.clone()).or_default();
        let mut place = None;
        for (at, known) in indexes.iter().enumerate() {
            if name_of(&Fields::parse(known.as_bytes())?) == name {
                place = Some(at);
            }
        }
        match place {
            Some(at) => indexes[at] = index.to_raw()?,
            None => indexes.push(index.to_raw()?),
        }
        Ok(())
    }

    /// By name, or by key, or several names, or all (`*`).
    pub(super) fn drop_index(
        &mut self,
        namespace: &Namespace,
        which: Option<&Value<'_>>,
    ) -> Result<(), ReplayError> {
        let (Some(indexes), Some(which)) = (self.indexes.get_mut(namespace), which) else { return Ok(()) };
        if which.as_str() == Some("*") {
            indexes.clear();
            return Ok(());
        }
        let mut kept = Vec::new();
        for raw in std::mem::take(indexes) {
            let index = Fields::parse(raw.as_bytes())?;
            let name = index.get("name");
            let asked = if which.is_array() {
                which.fields()?.iter().any(|(_, one)| Some(one) == name)
            } else {
                name == Some(which) || index.get("key") == Some(which)
            };
            if !asked {
                kept.push(raw);
            }
        }
        *indexes = kept;
        Ok(())
    }

    /// The index part of a `collMod`.
    pub(super) fn change_index(
        &mut self,
        namespace: &Namespace,
        change: &Fields<'_>,
    ) -> Result<(), ReplayError> {
        for raw in self.indexes.get_mut(namespace).into_iter().flatten() {
            let mut index = Fields::parse(raw.as_bytes())?;
            let asked = match (change.get("name"), change.get("keyPattern")) {
                (Some(name), _) => index.get("name") == Some(name),
                (None, Some(key)) => index.get("key") == Some(key),
                (None, None) => false,
            };
            if asked {
                change_options(&mut index, change);
                *raw = index.to_raw()?;
            }
        }
        Ok(())
    }

    pub(super) fn drop_collection(&mut self, namespace: &Namespace) {
        self.indexes.remove(namespace);
        self.views.remove(namespace);
        self.capped.remove(namespace);
        self.series.remove(namespace);
    }

    /// All views of a database: the collection that held them was dropped.
    pub(super) fn drop_views(&mut self, database: &str) {
        self.views.retain(|namespace, _| namespace.database != database);
    }

    pub(super) fn drop_database(&mut self, database: &str) {
        self.indexes.retain(|namespace, _| namespace.database != database);
        self.capped.retain(|namespace| namespace.database != database);
        self.series.retain(|namespace| namespace.database != database);
        self.drop_views(database);
    }

    pub(super) fn rename(&mut self, from: &Namespace, to: &Namespace) {
        match self.indexes.remove(from) {
            Some(indexes) => drop(self.indexes.insert(to.clone(), indexes)),
            None => drop(self.indexes.remove(to)),
        }
        self.capped.remove(to);
        if self.capped.remove(from) {
            self.capped.insert(to.clone());
        }
    }

    /// An entry of `system.views`: mongod keeps each view as a document there.
    pub(super) fn view_entry(
        &mut self,
        op: &str,
        database: &str,
        entry: &Fields<'_>,
    ) -> Result<(), ReplayError> {
        let part =
            |name| entry.get(name).ok_or_else(|| malformed("an entry of views without a part"))?.fields();
        let object = part("o")?;
        let key = if op == "u" { part("o2")? } else { object.clone() };
        let id = key.get("_id").and_then(Value::as_str).ok_or_else(|| malformed("a view without a name"))?;
        let prefix = format!("{database}.");
        let namespace = Namespace::new(database, id.strip_prefix(&prefix).unwrap_or(id));
        let on = object.get("viewOn").and_then(Value::as_str);
        match op {
            "d" => drop(self.views.remove(&namespace)),
            // What users see of a time-series collection is a view that comes with it.
            _ if on.is_some_and(|on| on.starts_with("system.buckets.")) => {}
            "u" if object.get("_id").is_none() => {
                if let (Some(view), Some(change)) = (self.views.get_mut(&namespace), object.get("diff")) {
                    let after = diff::apply(view.as_bytes(), &change.bytes)?;
                    *view = RawDocumentBuf::from_bytes(after).map_err(malformed)?;
                }
            }
            _ => drop(self.views.insert(namespace, view_options(object)?)),
        }
        Ok(())
    }
}

/// In either direction it is the one that comes by itself; hashed, or by any other number, it is another.
fn is_of_id(index: &Fields<'_>) -> Result<bool, ReplayError> {
    let Some(key) = index.get("key") else { return Ok(false) };
    let key = key.fields()?;
    let direction = key.get("_id").and_then(Value::as_integer);
    Ok(key.len() == 1 && direction.is_some_and(|direction| direction.abs() == 1))
}

fn name_of(index: &Fields<'_>) -> Option<Value<'static>> {
    index.get("name").map(|name| name.clone().into_owned())
}

fn change_options<'a>(index: &mut Fields<'a>, change: &Fields<'a>) {
    for (option, value) in &change.0 {
        match option.as_ref() {
            b"name" | b"keyPattern" => {}
            b"forceNonUnique" => drop((index.remove("unique"), index.remove("prepareUnique"))),
            b"unique" => {
                index.remove("prepareUnique");
                index.set("unique", value.clone());
            }
            // False is how an index without it is described: not at all.
            b"hidden" | b"prepareUnique" if value.is(false) => drop(index.take(option)),
            _ => index.put(option.clone(), value.clone()),
        }
    }
}
