//! A base, and the oplog after it, become an instance at the exact instant.
//!
//! Data without secondary indexes, the oplog as ordinary writes, then indexes, those that expire documents last, views and
//! users. Until the end only the agent can reach the instance.

use std::collections::BTreeMap;

use bson::{RawDocumentBuf, doc};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use holdfast_core::Timestamp;
use mongodb::Client;
use tokio::io::AsyncReadExt as _;

use super::Mongodb;
use super::apply::{Applier, chunks, command, create_collection};
use super::backup::{CATALOG, Facts, OPLOG, ROLES, USERS};
use super::capped;
use super::client;
use super::config::Account;
use super::listing::Recorded;
use super::oplog::{Counter, Mark};
use super::replay::{Catalog, Entry, Fields, Frames, Namespace, ReplayError, Replayer, Value};
use super::verify::Fingerprint;
use crate::{
    EngineError, Instance, LogPart, ProgressSink, RestoreSource, Result, StreamRestore, StreamRestored,
};

const READ_BYTES: usize = 256 << 10;
/// Documents and bytes of one insert, and how many run at once.
const INSERT_DOCUMENTS: usize = 1000;
const INSERT_BYTES: usize = 4 << 20;
const INSERTS: usize = 3;

impl Mongodb {
    pub(super) async fn restore_instance(
        &self,
        instance: &Instance,
        request: &StreamRestore<'_>,
        source: &dyn RestoreSource,
        progress: &ProgressSink,
    ) -> Result<StreamRestored> {
        let facts: Facts = serde_json::from_value(request.facts.clone()).map_err(|error| {
            EngineError::Damaged { doing: "read the base's facts".to_owned(), what: error.to_string() }
        })?;
        progress.phase("creating the database");
        self.make_private(instance).await?;
        let client = self.clients.get(instance, Account::Writer)?;
        progress.phase("loading collections");
        let catalog = self.load(&client, source, request, &facts, progress).await?;
        progress.phase("replaying log");
        let mut replay = Replay::new(client.clone(), catalog);
        replay.base(source, &facts).await?;
        if let Some(target) = request.target {
            replay.log(source, &facts, target, request.complete_until).await?;
        }
        let (catalog, position) = replay.finish().await?;
        progress.phase("building indexes");
        build(&client, &catalog).await?;
        progress.phase("creating users");
        self.carry_users(instance, source).await?;
        self.make_tenants(instance, request.users).await?;
        progress.phase("starting the engine");
        self.open_first(instance).await?;
        let reached = match request.target {
            Some(target) => super::instant(target.as_millisecond())?,
            None => super::instant(position.wall_ms + 1)?,
        };
        Ok(StreamRestored {
            engine_version: self.server_version(instance).await?,
            reached,
            position: position.mark.ts.to_string(),
            left_out: Vec::new(),
        })
    }

    /// Makes the collections and fills them. Returns what is built at the end.
    async fn load(
        &self,
        client: &Client,
        source: &dyn RestoreSource,
        request: &StreamRestore<'_>,
        facts: &Facts,
        progress: &ProgressSink,
    ) -> Result<Catalog> {
        let recorded = read_catalog(source).await?;
        let mut catalog = Catalog::default();
        let mut objects = BTreeMap::new();
        for one in recorded {
            if one.kind == "view" {
                catalog.views.insert(one.namespace, one.options);
                continue;
            }
            for index in &one.indexes {
                let index = Fields::parse(index.as_bytes()).map_err(|error| damaged(CATALOG, error))?;
                catalog.create_index(&one.namespace, index).map_err(|error| damaged(CATALOG, error))?;
            }
            let object = format!("{}.bson", one.object);
            let held = facts.fingerprints.get(&object).filter(|_| one.is_capped());
            let roomy = held.map(|held| capped::roomy(&one.namespace, &one.options, held)).transpose();
            let roomy = roomy.map_err(|error| damaged(CATALOG, error))?.flatten();
            if one.is_made() {
                let options = roomy.as_ref().map_or(&one.options, |roomy| &roomy.options);
                create_collection(client, &one.namespace, options).await?;
            }
            let at_once = if one.is_capped() { 1 } else { INSERTS };
            if one.is_capped() {
                catalog.capped.insert(one.namespace.clone());
            }
            if one.kind == "timeseries" {
                catalog.series.insert(one.namespace.clone());
            }
            objects.insert(object, (one.namespace, at_once, roomy));
        }
        let mut loaded = 0;
        for name in source.names() {
            let Some((namespace, at_once, roomy)) = objects.get(&name) else { continue };
            let fingerprint = load_collection(client, source, &name, namespace, *at_once).await?;
            loaded += fingerprint.bytes;
            if let Some(roomy) = roomy {
                let limited =
                    client.database(&namespace.database).run_raw_command(roomy.limits.clone()).await;
                limited.map_err(EngineError::client(format!("limit {namespace}")))?;
            }
            compare(&name, facts, &fingerprint, Side::Store)?;
            if request.target.is_none() {
                let found = read_back(client, namespace).await?;
                compare(&name, facts, &found, Side::Copy)?;
            }
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let percent = loaded as f64 * 100.0 / request.database_bytes.max(1) as f64;
            progress.percent(percent.min(99.0), Some(request.database_bytes));
        }
        Ok(catalog)
    }

    /// Users and roles of the source, with their rights.
    async fn carry_users(&self, instance: &Instance, source: &dyn RestoreSource) -> Result<()> {
        let client = self.clients.get(instance, Account::Admin)?;
        let users = read_documents(source, USERS).await?;
        let roles = read_documents(source, ROLES).await?;
        merge_users(&client, &users, &roles).await
    }
}

/// mongod takes users and roles out of two collections, as mongorestore does it; those that are not in them stay.
async fn merge_users(client: &Client, users: &[RawDocumentBuf], roles: &[RawDocumentBuf]) -> Result<()> {
    let doing = "carry over the database's users";
    let database = client.database("admin");
    // Tenants may have collections in this database, of any name that they think of.
    let random = hex::encode(rand::random::<[u8; 12]>());
    let mut merge = doc! { "_mergeAuthzCollections": 1, "db": "", "drop": false };
    let mut made = Vec::new();
    for (parameter, documents) in [("tempUsersCollection", users), ("tempRolesCollection", roles)] {
        if documents.is_empty() {
            continue;
        }
        let name = format!("holdfast_{parameter}_{random}");
        let collection = database.collection::<RawDocumentBuf>(&name);
        collection.insert_many(documents).await.map_err(EngineError::client(doing))?;
        merge.insert(parameter, format!("admin.{name}"));
        made.push(collection);
    }
    if !made.is_empty() {
        client::admin(client, merge, doing).await?;
    }
    for collection in made {
        collection.drop().await.map_err(EngineError::client(doing))?;
    }
    Ok(())
}

/// What each collection of the base is.
async fn read_catalog(source: &dyn RestoreSource) -> Result<Vec<Recorded>> {
    let names = source.names();
    let mut all = Vec::new();
    if names.iter().any(|name| name == CATALOG) {
        for record in read_documents(source, CATALOG).await? {
            all.push(Recorded::parse(&record).map_err(|error| damaged(CATALOG, error))?);
        }
        return Ok(all);
    }
    // A base of a release without a catalog.
    for name in &names {
        if let Some(object) = name.strip_suffix(".metadata.json") {
            let mut text = Vec::new();
            let mut reader = source.read(name).await?;
            reader.read_to_end(&mut text).await.map_err(EngineError::io(format!("read {name}")))?;
            all.push(Recorded::parse_json(object, &text).map_err(|error| damaged(name, error))?);
        } else if let Some(object) =
            name.strip_suffix(".bson").filter(|name| name.contains("/system.buckets."))
        {
            all.push(Recorded::parse_json(object, b"{}").map_err(|error| damaged(name, error))?);
        }
    }
    Ok(all)
}

async fn read_documents(source: &dyn RestoreSource, name: &str) -> Result<Vec<RawDocumentBuf>> {
    if !source.names().iter().any(|known| known == name) {
        return Ok(Vec::new());
    }
    let mut documents = Documents::open(source, name).await?;
    let mut all = Vec::new();
    while let Some(document) = documents.next().await? {
        all.push(document);
    }
    Ok(all)
}

/// The documents of one object of the base.
struct Documents {
    name: String,
    reader: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    frames: Frames,
    buffer: Vec<u8>,
    /// The one that the last insert had no room for.
    put_back: Option<RawDocumentBuf>,
}

impl Documents {
    async fn open(source: &dyn RestoreSource, name: &str) -> Result<Self> {
        let reader = source.read(name).await?;
        Ok(Self {
            name: name.to_owned(),
            reader,
            frames: Frames::default(),
            buffer: vec![0; READ_BYTES],
            put_back: None,
        })
    }

    async fn next(&mut self) -> Result<Option<RawDocumentBuf>> {
        loop {
            if let Some(document) = self.frames.next_document().map_err(|error| damaged(&self.name, error))? {
                return Ok(Some(document));
            }
            let doing = || format!("read {}", self.name);
            let read = self.reader.read(&mut self.buffer).await.map_err(EngineError::io(doing()))?;
            if read == 0 {
                self.frames.finish().map_err(|error| damaged(&self.name, error))?;
                return Ok(None);
            }
            self.frames.push(&Bytes::copy_from_slice(&self.buffer[..read]));
        }
    }

    /// As many as one insert takes.
    async fn next_insert(&mut self, fingerprint: &mut Fingerprint) -> Result<Vec<RawDocumentBuf>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < INSERT_DOCUMENTS {
            let next = match self.put_back.take() {
                Some(document) => Some(document),
                None => self.next().await?,
            };
            let Some(document) = next else { break };
            bytes += document.as_bytes().len();
            if bytes > INSERT_BYTES && !batch.is_empty() {
                self.put_back = Some(document);
                break;
            }
            fingerprint.add(document.as_bytes());
            batch.push(document);
        }
        Ok(batch)
    }
}

async fn load_collection(
    client: &Client,
    source: &dyn RestoreSource,
    name: &str,
    namespace: &Namespace,
    at_once: usize,
) -> Result<Fingerprint> {
    let mut documents = Documents::open(source, name).await?;
    let mut fingerprint = Fingerprint::default();
    let mut running = tokio::task::JoinSet::new();
    loop {
        let batch = documents.next_insert(&mut fingerprint).await?;
        if running.len() >= at_once || batch.is_empty() {
            match running.join_next().await {
                Some(done) => done.map_err(|error| EngineError::Unexpected {
                    doing: format!("load {namespace}"),
                    what: error.to_string(),
                })??,
                None if batch.is_empty() => return Ok(fingerprint),
                None => {}
            }
        }
        if !batch.is_empty() {
            running.spawn(super::apply::insert(client.clone(), namespace.clone(), batch));
        }
    }
}

async fn read_back(client: &Client, namespace: &Namespace) -> Result<Fingerprint> {
    let doing = format!("read {namespace} back");
    let collection = client.database(&namespace.database).collection::<RawDocumentBuf>(&namespace.collection);
    let mut cursor = collection.find(doc! {}).await.map_err(EngineError::client(&doing))?;
    let mut fingerprint = Fingerprint::default();
    while let Some(document) = cursor.try_next().await.map_err(EngineError::client(&doing))? {
        fingerprint.add(document.as_bytes());
    }
    Ok(fingerprint)
}

/// What is compared with what was dumped.
enum Side {
    Store,
    Copy,
}

fn compare(name: &str, facts: &Facts, found: &Fingerprint, side: Side) -> Result<()> {
    let expected = facts.fingerprints.get(name);
    if expected == Some(found) {
        return Ok(());
    }
    let doing = format!("compare {name} with its fingerprint");
    let dumped = expected.map_or(0, |expected| expected.documents);
    Err(match side {
        Side::Store => EngineError::Damaged {
            doing,
            what: format!("{dumped} documents were stored, and {} were read, or others", found.documents),
        },
        Side::Copy => EngineError::Differs {
            doing,
            what: format!("{dumped} documents were loaded, and {} are there, or others", found.documents),
        },
    })
}

/// How far a replay is.
struct Position {
    mark: Mark,
    wall_ms: i64,
}

struct Replay {
    replayer: Replayer,
    applier: Applier,
    position: Option<Position>,
}

impl Replay {
    fn new(client: Client, catalog: Catalog) -> Self {
        Self { replayer: Replayer::new(catalog), applier: Applier::new(client), position: None }
    }

    async fn entry(&mut self, entry: &Entry, mark: Mark) -> Result<()> {
        for action in self.replayer.feed(entry).map_err(replay_error)? {
            self.applier.push(action).await?;
        }
        let newest = self.position.as_ref().map_or(i64::MIN, |position| position.wall_ms);
        self.position = Some(Position { mark, wall_ms: entry.wall_ms().max(newest) });
        Ok(())
    }

    /// The base's own oplog, to its end.
    async fn base(&mut self, source: &dyn RestoreSource, facts: &Facts) -> Result<()> {
        let mut documents = Documents::open(source, OPLOG).await?;
        let mut counter = Counter::default();
        while let Some(document) = documents.next().await? {
            let entry = Entry::new(document).map_err(|error| damaged(OPLOG, error))?;
            let mark = counter.mark(&entry);
            self.entry(&entry, mark).await?;
        }
        match &self.position {
            Some(position) if position.mark == facts.last => Ok(()),
            other => Err(EngineError::Hole {
                reached: other.as_ref().map_or("nothing".to_owned(), |position| position.mark.ts.to_string()),
                expected: facts.last.ts.to_string(),
            }),
        }
    }

    /// The archived log behind the base's last entry, up to before the first entry, in the oplog's order, that was stamped
    /// in the target's millisecond or later: stamps are cut to milliseconds, so only earlier ones are certain.
    async fn log(
        &mut self,
        source: &dyn RestoreSource,
        facts: &Facts,
        target: Timestamp,
        complete_until: Option<Timestamp>,
    ) -> Result<()> {
        let target_ms = target.as_millisecond();
        let mut parts = source.log().await?;
        let mut frames = Frames::default();
        let mut counter = Counter::default();
        let (mut joined, mut empty) = (false, true);
        while let Some(part) = parts.next().await {
            empty = false;
            match part? {
                LogPart::Segment { from, .. } => {
                    let from = Mark::parse(&from)?;
                    frames.finish().map_err(|error| damaged("the archived log", error))?;
                    joined |= from == facts.last;
                    counter.set(&from);
                }
                LogPart::Bytes(bytes) => frames.push(&bytes),
            }
            while let Some(document) =
                frames.next_document().map_err(|error| damaged("the archived log", error))?
            {
                let entry = Entry::new(document).map_err(|error| damaged("the archived log", error))?;
                let mark = counter.mark(&entry);
                if !joined {
                    joined = mark == facts.last;
                    if !joined && mark.ts > facts.last.ts {
                        return Err(not_joined(facts));
                    }
                } else if entry.wall_ms() >= target_ms {
                    return Ok(());
                } else {
                    self.entry(&entry, mark).await?;
                }
            }
        }
        frames.finish().map_err(|error| damaged("the archived log", error))?;
        let complete = complete_until.is_some_and(|until| until >= target);
        // Without any log since before the base, nothing happened behind it.
        match (joined || empty, complete) {
            (true, true) => Ok(()),
            (false, _) => Err(not_joined(facts)),
            (true, false) => Err(EngineError::Hole {
                reached: self
                    .position
                    .as_ref()
                    .map_or(String::new(), |position| position.mark.ts.to_string()),
                expected: target.to_string(),
            }),
        }
    }

    async fn finish(mut self) -> Result<(Catalog, Position)> {
        self.applier.flush().await?;
        let position = self.position.ok_or_else(|| EngineError::Unexpected {
            doing: "replay the oplog".to_owned(),
            what: "the base has none".to_owned(),
        })?;
        Ok((self.replayer.catalog, position))
    }
}

fn not_joined(facts: &Facts) -> EngineError {
    EngineError::Hole {
        reached: "the archived log".to_owned(),
        expected: format!("the base's last entry, at {}", facts.last.ts),
    }
}

fn replay_error(error: ReplayError) -> EngineError {
    EngineError::Unexpected { doing: "replay the oplog".to_owned(), what: error.to_string() }
}

fn damaged(name: &str, error: impl std::fmt::Display) -> EngineError {
    EngineError::Damaged { doing: format!("read {name}"), what: error.to_string() }
}

/// Indexes and views, once all data is there. Those that expire documents come last.
async fn build(client: &Client, catalog: &Catalog) -> Result<()> {
    for last in [false, true] {
        for (namespace, indexes) in &catalog.indexes {
            let mut specifications = Vec::new();
            for index in indexes {
                let index = startable(namespace, Fields::parse(index.as_bytes()).map_err(replay_error)?);
                if index.get("expireAfterSeconds").is_some() == last {
                    let series = catalog.series.contains(namespace);
                    specifications.push(Value::from(with_collation(index, series)));
                }
            }
            for indexes in chunks(specifications, Value::size_bytes) {
                let create = Fields::default()
                    .with("createIndexes", namespace.collection.as_str())
                    .with("indexes", Fields::array(indexes));
                let doing = format!("build the indexes of {namespace}");
                let database = client.database(&namespace.database);
                database.run_raw_command(command(&create)?).await.map_err(EngineError::client(doing))?;
            }
        }
    }
    for (namespace, options) in &catalog.views {
        create_collection(client, namespace, options).await?;
    }
    Ok(())
}

/// With an index in `admin` that takes no new duplicates (`prepareUnique`) mongod 6.0.5 does not start any more: it opens that database before
/// it knows its feature compatibility version, which the index asks for. A copy has it without.
fn startable<'a>(namespace: &Namespace, mut index: Fields<'a>) -> Fields<'a> {
    if namespace.database == "admin" && index.remove("prepareUnique").is_some() {
        let name = index.get("name").and_then(Value::as_str).unwrap_or_default();
        tracing::warn!(%namespace, index = name, "left out that an index takes no new duplicates (prepareUnique): no server starts with that in admin");
    }
    index
}

/// An index is listed without a collation where it has the simple one; made without, it gets its collection's. One of a time
/// series that has a filter has its collection's, and the server takes none with it.
fn with_collation(mut index: Fields<'_>, series: bool) -> Fields<'_> {
    if series && index.get("partialFilterExpression").is_some() {
        index.remove("collation");
        return index;
    }
    let knows = index.get("v").and_then(Value::as_integer).is_none_or(|version| version >= 2);
    if knows && index.get("collation").is_none() {
        index.set("collation", Value::from(Fields::default().with("locale", "simple")));
    }
    index
}
