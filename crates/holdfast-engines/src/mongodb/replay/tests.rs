//! Rules that no recording shows.

use bson::{Document, RawDocumentBuf, Timestamp, doc};

use super::*;

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).expect("a document")
}

fn feed(replayer: &mut Replayer, mut entry: Document) -> Vec<Action> {
    entry.insert("ts", Timestamp { time: 7, increment: 1 });
    let raw = RawDocumentBuf::try_from(&entry).expect("a document");
    replayer.feed(&Entry::new(raw).expect("an entry")).expect("an entry that is known")
}

fn piece(id: i32, flags: Document) -> Document {
    let mut command = doc! { "applyOps": [{ "op": "i", "ns": "d.c", "o": { "_id": id } }] };
    command.extend(flags);
    doc! { "op": "c", "ns": "admin.$cmd", "lsid": { "id": 1 }, "txnNumber": 5_i64, "o": command }
}

fn end(name: &str) -> Document {
    doc! { "op": "c", "ns": "admin.$cmd", "lsid": { "id": 1 }, "txnNumber": 5_i64, "o": { name: 1 } }
}

#[test]
fn a_transaction_of_several_entries_counts_at_its_commit_once() {
    let mut replayer = Replayer::default();
    assert_eq!(feed(&mut replayer, piece(1, doc! { "partialTxn": true })), []);
    assert_eq!(feed(&mut replayer, piece(2, doc! { "partialTxn": true })), []);
    assert_eq!(feed(&mut replayer, piece(3, doc! { "count": 3_i64 })).len(), 3, "the last piece commits");
    assert_eq!(feed(&mut replayer, piece(4, doc! { "prepare": true })), []);
    assert_eq!(feed(&mut replayer, end("commitTransaction")).len(), 1);
    assert_eq!(feed(&mut replayer, end("commitTransaction")), [], "repeated");
    assert_eq!(feed(&mut replayer, piece(5, doc! { "prepare": true })), []);
    assert_eq!(feed(&mut replayer, end("abortTransaction")), []);
    assert_eq!(feed(&mut replayer, end("commitTransaction")), []);
}

#[test]
fn updates_of_every_age_are_told_apart() {
    let mut replayer = Replayer::default();
    let mut update = |o: Document| {
        let entry = doc! { "op": "u", "ns": "d.c", "o": o, "o2": { "_id": 1 } };
        feed(&mut replayer, entry).pop().expect("an action")
    };
    assert!(matches!(update(doc! { "_id": 1, "a": 2 }), Action::Put { .. }));
    assert!(matches!(update(doc! { "_id": 1, "diff": { "u": { "a": 1 } } }), Action::Put { .. }));
    assert!(matches!(update(doc! { "$v": 1, "$set": { "a.b": 1 } }), Action::Operators { .. }));
    assert!(matches!(update(doc! { "$set": { "a": 1 } }), Action::Operators { .. }));
    let diff = update(doc! { "$v": 2, "diff": { "u": { "a": 1 } } });
    assert!(matches!(diff, Action::Change { change: Change(_), .. }));
}

#[test]
fn views_and_time_series_are_made_from_what_mongod_writes_for_them() {
    let mut replayer = Replayer::default();
    let view = doc! { "_id": "d.v", "viewOn": "c", "pipeline": [] };
    assert_eq!(feed(&mut replayer, doc! { "op": "i", "ns": "d.system.views", "o": view }), []);
    let options = doc! { "create": "system.buckets.s", "timeseries": { "timeField": "t" }, "validator": {}, "clusteredIndex": true };
    let made = feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": options });
    let namespace = Namespace::new("d", "s");
    let options = raw(doc! { "timeseries": { "timeField": "t" } });
    assert_eq!(made, [Action::Structure(Structure::Create { namespace: namespace.clone(), options })]);
    let view =
        doc! { "_id": "d.s", "viewOn": "system.buckets.s", "pipeline": [{ "$_internalUnpackBucket": {} }] };
    assert_eq!(feed(&mut replayer, doc! { "op": "i", "ns": "d.system.views", "o": view }), []);
    assert_eq!(replayer.catalog.views.keys().collect::<Vec<_>>(), [&Namespace::new("d", "v")]);
    let gone = feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": { "drop": "system.buckets.s" } });
    assert_eq!(gone, [Action::Structure(Structure::Drop(namespace))]);
    feed(&mut replayer, doc! { "op": "d", "ns": "d.system.views", "o": { "_id": "d.v" } });
    assert!(replayer.catalog.views.is_empty());
}

#[test]
fn what_is_left_of_a_time_series_that_was_refused_is_left_out() {
    let mut replayer = Replayer::default();
    let left = "system.buckets.system.js";
    for command in [
        doc! { "create": left, "timeseries": { "timeField": "t" }, "validator": {}, "clusteredIndex": true },
        doc! { "createIndexes": left, "v": 2, "key": { "a": 1 }, "name": "a_1" },
        doc! { "collMod": left, "expireAfterSeconds": 5 },
        doc! { "drop": left },
    ] {
        assert_eq!(feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": command }), []);
    }
    assert!(replayer.catalog.indexes.is_empty());
}

#[test]
fn views_of_admin_count_and_a_drop_of_all_views_drops_them() {
    let mut replayer = Replayer::default();
    let view = |name: &str| doc! { "_id": name, "viewOn": "c", "pipeline": [] };
    for database in ["admin", "d", "e", "config"] {
        let (name, views) = (format!("{database}.v"), format!("{database}.system.views"));
        // As mongod makes it for the first view.
        let create =
            doc! { "create": "system.views", "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } };
        assert_eq!(
            feed(&mut replayer, doc! { "op": "c", "ns": format!("{database}.$cmd"), "o": create }),
            []
        );
        assert_eq!(feed(&mut replayer, doc! { "op": "i", "ns": views, "o": view(&name) }), []);
    }
    let views =
        |replayer: &Replayer| replayer.catalog.views.keys().map(ToString::to_string).collect::<Vec<String>>();
    assert_eq!(views(&replayer), ["admin.v", "d.v", "e.v"], "but none of the server's own");
    let drop = doc! { "op": "c", "ns": "d.$cmd", "o": { "drop": "system.views" } };
    assert_eq!(feed(&mut replayer, drop), []);
    assert_eq!(views(&replayer), ["admin.v", "e.v"]);
    feed(&mut replayer, doc! { "op": "d", "ns": "admin.system.views", "o": { "_id": "admin.v" } });
    assert_eq!(views(&replayer), ["e.v"]);
}

#[test]
fn of_admin_only_what_is_the_servers_is_left_out() {
    let internal = |collection: &str| Namespace::new("admin", collection).is_internal();
    for own in ["system.users", "system.roles", "system.version", "system.keys"] {
        assert!(internal(own), "{own}");
    }
    for tenants in ["c", "system.js", "system.buckets.s"] {
        assert!(!internal(tenants), "{tenants}");
    }
    let mut replayer = Replayer::default();
    let function = doc! { "op": "i", "ns": "admin.system.js", "o": { "_id": "f", "value": 1 } };
    assert_eq!(feed(&mut replayer, function).len(), 1);
}

#[test]
fn what_comes_again_in_a_capped_collection_comes_last() {
    let mut replayer = Replayer::default();
    feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": { "create": "k", "capped": true } });
    let rename = doc! { "renameCollection": "d.k", "to": "d.l" };
    feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": rename });
    let mut batch = Batch::default();
    for collection in ["k", "l"] {
        let namespace = Namespace::new("d", collection);
        let insert = doc! { "op": "i", "ns": namespace.to_string(), "o": { "_id": 1 } };
        for action in feed(&mut replayer, insert) {
            match action {
                Action::Put { namespace, document } => batch.put(&namespace, document).expect("an insert"),
                Action::Delete { namespace, id } => batch.delete(&namespace, id),
                other => panic!("{other:?}"),
            }
        }
    }
    let (id, document) = (Value::from(1), raw(doc! { "_id": 1 }));
    let both = [Write::Delete { id: id.clone() }, Write::Put { id, document }];
    let writes = batch.finish();
    assert_eq!(writes[&Namespace::new("d", "k")], both[1..], "no collection of that name is capped by now");
    assert_eq!(writes[&Namespace::new("d", "l")], both);
}

#[test]
fn a_change_of_a_buckets_index_finds_the_one_that_the_base_has() {
    let listed = Namespace::new("d", "s");
    let mut catalog = Catalog::default();
    let index = raw(doc! { "v": 2, "key": { "m": 1 }, "name": "m_1" });
    catalog.create_index(&listed, Fields::parse(index.as_bytes()).expect("an index")).expect("an index");
    let mut replayer = Replayer::new(catalog);
    let change = doc! { "collMod": "system.buckets.s", "index": { "name": "m_1", "hidden": true } };
    assert_eq!(feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": change }), []);
    let hidden = doc! { "v": 2, "key": { "m": 1 }, "name": "m_1", "hidden": true };
    assert_eq!(replayer.catalog.indexes[&listed], [raw(hidden)]);
    let gone = doc! { "dropIndexes": "system.buckets.s", "index": "m_1" };
    assert_eq!(feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": gone }), []);
    assert!(replayer.catalog.indexes[&listed].is_empty());
}

#[test]
fn a_buckets_index_takes_the_place_of_the_one_that_the_base_has() {
    let listed = Namespace::new("d", "s");
    let mut catalog = Catalog::default();
    let index = raw(doc! { "v": 2, "key": { "a": 1 }, "name": "i" });
    catalog.create_index(&listed, Fields::parse(index.as_bytes()).expect("an index")).expect("an index");
    let mut replayer = Replayer::new(catalog);
    // Built while the base was taken: both tell of it, each in its own terms.
    let build =
        doc! { "createIndexes": "system.buckets.s", "v": 2, "key": { "control.min.a": 1 }, "name": "i" };
    assert_eq!(feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": build }), []);
    assert!(replayer.catalog.indexes[&listed].is_empty());
    assert_eq!(replayer.catalog.indexes[&Namespace::new("d", "system.buckets.s")].len(), 1);
}

#[test]
fn what_is_not_known_ends_the_replay() {
    for entry in [
        doc! { "op": "c", "ns": "d.$cmd", "o": { "upgradeDowngradeViewlessTimeseries": "c" } },
        doc! { "op": "x", "ns": "d.c", "o": {} },
        doc! { "op": "u", "ns": "d.c", "o": { "$v": 3, "diff": {} }, "o2": { "_id": 1 } },
        doc! { "op": "u", "ns": "d.c", "o": { "$set": { "a": 1 } }, "o2": { "_id": { "$gt": 0 } } },
        doc! { "op": "d", "ns": "d.c", "o": { "_id": { "$gt": 0 } } },
        doc! { "op": "d", "ns": "d.c", "o": { "_id": bson::Bson::RegularExpression(bson::Regex { pattern: "x".try_into().expect("text"), options: "".try_into().expect("text") }) } },
    ] {
        let mut entry = entry;
        entry.insert("ts", Timestamp { time: 7, increment: 1 });
        let entry = Entry::new(RawDocumentBuf::try_from(&entry).expect("a document")).expect("an entry");
        let error = Replayer::default().feed(&entry).expect_err("nothing is skipped silently");
        assert!(matches!(error, ReplayError::Unknown { .. }), "{error}");
    }
}

fn diff(text: &str) -> Change {
    Change(RawDocumentBuf::try_from(&doc! { "u": { "text": text } }).expect("a document"))
}

/// Whoever fills a batch ends it by what it says it holds: 50 documents changed again and again must not take gigabytes.
#[test]
fn a_batch_counts_what_changes_weigh() {
    let (namespace, long) = (Namespace::new("d", "c"), "x".repeat(50_000));
    let mut unseen = Batch::default();
    for n in 0..100 {
        unseen.change(&namespace, Value::from(n % 5), diff(&long)).expect("a change");
    }
    assert_eq!(unseen.len(), 5);
    assert!(unseen.size_bytes() > 100 * long.len(), "{}", unseen.size_bytes());

    let mut known = Batch::default();
    let document = RawDocumentBuf::try_from(&doc! { "_id": 1 }).expect("a document");
    known.put(&namespace, document).expect("an insert");
    known.change(&namespace, Value::from(1), diff(&long)).expect("a change");
    assert!(known.size_bytes() > long.len(), "the image grew: {}", known.size_bytes());
    for _ in 0..10 {
        known.change(&namespace, Value::from(1), diff(&long)).expect("a change");
    }
    assert!(known.size_bytes() < 2 * long.len(), "and then no more: {}", known.size_bytes());
}

#[test]
fn a_batch_gives_away_what_was_read_and_keeps_the_rest_in_order() {
    let namespace = Namespace::new("d", "c");
    let mut batch = Batch::default();
    batch.change(&namespace, Value::from(1), diff("a")).expect("a change");
    batch.change(&namespace, Value::from(1), diff("b")).expect("a change");
    batch.change(&namespace, Value::from(2), diff("of one that is gone")).expect("a change");
    batch.put(&namespace, raw(doc! { "_id": 4 })).expect("an insert");
    batch.delete(&namespace, Value::from(3));
    assert_eq!(batch.to_read()[&namespace].len(), 2);
    let image = raw(doc! { "_id": 1_i64, "text": "old", "n": 1 });
    let document = raw(doc! { "_id": 1_i64, "text": "b", "n": 1 });
    let id = Value::from(1);
    assert_eq!(batch.resolve(&namespace, &image).expect("it applies"), Some(Write::Put { id, document }));
    assert_eq!(batch.resolve(&namespace, &image).expect("nothing"), None, "once");
    assert_eq!(batch.resolve(&namespace, &raw(doc! { "_id": 4 })).expect("nothing"), None, "not asked for");
    let (put, delete) = (Value::from(4), Value::from(3));
    let rest = [Write::Put { id: put, document: raw(doc! { "_id": 4 }) }, Write::Delete { id: delete }];
    assert_eq!(batch.finish()[&namespace], rest);
}
