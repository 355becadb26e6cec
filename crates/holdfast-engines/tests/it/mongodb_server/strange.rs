//! What real databases hold and dumps lose: each row is made before the base, while it is taken and after it; a restore of the
//! base, one to an instant behind it and a restore of that copy must have the same, byte by byte.
//!
//! The reader here shares nothing with the driver: it asks the server in its own words and compares bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use holdfast_engines::{Driver as _, Instance};
use mongodb::Client;

use super::world::{Archive, World, owner, tenant};

/// What a server holds: by the name of a thing, its bytes.
type Content = BTreeMap<String, Vec<u8>>;

#[tokio::test(flavor = "multi_thread")]
async fn strange_things_come_back_from_everywhere() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;
    let client = tenant(&source).await?;
    make(&client, "early").await.context("make what is there before the base")?;
    change(&client, "early").await.context("change what is there before the base")?;

    // $out into what is there, again and again; more things; an index that is never finished.
    let stop = Arc::new(AtomicBool::new(false));
    let during = tokio::spawn(meanwhile(client.clone(), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let base = world.backup(&source).await?;
    stop.store(true, Ordering::Relaxed);
    during.await?.context("what happens during the base")?;

    let of_base = content(&source, Some("early")).await?;
    make(&client, "late").await.context("make what is there after the base")?;
    change(&client, "late").await?;
    client.database("dropped").drop().await?;
    let at = Timestamp::now();
    let of_instant = content(&source, None).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.database("early").drop().await?;
    archive.wait_for(Timestamp::now()).await?;
    following.abort();

    let (copy, _) = world.restore("of-base", &base, None).await?;
    same("the base", &of_base, &content(&copy, Some("early")).await?)?;
    world.driver.stop(&copy, 20).await?;
    let (copy, _) = world.restore("at-instant", &base, Some((at, &archive))).await?;
    same("the instant", &of_instant, &content(&copy, None).await?)?;
    let base = world.backup(&copy).await?;
    world.driver.stop(&copy, 20).await?;
    let (copy, _) = world.restore("of-copy", &base, None).await?;
    same("the copy", &of_instant, &content(&copy, None).await?)?;
    world.end().await
}

/// The server opens `admin` before it knows what it asks of such an index, and ends (6.0.5).
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_keeps_a_server_from_starting_is_plain_in_a_copy() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;
    let client = tenant(&source).await?;
    let prepared = |collection: &str| {
        let index = doc! { "key": { "a": 1 }, "name": "a", "prepareUnique": true };
        doc! { "createIndexes": collection, "indexes": [index] }
    };
    client.database("admin").run_command(prepared("early")).await?;
    let base = world.backup(&source).await?;
    // A name is all that brings it there.
    client.database("d").run_command(prepared("late")).await?;
    client.database("d").run_command(prepared("stays")).await?;
    client.database("admin").run_command(doc! { "renameCollection": "d.late", "to": "admin.late" }).await?;
    let at = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.database("d").collection("other").insert_one(doc! {}).await?;
    archive.wait_for(Timestamp::now()).await?;
    following.abort();
    let (copy, _) = world.restore("at-instant", &base, Some((at, &archive))).await?;
    world.driver.stop(&copy, 20).await?;
    world.driver.start(&copy).await?;
    let client = owner(&copy).await?;
    for (database, collection, expected) in
        [("admin", "early", false), ("admin", "late", false), ("d", "stays", true)]
    {
        let indexes = documents(&client.database(database), doc! { "listIndexes": collection }).await?;
        let found = indexes.iter().find(|index| index.get_str("name").is_ok_and(|name| name == "a"));
        let found = found.with_context(|| format!("{database}.{collection} has no index"))?;
        ensure!(found.get("prepareUnique")?.is_some() == expected, "{database}.{collection}: {found:?}");
    }
    world.end().await
}

/// A name of 80 characters of three bytes each.
fn long_name() -> String {
    "表".repeat(70)
}

async fn make(client: &Client, database: &str) -> Result<()> {
    let db = client.database(database);
    let run = async |command: Document| {
        let what = command.to_string();
        db.run_command(command).await.map(drop).with_context(|| what)
    };
    let collection = |name: &str| db.collection::<Document>(name);

    // An index without its collection's collation.
    run(doc! { "create": "collated", "collation": { "locale": "en", "strength": 2 } }).await?;
    run(doc! { "createIndexes": "collated", "indexes": [
        { "key": { "k": 1 }, "name": "simple", "unique": true, "collation": { "locale": "simple" } },
        { "key": { "l": 1 }, "name": "inherited" },
        { "key": { "m": 1 }, "name": "own", "collation": { "locale": "de", "strength": 1 } },
        { "key": { "t": "text" }, "name": "text", "collation": { "locale": "simple" } },
    ] })
    .await?;
    collection("collated")
        .insert_many([doc! { "_id": "a", "k": "x" }, doc! { "_id": "b", "k": "X" }])
        .await?;

    // Indexes of every kind.
    run(doc! { "createIndexes": "indexed", "indexes": [
        { "key": { "_id": "hashed" }, "name": "_id_hashed" },
        { "key": { "_id": 2 }, "name": "_id_2" },
        { "key": { "a.b": -1, "c": 1.5 }, "name": "numbers", "sparse": true },
        { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "a": 1, "_id": 0 } },
        { "key": { "place": "2dsphere" }, "name": "sphere" },
        { "key": { "flat": "2d" }, "name": "flat", "min": -50.0, "max": 50.0 },
        { "key": { "hidden": 1 }, "name": "hidden", "hidden": true },
        { "key": { "p": 1 }, "name": "partial", "unique": true, "partialFilterExpression": { "p": { "$gt": { "$date": 5 } } } },
        { "key": { "words": "text" }, "name": "words", "weights": { "words": 3 }, "default_language": "german" },
    ] })
    .await?;
    collection("indexed").insert_one(doc! { "_id": 1, "a": { "b": 1 }, "place": [1, 2] }).await?;

    // Options and pipelines that look like extended JSON.
    let schema = doc! { "bsonType": "object", "properties": { "$date": { "bsonType": "int" }, "$oid": {} } };
    run(doc! { "create": "validated", "validator": { "$jsonSchema": schema }, "validationAction": "warn" })
        .await?;
    run(doc! { "create": "literal", "viewOn": "validated", "pipeline": [{ "$project": { "x": { "$literal": { "$date": 5 } } } }] })
        .await?;
    run(
        doc! { "create": "compared", "viewOn": "validated", "pipeline": [], "collation": { "locale": "fr" } },
    )
    .await?;
    run(doc! { "create": "capped", "capped": true, "size": 4096, "max": 3 }).await?;
    run(doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "mine" }, "expireAfterSeconds": 1_000_000_000_i64 })
        .await?;
    collection("clustered").insert_one(doc! { "_id": 1 }).await?;
    // Capped later on: no `create` makes such a one.
    for name in ["capped clustered", "clustered to cap"] {
        run(doc! { "create": name, "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }).await?;
        collection(name).insert_many((0..3).map(|n| doc! { "_id": n })).await?;
    }
    run(doc! { "convertToCapped": "capped clustered", "size": 50_000 }).await?;
    run(doc! { "collMod": "capped clustered", "cappedMax": 9 }).await?;
    // They hold more than they may, until the next insert.
    for (name, limit) in [("fewer", doc! { "cappedMax": 2 }), ("smaller", doc! { "cappedSize": 4096.0 })] {
        run(doc! { "create": name, "capped": true, "size": 100_000, "max": 9 }).await?;
        collection(name).insert_many((0..5).map(|n| doc! { "_id": n, "text": "x".repeat(2000) })).await?;
        let mut lower = doc! { "collMod": name };
        lower.extend(limit);
        run(lower).await?;
    }
    run(doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes" } }).await?;
    let measure = |n: i64| doc! { "t": bson::DateTime::from_millis(n * 1000), "m": n % 3, "v": n };
    collection("series").insert_many((0..50).map(measure)).await?;
    for series in ["series", "collated series"] {
        if series != "series" {
            run(doc! { "create": series, "timeseries": { "timeField": "t" }, "collation": { "locale": "en" } }).await?;
        }
        run(doc! { "createIndexes": series, "indexes": [
            { "key": { "t": 1 }, "name": "filtered", "partialFilterExpression": { "t": { "$gt": bson::DateTime::from_millis(0) } } },
        ] })
        .await?;
    }
    run(doc! { "create": "series two", "timeseries": { "timeField": "t" }, "expireAfterSeconds": 1_000_000_000_i64 }).await?;
    collection("series two").insert_one(doc! { "t": bson::DateTime::now(), "v": 1 }).await?;
    run(doc! { "create": "pre", "changeStreamPreAndPostImages": { "enabled": true } }).await?;

    // Names.
    for name in [
        long_name(),
        format!("{}x", long_name()),
        "sl/ash".into(),
        "%2F".into(),
        "a.metadata.json".into(),
        "Ab".into(),
        "aB".into(),
        "dots.$x".replace('$', "_"),
        " ".into(),
        "new\nline".into(),
    ] {
        collection(&name).insert_one(doc! { "_id": &name }).await.with_context(|| name)?;
    }

    // Documents.
    let odd = collection("odd");
    odd.insert_one(doc! { "_id": "set", "a": 1 }).await?;
    odd.insert_one(doc! { "_id": "diff", "$v": 2, "diff": { "u": { "a": 5 } } }).await?;
    odd.insert_one(doc! { "_id": "dollars", "$a": 1, "b.c": { "$d": 1 } }).await?;
    odd.insert_one(doc! { "_id": Bson::Decimal128("1.00".parse()?), "n": f64::NAN }).await?;
    odd.insert_one(doc! { "_id": i64::MAX, "n": i64::MIN }).await?;
    odd.insert_one(doc! { "_id": { "a": 1, "b": "x" }, "deep": deep(80) }).await?;
    db.run_raw_command(no_text("text", doc! { "_id": "no text", "a": 1 })?).await?;
    db.run_raw_command(no_text("_id", doc! { "a": 1 })?).await?;
    // A timestamp of nothing at the top is replaced in an insert, and stays in an update.
    odd.insert_one(doc! { "_id": "stamp", "at": 1 }).await?;
    odd.update_one(
        doc! { "_id": "stamp" },
        doc! { "$set": { "at": Bson::Timestamp(bson::Timestamp { time: 0, increment: 0 }) } },
    )
    .await?;
    // Larger together than a command.
    for (id, mib) in [("a", 7), ("b", 12), ("c", 15)] {
        collection("large").insert_one(doc! { "_id": id, "text": "x".repeat(mib << 20) }).await?;
    }
    let function = doc! { "_id": "f", "value": Bson::JavaScriptCode("function () { return 1 }".to_owned()) };
    collection("system.js").insert_one(function).await?;
    collection("gone").insert_one(doc! { "_id": 1 }).await?;
    Ok(())
}

async fn change(client: &Client, database: &str) -> Result<()> {
    let db = client.database(database);
    let odd = db.collection::<Document>("odd");
    let whole = doc! { "_id": "set", "$v": 2, "diff": { "u": { "a": 5 } } };
    odd.update_one(doc! { "_id": "set" }, vec![doc! { "$replaceWith": { "$literal": whole } }]).await?;
    odd.update_one(doc! { "_id": "diff" }, doc! { "$set": { "diff.u.a": 6 } }).await?;
    odd.update_one(doc! { "_id": "no text" }, doc! { "$set": { "more": [1, { "a": 2 }] } }).await?;
    odd.update_one(doc! { "_id": "no text" }, doc! { "$push": { "more": 3 }, "$unset": { "a": 1 } }).await?;
    odd.update_one(doc! { "_id": { "a": 1, "b": "x" } }, doc! { "$set": { "deep.x": 1 } }).await?;
    db.run_command(doc! { "collMod": "indexed", "index": { "name": "hidden", "hidden": false } }).await?;
    db.run_command(doc! { "collMod": "literal", "viewOn": "odd", "pipeline": [{ "$match": { "$expr": { "$eq": [1, 1] } } }] }).await?;
    for n in 0..6 {
        db.collection::<Document>("capped").insert_one(doc! { "_id": n }).await?;
    }
    // One that comes again comes last.
    db.collection::<Document>("capped").delete_one(doc! { "_id": 4 }).await?;
    db.collection::<Document>("capped").insert_one(doc! { "_id": 4, "$a": 1 }).await?;
    db.collection::<Document>("capped clustered").insert_one(doc! { "_id": 3 }).await?;
    db.run_command(doc! { "convertToCapped": "clustered to cap", "size": 5000.0 }).await?;
    db.run_command(doc! { "collMod": "clustered to cap", "cappedMax": 7 }).await?;
    let large = db.collection::<Document>("large");
    large.update_many(doc! {}, doc! { "$set": { "more": 1 } }).await?;
    db.collection::<Document>("gone").drop().await?;
    // A unique index that what is there forbids.
    let broken = doc! { "createIndexes": "indexed", "indexes": [{ "key": { "same": 1 }, "name": "broken", "unique": true }] };
    db.collection::<Document>("indexed").insert_many([doc! { "same": 1 }, doc! { "same": 1 }]).await?;
    ensure!(db.run_command(broken).await.is_err(), "the same value twice");
    // No command drops it, a move does.
    let from = client.database(&format!("{database}-from"));
    for name in ["system.js", "stays"] {
        from.collection::<Document>(name).insert_one(doc! { "_id": "f", "value": 1 }).await?;
    }
    let rename =
        doc! { "renameCollection": format!("{database}-from.system.js"), "to": format!("{database}-to.f") };
    client.database("admin").run_command(rename).await?;
    let refused = doc! { "create": "system.js", "timeseries": { "timeField": "t" } };
    ensure!(db.run_command(refused).await.is_err(), "no view has such a name");
    Ok(())
}

/// An insert of one document that has, in this field, a text that is no UTF-8.
fn no_text(field: &str, mut document: Document) -> Result<RawDocumentBuf> {
    document.insert(field, "MARK");
    without_text(&doc! { "insert": "odd", "documents": [document] })
}

/// The same, with what is no UTF-8 in place of `MARK`.
pub(super) fn without_text(marked: &Document) -> Result<RawDocumentBuf> {
    let mut bytes = bson::serialize_to_vec(marked)?;
    let at = bytes.windows(4).position(|four| four == b"MARK").context("the mark")?;
    bytes[at..at + 4].copy_from_slice(&[0xff, 0xfe, b'x', 0x80]);
    Ok(RawDocumentBuf::from_bytes(bytes)?)
}

fn deep(levels: usize) -> Document {
    (0..levels).fold(doc! { "end": true }, |inside, _| doc! { "x": inside })
}

/// Collections that are replaced, and index builds that fail, while a base is taken.
async fn meanwhile(client: Client, stop: Arc<AtomicBool>) -> Result<()> {
    let db = client.database("busy");
    let numbers = db.collection::<Document>("numbers");
    numbers.insert_many((0..100).map(|n| doc! { "_id": n, "n": n % 50 })).await?;
    let dropped = client.database("dropped");
    for name in ["x", "system.js"] {
        dropped.collection::<Document>(name).insert_one(doc! { "_id": 1, "value": 1 }).await?;
    }
    let mut builds = tokio::task::JoinSet::new();
    for n in 0..3 {
        builds.spawn(build_in_vain(db.clone(), format!("building {n}"), Arc::clone(&stop)));
    }
    while !stop.load(Ordering::Relaxed) {
        let out = vec![doc! { "$match": {} }, doc! { "$out": "result" }];
        numbers.aggregate(out).await?.try_collect::<Vec<_>>().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while let Some(done) = builds.join_next().await {
        done??;
    }
    Ok(())
}

/// Builds a unique index that its last document forbids, again and again: large enough to be under way when it is listed.
async fn build_in_vain(db: mongodb::Database, name: String, stop: Arc<AtomicBool>) -> Result<()> {
    let building = db.collection::<Document>(&name);
    for from in (0..30_000).step_by(10_000) {
        building.insert_many((from..from + 10_000).map(|n| doc! { "_id": n, "n": n % 29_999 })).await?;
    }
    while !stop.load(Ordering::Relaxed) {
        let unique =
            doc! { "createIndexes": &name, "indexes": [{ "key": { "n": 1 }, "name": "n", "unique": true }] };
        ensure!(db.run_command(unique).await.is_err(), "the same number twice");
    }
    Ok(())
}

/// All that tenants made: collections with their options, indexes, documents.
async fn content(instance: &Instance, only: Option<&str>) -> Result<Content> {
    let client = owner(instance).await?;
    let mut all = Content::new();
    for database in client.list_database_names().await? {
        if matches!(database.as_str(), "local" | "config" | "admin")
            || only.is_some_and(|only| only != database)
        {
            continue;
        }
        let db = client.database(&database);
        for listed in documents(&db, doc! { "listCollections": 1 }).await? {
            let name = listed.get_str("name")?;
            let what = format!("{database}.{name}");
            for part in ["type", "options", "idIndex"] {
                if let Some(value) = listed.get(part)? {
                    all.insert(format!("{what} {part}"), bytes(value));
                }
            }
            if name.starts_with("system.") && name != "system.js" {
                continue; // seen through what they are for
            }
            let view = listed.get_str("type")? == "view";
            if !view {
                for index in documents(&db, doc! { "listIndexes": name }).await? {
                    all.insert(format!("{what} index {}", index.get_str("name")?), index.as_bytes().to_vec());
                }
            }
            let found = documents(&db, doc! { "find": name, "filter": {} }).await?;
            let capped = listed.get_document("options")?.get_bool("capped").unwrap_or(false);
            for (n, document) in found.iter().enumerate() {
                let id = if capped {
                    format!("{n}")
                } else {
                    format!("{:?}", document.get("_id").ok().flatten().map(bytes))
                };
                all.insert(format!("{what} document {id}"), document.as_bytes().to_vec());
            }
        }
    }
    ensure!(all.len() > 10, "{only:?}: {}", all.len());
    Ok(all)
}

/// In bytes that tell values of all types apart.
fn bytes(value: RawBsonRef<'_>) -> Vec<u8> {
    let mut one = RawDocumentBuf::new();
    one.append(bson::raw::cstr!("v"), value);
    one.into_bytes()
}

async fn documents(db: &mongodb::Database, command: Document) -> Result<Vec<RawDocumentBuf>> {
    let mut cursor = db.run_cursor_command(command).batch().await?;
    let mut all = Vec::new();
    while let Some(batch) = cursor.try_next().await? {
        for document in batch.doc_slices()? {
            all.push(document?.as_document().context("a document")?.to_owned());
        }
    }
    Ok(all)
}

fn same(what: &str, expected: &Content, found: &Content) -> Result<()> {
    let show = |bytes: Option<&Vec<u8>>| {
        bytes.map_or("nothing".to_owned(), |bytes| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
        })
    };
    let mut wrong = Vec::new();
    for name in expected.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (before, now) = (expected.get(name), found.get(name));
        if before != now {
            wrong.push(format!("{name}: {:?} became {:?}", show(before), show(now)));
        }
    }
    println!("{what}: {} things, {} differ", expected.len(), wrong.len());
    ensure!(wrong.is_empty(), "{what}: {}", wrong.join("\n"));
    Ok(())
}
