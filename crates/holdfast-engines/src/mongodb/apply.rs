//! Carries out a replay's actions on a server: in batches, one write a document. Commands are made of the documents' own bytes.

use bson::RawDocumentBuf;
use mongodb::Client;

use super::client::{self, NAMESPACE_EXISTS, NAMESPACE_NOT_FOUND, is_code};
use super::replay::{
    Action, Batch, Fields, Namespace, ReplayError, Structure, TIMESTAMP, Value, Write, is_told_only,
};
use crate::{EngineError, Result};

const BATCH_BYTES: usize = 8 << 20;
const MOST_DOCUMENTS: usize = 2000;
/// Bytes of documents in one command: one of the longest there are, or several that are no longer together. The server takes
/// 16 KiB more, for the rest of the command.
pub(super) const COMMAND_BYTES: usize = 16 << 20;
const DUPLICATE_KEY: i32 = 11000;
const NO_PLACE: i32 = 28; // PathNotViable

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
            Action::Delete { namespace, id } => self.batch.delete(&namespace, id),
            Action::Change { namespace, id, change } => {
                self.batch.change(&namespace, id, change).map_err(broken)?;
            }
            Action::Operators { namespace, id, update } => {
                self.flush().await?;
                self.operate(&namespace, id, &update).await?;
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
            for ids in chunks(ids, Value::size_bytes) {
                let mut found = self.read(&namespace, ids).await?;
                let (mut writes, mut bytes) = (Vec::new(), 0);
                while let Some(image) = found.next().await? {
                    bytes += image.as_bytes().len();
                    writes.extend(batch.resolve(&namespace, &image).map_err(broken)?);
                    if bytes >= BATCH_BYTES {
                        self.write(&namespace, std::mem::take(&mut writes)).await?;
                        bytes = 0;
                    }
                }
                self.write(&namespace, writes).await?;
            }
        }
        for (namespace, writes) in batch.finish() {
            self.write(&namespace, writes).await?;
        }
        Ok(())
    }

    async fn read(&self, namespace: &Namespace, ids: Vec<Value<'static>>) -> Result<client::Documents> {
        let find = Fields::default().with("find", namespace.collection.as_str()).with("filter", among(ids));
        client::documents(
            &self.client,
            &namespace.database,
            command(&find)?,
            format!("read documents of {namespace}"),
        )
        .await
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<Write>) -> Result<()> {
        let (mut gone, mut inserts, mut replacements, mut stamped) = (vec![], vec![], vec![], vec![]);
        for write in writes {
            let Write::Put { id, document } = write else {
                let Write::Delete { id } = write else { unreachable!("one of two") };
                gone.push(id);
                continue;
            };
            let fields = Fields::parse(document.as_bytes()).map_err(broken)?;
            if has_empty_timestamp(&fields) {
                stamped.push((id.clone(), document.clone()));
            }
            // A replacement cannot be as long as it and its _id together; an insert can.
            if id.size_bytes() + document.as_bytes().len() > COMMAND_BYTES {
                gone.push(id);
                inserts.push(document);
                continue;
            }
            // Nor can it have such names; a pipeline can.
            let dollars = fields.iter().any(|(name, _)| name.first() == Some(&b'$'));
            let whole = if dollars { whole(&document) } else { Value::from(&document).into_owned() };
            let statement = Fields::default().with("q", by_id(id)).with("u", whole).with("upsert", true);
            replacements.push(Value::from(statement));
        }
        for ids in chunks(gone, Value::size_bytes) {
            self.delete(namespace, among(ids)).await?;
        }
        for documents in chunks(inserts, |document| document.as_bytes().len()) {
            insert(self.client.clone(), namespace.clone(), documents).await?;
        }
        for statements in chunks(replacements, Value::size_bytes) {
            self.update(namespace, statements).await?;
        }
        for (id, document) in stamped {
            set_whole(&self.client, namespace, id, &document).await?;
        }
        Ok(())
    }

    /// A server that applies an entry leaves out what has no place in the document (a field of something that is no document), and
    /// does the rest: one by one, then.
    async fn operate(
        &self,
        namespace: &Namespace,
        id: Value<'static>,
        update: &RawDocumentBuf,
    ) -> Result<()> {
        let one = |update: Value<'static>| {
            let statement = Fields::default().with("q", by_id(id.clone())).with("u", update);
            Fields::default()
                .with("update", namespace.collection.as_str())
                .with("updates", Fields::array([statement.into()]))
                .with("bypassDocumentValidation", true)
        };
        if !meets(&self.client, namespace, one(Value::from(update).into_owned()), &[NO_PLACE]).await? {
            return Ok(());
        }
        for (operator, fields) in Fields::parse(update.as_bytes()).map_err(broken)?.iter() {
            for (name, value) in fields.fields().map_err(broken)?.iter() {
                let field = Fields::one(name, value.clone().into_owned());
                let change = Fields::one(operator, field.into());
                meets(&self.client, namespace, one(change.into()), &[NO_PLACE]).await?;
            }
        }
        Ok(())
    }

    async fn update(&self, namespace: &Namespace, statements: Vec<Value<'static>>) -> Result<()> {
        let update = Fields::default()
            .with("update", namespace.collection.as_str())
            .with("updates", Fields::array(statements))
            .with("bypassDocumentValidation", true);
        run_write(&self.client, namespace, update, &[]).await
    }

    async fn delete(&self, namespace: &Namespace, filter: Value<'static>) -> Result<()> {
        let statement = Fields::default().with("q", filter).with("limit", 0);
        let delete = Fields::default()
            .with("delete", namespace.collection.as_str())
            .with("deletes", Fields::array([statement.into()]));
        run_write(&self.client, namespace, delete, &[]).await
    }

    async fn restructure(&self, structure: Structure) -> Result<()> {
        match structure {
            Structure::Create { namespace, options } => {
                create_collection(&self.client, &namespace, &options).await
            }
            Structure::Drop(namespace) => {
                let namespace = self.droppable(namespace).await?;
                let drop = Fields::default().with("drop", namespace.collection.as_str());
                self.run(&namespace.database, &drop).await
            }
            Structure::DropDatabase(database) => {
                self.run(&database, &Fields::default().with("dropDatabase", 1)).await
            }
            Structure::Rename { from, to } => {
                let rename = Fields::default()
                    .with("renameCollection", from.to_string().as_str())
                    .with("to", to.to_string().as_str())
                    .with("dropTarget", true);
                self.run("admin", &rename).await
            }
            Structure::Run { database, command } => {
                self.run(&database, &Fields::parse(command.as_bytes()).map_err(broken)?).await
            }
            Structure::Empty(namespace) => self.delete(&namespace, Fields::default().into()).await,
        }
    }

    /// No command drops a `system.js`, but for one of another name: a tenant's move of it to another database does.
    async fn droppable(&self, namespace: Namespace) -> Result<Namespace> {
        if namespace.collection != "system.js" {
            return Ok(namespace);
        }
        let other = format!("dropped.{:016x}", rand::random::<u64>());
        let to = Namespace::new(&namespace.database, &other);
        let rename = Fields::default()
            .with("renameCollection", namespace.to_string().as_str())
            .with("to", to.to_string().as_str());
        self.run("admin", &rename).await?;
        Ok(to)
    }

    /// What is not there was dropped later.
    async fn run(&self, database: &str, fields: &Fields<'_>) -> Result<()> {
        match self.client.database(database).run_raw_command(command(fields)?).await {
            Err(error) if !is_code(&error, &[NAMESPACE_NOT_FOUND]) => {
                let name = fields.iter().next().map(|(name, _)| String::from_utf8_lossy(name).into_owned());
                let doing = format!("replay {} in {database}", name.unwrap_or_default());
                Err(EngineError::client(doing)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a collection or a view, unless it exists. A base may have been made while `$out` filled a temporary one.
pub(super) async fn create_collection(
    client: &Client,
    namespace: &Namespace,
    options: &RawDocumentBuf,
) -> Result<()> {
    let mut options = Fields::parse(options.as_bytes()).map_err(broken)?;
    options.retain(|name| !is_told_only(name));
    let caps = caps_of_a_clustered_one(&mut options, namespace);
    let mut create = Fields::default().with("create", namespace.collection.as_str());
    create.extend(options);
    let failed = || EngineError::client(format!("make {namespace}"));
    let database = client.database(&namespace.database);
    match database.run_raw_command(command(&create)?).await {
        Err(error) if is_code(&error, &[NAMESPACE_EXISTS]) => return Ok(()),
        made => made.map_err(failed())?,
    };
    for cap in caps {
        database.run_raw_command(command(&cap)?).await.map_err(failed())?;
    }
    Ok(())
}

/// Takes what caps a clustered collection out of its options, and gives the commands that cap it: `create` refuses both together, and
/// `convertToCapped` does it (6.0.5).
fn caps_of_a_clustered_one(options: &mut Fields<'_>, namespace: &Namespace) -> Vec<Fields<'static>> {
    let capped = options.get("capped").is_some_and(|capped| capped.is(true));
    if !capped || options.get("clusteredIndex").is_none() {
        return Vec::new();
    }
    options.remove("capped");
    let mut take = |name| options.remove(name).map(Value::into_owned);
    let (size, max) = (take("size"), take("max"));
    let about = |name| Fields::default().with(name, namespace.collection.as_str());
    let size = about("convertToCapped").with("size", size.unwrap_or_else(|| 4096_i32.into()));
    let max = max.map(|max| about("collMod").with("cappedMax", max));
    [Some(size), max].into_iter().flatten().collect()
}

/// Inserts documents, no more than [`COMMAND_BYTES`]. One that is there already was made anew while the source was copied: the
/// oplog has it whole.
pub(super) async fn insert(
    client: Client,
    namespace: Namespace,
    documents: Vec<RawDocumentBuf>,
) -> Result<()> {
    let insert = Fields::default()
        .with("insert", namespace.collection.as_str())
        .with("documents", Fields::array(documents.iter().map(Value::from)))
        .with("ordered", false)
        .with("bypassDocumentValidation", true);
    run_write(&client, &namespace, insert, &[DUPLICATE_KEY]).await?;
    for document in documents.iter().filter(|document| document.as_bytes().contains(&TIMESTAMP)) {
        let fields = Fields::parse(document.as_bytes()).map_err(broken)?;
        if let (true, Some(id)) = (has_empty_timestamp(&fields), fields.get("_id")) {
            set_whole(&client, &namespace, id.clone().into_owned(), document).await?;
        }
    }
    Ok(())
}

/// Servers put the present time where an inserted document, or one that replaces another, has an empty timestamp at its top.
fn has_empty_timestamp(fields: &Fields<'_>) -> bool {
    fields.iter().any(|(name, value)| name != b"_id" && value.is_empty_timestamp())
}

/// A pipeline that makes any document this one, and changes nothing in it.
fn whole(document: &RawDocumentBuf) -> Value<'static> {
    let whole = Fields::default().with("$literal", Value::from(document));
    Fields::array([Fields::default().with("$replaceWith", Value::from(whole)).into()])
}

/// Makes a document that is there this one.
async fn set_whole(
    client: &Client,
    namespace: &Namespace,
    id: Value<'static>,
    document: &RawDocumentBuf,
) -> Result<()> {
    let statement = Fields::default().with("q", by_id(id)).with("u", whole(document));
    let update = Fields::default()
        .with("update", namespace.collection.as_str())
        .with("updates", Fields::array([statement.into()]))
        .with("bypassDocumentValidation", true);
    run_write(client, namespace, update, &[]).await
}

/// Runs a command that answers with `writeErrors`, of which some codes are none.
async fn run_write(
    client: &Client,
    namespace: &Namespace,
    fields: Fields<'_>,
    expected: &[i32],
) -> Result<()> {
    meets(client, namespace, fields, expected).await.map(drop)
}

/// The same. Says whether there were any.
async fn meets(
    client: &Client,
    namespace: &Namespace,
    mut fields: Fields<'_>,
    expected: &[i32],
) -> Result<bool> {
    // A restore is not acknowledged before its end.
    fields.set("writeConcern", Value::from(Fields::default().with("w", 1)));
    let doing = format!("write to {namespace}");
    let answer = client::answer(client, &namespace.database, command(&fields)?, &doing).await?;
    let answer = Fields::parse(answer.as_bytes()).map_err(broken)?;
    let Some(errors) = answer.get("writeErrors") else { return Ok(false) };
    for (_, error) in errors.fields().map_err(broken)?.iter() {
        let error = error.fields().map_err(broken)?;
        let code = error.get("code").and_then(Value::as_integer);
        if !expected.iter().any(|known| code == Some(i64::from(*known))) {
            let text = error.get("errmsg").and_then(Value::as_str).unwrap_or_default();
            return Err(EngineError::Unexpected { doing, what: format!("{code:?} {text}") });
        }
    }
    Ok(true)
}

fn by_id(id: Value<'static>) -> Value<'static> {
    Fields::default().with("_id", Value::from(Fields::default().with("$eq", id))).into()
}

fn among(ids: Vec<Value<'static>>) -> Value<'static> {
    Fields::default().with("_id", Value::from(Fields::default().with("$in", Fields::array(ids)))).into()
}

/// Cuts a list into runs that one command takes each.
pub(super) fn chunks<T>(all: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    const OF_AN_ELEMENT: usize = 16; // its type, and its number as text
    let (mut chunks, mut bytes) = (Vec::new(), usize::MAX);
    for one in all {
        let own = bytes_of(&one) + OF_AN_ELEMENT;
        if bytes.saturating_add(own) > COMMAND_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        chunks.last_mut().expect("one was begun").push(one);
    }
    chunks
}

pub(super) fn command(fields: &Fields<'_>) -> Result<RawDocumentBuf> {
    fields.to_raw().map_err(broken)
}

fn broken(error: ReplayError) -> EngineError {
    EngineError::Unexpected { doing: "replay the oplog".to_owned(), what: error.to_string() }
}
