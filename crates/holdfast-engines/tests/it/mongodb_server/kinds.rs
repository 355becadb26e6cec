//! Everything that a server holds comes back from a base and from its log.

use anyhow::Result;
use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use holdfast_engines::Driver as _;
use mongodb::{Client, Collection};

use super::world::{Archive, World, owner, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_data_come_back_from_the_base_and_from_the_log() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let (client, all) = (tenant(&source).await?, owner(&source).await?);
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;

    make_everything(&client, "early").await?;
    let base = world.backup(&source).await?;
    let names = base.0.names();
    assert!(names.contains(&"early/plain.bson".to_owned()), "{names:?}");
    assert!(names.contains(&"early/sl%2Fash.metadata.json".to_owned()), "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("oplog.bson"));
    let early = describe(&all, "early").await?;

    make_everything(&client, "late").await?;
    change_everything(&client, "early").await?;
    let changed = (describe(&all, "early").await?, describe(&all, "late").await?);
    let at = Timestamp::now();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    client.database("early").collection::<Document>("plain").delete_many(doc! {}).await?;
    archive.wait_for(Timestamp::now()).await?;
    following.abort();

    // As bases were before they had a catalog.
    let old = (base.0.without("catalog.bson"), base.1.clone());
    let (of_base, restored) = world.restore("of-base", &old, None).await?;
    println!("of the base: {restored:?}");
    assert_eq!(restored.reached, base.1.consistent_at);
    let found = owner(&of_base).await?;
    assert_eq!(describe(&found, "early").await?, early);
    assert!(describe(&found, "late").await?.is_empty());
    world.driver.stop(&of_base, 20).await?;

    let (at_point, restored) = world.restore("at-point", &base, Some((at, &archive))).await?;
    println!("at the point: {restored:?}");
    assert_eq!(restored.reached.as_millisecond(), at.as_millisecond());
    let found = owner(&at_point).await?;
    assert_eq!(describe(&found, "early").await?, changed.0);
    assert_eq!(describe(&found, "late").await?, changed.1);
    world.end().await
}

/// As `$out` and `mapReduce` make them, and the server drops them at its next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_collection_of_the_base_comes_back_as_a_plain_one() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let all = owner(&source).await?;
    let create = doc! { "op": "c", "ns": "d.$cmd", "o": { "create": "tmp.agg_out.x", "temp": true } };
    all.database("admin").run_command(doc! { "applyOps": [create] }).await?;
    collection(&all, "d", "tmp.agg_out.x").insert_one(doc! { "_id": 1 }).await?;
    let made = all.database("d").list_collections().await?.try_collect::<Vec<_>>().await?;
    assert!(format!("{made:?}").contains("tmp.agg_out.x"), "{made:?}");
    let base = world.backup(&source).await?;
    assert!(base.0.holds("catalog.bson", b"\x08temp\0\x01"), "it is no temporary one");
    let (copy, _) = world.restore("copy", &base, None).await?;
    let found = owner(&copy).await?;
    assert_eq!(collection(&found, "d", "tmp.agg_out.x").count_documents(doc! {}).await?, 1);
    world.end().await
}

/// The base's oplog has the making of what was renamed, and the copy its new name already.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_right_behind_a_rename_is_whole() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let all = owner(&source).await?;
    let indexes = doc! { "createIndexes": "old", "indexes": [{ "key": { "n": 1 }, "name": "n" }] };
    all.database("d").run_command(indexes).await?;
    collection(&all, "d", "old").insert_one(doc! { "_id": 1, "n": 1 }).await?;
    all.database("admin").run_command(doc! { "renameCollection": "d.old", "to": "d.new" }).await?;
    let base = world.backup(&source).await?;
    let (copy, _) = world.restore("copy", &base, None).await?;
    let found = describe(&owner(&copy).await?, "d").await?;
    assert_eq!(found, describe(&all, "d").await?);
    assert_eq!(found.len(), 4, "{found:?}");
    world.end().await
}

fn collection(client: &Client, database: &str, name: &str) -> Collection<Document> {
    client.database(database).collection(name)
}

async fn make_everything(client: &Client, database: &str) -> Result<()> {
    let db = client.database(database);
    let types = doc! {
        "_id": 1, "double": -0.0, "text": "zwölf\u{0}", "array": [1, [2, {}]], "bytes": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::UserDefined(0x80), bytes: vec![0, 255] }),
        "oid": bson::oid::ObjectId::parse_str("6b035e26cdf76ec2da2c0f4a")?, "yes": true, "at": bson::DateTime::from_millis(-1),
        "none": Bson::Null, "regex": Bson::RegularExpression(bson::Regex { pattern: "^a".try_into()?, options: "i".try_into()? }),
        "code": Bson::JavaScriptCode("f()".to_owned()), "int": 1_i32, "long": 1_i64,
        "ts": Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }), "min": Bson::MinKey, "max": Bson::MaxKey,
        "decimal": Bson::Decimal128("1.50".parse()?), "a.b": 1, "nested": { "": { "$weird": 1 } },
    };
    collection(client, database, "plain").insert_one(types).await?;
    let many: Vec<Document> = (10..300).map(|n| doc! { "_id": n, "n": n, "text": "x".repeat(100) }).collect();
    collection(client, database, "plain").insert_many(many).await?;
    for id in [Bson::from("text"), Bson::from(doc! { "a": 1 }), Bson::from(2.5), Bson::Null] {
        collection(client, database, "plain").insert_one(doc! { "_id": id, "kind": "of id" }).await?;
    }
    let indexes = doc! { "createIndexes": "plain", "indexes": [
        { "key": { "n": 1 }, "name": "by_n", "unique": true, "partialFilterExpression": { "n": { "$gt": 0 } } },
        { "key": { "at": 1 }, "name": "expires", "expireAfterSeconds": 1_000_000_000 },
        { "key": { "text": 1, "n": -1 }, "name": "compound", "sparse": true },
    ] };
    db.run_command(indexes).await?;
    db.run_command(doc! { "create": "capped", "capped": true, "size": 4096, "max": 3 }).await?;
    for n in 0..5 {
        collection(client, database, "capped").insert_one(doc! { "_id": n }).await?;
    }
    db.run_command(doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" } }).await?;
    let measured =
        (0..20).map(|n| doc! { "_id": n, "t": bson::DateTime::from_millis(n * 1000), "m": n % 3, "v": n });
    collection(client, database, "series").insert_many(measured).await?;
    let strict =
        doc! { "create": "strict", "validator": { "a": { "$exists": true } }, "validationLevel": "strict" };
    db.run_command(strict).await?;
    collection(client, database, "strict").insert_one(doc! { "_id": 1, "a": 1 }).await?;
    // One that its own validator would refuse.
    let insert = doc! { "insert": "strict", "documents": [{ "_id": 2 }], "bypassDocumentValidation": true };
    db.run_command(insert).await?;
    db.run_command(
        doc! { "create": "view", "viewOn": "plain", "pipeline": [{ "$match": { "n": { "$lt": 20 } } }] },
    )
    .await?;
    db.run_command(doc! { "create": "empty", "collation": { "locale": "de" } }).await?;
    collection(client, database, "sl/ash").insert_one(doc! { "_id": "100%" }).await?;
    collection(client, database, "goes").insert_one(doc! { "_id": 1 }).await?;
    collection(client, database, "old name").insert_one(doc! { "_id": 1 }).await?;
    Ok(())
}

async fn change_everything(client: &Client, database: &str) -> Result<()> {
    let db = client.database(database);
    let plain = collection(client, database, "plain");
    plain
        .update_one(
            doc! { "_id": 1 },
            doc! { "$set": { "nested.deep.er": [1, 2, 3] }, "$unset": { "code": 1 } },
        )
        .await?;
    plain
        .update_one(
            doc! { "_id": 1 },
            doc! { "$push": { "nested.deep.er": { "$each": [4, 5], "$slice": -3 } } },
        )
        .await?;
    plain.update_one(doc! { "_id": 1 }, doc! { "$inc": { "int": 5, "array.0": 1 } }).await?;
    plain.update_one(doc! { "_id": 1 }, doc! { "$pop": { "nested.deep.er": 1 } }).await?;
    plain.update_many(doc! { "n": { "$gt": 280 } }, doc! { "$mul": { "n": -1 } }).await?;
    plain.replace_one(doc! { "_id": 11 }, doc! { "n": 11, "replaced": true }).await?;
    plain.delete_many(doc! { "n": { "$gt": 150, "$lt": 160 } }).await?;
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    plain.insert_one(doc! { "_id": "in txn" }).session(&mut session).await?;
    plain.update_one(doc! { "_id": 12 }, doc! { "$set": { "txn": 1 } }).session(&mut session).await?;
    collection(client, database, "strict")
        .insert_one(doc! { "_id": 3, "a": 3 })
        .session(&mut session)
        .await?;
    session.commit_transaction().await?;
    session.start_transaction().await?;
    plain.insert_one(doc! { "_id": "aborted" }).session(&mut session).await?;
    session.abort_transaction().await?;
    for n in 5..7 {
        collection(client, database, "capped").insert_one(doc! { "_id": n }).await?;
    }
    collection(client, database, "series")
        .insert_one(doc! { "_id": 99, "t": bson::DateTime::from_millis(99_000), "m": 1, "v": 99 })
        .await?;
    db.run_command(doc! { "collMod": "strict", "validator": { "b": { "$exists": true } }, "validationLevel": "moderate" }).await?;
    db.run_command(
        doc! { "collMod": "plain", "index": { "name": "expires", "expireAfterSeconds": 2_000_000_000 } },
    )
    .await?;
    db.run_command(doc! { "dropIndexes": "plain", "index": "compound" }).await?;
    db.run_command(doc! { "createIndexes": "plain", "indexes": [{ "key": { "kind": 1 }, "name": "kind" }] })
        .await?;
    collection(client, database, "goes").drop().await?;
    let rename =
        doc! { "renameCollection": format!("{database}.old name"), "to": format!("{database}.new name") };
    // Tenants may not rename across databases; in one they may.
    client.database("admin").run_command(rename).await?;
    db.run_command(doc! { "drop": "view" }).await?;
    db.run_command(doc! { "create": "other view", "viewOn": "strict", "pipeline": [] }).await?;
    let gone = client.database("gone");
    gone.collection("x").insert_one(doc! { "_id": 1 }).await?;
    gone.drop().await?;
    Ok(())
}

/// By the names of its fields: those of options have no order.
fn sorted(document: &Document) -> String {
    let mut fields: Vec<String> = document.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.sort();
    fields.join(", ")
}

/// Each collection with its options, indexes and documents.
async fn describe(client: &Client, database: &str) -> Result<Vec<String>> {
    let db = client.database(database);
    let list = db.run_command(doc! { "listCollections": 1 }).await?;
    let mut lines = Vec::new();
    for collection in list.get_document("cursor")?.get_array("firstBatch")? {
        let collection = collection.as_document().expect("a collection");
        let name = collection.get_str("name")?;
        // Views and buckets are seen through what they are for; nobody may read these.
        if name.starts_with("system.") {
            continue;
        }
        let kind = collection.get_str("type")?;
        let options = collection.get_document("options")?;
        lines.push(format!("{name}: {kind} {}", sorted(options)));
        let capped = options.get_bool("capped").unwrap_or(false);
        let documents: Vec<Document> = db.collection(name).find(doc! {}).await?.try_collect().await?;
        let mut documents: Vec<String> =
            documents.iter().map(|document| format!("{name}: {document}")).collect();
        if !capped {
            documents.sort();
        }
        lines.extend(documents);
        if kind != "view" {
            let indexes: Vec<Document> = db
                .run_command(doc! { "listIndexes": name })
                .await?
                .get_document("cursor")?
                .get_array("firstBatch")?
                .iter()
                .filter_map(|index| index.as_document().cloned())
                .collect();
            let key =
                |index: &Document| index.get_document("key").map(ToString::to_string).unwrap_or_default();
            let mut indexes: Vec<String> = indexes
                .iter()
                .map(|index| format!("{name}: index on {} {}", key(index), sorted(index)))
                .collect();
            indexes.sort();
            lines.extend(indexes);
        }
    }
    // Collections in the order of their names, each one's lines in theirs.
    lines.sort_by_key(|line| line.split(':').next().map(str::to_owned));
    Ok(lines)
}
