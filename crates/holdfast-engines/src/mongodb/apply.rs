//! Carries out a replay's actions on a server: in batches, one write a document.

use bson::raw::{RawArrayBuf, RawDocument, cstr};
use bson::{Document, RawDocumentBuf, doc, rawdoc};
use futures::TryStreamExt as _;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::WriteConcern;

use super::client::{NAMESPACE_EXISTS, NAMESPACE_NOT_FOUND, is_code};
use super::replay::{Action, Batch, Namespace, ReplayError, Structure, Write};
use crate::{EngineError, Result};

const BATCH_BYTES: usize = 8 << 20;
const MOST_DOCUMENTS: usize = 2000;
/// Bytes of one command; the server's own limit is 48 MB.
const COMMAND_BYTES: usize = 8 << 20;
const DUPLICATE_KEY: i32 = 11000;

/// Writes to one server, in the oplog's order.
pub(super) struct Applier {
    client: Client,
    batch: Batch,
}

impl Applier {
    pub(super) fn new(client: Client) -> Self {
        Self { client, batch: Batch::default() }
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
                let update = doc! { "q": { "_id": { "$eq": id } }, "u": update };
                let mut updates = RawArrayBuf::new();
                updates.push(raw(&update)?);
                self.update(&namespace, updates).await?;
            }
            Action::Structure(structure) => {
                self.flush().await?;
                self.restructure(structure).await?;
            }
        }
        if self.batch.len() >= MOST_DOCUMENTS || self.batch.size_bytes() >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes everything that was pushed. Documents that have to be read pass through memory, a few megabytes at a time.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        for (namespace, ids) in batch.to_read() {
            let collection =
                self.client.database(&namespace.database).collection::<RawDocumentBuf>(&namespace.collection);
            let doing = format!("read documents of {namespace}");
            let mut cursor =
                collection.find(doc! { "_id": { "$in": ids } }).await.map_err(EngineError::mongo(&doing))?;
            let (mut writes, mut bytes) = (Vec::new(), 0);
            while let Some(image) = cursor.try_next().await.map_err(EngineError::mongo(&doing))? {
                bytes += image.as_bytes().len();
                writes.extend(batch.resolve(&namespace, &image).map_err(broken)?);
                if bytes >= COMMAND_BYTES {
                    self.write(&namespace, std::mem::take(&mut writes)).await?;
                    bytes = 0;
                }
            }
            self.write(&namespace, writes).await?;
        }
        for (namespace, writes) in batch.finish() {
            self.write(&namespace, writes).await?;
        }
        Ok(())
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<Write>) -> Result<()> {
        let (mut gone, mut inserts) = (Vec::new(), Vec::new());
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
        let (mut updates, mut bytes) = (RawArrayBuf::new(), 0);
        for write in writes {
            let Write::Put { id, document } = write else { continue };
            if has_dollars(&document) {
                continue;
            }
            bytes += document.as_bytes().len();
            let mut update = raw(&doc! { "q": { "_id": { "$eq": id } }, "upsert": true })?;
            update.append(cstr!("u"), document);
            updates.push(update);
            if bytes >= COMMAND_BYTES {
                self.update(namespace, std::mem::take(&mut updates)).await?;
                bytes = 0;
            }
        }
        if updates.is_empty() { Ok(()) } else { self.update(namespace, updates).await }
    }

    async fn update(&self, namespace: &Namespace, updates: RawArrayBuf) -> Result<()> {
        let command = rawdoc! {
            "update": namespace.collection.as_str(), "updates": updates, "ordered": true,
            "bypassDocumentValidation": true, "writeConcern": { "w": 1 },
        };
        self.run_write(namespace, command).await
    }

    async fn delete(&self, namespace: &Namespace, filter: Document) -> Result<()> {
        let command = doc! {
            "delete": &namespace.collection, "deletes": [{ "q": filter, "limit": 0 }], "writeConcern": { "w": 1 },
        };
        self.run_write(namespace, raw(&command)?).await
    }

    async fn run_write(&self, namespace: &Namespace, command: RawDocumentBuf) -> Result<()> {
        let doing = format!("replay writes to {namespace}");
        let database = self.client.database(&namespace.database);
        let answer = database.run_raw_command(command).await.map_err(EngineError::mongo(&doing))?;
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

fn raw(document: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(document).map_err(|error| broken(ReplayError::Malformed(error.to_string())))
}

fn broken(error: ReplayError) -> EngineError {
    EngineError::Unexpected { doing: "replay the oplog".to_owned(), what: error.to_string() }
}
