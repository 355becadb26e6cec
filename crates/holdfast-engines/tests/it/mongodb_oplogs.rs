//! Recorded oplogs of real servers (mongod 3.6 to 8.0), through the same replayer as every restore, each against its expected
//! result. The recordings are in `shared/fixtures` beside the project or where `HOLDFAST_FIXTURES` points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bson::{Bson, Document, RawDocumentBuf, doc};
use bytes::Bytes;
use holdfast_engines::mongodb::replay::{
    Action, Batch, Catalog, Entry, Fields, Frames, Key, Namespace, Replayer, Stamp, Structure, Write,
};

/// The folder of the recordings; says so where they are not there.
fn recordings() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = std::env::var_os("HOLDFAST_FIXTURES").map(PathBuf::from);
    let beside = here.ancestors().map(|folder| folder.join("shared/fixtures"));
    let found =
        asked.into_iter().chain(beside).map(|folder| folder.join("mongodb-oplog")).find(|f| f.is_dir());
    if found.is_none() {
        println!("NOT SHOWN: no recorded oplogs beside the project; set HOLDFAST_FIXTURES to their folder");
    }
    found
}

/// A server's data, in memory, written as a restore writes it.
#[derive(Default, Clone, PartialEq, Debug)]
struct Memory(BTreeMap<Namespace, BTreeMap<Key, Document>>);

impl Memory {
    fn apply(&mut self, actions: Vec<Action>) -> Result<()> {
        for action in actions {
            let mut batch = Batch::default();
            match action {
                Action::Put { namespace, document } => batch.put(&namespace, document)?,
                Action::Delete { namespace, id } => batch.delete(&namespace, id),
                Action::Change { namespace, id, change } => batch.change(&namespace, id, change)?,
                Action::Operators { .. } => anyhow::bail!("no recording has one"),
                Action::Structure(structure) => self.restructure(structure),
            }
            self.write(batch)?;
        }
        Ok(())
    }

    fn write(&mut self, mut batch: Batch) -> Result<()> {
        for (namespace, ids) in batch.to_read() {
            for id in ids {
                let key = Key::new(&namespace, &id);
                let Some(found) = self.0.get(&namespace).and_then(|all| all.get(&key)) else { continue };
                let image = RawDocumentBuf::try_from(found)?;
                let write = batch.resolve(&namespace, &image)?.context("a change of it")?;
                self.carry_out(&namespace, write)?;
            }
        }
        for (namespace, writes) in batch.finish() {
            for write in writes {
                self.carry_out(&namespace, write)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, namespace: &Namespace, write: Write) -> Result<()> {
        let collection = self.0.entry(namespace.clone()).or_default();
        match write {
            Write::Put { id, document } => {
                collection.insert(Key::new(namespace, &id), Document::try_from(document.as_ref())?);
            }
            Write::Delete { id } => drop(collection.remove(&Key::new(namespace, &id))),
        }
        Ok(())
    }

    fn restructure(&mut self, structure: Structure) {
        match structure {
            Structure::Create { namespace, .. } => drop(self.0.entry(namespace).or_default()),
            Structure::Drop(namespace) => drop(self.0.remove(&namespace)),
            Structure::DropDatabase(database) => self.0.retain(|namespace, _| namespace.database != database),
            Structure::Rename { from, to, .. } => {
                let moved = self.0.remove(&from).unwrap_or_default();
                self.0.insert(to, moved);
            }
            Structure::Empty(namespace) => drop(self.0.insert(namespace, BTreeMap::new())),
            Structure::Run { .. } => {}
        }
    }

    fn load(&mut self, namespace: &Namespace, file: &Path) -> Result<()> {
        let mut batch = Batch::default();
        for document in documents(file)? {
            batch.put(namespace, document)?;
        }
        self.write(batch)
    }

    fn documents(&self, namespace: &str) -> Vec<&Document> {
        let namespace = Namespace::parse(namespace).expect("a name of the test's");
        self.0.get(&namespace).into_iter().flat_map(BTreeMap::values).collect()
    }
}

fn documents(file: &Path) -> Result<Vec<RawDocumentBuf>> {
    let mut frames = Frames::default();
    let mut all = Vec::new();
    // In pieces, so that documents are cut everywhere.
    for piece in std::fs::read(file).with_context(|| file.display().to_string())?.chunks(1009) {
        frames.push(&Bytes::copy_from_slice(piece));
        while let Some(document) = frames.next_document()? {
            all.push(document);
        }
    }
    frames.finish()?;
    Ok(all)
}

fn entries(file: &Path) -> Result<Vec<Entry>> {
    documents(file)?.into_iter().map(|document| Ok(Entry::new(document)?)).collect()
}

fn replay(memory: &mut Memory, entries: &[Entry]) -> Result<Catalog> {
    let mut replayer = Replayer::default();
    for entry in entries {
        memory.apply(replayer.feed(entry)?)?;
    }
    Ok(replayer.catalog)
}

/// Distributed transactions of a sharded 5.0.5, cut at the entry before, at and behind commits: right at each.
#[test]
fn transactions_of_a_sharded_5_0_5_are_whole_or_absent_at_each_cut() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let text = std::fs::read(folder.join("psmdb-5.0.5-expected.json"))?;
    let expected: serde_json::Value = serde_json::from_slice(&text)?;
    let mut cuts = 0;
    for shard in ["rs1", "rs2"] {
        let files = folder.join(format!("psmdb-5.0.5-{shard}"));
        let mut log = Vec::new();
        for slice in 0..3 {
            log.extend(entries(&files.join(format!("oplog-{slice}.bson")))?);
        }
        for cut in expected[shard].as_array().context("cuts")? {
            let (t, i) = cut["limit_exclusive"].as_str().and_then(|s| s.split_once(':')).context("limit")?;
            let limit = Stamp { t: t.parse()?, i: i.parse()? };
            let mut memory = Memory::default();
            memory.load(&Namespace::new("trx", "test"), &files.join("dump/trx/test.bson"))?;
            let before: Vec<Entry> = log.iter().filter(|e| e.stamp() < limit).cloned().collect();
            replay(&mut memory, &before)?;
            let mut idx: Vec<f64> =
                memory.documents("trx.test").iter().map(|d| d.get_f64("idx")).collect::<Result<_, _>>()?;
            idx.sort_by(f64::total_cmp);
            assert_eq!(serde_json::json!(idx), cut["idx"], "{shard} before {limit}");
            cuts += 1;
        }
    }
    println!("{cuts} cuts of recorded 5.0.5 oplogs are exact");
    Ok(())
}

/// 872 real `$v: 2` diffs of time-series buckets: columns fit together, and applying all of it twice changes nothing.
#[test]
fn diffs_of_time_series_buckets_converge_when_applied_twice() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let dump = folder.join("tools/timeseries_tests/ts_dump_with_oplog");
    let buckets = Namespace::new("timeseries_test", "system.buckets.foo_ts");
    let mut memory = Memory::default();
    memory.load(&buckets, &dump.join("timeseries_test/system.buckets.foo_ts.bson"))?;
    let log = entries(&dump.join("oplog.bson"))?;
    replay(&mut memory, &log)?;
    let once = memory.clone();
    let found = once.documents("timeseries_test.system.buckets.foo_ts");
    assert!(!found.is_empty(), "the recording has buckets");
    let mut measurements = 0;
    for bucket in &found {
        let data = bucket.get_document("data")?;
        let keys = |column: &str| -> Result<Vec<&String>> {
            let mut keys: Vec<&String> = data.get_document(column)?.keys().collect();
            keys.sort_by_key(|key| key.parse::<u32>().unwrap_or(u32::MAX));
            Ok(keys)
        };
        let times = keys("ts")?;
        assert_eq!(times, keys("_id")?);
        assert_eq!(times, keys("measurement")?);
        measurements += times.len();
        let newest = data.get_document("_id")?.values().filter_map(Bson::as_object_id).max();
        assert_eq!(newest, Some(bucket.get_document("control")?.get_document("max")?.get_object_id("_id")?));
    }
    replay(&mut memory, &log)?;
    assert_eq!(memory, once, "applied a second time");
    println!(
        "{} entries, {} buckets with {measurements} measurements, twice the same",
        log.len(),
        found.len()
    );
    Ok(())
}

/// Each recorded structure entry of 3.6 to 8.0 has the indexes as its result that its server had.
#[test]
fn recorded_structure_entries_make_their_indexes() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let oplogs = folder.join("tools/oplogs/bson");
    // file, collection, indexes it starts with, indexes at the end
    let plain = |field: &str| doc! { "v": 2, "key": { field: 1.0 }, "name": format!("{field}_1") };
    let whole = |field: &str| doc! { "v": 2, "key": { field: 1 }, "name": format!("{field}_1") };
    let with = |mut index: Document, option: &str, value: Bson| {
        index.insert(option, value);
        index
    };
    let partial = with(plain("b"), "partialFilterExpression", doc! { "a": 1.0 }.into());
    let ttl = |seconds: i32| with(plain("f"), "expireAfterSeconds", seconds.into());
    let rows: [(PathBuf, &str, Vec<Document>, Vec<Document>); 8] = [
        (
            folder.join("tools/create_indexes/oplog.bson"),
            "create_indexes.test",
            vec![],
            vec![plain("a"), partial.clone()],
        ),
        (
            folder.join("tools/commit_indexes_build/oplog.bson"),
            "commit_index.test",
            vec![],
            vec![plain("a"), partial],
        ),
        (oplogs.join("create_index.bson"), "test.foo", vec![], vec![plain("f")]),
        (oplogs.join("commit_index.bson"), "test.foo", vec![], vec![plain("a")]),
        (oplogs.join("drop_index.bson"), "test.foo", vec![plain("f")], vec![]),
        (oplogs.join("drop_collection.bson"), "test.foo", vec![plain("f")], vec![]),
        (oplogs.join("drop_db.bson"), "test.foo", vec![plain("f")], vec![]),
        (
            oplogs.join("collMod_with_hidden.bson"),
            "test.foo",
            vec![ttl(1000)],
            vec![with(ttl(3600), "hidden", true.into())],
        ),
    ];
    for (file, collection, before, after) in rows {
        let namespace = Namespace::parse(collection).context("a namespace")?;
        let mut catalog = Catalog::default();
        for index in &before {
            let index = RawDocumentBuf::try_from(index)?;
            catalog.create_index(&namespace, Fields::parse(index.as_bytes())?)?;
        }
        let mut replayer = Replayer::new(catalog);
        for entry in entries(&file)? {
            replayer.feed(&entry)?;
        }
        let found = parsed(replayer.catalog.indexes.get(&namespace).map_or(&[], Vec::as_slice))?;
        assert_eq!(sorted(&found), sorted(&after), "{}", file.display());
    }
    let mut replayer = Replayer::default();
    for entry in entries(&oplogs.join("collMod_indexUniqueness.bson"))? {
        replayer.feed(&entry)?;
    }
    let found = parsed(&replayer.catalog.indexes[&Namespace::new("mongodump_test_db", "coll1")])?;
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|index| !index.contains_key("unique") && !index.contains_key("prepareUnique")));
    assert!(found.contains(&whole("a")));
    Ok(())
}

fn parsed(indexes: &[RawDocumentBuf]) -> Result<Vec<Document>> {
    indexes.iter().map(|index| Ok(Document::try_from(index.as_ref())?)).collect()
}

fn sorted(indexes: &[Document]) -> Vec<BTreeMap<String, String>> {
    let flat = |index: &Document| index.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
    let mut all: Vec<BTreeMap<String, String>> = indexes.iter().map(flat).collect();
    all.sort();
    all
}

/// Writes of recorded oplogs: inserts in one entry (8.0), `applyOps`, validation bypassed, users' entries left out.
#[test]
fn recorded_writes_make_their_documents() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let rows = [
        ("tools/oplogs/bson/vectored_insert.bson", "mongodump_test_db.coll1", 2),
        ("tools/oplogs/bson/linked_vectored_inserts.bson", "mongodump_test_db.coll1", 5),
        ("tools/oplogs/bson/bypassDocumentValidation.bson", "mongodump_test_db.coll1", 3),
        ("tools/oplogdump/oplog.bson", "db1.c1", 5),
        ("tools/oplog_partial_skips/oplog.bson", "db3.c1", 5),
        ("tools/dump_local_oplog/local/oplog.rs.bson", "test.op", 100),
        ("pbm-json/ops_i_u_d.json", "mydb.c1", 0),
        ("pbm-json/oplog_test.json", "mydb.c5", 0),
        ("pbm-json/ops_admin_users_roles.json", "mydb.collection1", 2),
        ("pbm-json/ops_n.json", "mydb.c1", 0),
    ];
    for (file, collection, expected) in rows {
        let path = folder.join(file);
        let log = if file.ends_with(".json") { json_entries(&path)? } else { entries(&path)? };
        ensure!(!log.is_empty(), "{file} is empty");
        let mut memory = Memory::default();
        replay(&mut memory, &log)?;
        assert_eq!(memory.documents(collection).len(), expected, "{file}");
        assert!(memory.0.keys().all(|namespace| !namespace.is_internal()), "{file}");
        let once = memory.clone();
        replay(&mut memory, &log)?;
        assert_eq!(memory, once, "{file} a second time");
    }
    Ok(())
}

fn json_entries(file: &Path) -> Result<Vec<Entry>> {
    let all: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    all.into_iter()
        .map(|value| {
            let document = match Bson::try_from(value)? {
                Bson::Document(document) => document,
                other => anyhow::bail!("{other} is no entry"),
            };
            Ok(Entry::new(RawDocumentBuf::try_from(&document)?)?)
        })
        .collect()
}
