//! Commands by chance. Many fail, as people's do; what counts is what the server has made of the others.
//!
//! A line is a command: its words stand between blanks, `'a b'` is one of them, `\xff` and the like are bytes, and `$last` is what
//! the latest `DUMP` gave. [`PAUSE`] lets deadlines come. Several lines belong together where `;;` stands.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

pub(super) const PAUSE: &str = "$pause";

/// `{x}` becomes a member of the pool `x`, or another form of this kind.
const LINES: &[(u32, &str)] = &[
    // Strings.
    (12, "SET {s} {v} {setopt}"),
    (2, "SETEX {s} {seconds} {v}"),
    (1, "PSETEX {s} {ms} {v}"),
    (2, "SETNX {s} {v}"),
    (1, "GETSET {s} {v}"),
    (2, "GETDEL {s}"),
    (3, "GETEX {s} {getopt}"),
    (3, "APPEND {s} {v}"),
    (3, "SETRANGE {s} {offset} {v}"),
    (3, "SETBIT {s} {offset} {bit}"),
    // The first never overflows: where all do and fail, the key grows and no log has it (`unlogged`).
    (
        4,
        "BITFIELD {s} SET u1 3 {bit} OVERFLOW {overflow} INCRBY {bits} {offset} {int} SET {bits} #1 {int} GET u8 0",
    ),
    (2, "BITOP {bitop} {s} {s} {s}"),
    (1, "BITOP NOT {s} {s}"),
    (3, "INCR {n}"),
    (2, "DECR {n}"),
    (4, "INCRBY {n} {int}"),
    (2, "DECRBY {n} {int}"),
    (4, "INCRBYFLOAT {n} {float}"),
    (2, "SET {n} {int} {setopt}"),
    (2, "MSET {s} {v} {s} {v} {n} {int}"),
    (1, "MSETNX {s} {v} {k} {v}"),
    (2, "MSETEX 2 {s} {v} {s} {v} {nx} {setdeadline}"),
    (1, "DELIFEQ {s} {v}"),
    (1, "PFADD {p} {m} {m} {v}"),
    (3, "PFADD {p} {m} {int} {int} {int}"),
    (2, "PFMERGE {p} {p} {p}"),
    (1, "PFCOUNT {p}"),
    // Hashes.
    (8, "HSET {h} {f} {v} {f} {v} {f} {int}"),
    (2, "HMSET {h} {f} {v}"),
    (3, "HSETNX {h} {f} {v}"),
    (4, "HDEL {h} {f} {f}"),
    (4, "HINCRBY {h} {f} {int}"),
    (4, "HINCRBYFLOAT {h} {f} {float}"),
    (6, "HEXPIRE {h} {seconds} {cond} FIELDS 2 {f} {f}"),
    (8, "HPEXPIRE {h} {ms} {cond} FIELDS 2 {f} {f}"),
    (3, "HEXPIREAT {h} {at} {cond} FIELDS 1 {f}"),
    (3, "HPEXPIREAT {h} {atms} {cond} FIELDS 1 {f}"),
    (2, "HPERSIST {h} FIELDS 2 {f} {f}"),
    (6, "HSETEX {h} {hsetopt} FIELDS 2 {f} {v} {f} {int}"),
    (12, "HSETEX {h} {far} FIELDS 3 {f} {v} {f} {v} {f} {int}"),
    (4, "HGETEX {h} {getopt} FIELDS 2 {f} {f}"),
    // One field: of several it logs those past their deadline too, which the source has for a while yet.
    (2, "HGETDEL {h} FIELDS 1 {f}"),
    (1, "HGETALL {h}"),
    (1, "HLEN {h}"),
    // Lists.
    (6, "RPUSH {l} {v} {m} {int}"),
    (5, "LPUSH {l} {m} {v}"),
    (1, "LPUSHX {l} {v}"),
    (1, "RPUSHX {l} {v}"),
    (3, "LINSERT {l} {where} {m} {v}"),
    (2, "LSET {l} {index} {v}"),
    (2, "LREM {l} {index} {m}"),
    (2, "LTRIM {l} {index} {index}"),
    (2, "LPOP {l} {count}"),
    (1, "RPOP {l}"),
    (3, "LMOVE {l} {l} {end} {end}"),
    (1, "RPOPLPUSH {l} {l}"),
    (2, "LMPOP 2 {l} {l} {end} COUNT {count}"),
    (2, "BLPOP {l} {l} 0.01"),
    (1, "BRPOP {l} 0.01"),
    (1, "BLMOVE {l} {l} {end} {end} 0.01"),
    (1, "BRPOPLPUSH {l} {l} 0.01"),
    (1, "BLMPOP 0.01 2 {l} {l} {end} COUNT {count}"),
    // Sets.
    (7, "SADD {e} {m} {m} {v}"),
    (4, "SADD {e} {int} {int} {bit}"),
    (2, "SREM {e} {m} {m}"),
    (4, "SPOP {e} {count}"),
    (2, "SPOP {e}"),
    (2, "SMOVE {e} {e} {m}"),
    (2, "SINTERSTORE {e} {e} {e}"),
    (2, "SUNIONSTORE {e} {e} {e}"),
    (2, "SDIFFSTORE {e} {e} {e}"),
    // Sorted sets.
    (9, "ZADD {z} {zopt} {score} {m} {score} {m}"),
    (4, "ZADD {z} {score} {m} {score} {v} {score} {int}"),
    (2, "ZADD {z} {zopt} INCR {score} {m}"),
    (4, "ZINCRBY {z} {score} {m}"),
    (2, "ZREM {z} {m} {m}"),
    (1, "ZREMRANGEBYRANK {z} {index} {index}"),
    (1, "ZREMRANGEBYSCORE {z} {score} {score}"),
    // Of scores that differ it takes any members, in the source others than in a copy.
    (1, "ZADD lex 0 {m} 0 {m} 0 {v};;ZREMRANGEBYLEX lex [a (m"),
    (2, "ZPOPMIN {z} {count}"),
    (1, "ZPOPMAX {z}"),
    (1, "BZPOPMIN {z} {z} 0.01"),
    (1, "BZPOPMAX {z} 0.01"),
    (2, "ZMPOP 2 {z} {z} {minmax} COUNT {count}"),
    (1, "BZMPOP 0.01 2 {z} {z} {minmax}"),
    (2, "ZRANGESTORE {z} {z} {index} {index}"),
    (1, "ZRANGESTORE {z} {z} -inf +inf BYSCORE LIMIT 1 3"),
    (3, "ZUNIONSTORE {z} 2 {z} {z} WEIGHTS {score} {score} AGGREGATE {aggregate}"),
    (2, "ZINTERSTORE {z} 2 {z} {e} WEIGHTS {score} {score} AGGREGATE {aggregate}"),
    (1, "ZDIFFSTORE {z} 2 {z} {z}"),
    (4, "GEOADD {g} {place} {m} {place} {m}"),
    (1, "GEOADD {g} NX CH {place} {m}"),
    (2, "GEOSEARCHSTORE {z} {g} FROMLONLAT {place} BYRADIUS 9000 km {storedist}"),
    (1, "GEORADIUS {g} {place} 5000 km STORE {z}"),
    (1, "GEORADIUSBYMEMBER {g} {m} 5000 km STOREDIST {z}"),
    // Streams.
    (10, "XADD {x} {trim} {newid} {f} {v} {f} {v}"),
    (3, "XADD {x} NOMKSTREAM {newid} {f} {v}"),
    (3, "XTRIM {x} {trimmed}"),
    (3, "XDEL {x} {id} {id}"),
    (2, "XSETID {x} {id}"),
    (2, "XSETID {x} {id} ENTRIESADDED {count} MAXDELETEDID {id}"),
    (6, "XGROUP CREATE {x} {group} {from} {mkstream}"),
    (2, "XGROUP SETID {x} {group} {from} {entriesread}"),
    (1, "XGROUP DESTROY {x} {group}"),
    (2, "XGROUP CREATECONSUMER {x} {group} {claimer}"),
    (1, "XGROUP DELCONSUMER {x} {group} {claimer}"),
    (8, "XREADGROUP GROUP {group} {consumer} COUNT {count} {noack} STREAMS {x} >"),
    (2, "XREADGROUP GROUP {group} {consumer} BLOCK 1 STREAMS {x} {x} > >"),
    // Behind the last entry: of what it has again a consumer's time and count are logged nowhere (`unlogged`).
    (2, "XREADGROUP GROUP {group} {consumer} STREAMS {x} 18446744073709551615-18446744073709551615"),
    (3, "XCLAIM {x} {group} {consumer} 0 {id} {id} {claim}"),
    (3, "XAUTOCLAIM {x} {group} {consumer} 0 0 COUNT {count} {justid}"),
    (3, "XACK {x} {group} {id} {id}"),
    // Keys of every kind.
    (3, "SORT {l} ALPHA STORE {l}"),
    (2, "SORT {e} BY nosort STORE {l}"),
    (2, "SORT {e} BY {weights} {desc} LIMIT 0 {count} STORE {l}"),
    (1, "SORT {e} BY {weights} GET # GET {weights} STORE {l}"),
    (1, "SORT {z} BY nosort DESC STORE {l}"),
    (4, "COPY {k} {k} {replace}"),
    (2, "COPY {k} {k} DB {db} {replace}"),
    (4, "RENAME {k} {k}"),
    (1, "RENAMENX {k} {k}"),
    (3, "MOVE {k} {db}"),
    (2, "SWAPDB {db} {db}"),
    (5, "SELECT {db}"),
    (3, "EXPIRE {k} {seconds} {cond}"),
    (7, "PEXPIRE {k} {ms} {cond}"),
    (3, "EXPIREAT {k} {at} {cond}"),
    (4, "PEXPIREAT {k} {atms} {cond}"),
    (8, "PEXPIRE {k} 7654321"),
    (2, "PERSIST {k}"),
    (3, "DEL {k} {k}"),
    (2, "UNLINK {k} {k}"),
    (1, "TOUCH {k}"),
    (1, "TYPE {k}"),
    (5, "DUMP {k};;RESTORE {k} 0 $last {replace}"),
    (2, "DUMP {k};;RESTORE {k} {ms} $last REPLACE"),
    (2, "DUMP {k};;RESTORE {k} {atms} $last REPLACE ABSTTL {idle}"),
    (1, "FUNCTION DUMP;;FUNCTION RESTORE $last {policy}"),
    (12, PAUSE),
    // Transactions, scripts, functions.
    (6, "MULTI"),
    (9, "EXEC"),
    (1, "DISCARD"),
    (1, "WATCH {k}"),
    (2, "MULTI;;SET {s} {v} PX {short};;INCR {n};;GET {s};;EXEC"),
    (2, "MULTI;;HSETEX {h} PX {short} FIELDS 1 {f} {v};;HINCRBY {h} {f} 1;;SELECT {db};;EXEC"),
    (6, "EVAL '{script}' 2 {k} {k} {v} {m}"),
    (2, "EVAL '{script}' 2 {h} {e} {f} {m}"),
    (3, "FUNCTION LOAD {replacing} '#!lua name={lib}\\n{registered}'"),
    (3, "FUNCTION LOAD {replacing} '#!lua name={lib}\\n{registered}\\n-- {v}\\n{registered}'"),
    (1, "FUNCTION DELETE {lib}"),
    (5, "FCALL {function} 2 {k} {k} {v} {m}"),
];

/// Rarely: little is left behind them.
const CLEARING: &[&str] = &["FLUSHDB", "FLUSHDB ASYNC", "FLUSHALL", "FLUSHALL ASYNC", "FUNCTION FLUSH"];

fn pool(name: &str) -> &'static [&'static str] {
    match name {
        "s" => &["s", "{same}s", "'\\xff\\x00s'", "''", "{k}"],
        "n" => &["n", "'n n'", "n:2"],
        "p" => &["p", "p2", "p3", "{s}"],
        "h" => &["h", "h2", "'h\\r\\n3'", "h", "h2", "'h\\r\\n3'", "{k}"],
        "l" => &["l", "l{same}", "'l\\xc3\\xa4'", "{k}"],
        "e" => &["e", "e2", "'e\\xfe'", "e", "e2", "{k}"],
        "z" => &["z", "'z z'", "z3", "z", "{g}", "{k}"],
        "g" => &["g", "g2"],
        "x" => &["x", "x2", "'x\\n3'", "x", "x2", "{long}"],
        "long" => &[
            "llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll",
        ],
        "k" => {
            &["s", "''", "{same}s", "n", "p", "h", "h2", "l", "e", "e2", "z", "g", "x", "x2", "new", "{long}"]
        }
        "m" => &["a", "b", "c", "m", "''", "'\\xff\\xfe'", "'m m'", "10", "007"],
        "f" => &["f", "f", "f", "g", "g", "i", "i", "''", "'f\\n\\x00'", "a", "{m}", "{long}"],
        "v" => &[
            "v",
            "a",
            "''",
            "'\\x00\\x01\\xff'",
            "'two words\\r\\n'",
            "12",
            "007",
            "-0",
            "3.0e3",
            "{int}",
            "{float}",
            "{long}",
            "{huge}",
            "$last",
        ],
        "huge" => &["$huge"],
        "int" => &[
            "0",
            "1",
            "2",
            "-1",
            "7",
            "127",
            "300",
            "-70000",
            "2147483648",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775806",
        ],
        "float" => &[
            "0.1",
            "-0.1",
            "1e10",
            "3.333333333333333333",
            "1e-7",
            "-0.0",
            "5e300",
            "inf",
            "1e17",
            "12345678901234567890.5",
        ],
        "score" => &[
            "0",
            "-0",
            "1",
            "2",
            "0.1",
            "-1.5",
            "inf",
            "-inf",
            "1e308",
            "5e-324",
            "3.333333333333333333",
            "9007199254740993",
            "nan",
        ],
        "index" => &["0", "1", "2", "-1", "-2", "-100", "100"],
        "count" => &["1", "2", "3", "5", "0", "100"],
        "offset" => &["0", "1", "7", "8", "100", "70000"],
        "bit" => &["0", "1"],
        "bits" => &["u8", "i8", "i64", "u63", "i5", "u1"],
        "overflow" => &["WRAP", "SAT", "FAIL"],
        "bitop" => &["AND", "OR", "XOR"],
        "nx" => &["", "", "NX", "XX"],
        // What is past its deadline when a reading is taken, or far from it then: never in between.
        "short" => &["1", "2", "5", "10", "30", "70", "150"],
        "ms" => &[
            "{short}",
            "{short}",
            "{short}",
            "100000000",
            "7654321",
            "0",
            "-5",
            "9223372036854775807",
            "8000000000000000",
        ],
        "seconds" => &["100000", "7200", "99999999999", "0", "-1", "9223372036854775", "9223372036854775807"],
        "at" => &[
            "1",
            "1000000000",
            "4102444800",
            "9007199254740",
            "9223372036854775",
            "0",
            "-1",
            "99999999999999999",
        ],
        "atms" => &[
            "1",
            "1700000000123",
            "4102444800999",
            "253402300799999",
            "9007199254740991",
            "9007199254740992",
            "9007199254740993",
            "9007199250000000",
            "9223372036854775807",
            "-1",
        ],
        "setdeadline" => {
            &["", "EX {seconds}", "PX {ms}", "PX {short}", "EXAT {at}", "PXAT {atms}", "KEEPTTL"]
        }
        "setopt" => &[
            "",
            "",
            "NX",
            "XX",
            "GET",
            "XX GET {setdeadline}",
            "KEEPTTL",
            "{nx} {setdeadline}",
            "{setdeadline}",
            "{setdeadline}",
            "IFEQ {v}",
        ],
        "far" => &["PX 7654321", "PX 100000000", "EXAT 4102444800", "PXAT {atms}"],
        "getopt" => &["", "PERSIST", "EX {seconds}", "PX {ms}", "PX {short}", "EXAT {at}", "PXAT {atms}"],
        "hsetopt" => &["{fnx} {setdeadline}", "{nx} {setdeadline}", "{setdeadline}", "PX {short}", "KEEPTTL"],
        "fnx" => &["FNX", "FXX"],
        "cond" => &["", "", "", "NX", "XX", "GT", "LT"],
        "where" => &["BEFORE", "AFTER"],
        "end" => &["LEFT", "RIGHT"],
        "zopt" => &["", "NX", "XX", "GT", "LT", "CH", "XX GT CH", "XX LT"],
        "minmax" => &["MIN", "MAX"],
        "aggregate" => &["SUM", "MIN", "MAX"],
        "place" => &["13.4 52.5", "-180 -85", "0 0", "2.35 48.86", "179.999 85.05"],
        "storedist" => &["", "STOREDIST"],
        "newid" => {
            &["*", "1-*", "2-*", "1-1", "5-1", "7-*", "9-9", "1795000000000-*", "18446744073709551615-1"]
        }
        "id" => &[
            "1-0",
            "1-1",
            "2-0",
            "2-1",
            "5-1",
            "7-0",
            "7-1",
            "9-9",
            "18446744073709551615-18446744073709551615",
        ],
        "trim" => &["", "", "", "MAXLEN ~ 2", "MAXLEN = 3", "MINID 2", "MINID ~ 5-1 LIMIT 1", "MAXLEN 0"],
        "trimmed" => &["MAXLEN ~ 1", "MAXLEN 2", "MINID 2-0", "MINID ~ 7 LIMIT 100", "MAXLEN 0"],
        "group" => &["g", "g", "g", "'g\\xff'", "''"],
        "consumer" => &["me", "you", "'c\\n'", "''"],
        // One of them asks for no entries: see the reading.
        "claimer" => &["made", "made", "{consumer}"],
        "from" => &["0", "$", "1-1", "5"],
        "mkstream" => &["", "MKSTREAM", "MKSTREAM", "ENTRIESREAD {count}"],
        "entriesread" => &["", "ENTRIESREAD {count}"],
        "noack" => &["", "", "", "NOACK"],
        "claim" => &[
            "",
            "IDLE 5000",
            "TIME 1700000000000",
            "RETRYCOUNT 7",
            "FORCE",
            "JUSTID",
            "FORCE IDLE 1 RETRYCOUNT 9",
            "LASTID 5-1",
        ],
        "justid" => &["", "JUSTID"],
        "weights" => &["w*", "h->f", "h2->*", "*", "'n n'"],
        "desc" => &["", "DESC", "ALPHA"],
        "replace" => &["", "REPLACE", "REPLACE"],
        "idle" => &["", "IDLETIME 100"],
        "db" => &["0", "0", "0", "1", "9", "15", "16"],
        "policy" => &["FLUSH", "APPEND", "REPLACE"],
        "replacing" => &["REPLACE", "REPLACE", ""],
        "lib" => &["lib", "lib_2", "L"],
        "function" => &["f", "g", "f", "h_1"],
        "registered" => &[
            "server.register_function(\"{function}\", function(KEYS, ARGV) {script} end)",
            "redis.register_function(\"{function}\", function(KEYS, ARGV) {script} end)",
            "redis.register_function{function_name=\"h_1\", callback=function() return 1 end, flags={\"no-writes\"}, description=\"\\xc3\\xa4 \\\\0\"}",
        ],
        // Without `redis.set_repl`: what it keeps from the log is in a base alone (`unlogged`).
        "script" => &[
            "{statement}",
            "{statement} {statement}",
            "{statement} error(\"no\")",
            "for i = 1, 3 do {statement} end",
            "if redis.call(\"EXISTS\", KEYS[1]) == 1 then {statement} else {statement} end",
        ],
        "statement" => &[
            "redis.pcall(\"SET\", KEYS[1], redis.call(\"TIME\")[2])",
            "redis.pcall(\"SET\", KEYS[2], tostring(math.random()))",
            "redis.pcall(\"SADD\", KEYS[1], ARGV[1], ARGV[2], redis.call(\"RANDOMKEY\") or \"none\")",
            "redis.pcall(\"SPOP\", KEYS[2])",
            "redis.pcall(\"SPOP\", KEYS[1], 2)",
            "redis.pcall(\"HSET\", KEYS[1], ARGV[1], redis.call(\"TIME\")[1], ARGV[2], \"x\")",
            "redis.pcall(\"HPEXPIRE\", KEYS[1], 20, \"FIELDS\", 1, ARGV[1])",
            "redis.pcall(\"HSETEX\", KEYS[1], \"PX\", 3, \"FIELDS\", 1, ARGV[1], \"5\")",
            "redis.pcall(\"HINCRBY\", KEYS[1], ARGV[1], 3)",
            "redis.pcall(\"PEXPIRE\", KEYS[1], 5)",
            "redis.pcall(\"PEXPIRE\", KEYS[2], 90000000)",
            "redis.pcall(\"XADD\", KEYS[2], \"*\", ARGV[1], ARGV[2])",
            "redis.pcall(\"RENAME\", KEYS[1], KEYS[2])",
            "redis.pcall(\"RPUSH\", KEYS[2], unpack(redis.call(\"KEYS\", \"*\")))",
            "redis.pcall(\"RESTORE\", KEYS[2], 0, redis.call(\"DUMP\", KEYS[1]), \"REPLACE\")",
            "redis.pcall(\"SELECT\", \"9\")",
            "redis.pcall(\"INCRBYFLOAT\", KEYS[1], \"0.1\")",
            "local r = redis.pcall(\"SRANDMEMBER\", KEYS[2]) redis.pcall(\"SET\", KEYS[1], type(r) == \"string\" and r or \"0\")",
            "redis.pcall(\"DEL\", KEYS[1])",
            "redis.replicate_commands()",
            "server.pcall(\"APPEND\", KEYS[1], ARGV[1])",
            "redis.call(\"LPUSH\", KEYS[1], ARGV[1])",
            "redis.pcall(\"FLUSHDB\" .. ARGV[1])",
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
                done.push('{'); // of a tag, or Lua's
                rest = &rest[1..];
            }
        }
    }
    done.push_str(rest);
    done
}

fn lines_of(text: &str, random: &mut StdRng) -> Vec<String> {
    filled(text, random).split(";;").map(str::to_owned).collect()
}

/// Something of every kind, so that the others have something to work on.
pub(super) fn beginning(random: &mut StdRng) -> Vec<String> {
    let kinds = LINES.iter().filter(|(weight, _)| *weight >= 6);
    kinds
        .flat_map(|(_, text)| lines_of(text, random))
        .chain(["EXEC".to_owned(), "SELECT 0".to_owned()])
        .collect()
}

/// Between 150 and 450, about.
pub(super) fn lines(random: &mut StdRng) -> Vec<String> {
    let count = random.random_range(150..450);
    let mut made: Vec<String> = Vec::new();
    while made.len() < count {
        let clears = random.random_ratio(1, 400);
        let text = match CLEARING.choose(random) {
            Some(text) if clears => text,
            _ => LINES.choose_weighted(random, |(weight, _)| *weight).expect("there are some").1,
        };
        made.extend(lines_of(text, random));
    }
    made
}

/// A line's words.
pub(crate) fn words(line: &str, last: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<Vec<u8>>, false);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(escaped(&mut rest)),
            c => word.get_or_insert_default().extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    words.extend(word);
    for word in &mut words {
        match word.as_slice() {
            b"$last" => *word = last.to_vec(),
            b"$huge" => *word = (0..20_000_u32).flat_map(|number| number.to_le_bytes()).collect(),
            _ => {}
        }
    }
    words
}

fn escaped(rest: &mut std::str::Chars<'_>) -> u8 {
    match rest.next() {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            u8::from_str_radix(&digits, 16).expect("two digits")
        }
        _ => b'\\',
    }
}
