//! What a snapshot holds, told cheaply and compared after each restore of it (R24): keys, deadlines and libraries, counted by
//! the server itself, and the server's digests of some keys' values. That the snapshot's bytes are whole, the server checks
//! while it loads them (CRC-64), and the seal before that.

use std::collections::{BTreeMap, BTreeSet};

use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

use super::client::{Info, ask, words};
use super::config::hex;
use crate::{EngineError, Result};

/// Keys of a database that are looked at, and databases.
const SAMPLES: usize = 16;
const SAMPLED_DATABASES: usize = 4;
/// Values larger than this are not digested: the server would stand still.
const LARGEST_SAMPLE: u64 = 1 << 20;

/// Taken while nobody writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub databases: BTreeMap<u32, Keys>,
    pub libraries: u64,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    pub keys: u64,
    pub with_deadline: u64,
    pub with_field_deadlines: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub database: u32,
    pub key_hex: String,
    pub digest: String,
}

/// Keys of each database, from `INFO keyspace`.
pub(super) fn databases(info: &Info) -> BTreeMap<u32, Keys> {
    let mut found = BTreeMap::new();
    for (name, value) in info.pairs() {
        let Some(database) = name.strip_prefix("db").and_then(|number| number.parse().ok()) else { continue };
        let fields = Info::parse(&value.replace(',', "\n").replace('=', ":"));
        let keys = Keys {
            keys: fields.number("keys"),
            with_deadline: fields.number("expires"),
            with_field_deadlines: fields.number("keys_with_volatile_items"),
        };
        found.insert(database, keys);
    }
    found
}

/// Takes the fingerprint by a connection of its own, which may end in another database.
pub(super) async fn take(client: &mut MultiplexedConnection) -> Result<Fingerprint> {
    let info = Info::read(client, "keyspace memory").await?;
    let databases = databases(&info);
    let mut samples = Vec::new();
    for database in databases.keys().take(SAMPLED_DATABASES) {
        samples.extend(sample(client, *database).await?);
    }
    let samples = comparable(client, &databases, samples).await?;
    Ok(Fingerprint { databases, libraries: info.number("number_of_libraries"), samples })
}

async fn sample(client: &mut MultiplexedConnection, database: u32) -> Result<Vec<Sample>> {
    let doing = || EngineError::client("take the fingerprint");
    let mut picks = redis::pipe();
    picks.cmd("SELECT").arg(database).ignore();
    for _ in 0..SAMPLES {
        picks.cmd("RANDOMKEY");
    }
    let picked: Vec<Option<Vec<u8>>> = picks.query_async(client).await.map_err(doing())?;
    let mut keys: Vec<Vec<u8>> = picked.into_iter().flatten().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut sizes = redis::pipe();
    for key in &keys {
        sizes.cmd("MEMORY").arg("USAGE").arg(key);
    }
    let sizes: Vec<Option<u64>> = sizes.query_async(client).await.map_err(doing())?;
    let small =
        keys.into_iter().zip(sizes).filter(|(_, size)| size.is_some_and(|size| size <= LARGEST_SAMPLE));
    let keys: Vec<Vec<u8>> = small.map(|(key, _)| key).collect();
    let digests = digests(client, &keys).await?;
    let pairs = keys.iter().zip(digests);
    Ok(pairs.map(|(key, digest)| Sample { database, key_hex: hex(key), digest }).collect())
}

/// Leaves out hashes of databases in which fields have deadlines: a digest is without fields that are past theirs, and a
/// snapshot has them until the server has reclaimed them (seen on 9.1.2). Whether a hash is among those cannot be asked, for
/// such fields do not show. Those without any field no server loads.
async fn comparable(
    client: &mut MultiplexedConnection,
    databases: &BTreeMap<u32, Keys>,
    samples: Vec<Sample>,
) -> Result<Vec<Sample>> {
    let mut kept = Vec::with_capacity(samples.len());
    for sample in samples {
        let fields_end = databases.get(&sample.database).is_some_and(|keys| keys.with_field_deadlines > 0);
        let fields = fields(client, &sample).await?;
        if fields.is_none_or(|fields| fields > 0 && !fields_end) {
            kept.push(sample);
        }
    }
    Ok(kept)
}

/// How many a hash has; `None` if it is none.
async fn fields(client: &mut MultiplexedConnection, sample: &Sample) -> Result<Option<u64>> {
    select(client, sample.database).await?;
    let about = |word| {
        let mut command = redis::cmd(word);
        command.arg(unhex(&sample.key_hex));
        command
    };
    let kind: String = ask(client, &about("TYPE"), "take the fingerprint").await?;
    if kind != "hash" {
        return Ok(None);
    }
    ask(client, &about("HLEN"), "take the fingerprint").await.map(Some)
}

async fn select(client: &mut MultiplexedConnection, database: u32) -> Result<()> {
    ask(client, &words(&format!("SELECT {database}")), "choose a database").await
}

async fn digests(client: &mut MultiplexedConnection, keys: &[Vec<u8>]) -> Result<Vec<String>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = redis::cmd("DEBUG");
    command.arg("DIGEST-VALUE").arg(keys);
    ask(client, &command, "take the fingerprint").await
}

/// Compares what was loaded with what was saved. Nothing may have expired meanwhile; `skipped` keys had nothing in them.
pub(super) async fn compare(
    client: &mut MultiplexedConnection,
    expected: &Fingerprint,
    skipped: u64,
) -> Result<()> {
    let info = Info::read(client, "keyspace memory").await?;
    let (found, libraries) = (databases(&info), info.number("number_of_libraries"));
    if lacking(&expected.databases, &found) != Some(skipped) || libraries != expected.libraries {
        return Err(differs(&format!(
            "{:?} with {} libraries were saved, {found:?} with {libraries} are there and {skipped} keys were empty",
            expected.databases, expected.libraries
        )));
    }
    for sample in comparable(client, &expected.databases, expected.samples.clone()).await? {
        select(client, sample.database).await?;
        let digest = digests(client, &[unhex(&sample.key_hex)]).await?;
        if digest != [sample.digest.clone()] {
            return Err(differs("a key's value differs"));
        }
    }
    select(client, 0).await
}

/// How many keys are not there, with their deadlines. `None` if more than that differs.
fn lacking(expected: &BTreeMap<u32, Keys>, found: &BTreeMap<u32, Keys>) -> Option<u64> {
    let numbers: BTreeSet<u32> = expected.keys().chain(found.keys()).copied().collect();
    let of = |all: &BTreeMap<u32, Keys>, number| all.get(number).copied().unwrap_or_default();
    let lacks = |number| {
        let (expected, found) = (of(expected, number), of(found, number));
        let keys = expected.keys.checked_sub(found.keys)?;
        let with_deadline = expected.with_deadline.checked_sub(found.with_deadline)?;
        let alike = with_deadline <= keys && expected.with_field_deadlines == found.with_field_deadlines;
        alike.then_some(keys)
    };
    numbers.iter().map(lacks).sum()
}

fn differs(what: &str) -> EngineError {
    EngineError::Unexpected {
        doing: "compare the restored data with the backup's fingerprint".to_owned(),
        what: what.to_owned(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map_or(0, |digit| u8::try_from(digit).unwrap_or(0));
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | pair.get(1).map_or(0, |byte| digit(*byte)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_lack_with_their_deadlines_and_nothing_else_may_differ() {
        let of = |numbers: &[(u32, [u64; 3])]| -> BTreeMap<u32, Keys> {
            let keys = |[keys, with_deadline, with_field_deadlines]: [u64; 3]| Keys {
                keys,
                with_deadline,
                with_field_deadlines,
            };
            numbers.iter().map(|(number, counts)| (*number, keys(*counts))).collect()
        };
        let saved = of(&[(0, [5, 2, 1]), (3, [1, 1, 0])]);
        for (found, lacks) in [
            (&[(0, [5, 2, 1]), (3, [1, 1, 0])][..], Some(0)),
            (&[(0, [4, 2, 1]), (3, [1, 1, 0])], Some(1)),
            (&[(0, [4, 1, 1])], Some(2)),
            (&[(0, [5, 1, 1]), (3, [1, 1, 0])], None),
            (&[(0, [4, 2, 0]), (3, [1, 1, 0])], None),
            (&[(0, [6, 2, 1]), (3, [1, 1, 0])], None),
            (&[(0, [5, 2, 1]), (3, [1, 1, 0]), (4, [1, 0, 0])], None),
        ] {
            assert_eq!(lacking(&saved, &of(found)), lacks, "{found:?}");
        }
    }
}
