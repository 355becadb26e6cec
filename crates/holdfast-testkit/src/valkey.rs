//! All that a Valkey server holds, read without the driver: every key of every database in its own bytes, deadlines to the millisecond,
//! libraries, users.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, IntoConnectionInfo, Value};

/// What an answer may take on a busy machine; the library's own limit is half a second.
const PATIENCE: Duration = Duration::from_secs(60);
const DATABASES: u32 = 16;
/// Its deadline tells how far a copy's are moved.
const CLOCK: &str = "\0clock";
const CLOCK_AT: i64 = 4_000_000_000_000;
const USERS: &str = "users";
/// The one consumer that never asks for entries.
const MADE: &str = "made";
/// What a script's numbers hold exactly; later deadlines stay as they are (`docs/engines/valkey.md`).
const LAST_MOVED: i64 = (1 << 53) - 1;
/// The moving itself may be put on top: so much for these few keys, and for a busy host.
const SURPLUS: SignedDuration = SignedDuration::from_secs(2);

/// A connection that is patient.
///
/// # Errors
/// When there is nobody, or nobody who takes this password.
pub async fn connect(to: impl IntoConnectionInfo) -> Result<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    Ok(redis::Client::open(to)?.get_multiplexed_async_connection_with_config(&patient).await?)
}

/// Name of what was read, and what it is.
pub struct Reading(BTreeMap<String, Item>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Item {
    lines: Vec<String>,
    /// Consumers that only asked, and when the others were last seen: no log has that.
    seen: Vec<String>,
    /// Of the key (`""`) and of fields.
    deadlines: BTreeMap<String, i64>,
}

/// Reads as the server's first user. Leaves a key of its own in the source.
///
/// # Errors
/// When the server cannot be read, or refused commands of its own log.
pub async fn reading(mut client: MultiplexedConnection) -> Result<Reading> {
    let fresh: i64 = ask(&mut client, &["EXISTS", CLOCK]).await?;
    if fresh == 0 {
        let at = CLOCK_AT.to_string();
        ask::<()>(&mut client, &["SET", CLOCK, "", "PXAT", &at]).await?;
    }
    let mut read = databases(&mut client).await?;
    read.insert("libraries".to_owned(), libraries(&mut client).await?);
    read.insert(USERS.to_owned(), users(&mut client).await?);
    let info: String = ask(&mut client, &["INFO", "stats"]).await?;
    let errors = info.lines().find(|line| line.starts_with("unexpected_error_replies:"));
    ensure!(errors == Some("unexpected_error_replies:0"), "commands of the log were refused: {errors:?}");
    Ok(Reading(read))
}

impl Reading {
    /// How many there are of each kind, and of deadlines to come.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for item in self.0.values().filter(|item| !item.deadlines.is_empty()) {
            *kinds.entry(item.lines[0].as_str()).or_default() += 1;
            for (of, _) in item.deadlines.iter().filter(|(_, at)| **at > 0) {
                *kinds.entry(if of.is_empty() { "keys that end" } else { "fields that end" }).or_default() +=
                    1;
            }
        }
        format!("{kinds:?}")
    }

    /// Without the users: those of a copy have passwords of their own.
    #[must_use]
    pub fn without_users(mut self) -> Self {
        self.0.remove(USERS);
        self
    }

    /// Takes what ends in the source before `until` out of both: a copy's deadlines come while it is being read.
    pub fn leave_out_what_ends(&mut self, until: Timestamp, copy: &mut Self) {
        let ends = |at: &i64| (1..until.as_millisecond()).contains(at);
        let mut gone = Vec::new();
        for (name, item) in &mut self.0 {
            let fields = item.deadlines.iter().filter(|(of, at)| !of.is_empty() && ends(at));
            for field in fields.map(|(of, _)| of.clone()).collect::<Vec<_>>() {
                item.leave_out(&field);
                if let Some(copied) = copy.0.get_mut(name) {
                    copied.leave_out(&field);
                }
            }
            if item.lines == ["hash"] || item.deadlines.get("").is_some_and(ends) {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.0.remove(&name);
            copy.0.remove(&name);
        }
    }

    /// In how many names the two differ.
    #[must_use]
    pub fn unlike(&self, other: &Self) -> usize {
        names(self, other).into_iter().filter(|name| self.0.get(*name) != other.0.get(*name)).count()
    }
}

async fn ask<T: FromRedisValue>(client: &mut MultiplexedConnection, words: &[&str]) -> Result<T> {
    let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    of(client, &bytes).await
}

async fn of<T: FromRedisValue>(client: &mut MultiplexedConnection, words: &[&[u8]]) -> Result<T> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query_async(client).await.with_context(|| words.concat().escape_ascii().to_string())
}

async fn databases(client: &mut MultiplexedConnection) -> Result<BTreeMap<String, Item>> {
    let mut read = BTreeMap::new();
    for database in 0..DATABASES {
        ask::<()>(client, &["SELECT", &database.to_string()]).await?;
        let keys: Vec<Vec<u8>> = ask(client, &["KEYS", "*"]).await?;
        for key in keys {
            if let Some(item) = item(client, &key).await? {
                read.insert(format!("{database} \"{}\"", key.escape_ascii()), item);
            }
        }
    }
    Ok(read)
}

/// `None` if it has gone meanwhile, or is a hash in which no field is: the server keeps some of those, and loads none.
async fn item(client: &mut MultiplexedConnection, key: &[u8]) -> Result<Option<Item>> {
    let kind: String = of(client, &[b"TYPE", key]).await?;
    let mut item = Item { lines: vec![kind.clone()], ..Item::default() };
    match kind.as_str() {
        "none" => return Ok(None),
        "string" => item.lines.push(shown(&of(client, &[b"GET", key]).await?)),
        "list" => item.lines.extend(all(of(client, &[b"LRANGE", key, b"0", b"-1"]).await?)),
        "set" => item.lines.extend(sorted(all(of(client, &[b"SMEMBERS", key]).await?))),
        "zset" => {
            let told = all(of(client, &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]).await?);
            item.lines.extend(told.chunks(2).map(scored));
        }
        "hash" => fields(client, key, &mut item).await?,
        "stream" => stream(client, key, &mut item).await?,
        other => bail!("a {other}"),
    }
    let deadline: i64 = of(client, &[b"PEXPIRETIME", key]).await?;
    item.deadlines.insert(String::new(), deadline);
    let empty = item.lines == ["hash"];
    Ok((deadline != -2 && !empty).then_some(item))
}

/// A member and its score, which the server writes so that it is read back to the bit; but it has no -0 in small sets that it
/// has loaded.
fn scored(pair: &[String]) -> String {
    let score = pair.get(1).map_or("", String::as_str);
    format!("{} scores {}", pair[0], if score == "\"-0\"" { "\"0\"" } else { score })
}

async fn fields(client: &mut MultiplexedConnection, key: &[u8], item: &mut Item) -> Result<()> {
    let all: BTreeMap<Vec<u8>, Vec<u8>> = of(client, &[b"HGETALL", key]).await?;
    for (field, value) in all {
        let deadline: Vec<i64> = of(client, &[b"HPEXPIRETIME", key, b"FIELDS", b"1", &field]).await?;
        let name = field.escape_ascii().to_string();
        item.lines.push(format!("\"{name}\" = \"{}\"", value.escape_ascii()));
        item.deadlines.insert(format!("field \"{name}\""), deadline[0]);
    }
    Ok(())
}

async fn stream(client: &mut MultiplexedConnection, key: &[u8], item: &mut Item) -> Result<()> {
    let told: Value = of(client, &[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]).await?;
    tell(&told, "", item);
    Ok(())
}

/// Names and values, those of groups and consumers too. How the server lays them out in memory is its own business.
fn tell(told: &Value, path: &str, item: &mut Item) {
    let Value::Array(parts) = told else { return item.lines.push(format!("{path}: {}", shown(told))) };
    for pair in parts.chunks(2) {
        let [name, value] = pair else { return item.lines.push(format!("{path}: {}", shown(told))) };
        let path = format!("{path}/{}", text(name));
        match (text(name).as_str(), value) {
            ("radix-tree-keys" | "radix-tree-nodes", _) => {}
            ("seen-time" | "active-time", _) => item.seen.push(format!("{path}: {}", shown(value))),
            ("groups" | "consumers", Value::Array(members)) => {
                for member in members {
                    let Value::Array(parts) = member else { continue };
                    let own = parts.get(1).map(shown).unwrap_or_default();
                    let mut told = Item::default();
                    tell(member, &format!("{path} {own}"), &mut told);
                    // No log has a consumer that asked for entries and got none (`unlogged`).
                    let none = told.lines.iter().any(|line| line.ends_with("/pel-count: 0"));
                    let unlogged = path.ends_with("consumers") && none && own != format!("\"{MADE}\"");
                    if unlogged { &mut item.seen } else { &mut item.lines }.append(&mut told.lines);
                    item.seen.append(&mut told.seen);
                }
            }
            _ => item.lines.push(format!("{path}: {}", shown(value))),
        }
    }
}

async fn libraries(client: &mut MultiplexedConnection) -> Result<Item> {
    let told: Value = ask(client, &["FUNCTION", "LIST", "WITHCODE"]).await?;
    let Value::Array(told) = told else { bail!("{told:?}") };
    Ok(Item { lines: sorted(told.iter().map(library).collect()), ..Item::default() })
}

/// A library's functions and their flags are sets, which the server tells in any order.
fn library(told: &Value) -> String {
    let Value::Array(parts) = told else { return shown(told) };
    let lines: Vec<String> = parts.iter().map(library).collect();
    let is_set = parts.iter().all(|part| matches!(part, Value::Array(_) | Value::SimpleString(_)));
    format!("[{}]", if is_set { sorted(lines) } else { lines }.join(", "))
}

/// Without the agent's own, whose password is each instance's.
async fn users(client: &mut MultiplexedConnection) -> Result<Item> {
    let told: Vec<String> = ask(client, &["ACL", "LIST"]).await?;
    let lines = told.into_iter().filter(|line| !line.starts_with("user default ")).collect();
    Ok(Item { lines: sorted(lines), ..Item::default() })
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn all(value: Value) -> Vec<String> {
    match value {
        Value::Array(parts) => parts.iter().map(shown).collect(),
        other => vec![shown(&other)],
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(parts) => format!("[{}]", parts.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Int(number) => number.to_string(),
        other => format!("\"{}\"", text(other)),
    }
}

/// Every deadline of the copy is moved by the same time, which is `moved` or a little more. `seen`: what no log has of consumers
/// counts.
///
/// # Errors
/// At the first name that is another in the copy.
pub fn same(source: &Reading, copy: &Reading, moved: Range<SignedDuration>, seen: bool) -> Result<()> {
    let clock = |of: &Reading| {
        let item = of.0.get(&format!("0 \"{}\"", CLOCK.as_bytes().escape_ascii()));
        item.and_then(|item| item.deadlines.get("").copied()).context("it has the key of the clock")
    };
    let by = clock(copy)? - clock(source)?;
    let limits = moved.start.as_millis()..=(moved.end + SURPLUS).as_millis();
    ensure!(limits.contains(&by.into()), "deadlines are moved by {by} ms, not {limits:?}");
    for name in names(source, copy) {
        let expected = source.0.get(name).map(|item| item.moved(by, seen));
        let found = copy.0.get(name).map(|item| item.moved(0, seen));
        ensure!(expected == found, "{name}: {}", difference(expected, found));
    }
    Ok(())
}

fn names<'a>(one: &'a Reading, other: &'a Reading) -> BTreeSet<&'a String> {
    one.0.keys().chain(other.0.keys()).collect()
}

impl Item {
    fn leave_out(&mut self, field: &str) {
        let line = format!("{} = ", field.trim_start_matches("field "));
        self.lines.retain(|told| !told.starts_with(&line));
        self.deadlines.remove(field);
    }

    fn moved(&self, by: i64, seen: bool) -> Self {
        let mut item = self.clone();
        for at in item.deadlines.values_mut().filter(|at| (1..LAST_MOVED - by).contains(*at)) {
            *at += by;
        }
        if !seen {
            item.seen.clear();
        }
        item
    }
}

fn difference(expected: Option<Item>, found: Option<Item>) -> String {
    let (Some(expected), Some(found)) = (&expected, &found) else {
        return format!("{expected:?}, and in the copy {found:?}");
    };
    let all = |item: &Item| -> Vec<String> {
        let deadlines = item.deadlines.iter().map(|(name, at)| format!("{name} ends at {at}"));
        item.lines.iter().chain(&item.seen).cloned().chain(deadlines).collect()
    };
    let (expected, found) = (all(expected), all(found));
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).take(3).collect();
    let extra: Vec<_> = found.iter().filter(|line| !expected.contains(line)).take(3).collect();
    format!("{} lines and {}; missing {missing:#?}, instead {extra:#?}", expected.len(), found.len())
}
