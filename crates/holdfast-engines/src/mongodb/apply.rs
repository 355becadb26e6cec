//! Carries out a replay's actions on a server: in batches, one write a document.

use std::collections::HashMap;

use bson::raw::RawDocument;
use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::WriteConcern;

use super::client::{NAMESPACE_EXISTS, NAMESPACE_NOT_FOUND, is_code};
use super::replay::{Action, Batch, Key, Namespace, ReplayError, Structure, Write};
use crate::{EngineError, Result};

const BATCH_BYTES: usize = 8 << 20;
/// Documents of a batch that have to be read, changed and written take about so much memory.
const IMAGES_BYTES: usize = 16 << 20;
const MOST_DOCUMENTS: usize = 2000;
/// Bytes of one command; the server's own limit is 48 MB.
const COMMAND_BYTES: usize = 8 << 20;
const DUPLICATE_KEY: i32 = 11000;

/// Writes to one server, in the oplog's order.
pub(super) struct Applier {
    client: Client,
    batch: Batch,
    /// How many documents the next batch may have, by the size of those of the last.
    most_documents: usize,
}

impl Applier {
    pub(super) fn new(client: Client) -> Self {
        Self { client, batch: Batch::default(), most_documents: 200 }
    }

    pub(super) async fn push(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Put { namespace, document } => self.batch.put(&namespace, document).map_err(broken)?,
            Action::Delete { namespace, id } => self.batch.delete(&namespace, id).map_err(broken)?,
            Action::Change { namespace, id, change } => {
                self.batch.change(&namespace, id, change).map_err(broken)?;
            }
            Action::Operators { namespace, id, update } => {
                self.flush().await?;
                self.update(&namespace, vec![doc! { "q": { "_id": { "$eq": id } }, "u": update }]).await?;
            }
            Action::Structure(structure) => {
                self.flush().await?;
                self.restructure(structure).await?;
            }
        }
        if self.batch.len() >= self.most_documents || self.batch.size_bytes() >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes everything that was pushed.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let (mut images, mut bytes) = (HashMap::new(), 0);
        for (namespace, ids) in batch.to_read() {
            let collection =
                self.client.database(&namespace.database).collection::<RawDocumentBuf>(&namespace.collection);
            let doing = format!("read documents of {namespace}");
            let mut cursor =
                collection.find(doc! { "_id": { "$in": ids } }).await.map_err(EngineError::mongo(&doing))?;
            while let Some(document) = cursor.try_next().await.map_err(EngineError::mongo(&doing))? {
                bytes += document.as_bytes().len();
                images.insert(key_of(&namespace, &document)?, document);
            }
        }
        let average = bytes.max(batch.size_bytes()) / batch.len().max(1);
        self.most_documents = (IMAGES_BYTES / average.max(1)).clamp(1, MOST_DOCUMENTS);
        for (namespace, writes) in batch.finish(&images).map_err(broken)? {
            self.write(&namespace, writes).await?;
        }
        Ok(())
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<Write>) -> Result<()> {
        let (mut gone, mut updates, mut inserts, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for write in &writes {
            match write {
                Write::Delete { id } => gone.push(id.clone()),
                // A replacement cannot have such names; an insert can.
                Write::Put { id, document } if has_dollars(document) => {
                    gone.push(id.clone());
                    inserts.push(document.clone());
                }
                Write::Put { .. } => {}
            }
        }
        if !gone.is_empty() {
            self.delete(namespace, doc! { "_id": { "$in": gone } }).await?;
        }
        if !inserts.is_empty() {
            insert(self.client.clone(), namespace.clone(), inserts).await?;
        }
        for write in writes {
            let Write::Put { id, document } = write else { continue };
            if has_dollars(&document) {
                continue;
            }
            bytes += document.as_bytes().len();
            let document =
                Document::try_from(document.as_ref()).map_err(|error| broken(malformed(&error)))?;
            updates.push(doc! { "q": { "_id": { "$eq": id } }, "u": document, "upsert": true });
            if bytes >= COMMAND_BYTES {
                self.update(namespace, std::mem::take(&mut updates)).await?;
                bytes = 0;
            }
        }
        if updates.is_empty() { Ok(()) } else { self.update(namespace, updates).await }
    }

    async fn update(&self, namespace: &Namespace, updates: Vec<Document>) -> Result<()> {
        let command = doc! {
            "update": &namespace.collection, "updates": updates, "ordered": true,
            "bypassDocumentValidation": true, "writeConcern": { "w": 1 },
        };
        self.run_write(namespace, command).await
    }

    async fn delete(&self, namespace: &Namespace, filter: Document) -> Result<()> {
        let command = doc! {
            "delete": &namespace.collection, "deletes": [{ "q": filter, "limit": 0 }], "writeConcern": { "w": 1 },
        };
        self.run_write(namespace, command).await
    }

    async fn run_write(&self, namespace: &Namespace, command: Document) -> Result<()> {
        let doing = format!("replay writes to {namespace}");
        let database = self.client.database(&namespace.database);
        let answer = database.run_command(command).await.map_err(EngineError::mongo(&doing))?;
        match answer.get_array("writeErrors").ok().and_then(|errors| errors.first()) {
            None => Ok(()),
            Some(error) => {
                let error = error.as_document().cloned().unwrap_or_default();
                let what = format!("{:?} {}", error.get("code"), error.get_str("errmsg").unwrap_or_default());
                Err(EngineError::Unexpected { doing, what })
            }
        }
    }

    async fn restructure(&self, structure: Structure) -> Result<()> {
        match structure {
            Structure::Create { namespace, options } => {
                create_collection(&self.client, &namespace, options).await
            }
            Structure::Drop(namespace) => {
                self.run(&namespace.database, doc! { "drop": &namespace.collection }).await
            }
            Structure::DropDatabase(database) => self.run(&database, doc! { "dropDatabase": 1 }).await,
            Structure::Rename { from, to, drop_target } => {
                let (from, to) = (from.to_string(), to.to_string());
                self.run("admin", doc! { "renameCollection": from, "to": to, "dropTarget": drop_target })
                    .await
            }
            Structure::Run { database, command } => self.run(&database, command).await,
            Structure::Empty(namespace) => self.delete(&namespace, doc! {}).await,
        }
    }

    /// What is not there was dropped later.
    async fn run(&self, database: &str, command: Document) -> Result<()> {
        let name = command.keys().next().cloned().unwrap_or_default();
        match self.client.database(database).run_command(command).await {
            Err(error) if !is_code(&error, &[NAMESPACE_NOT_FOUND]) => {
                Err(EngineError::mongo(format!("replay {name} in {database}"))(error))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a collection or a view, unless it exists.
pub(super) async fn create_collection(
    client: &Client,
    namespace: &Namespace,
    options: Document,
) -> Result<()> {
    let mut command = doc! { "create": &namespace.collection };
    command.extend(options);
    match client.database(&namespace.database).run_command(command).await {
        Err(error) if !is_code(&error, &[NAMESPACE_EXISTS]) => {
            Err(EngineError::mongo(format!("make {namespace}"))(error))
        }
        _ => Ok(()),
    }
}

/// Inserts documents. One that is there already was made anew while the source was copied: the oplog has it whole.
pub(super) async fn insert(
    client: Client,
    namespace: Namespace,
    documents: Vec<RawDocumentBuf>,
) -> Result<()> {
    let collection = client.database(&namespace.database).collection::<RawDocumentBuf>(&namespace.collection);
    let inserted = collection
        .insert_many(documents)
        .ordered(false)
        .bypass_document_validation(true)
        .write_concern(WriteConcern::nodes(1))
        .await;
    match inserted {
        Err(error) if !only_duplicates(&error) => Err(EngineError::mongo(format!("load {namespace}"))(error)),
        _ => Ok(()),
    }
}

fn only_duplicates(error: &mongodb::error::Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::InsertMany(error) => {
            error.write_concern_error.is_none()
                && error.write_errors.iter().flatten().all(|error| error.code == DUPLICATE_KEY)
        }
        _ => false,
    }
}

fn has_dollars(document: &RawDocument) -> bool {
    document.into_iter().flatten().any(|(name, _)| name.as_str().starts_with('$'))
}

fn key_of(namespace: &Namespace, document: &RawDocument) -> Result<Key> {
    let id = document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok()).unwrap_or(Bson::Null);
    Key::new(namespace, &id).map_err(broken)
}

fn malformed(error: &impl std::fmt::Display) -> ReplayError {
    ReplayError::Malformed(error.to_string())
}

fn broken(error: ReplayError) -> EngineError {
    EngineError::Unexpected { doing: "replay the oplog".to_owned(), what: error.to_string() }
}
