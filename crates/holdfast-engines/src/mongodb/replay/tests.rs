//! Rules that no recording shows.

use bson::{Document, RawDocumentBuf, Timestamp, doc};

use super::*;

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
    assert!(matches!(diff, Action::Change { change: Change::Diff(_), .. }));
    let dotted = update(doc! { "$v": 2, "diff": { "updatedFields": { "a.b": 1 }, "removedFields": [] } });
    assert!(matches!(dotted, Action::Change { change: Change::Dotted(_), .. }));
}

#[test]
fn views_and_time_series_are_made_from_what_mongod_writes_for_them() {
    let mut replayer = Replayer::default();
    let view = doc! { "_id": "d.v", "viewOn": "c", "pipeline": [] };
    assert_eq!(feed(&mut replayer, doc! { "op": "i", "ns": "d.system.views", "o": view }), []);
    let options = doc! { "create": "system.buckets.s", "timeseries": { "timeField": "t" }, "validator": {}, "clusteredIndex": true };
    let made = feed(&mut replayer, doc! { "op": "c", "ns": "d.$cmd", "o": options });
    let namespace = Namespace::new("d", "s");
    let options = doc! { "timeseries": { "timeField": "t" } };
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
fn what_is_not_known_ends_the_replay() {
    for entry in [
        doc! { "op": "c", "ns": "d.$cmd", "o": { "upgradeDowngradeViewlessTimeseries": "c" } },
        doc! { "op": "x", "ns": "d.c", "o": {} },
        doc! { "op": "u", "ns": "d.c", "o": { "$v": 3, "diff": {} }, "o2": { "_id": 1 } },
    ] {
        let mut entry = entry;
        entry.insert("ts", Timestamp { time: 7, increment: 1 });
        let entry = Entry::new(RawDocumentBuf::try_from(&entry).expect("a document")).expect("an entry");
        let error = Replayer::default().feed(&entry).expect_err("nothing is skipped silently");
        assert!(matches!(error, ReplayError::Unknown { .. }), "{error}");
    }
}
