//! The collections and views of a server: what each is, in the bytes in which the server tells it.

use bson::raw::RawDocument;
use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Client;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::apply::command;
use super::client::{self, NAMESPACE_NOT_FOUND, admin, is_code};
use super::replay::{Fields, Namespace, ReplayError, Value};
use crate::{EngineError, Result};

const BUCKETS: &str = "system.buckets.";
/// Bytes of an object's last part, escaped as stores escape it. Most file systems take 255, with an ending.
const LONGEST_NAME: usize = 160;

/// One collection or view.
pub(super) struct Listed {
    pub namespace: Namespace,
    /// `collection`, `view` or `timeseries`, as the server calls it; what holds a time series' data is a collection.
    pub kind: String,
    /// What it was made with.
    pub options: RawDocumentBuf,
    pub uuid: Option<Value<'static>>,
    /// Whether documents can be read by `_id`, each once.
    pub has_id_index: bool,
    /// The name of its objects in a base, without their ending.
    pub object: String,
}

/// All collections and views that a restore makes, in a fixed order.
pub(super) async fn all(client: &Client) -> Result<Vec<Listed>> {
    let list = admin(client, doc! { "listDatabases": 1, "nameOnly": true }, "list the databases").await?;
    let databases = list.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let names = databases.iter().filter_map(|database| database.as_document()?.get_str("name").ok());
    let mut all = Vec::new();
    for database in names.filter(|name| !matches!(*name, "local" | "config")) {
        for raw in list_collections(client, database, None).await? {
            let listed = Listed::parse(database, &raw).map_err(|error| unreadable(database, &error))?;
            // Views are described by what is listed.
            if !listed.namespace.is_internal() && listed.namespace.collection != "system.views" {
                all.push(listed);
            }
        }
    }
    all.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    Ok(all)
}

async fn list_collections(
    client: &Client,
    database: &str,
    name: Option<&str>,
) -> Result<Vec<RawDocumentBuf>> {
    let mut list = Fields::default().with("listCollections", 1);
    if let Some(name) = name {
        list.set("filter", Value::from(Fields::default().with("name", name)));
    }
    let doing = format!("list the collections of {database}");
    client::documents(client, database, command(&list)?, doing).await?.all().await
}

impl Listed {
    fn parse(database: &str, raw: &RawDocument) -> std::result::Result<Self, ReplayError> {
        let all = Fields::parse(raw.as_bytes())?;
        let wrong = || ReplayError::Malformed("a collection without a name, a type or options".to_owned());
        let text = |name| all.get(name).and_then(Value::as_str).ok_or_else(wrong);
        let namespace = Namespace::new(database, text("name")?);
        let options = all.get("options").ok_or_else(wrong)?.fields()?;
        let uuid = match all.get("info") {
            Some(info) => info.fields()?.get("uuid").cloned().map(Value::into_owned),
            None => None,
        };
        let capped = options.get("capped").is_some_and(|capped| capped.is(true));
        let by_place = capped || options.get("clusteredIndex").is_some() || is_of_buckets(&namespace);
        Ok(Self {
            kind: text("type")?.to_owned(),
            options: options.to_raw()?,
            uuid,
            has_id_index: !by_place && all.get("idIndex").is_some(),
            object: object_name(&namespace),
            namespace,
        })
    }

    /// Whether it holds what was written to it, rather than showing what others hold.
    pub(super) fn has_documents(&self) -> bool {
        !matches!(self.kind.as_str(), "view" | "timeseries")
    }

    /// The specifications of its indexes. One that is being built is left to the oplog, which tells how that ends.
    pub(super) async fn indexes(&self, client: &Client) -> Result<Vec<RawDocumentBuf>> {
        if self.kind == "view" || is_of_buckets(&self.namespace) {
            return Ok(Vec::new());
        }
        let list = Fields::default()
            .with("listIndexes", self.namespace.collection.as_str())
            .with("includeBuildUUIDs", true);
        let doing = format!("list the indexes of {}", self.namespace);
        let found = client::documents(client, &self.namespace.database, command(&list)?, doing).await;
        let found = match found {
            Ok(found) => found.all().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(mut all) => {
                all.retain(|index| index.get("buildUUID").is_ok_and(|build| build.is_none()));
                Ok(all)
            }
            // It is gone meanwhile, as the oplog will say.
            Err(error) if error.said().is_some_and(|said| is_code(said, &[NAMESPACE_NOT_FOUND])) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What a restore makes it from.
    pub(super) fn record(&self, indexes: &[RawDocumentBuf]) -> Result<RawDocumentBuf> {
        let mut record = Fields::default()
            .with("db", self.namespace.database.as_str())
            .with("collection", self.namespace.collection.as_str())
            .with("type", self.kind.as_str())
            .with("object", self.object.as_str())
            .with("options", Value::from(&self.options))
            .with("indexes", Fields::array(indexes.iter().map(Value::from)));
        if let Some(uuid) = &self.uuid {
            record.set("uuid", uuid.clone());
        }
        command(&record)
    }

    /// The same as `mongodump` writes it, for `mongorestore`; `None` where JSON cannot hold it, or where it writes none.
    pub(super) fn metadata_json(&self, indexes: &[RawDocumentBuf]) -> Option<String> {
        if is_of_buckets(&self.namespace) {
            return None; // described by its time-series collection
        }
        let parsed = |raw: &RawDocumentBuf| Document::try_from(raw.as_ref()).ok();
        let indexes = indexes.iter().map(parsed).collect::<Option<Vec<_>>>();
        let (Some(options), Some(indexes)) = (parsed(&self.options), indexes) else {
            tracing::warn!(collection = %self.namespace, "mongorestore will not know its options and indexes");
            return None;
        };
        let uuid = self.uuid.as_ref().map(|uuid| hex::encode(uuid.binary().unwrap_or_default()));
        let metadata = doc! {
            "options": options, "indexes": indexes, "uuid": uuid.unwrap_or_default(),
            "collectionName": &self.namespace.collection, "type": &self.kind,
        };
        let mut text = String::new();
        write_extended(&mut text, metadata.into());
        Some(text)
    }

    pub(super) async fn was_dropped(&self, client: &Client) -> Result<bool> {
        let database = &self.namespace.database;
        let found = list_collections(client, database, Some(&self.namespace.collection)).await?;
        let Some(now) = found.first() else { return Ok(true) };
        let now = Self::parse(database, now).map_err(|error| unreadable(database, &error))?;
        Ok(now.uuid != self.uuid)
    }
}

fn is_of_buckets(namespace: &Namespace) -> bool {
    namespace.collection.starts_with(BUCKETS)
}

fn unreadable(database: &str, error: &ReplayError) -> EngineError {
    EngineError::Unexpected { doing: format!("list the collections of {database}"), what: error.to_string() }
}

/// Collections may have any names, stores and their file systems not. A long one is cut, and told from others by its hash, as
/// `mongodump` does it too; the whole one is in the catalog.
fn object_name(namespace: &Namespace) -> String {
    let name = &namespace.collection;
    let escaped = |c: char| match c {
        '/' | '%' => 3,
        c if c.is_ascii_alphanumeric() || "-_.".contains(c) => 1,
        c => 3 * c.len_utf8(), // by the store
    };
    let total: usize = name.chars().map(escaped).sum();
    let mut length = 0;
    let fits = |c: &char| {
        length += escaped(*c);
        total <= LONGEST_NAME || length <= LONGEST_NAME / 2
    };
    let kept: String = name.chars().take_while(fits).collect();
    let mut object = format!("{}/{}", namespace.database, kept.replace('%', "%25").replace('/', "%2F"));
    if total > LONGEST_NAME {
        object.push_str("%24");
        object.push_str(&hex::encode(&Sha256::digest(name)[..16]));
    }
    object
}

/// A base's record of a collection, of [`Listed::record`] or of its JSON.
pub(super) struct Recorded {
    pub namespace: Namespace,
    pub kind: String,
    pub options: RawDocumentBuf,
    pub indexes: Vec<RawDocumentBuf>,
    pub object: String,
}

impl Recorded {
    pub(super) fn parse(record: &RawDocument) -> std::result::Result<Self, ReplayError> {
        let all = Fields::parse(record.as_bytes())?;
        let wrong = || ReplayError::Malformed("a collection's record that lacks a part".to_owned());
        let text = |name| all.get(name).and_then(Value::as_str).ok_or_else(wrong);
        let part = |name| all.get(name).ok_or_else(wrong)?.fields();
        let mut indexes = Vec::new();
        for (_, index) in part("indexes")?.iter() {
            indexes.push(index.fields()?.to_raw()?);
        }
        Ok(Self {
            namespace: Namespace::new(text("db")?, text("collection")?),
            kind: text("type")?.to_owned(),
            options: part("options")?.to_raw()?,
            indexes,
            object: text("object")?.to_owned(),
        })
    }

    /// From the metadata of a base that has no catalog, or of a dump that is not Holdfast's. `object` is its name without ending.
    pub(super) fn parse_json(object: &str, text: &[u8]) -> std::result::Result<Self, String> {
        // Straight into a document: fields keep their order.
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let metadata: Metadata =
            bson::deserialize_from_document(document).map_err(|error| error.to_string())?;
        let raw = |document: &Document| RawDocumentBuf::try_from(document).map_err(|error| error.to_string());
        let (database, collection) = object.split_once('/').ok_or("a name without a database")?;
        let collection = collection.replace("%2F", "/").replace("%25", "%");
        Ok(Self {
            namespace: Namespace::new(database, collection),
            kind: metadata.kind,
            options: raw(&metadata.options)?,
            indexes: metadata.indexes.iter().map(raw).collect::<std::result::Result<_, _>>()?,
            object: object.to_owned(),
        })
    }

    /// Whether a command makes it; what holds a time series' data comes with it.
    pub(super) fn is_made(&self) -> bool {
        self.kind != "view" && !is_of_buckets(&self.namespace)
    }

    pub(super) fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }
}

/// A collection's metadata as `mongodump` writes them.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    options: Document,
    #[serde(default)]
    indexes: Vec<Document>,
    #[serde(rename = "type", default)]
    kind: String,
}

/// Canonical extended JSON, with fields in their order: that of an index's key means something, and `serde_json` sorts.
fn write_extended(text: &mut String, value: Bson) {
    let mut first = true;
    let mut separate = |text: &mut String| {
        if !std::mem::take(&mut first) {
            text.push(',');
        }
    };
    match value {
        Bson::Document(document) => {
            text.push('{');
            for (name, value) in document {
                separate(text);
                text.push_str(&serde_json::Value::from(name).to_string());
                text.push(':');
                write_extended(text, value);
            }
            text.push('}');
        }
        Bson::Array(values) => {
            text.push('[');
            for value in values {
                separate(text);
                write_extended(text, value);
            }
            text.push(']');
        }
        other => text.push_str(&other.into_canonical_extjson().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keep_the_order_of_fields() {
        let index = doc! { "v": 2, "key": { "z": 1, "a": -1.5 }, "name": "n\"" };
        let mut text = String::new();
        write_extended(&mut text, doc! { "indexes": [index.clone(), 1_i64], "options": {} }.into());
        let expected = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"z":{"$numberInt":"1"},"a":{"$numberDouble":"-1.5"}},"name":"n\""},{"$numberLong":"1"}],"options":{}}"#;
        assert_eq!(text, expected);
        let back: Document = serde_json::from_str(&text).expect("extended JSON");
        assert_eq!(back.get_array("indexes").expect("an array")[0], Bson::Document(index));
    }

    #[test]
    fn objects_have_names_that_every_store_takes_and_no_two_the_same() {
        let name = |collection: &str| object_name(&Namespace::new("d", collection));
        assert_eq!(name("a.b-c_d"), "d/a.b-c_d");
        assert_eq!(name("sl/ash%"), "d/sl%2Fash%25");
        let longest = "表".repeat(80);
        assert!(name(&longest).len() < 120, "{}", name(&longest));
        assert_ne!(name(&longest), name(&format!("{longest}表")));
        assert_eq!(name(&"x".repeat(160)).len(), 162);
        assert_eq!(name(&"x".repeat(161)).len(), 2 + 80 + 3 + 32);
    }

    #[test]
    fn a_base_without_a_catalog_is_read_by_its_metadata() {
        let text = br#"{"options":{"capped":true,"size":{"$numberLong":"4096"}},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"00","collectionName":"a/b","type":"collection"}"#;
        let recorded = Recorded::parse_json("d/a%2Fb", text).expect("metadata");
        assert_eq!(recorded.namespace, Namespace::new("d", "a/b"));
        assert!(recorded.is_capped() && recorded.is_made() && recorded.indexes.len() == 1);
    }
}
