//! Commands by chance. Many fail, as people's do; what counts is what the server has made of the others.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// What may be done while a transaction is open: before anything else it is committed.
pub(super) const IN_TRANSACTIONS: [&str; 6] =
    ["insert", "update", "delete", "findAndModify", "create", "createIndexes"];

/// Who, in which database, and what. `{x}` becomes a member of the pool `x`, or another form of this kind.
const COMMANDS: &[(u32, &str)] = &[
    (3, "begin"),
    (3, "commit"),
    (1, "abort"),
    (6, r#"app {d} {"create": "{c}"{option}{option}}"#),
    (1, r#"app {d} {"create": "{c}", "capped": true, "size": {size}{option}}"#),
    (1, r#"app {d} {"create": "{c}", "clusteredIndex": {"key": {"_id": 1}, "unique": true{named}}{option}}"#),
    (2, r#"app {d} {"create": "{c}", "timeseries": {"timeField": "t"{series}}{option}}"#),
    (3, r#"app {d} {"create": "{v}", "viewOn": "{c}", "pipeline": {pipeline}{collated}}"#),
    (10, r#"app {d} {"createIndexes": "{c}", "indexes": [{index}]}"#),
    (2, r#"app {d} {"createIndexes": "{c}", "indexes": [{index}, {index}]}"#),
    (2, r#"app {d} {"dropIndexes": "{c}", "index": {which}}"#),
    (2, r#"app {d} {"collMod": "{c}", "index": {{found}, "hidden": {bit}}}"#),
    (1, r#"app {d} {"collMod": "{c}", "index": {{found}, "expireAfterSeconds": {seconds}}}"#),
    (
        1,
        r#"app {d} {"createIndexes": "{c}", "indexes": [{"key": {"{f}": 1}, "name": "{n}", "prepareUnique": true}]}"#,
    ),
    (1, r#"app {d} {"collMod": "{c}", "index": {{found}, "prepareUnique": {bit}}}"#),
    (1, r#"app {d} {"collMod": "{c}", "index": {{found}, "unique": true}}"#),
    (3, r#"app {d} {"collMod": "{c}"{change}}"#),
    (1, r#"app {d} {"collMod": "{c}"{change}{change}}"#),
    (1, r#"app {d} {"collMod": "k"{capped}}"#),
    (1, r#"app {d} {"collMod": "{c}", "viewOn": "{c}", "pipeline": {pipeline}}"#),
    (2, r#"app {d} {"drop": "{c}"}"#),
    (1, r#"app {other} {"dropDatabase": 1}"#),
    (2, r#"app admin {"renameCollection": "{d}.{c}", "to": "{d}.{c}", "dropTarget": {bit}}"#),
    (1, r#"app admin {"renameCollection": "d.{c}", "to": "d.{c}", "dropTarget": true}"#),
    (1, r#"app {d} {"convertToCapped": "{c}", "size": {size}}"#),
    (1, r#"app {d} {"cloneCollectionAsCapped": "{c}", "toCollection": "{c}", "size": {size}}"#),
    (24, r#"{who} {d} {"insert": "{c}", "documents": [{document}]{bypass}}"#),
    (
        12,
        r#"{who} {d} {"insert": "{c}", "documents": [{document}, {document}, {document}], "ordered": false{bypass}}"#,
    ),
    (6, r#"{who} {d} {"insert": "{c}", "documents": [{measure}, {measure}, {measure}]}"#),
    (14, r#"{who} {d} {"update": "{c}", "updates": [{"q": {q}, "u": {update}{how}}]{bypass}}"#),
    (
        4,
        r#"{who} {d} {"update": "{c}", "updates": [{"q": {q}, "u": {update}{how}}, {"q": {q}, "u": {update}, "multi": true}]}"#,
    ),
    (4, r#"{who} {d} {"update": "{c}", "updates": [{"q": {q}, "u": {document}, "upsert": {bit}}]{bypass}}"#),
    (4, r#"{who} {d} {"update": "{c}", "updates": [{"q": {q}, "u": [{stage}{, stage}], "upsert": {bit}}]}"#),
    (
        3,
        r#"{who} {d} {"update": "{c}", "updates": [{"q": {q}, "u": {"$set": {"{p}": {value}}}, "arrayFilters": [{"e": {value}}]}]}"#,
    ),
    (4, r#"{who} {d} {"delete": "{c}", "deletes": [{"q": {q}, "limit": 1}]}"#),
    (1, r#"{who} {d} {"delete": "{c}", "deletes": [{"q": {q}, "limit": 0}]}"#),
    (
        3,
        r#"{who} {d} {"findAndModify": "{c}", "query": {q}, "update": {update}, "upsert": {bit}, "new": {bit}}"#,
    ),
    (1, r#"{who} {d} {"findAndModify": "{c}", "query": {q}, "remove": true}"#),
    (2, r#"app {d} {"aggregate": "{c}", "pipeline": [{"$match": {q}}, {"$out": "{c}"}], "cursor": {}}"#),
    (
        1,
        r#"app {d} {"aggregate": "{c}", "pipeline": [{"$out": {"db": "{d}", "coll": "{c}"}}], "cursor": {}}"#,
    ),
    (
        2,
        r#"app {d} {"aggregate": "{c}", "pipeline": [{"$merge": {"into": {"db": "{d}", "coll": "{c}"}, "whenMatched": "{matched}"}}], "cursor": {}}"#,
    ),
    (
        1,
        r#"app {d} {"mapReduce": "{c}", "map": code("function () { emit(1, 2) }"), "reduce": code("function () { return 3 }"), "out": {"{reduced}": "{c}"}}"#,
    ),
    (2, r#"root {d} {"createUser": "{u}", "pwd": "{text}x", "roles": [{role}]{account}{account}}"#),
    (1, r#"root {d} {"updateUser": "{u}", "roles": [{role}, {role}]{account}}"#),
    (1, r#"root {d} {"updateUser": "{u}", "pwd": "y"{account}}"#),
    (1, r#"root {d} {"dropUser": "{u}"}"#),
    (1, r#"root d {"dropAllUsersFromDatabase": 1}"#),
    (1, r#"root {d} {"grantRolesToUser": "{u}", "roles": [{role}]}"#),
    (1, r#"root {d} {"revokeRolesFromUser": "{u}", "roles": [{role}]}"#),
    (2, r#"root {d} {"createRole": "{u}", "privileges": [{privilege}], "roles": [{role}]{restricted}}"#),
    (1, r#"root {d} {"updateRole": "{u}", "privileges": [{privilege}, {privilege}]{restricted}}"#),
    (1, r#"root {d} {"grantPrivilegesToRole": "{u}", "privileges": [{privilege}]}"#),
    (1, r#"root {d} {"grantRolesToRole": "{u}", "roles": [{role}]}"#),
    (1, r#"root {d} {"dropRole": "{u}"}"#),
];

fn pool(name: &str) -> &'static [&'static str] {
    match name {
        "d" => &["d", "d", "d", "d", "defaultdb", "ü-表", "D%2F", "admin"],
        // Users of `admin` and of `defaultdb` are the service's own too.
        "other" => &["d", "ü-表", "D%2F"],
        "c" => &[
            "c",
            "c",
            "c",
            "c",
            "C",
            "c.d",
            "s",
            "s",
            "k",
            "v",
            "v",
            "a/b%",
            "system.js",
            "ü ",
            "{long}",
            "{long}表",
            "system.lookalike",
            "a$b",
            "new\nline.",
            "tmp.agg_out.x",
            "x\\\"q",
        ],
        "v" => &["v", "v", "c.d", "C", "{long}"],
        "long" => &[
            "表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表表",
        ],
        "u" => &["u", "U", "ü@'\\\"", "a.b"],
        "who" => &["app", "app", "app", "retry"],
        "bit" => &["true", "false"],
        "size" => &["4096", "1", "100000L", "5000.0"],
        "seconds" => &["1000000000", "2000000000L", "2147483647", "100000.0"],
        "option" => &[
            "",
            "",
            "",
            "{collated}",
            r#", "capped": true, "size": {size}"#,
            r#", "capped": true, "size": 8192, "max": 3"#,
            r#", "validator": {q}, "validationAction": "{action}""#,
            r#", "validator": {"$jsonSchema": {"bsonType": "object", "properties": {"$date": {"bsonType": "int"}, "a": {}}}}"#,
            r#", "validator": {"a": {"$exists": true}}, "validationLevel": "{level}""#,
            r#", "changeStreamPreAndPostImages": {"enabled": {bit}}"#,
            r#", "expireAfterSeconds": {seconds}"#,
            r#", "storageEngine": {"wiredTiger": {"configString": "block_compressor=zlib"}}"#,
            r#", "indexOptionDefaults": {"storageEngine": {"wiredTiger": {"configString": "prefix_compression=false"}}}"#,
        ],
        "action" => &["error", "warn"],
        "level" => &["off", "moderate", "strict"],
        "named" => &["", r#", "name": "{n}""#],
        "series" => &[
            "",
            r#", "metaField": "m""#,
            r#", "metaField": "m", "granularity": "{granularity}""#,
            r#", "granularity": "{granularity}""#,
        ],
        "granularity" => &["seconds", "minutes", "hours"],
        "collated" => &[
            "",
            "",
            r#", "collation": {"locale": "en", "strength": 2}"#,
            r#", "collation": {"locale": "de", "numericOrdering": true}"#,
            r#", "collation": {"locale": "simple"}"#,
            r#", "collation": {"locale": "fr", "backwards": true, "caseLevel": true}"#,
        ],
        "pipeline" => &[
            "[]",
            r#"[{"$match": {q}}]"#,
            r#"[{stage}, {"$project": {"x": {"$literal": {"$date": 5}}}}]"#,
            r#"[{"$lookup": {"from": "{c}", "localField": "a", "foreignField": "b", "as": "a"}}]"#,
            r#"[{"$addFields": {"a": {"$literal": {value}}}}]"#,
        ],
        "index" => &[
            r#"{"key": {"{f}": 1}, "name": "{n}"{indexed}{more}}"#,
            r#"{"key": {"{f}": -1, "{f}": 1.5}, "name": "{n}"{indexed}}"#,
            r#"{"key": {"{f}": {direction}, "b": 1L}, "name": "{n}"{indexed}{more}}"#,
            r#"{"key": {"{f}": "hashed"}, "name": "{n}"{indexed}}"#,
            r#"{"key": {"_id": "hashed"}, "name": "{n}"}"#,
            r#"{"key": {"_id": {direction}}, "name": "{n}"}"#,
            r#"{"key": {"{f}": "text", "b": "text"}, "name": "{n}"{worded}}"#,
            r#"{"key": {"$**": "text", "c": 1}, "name": "{n}"{worded}}"#,
            r#"{"key": {"g": "2dsphere"}, "name": "{n}"{indexed}}"#,
            r#"{"key": {"g": "2d"}, "name": "{n}", "min": -500.0, "max": 500, "bits": 20}"#,
            r#"{"key": {"$**": 1}, "name": "w"{projected}}"#,
            r#"{"key": {"a.$**": 1}, "name": "w"{indexed}}"#,
            r#"{"key": {"m.x": 1, "t": -1}, "name": "{n}"{indexed}}"#,
            r#"{"key": {"t": 1}, "name": "{n}", "expireAfterSeconds": {seconds}}"#,
        ],
        "direction" => &["1", "-1", "2", "1.5", "-1L", "decimal(\"303e0000000000000000000000000001\")"],
        // Two pools: what has an option twice is made, and then nobody can list it.
        "indexed" => &[
            "",
            "",
            r#", "unique": true"#,
            r#", "unique": {bit}"#,
            r#", "sparse": true"#,
            r#", "sparse": 1"#,
            r#", "partialFilterExpression": {"a": {"$gt": {value}}}"#,
            r#", "partialFilterExpression": {"b": {"$exists": true}}"#,
            "{collated}",
        ],
        "more" => &[
            "",
            "",
            r#", "background": true"#,
            r#", "hidden": true"#,
            r#", "hidden": false"#,
            r#", "v": 1"#,
            r#", "expireAfterSeconds": {seconds}"#,
            r#", "storageEngine": {"wiredTiger": {"configString": "prefix_compression=false"}}"#,
        ],
        "worded" => &[
            "",
            r#", "weights": {"b": 3}, "default_language": "german""#,
            r#", "language_override": "c", "textIndexVersion": 2"#,
            r#", "default_language": "none", "collation": {"locale": "simple"}"#,
        ],
        "projected" => {
            &["", r#", "wildcardProjection": {"a": 1, "_id": 0}"#, r#", "wildcardProjection": {"b.c": 0}"#]
        }
        "which" => {
            &[r#""{n}""#, r#""w""#, r#"["{n}", "{n}"]"#, r#""*""#, r#"{"{f}": 1}"#, r#"{"g": "2dsphere"}"#]
        }
        // None of `w`: mongod 6.0.5 falls over when a wildcard index is to expire documents.
        "found" => &[r#""name": "{n}""#, r#""name": "{n}""#, r#""keyPattern": {"{f}": 1}"#],
        "change" => &[
            r#", "validator": {q}"#,
            r#", "validator": {}"#,
            r#", "validationLevel": "{level}""#,
            r#", "validationAction": "{action}""#,
            r#", "changeStreamPreAndPostImages": {"enabled": {bit}}"#,
            r#", "expireAfterSeconds": {seconds}"#,
            r#", "expireAfterSeconds": "off""#,
            r#", "timeseries": {"granularity": "{granularity}"}"#,
        ],
        // Of a view, mongod 6.0.5 falls over at it.
        "capped" => &[r#", "cappedSize": {size}"#, r#", "cappedMax": 5"#],
        "bypass" => &["", "", r#", "bypassDocumentValidation": true"#],
        "how" => &[
            "",
            "",
            r#", "multi": true"#,
            r#", "upsert": true"#,
            r#", "upsert": true, "collation": {"locale": "en", "strength": 1}"#,
        ],
        "f" => &["a", "a", "b", "a.b", "", "$a", "b.0", "ä", "_c", "0"],
        "p" => {
            &["a", "a", "b", "a.b", "a.0", "a.1", "b.x.y", "ä", "a.$[]", "a.$[e]", "a.$", "a.0.a", "b.", "m"]
        }
        "n" => &["n", "n", "m", "N n", "_id_", "ü.$"],
        "id" => &[
            "0",
            "1",
            "2",
            "3",
            "4",
            "1L",
            "2.0",
            "-0.0",
            "1.5",
            "null",
            r#""x""#,
            r#""X""#,
            r#""""#,
            r#"{"a": 1}"#,
            r#"{"a": 1.0}"#,
            r#"{"b": {}, "a": 1}"#,
            r#"oid("6b035e26cdf76ec2da2c0f4a")"#,
            "min",
            "max",
            "true",
            r#"decimal("303c0000000000000000000000000064")"#,
            r#"double("7ff8000000000001")"#,
            "stamp(0, 0)",
            "date(-1L)",
            r#"binary(4, "000102030405060708090a0b0c0d0e0f")"#,
            r#"binary(2, "0100000007")"#,
            r#"symbol("x")"#,
            r#"code("f")"#,
            r#""\xff\xfe""#,
            "{}",
        ],
        "value" => &[
            "{id}",
            "{id}",
            "{id}",
            "{id}",
            "null",
            "undefined",
            "1",
            "1L",
            "1.0",
            "9223372036854775807L",
            "-2147483648",
            "1e300",
            "5e-324",
            r#"double("fff8dead00000000")"#,
            r#"double("7ff0000000000000")"#,
            r#"decimal("7c000000000000000000000000000005")"#,
            r#"decimal("80000000000000000000000000000000")"#,
            r#"decimal("f8000000000000000000000000000000")"#,
            "date(9223372036854775807L)",
            "date(-62135596800001L)",
            "date(1764417600000L)",
            r#""{text}""#,
            r#""{text}""#,
            "repeat(700, \"ab\\n\")",
            "repeat(200000, \"x\")",
            "deep(90)",
            "[]",
            "[{value}, {value}]",
            "[{value}, {value}, [{value}]]",
            "[1, 2, 3, 4, 5]",
            r#"{"{f}": {value}, "{f}": {value}}"#,
            r#"{"a": {value}, "a": {value}}"#,
            r#"{"$a": 1, "$date": {value}}"#,
            r#"{"": {value}}"#,
            r#"{"a": {"b": {value}}, "x": 1}"#,
            r#"regex("^a\\/", "imsx")"#,
            r#"regex("b", "xi")"#,
            r#"regex("", "")"#,
            r#"code("function () {}")"#,
            r#"scoped("f()", {"a": {value}})"#,
            r#"symbol("ä")"#,
            r#"pointer("d.c", "6b035e26cdf76ec2da2c0f4a")"#,
            r#"binary(0, "")"#,
            r#"binary(128, "00ff")"#,
            r#"binary(6, "01")"#,
            r#"binary(3, "00")"#,
            "stamp(0, 0)",
            "stamp(1, 2)",
            "stamp(4294967295, 1)",
            "min",
            "max",
            "true",
            r#""\xff\xfex\x80""#,
            r#""a\x00b""#,
            r#"{"a\xff": 1}"#,
        ],
        "text" => &["", "t", "ä表😀", "a b the", "{\\\"$date\\\": 1}", "\\x00", "10", "2"],
        "document" => &[
            r#"{"_id": {id}, "{f}": {value}}"#,
            r#"{"_id": {id}, "{f}": {value}, "{f}": {value}}"#,
            r#"{"_id": {id}, "a": {value}, "b": {value}}"#,
            r#"{"{f}": {value}, "{f}": {value}, "_id": {id}}"#,
            r#"{"_id": {id}, "$v": 2, "diff": {"u": {"a": 5}}}"#,
            r#"{"_id": {id}, "g": {"type": "Point", "coordinates": [1, 2.5]}, "t": {value}}"#,
            r#"{"_id": {id}, "a": [{"a": {value}}, {"a": {value}}, {value}]}"#,
            r#"{"{f}": {value}}"#,
            "{measure}",
            "{}",
        ],
        "measure" => &[
            r#"{"t": date({time}L), "m": {meta}, "a": {value}}"#,
            r#"{"t": date({time}L), "m": {meta}, "_id": {id}, "{f}": {value}, "b": {value}}"#,
            r#"{"t": date({time}L), "a": 1}"#,
        ],
        "time" => {
            &["0", "1764417600000", "1764417600001", "1764421200000", "-5", "4000000000000", "1764417660000"]
        }
        "meta" => &["1", "1.0", r#""x""#, r#"{"x": 1, "y": 2}"#, r#"{"y": 2, "x": 1}"#, "null", "{value}"],
        "q" => &[
            "{}",
            r#"{"_id": {id}}"#,
            r#"{"_id": {id}}"#,
            r#"{"_id": {id}}"#,
            r#"{"_id": {id}}"#,
            r#"{"_id": {"$gt": {id}}}"#,
            r#"{"{f}": {value}}"#,
            r#"{"a": {"$exists": {bit}}}"#,
            r#"{"a": {"$type": "array"}}"#,
            r#"{"a": {"$elemMatch": {"a": {"$exists": true}}}}"#,
            r#"{"a": {"$gte": {value}}}"#,
            r#"{"$expr": {"$eq": ["$a", {"$literal": {value}}]}}"#,
            r#"{"$or": [{"a": {value}}, {"b": {value}}]}"#,
            r#"{"m": {meta}}"#,
            r#"{"_id": {"$in": [{id}, {id}]}, "b": {"$ne": {value}}}"#,
        ],
        "update" => &[
            r#"{"$set": {"{p}": {value}}}"#,
            r#"{"$set": {"{p}": {value}, "{p}": {value}}}"#,
            r#"{"$set": {"a": {value}}, "$unset": {"{p}": 1}}"#,
            r#"{"$unset": {"{p}": 1, "b": 1}}"#,
            r#"{"$rename": {"{p}": "{p}"}}"#,
            r#"{"$rename": {"a": "b", "ä": "a"}}"#,
            r#"{"$inc": {"{p}": {by}}}"#,
            r#"{"$mul": {"{p}": {by}}}"#,
            r#"{"$min": {"{p}": {value}}, "$max": {"b": {value}}}"#,
            r#"{"$push": {"{p}": {value}}}"#,
            r#"{"$push": {"{p}": {"$each": [{value}, {value}], "$position": 1}}}"#,
            r#"{"$push": {"{p}": {"$each": [{value}, {value}], "$slice": -3, "$sort": 1}}}"#,
            r#"{"$addToSet": {"{p}": {value}}}"#,
            r#"{"$pop": {"{p}": -1}}"#,
            r#"{"$pull": {"{p}": {value}}}"#,
            r#"{"$pullAll": {"a": [{value}, {value}]}}"#,
            r#"{"$bit": {"{p}": {"xor": 5}}}"#,
            r#"{"$currentDate": {"{p}": {"$type": "timestamp"}, "b": true}}"#,
            r#"{"$setOnInsert": {"{p}": {value}}, "$set": {"a": {value}}}"#,
        ],
        "by" => &["1", "1L", "0.5", "-2147483648", r#"decimal("303c0000000000000000000000000064")"#],
        "stage" => &[
            r#"{"$set": {"a": {"$literal": {value}}}}"#,
            r#"{"$set": {"b": "$a", "a.b": 1}}"#,
            r#"{"$unset": ["{p}", "b"]}"#,
            r#"{"$replaceWith": {"$literal": {document}}}"#,
            r#"{"$replaceWith": {"$setField": {"field": {"$literal": "{f}"}, "input": "$$ROOT", "value": {"$literal": {value}}}}}"#,
            r#"{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"b": "$$NOW", "a": {"$concatArrays": [[1], {"$cond": [{"$isArray": "$a"}, "$a", []]}]}}]}}"#,
            r#"{"$set": {"a": {"$cond": [{"$isArray": "$a"}, {"$reverseArray": "$a"}, ["$a", "$b"]]}}}"#,
        ],
        ", stage" => &["", ", {stage}"],
        "matched" => &["replace", "merge", "keepExisting"],
        "reduced" => &["replace", "merge", "reduce"],
        "role" => &[
            r#"{"role": "readWrite", "db": "d"}"#,
            r#"{"role": "read", "db": "ü-表"}"#,
            r#""dbAdmin""#,
            r#"{"role": "{u}", "db": "{d}"}"#,
            r#""{u}""#,
            r#"{"role": "root", "db": "admin"}"#,
            r#"{"role": "readAnyDatabase", "db": "admin"}"#,
        ],
        // Without restrictions: a user's are the service's networks, which a copy has of its own.
        "account" => &[
            "",
            "",
            r#", "customData": {"{f}": {value}}"#,
            r#", "mechanisms": ["SCRAM-SHA-256"]"#,
            r#", "mechanisms": ["SCRAM-SHA-1", "SCRAM-SHA-256"]"#,
        ],
        "restricted" => &[
            "",
            r#", "authenticationRestrictions": [{"clientSource": ["10.0.0.0/8", "::1"]}, {"serverAddress": ["127.0.0.1"]}]"#,
            r#", "authenticationRestrictions": []"#,
        ],
        "privilege" => &[
            r#"{"resource": {"db": "{d}", "collection": "{c}"}, "actions": ["find", "insert", "collMod"]}"#,
            r#"{"resource": {"db": "{d}", "collection": ""}, "actions": ["find"]}"#,
            r#"{"resource": {"db": "", "collection": "{c}"}, "actions": ["update", "remove"]}"#,
            r#"{"resource": {"cluster": true}, "actions": ["serverStatus"]}"#,
            r#"{"resource": {"anyResource": true}, "actions": ["listCollections"]}"#,
            r#"{"resource": {"db": "{d}", "system_buckets": "s"}, "actions": ["find"]}"#,
        ],
        _ => &[],
    }
}

fn filled(text: &str, random: &mut StdRng) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find('}').map(|end| (&rest[1..end], end + 1));
        match end.map(|(name, end)| (pool(name).choose(random), end)) {
            Some((Some(choice), end)) => {
                done.push_str(&filled(choice, random));
                rest = &rest[end..];
            }
            _ => {
                done.push('{'); // of a document
                rest = &rest[1..];
            }
        }
    }
    done.push_str(rest);
    done
}

/// What the others are about.
pub(super) fn beginning(random: &mut StdRng) -> Vec<String> {
    let mut made: Vec<String> = [
        r#"app d {"create": "c"}"#,
        r#"app d {"create": "k", "capped": true, "size": 8192}"#,
        r#"app d {"create": "s", "timeseries": {"timeField": "t"{series}}}"#,
        r#"app d {"create": "v", "viewOn": "c", "pipeline": {pipeline}}"#,
    ]
    .iter()
    .map(|text| filled(text, random))
    .collect();
    let create = COMMANDS.iter().find(|(_, text)| text.contains("\"create\"")).expect("one").1;
    made.extend((0..8).map(|_| filled(create, random)));
    made
}

/// Between 60 and 160.
pub(super) fn commands(random: &mut StdRng) -> Vec<String> {
    let count = random.random_range(60..160);
    let mut command = || {
        let (_, text) = COMMANDS.choose_weighted(random, |(weight, _)| *weight).expect("there are some");
        filled(text, random)
    };
    (0..count).map(|_| command()).collect()
}
