//! The ledger in Valkey: hashes; one command, or a MULTI, a write.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rand::RngCore as _;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult,
};

use super::{Login, Session, pad};
use crate::error::{ConformanceError, Result};
use crate::ledger::{Act, State, Write};

const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a value of [`Session::fill`], and how many go at once.
const NOISE_BYTES: usize = 10_000;
const NOISE_AT_ONCE: u64 = 200;

struct ValkeySession {
    connection: MultiplexedConnection,
    space: &'static str,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let mut user = RedisConnectionInfo::default().set_db(login.database.parse().unwrap_or(0));
    if !login.username.is_empty() {
        user = user.set_username(&login.username).set_password(&login.password);
    }
    let open = async {
        let info = ConnectionAddr::Tcp(login.host.clone(), login.port).into_connection_info()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        Client::open(info.set_redis_settings(user))?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    };
    let opened: RedisResult<_> = open.await;
    let failed = |source| ConformanceError::database(&format!("connect to valkey {login:?}"), source);
    opened.map(|connection| Box::new(ValkeySession { connection, space }) as Box<dyn Session>).map_err(failed)
}

fn failed(doing: &str) -> impl Fn(redis::RedisError) -> ConformanceError + '_ {
    move |source| ConformanceError::database(doing, source)
}

impl ValkeySession {
    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.space)
    }

    /// The field beside a number that holds its content.
    fn content(number: i64) -> String {
        format!("{number}:pad")
    }

    async fn pairs<A, B>(&mut self, name: &str) -> Result<Vec<(A, B)>>
    where
        A: redis::FromRedisValue,
        B: redis::FromRedisValue,
    {
        let key = self.key(name);
        redis::cmd("HGETALL")
            .arg(key)
            .query_async(&mut self.connection)
            .await
            .map_err(failed("read the ledger"))
    }
}

#[async_trait]
impl Session for ValkeySession {
    async fn prepare(&mut self) -> Result<()> {
        Ok(()) // keys come with their first value
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let Write { number, writer, act } = *write;
        let (rows, balances) = (self.key("rows"), self.key("balances"));
        let mut pipe = redis::pipe();
        match act {
            Act::Insert => {
                pipe.cmd("HSET").arg(rows).arg(number).arg(2).arg(Self::content(number)).arg(pad(number, 0))
            }
            Act::Transfer { from, to, amount } => pipe
                .atomic()
                .cmd("HINCRBY")
                .arg(&rows)
                .arg(number)
                .arg(1)
                .cmd("HINCRBY")
                .arg(&balances)
                .arg(from)
                .arg(-amount)
                .cmd("HINCRBY")
                .arg(&balances)
                .arg(to)
                .arg(amount)
                .cmd("HINCRBY")
                .arg(&rows)
                .arg(number)
                .arg(1)
                .cmd("HSET")
                .arg(&rows)
                .arg(Self::content(number))
                .arg(pad(number, 0)),
            Act::Update => pipe.cmd("HSET").arg(self.key("registers")).arg(writer).arg(number),
            Act::Delete { number } => pipe.cmd("HDEL").arg(rows).arg(number).arg(Self::content(number)),
        };
        pipe.exec_async(&mut self.connection).await.map_err(failed("write"))
    }

    async fn read(&mut self) -> Result<State> {
        let (mut rows, mut contents) = (HashMap::new(), HashMap::new());
        for (field, value) in self.pairs::<String, String>("rows").await? {
            match field.strip_suffix(":pad") {
                Some(number) => drop(contents.insert(number.parse().unwrap_or(-1), value)),
                None => drop(rows.insert(field.parse().unwrap_or(-1), value.parse().unwrap_or(-1))),
            }
        }
        let numbers: BTreeSet<i64> = rows.keys().chain(contents.keys()).copied().collect();
        let is_changed =
            |number: &i64| contents.get(number) != Some(&pad(*number, 0)) || !rows.contains_key(number);
        Ok(State {
            changed: numbers.into_iter().filter(is_changed).collect(),
            rows,
            registers: self.pairs("registers").await?.into_iter().collect(),
            balances: self.pairs("balances").await?.into_iter().collect(),
            ..State::default()
        })
    }

    async fn clock(&mut self) -> Result<Timestamp> {
        let doing = "read the engine's clock";
        let told: RedisResult<(i64, i64)> = redis::cmd("TIME").query_async(&mut self.connection).await;
        let (seconds, micros) = told.map_err(failed(doing))?;
        Timestamp::from_microsecond(seconds * 1_000_000 + micros)
            .map_err(|source| ConformanceError::database(doing, source))
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        let values = bytes / NOISE_BYTES as u64;
        for from in (0..values).step_by(usize::try_from(NOISE_AT_ONCE).unwrap_or(1)) {
            let mut pipe = redis::pipe();
            for _ in from..values.min(from + NOISE_AT_ONCE) {
                let mut noise = vec![0; NOISE_BYTES];
                rand::rng().fill_bytes(&mut noise);
                pipe.cmd("SET")
                    .arg(format!("{}:noise:{:016x}", self.space, rand::random::<u64>()))
                    .arg(noise);
            }
            pipe.exec_async(&mut self.connection).await.map_err(failed("fill"))?;
        }
        Ok(())
    }

    /// There is no schema: other databases are filled, swapped and emptied, and keys of all types come and go.
    async fn change_schema(&mut self, round: u32) -> Result<()> {
        let key = |name: &str| format!("{}:made:{round}:{name}", self.space);
        let gone = format!("{}:made:{}:*", self.space, round.wrapping_sub(1));
        let mut pipe = redis::pipe();
        pipe.cmd("LPUSH").arg(key("list")).arg(&["a", "b"]);
        pipe.cmd("SADD").arg(key("set")).arg(&["a", "b"]);
        pipe.cmd("ZADD").arg(key("sorted")).arg(1).arg("a");
        pipe.cmd("XADD").arg(key("stream")).arg("*").arg("field").arg(round);
        pipe.cmd("SET").arg(key("passing")).arg(round).arg("EX").arg(3600);
        pipe.cmd("DEL").arg(gone);
        pipe.cmd("SELECT").arg(1).cmd("SET").arg(key("other")).arg(round).cmd("SWAPDB").arg(1).arg(2);
        pipe.cmd("SELECT").arg(1).cmd("FLUSHDB").cmd("SELECT").arg(0);
        pipe.exec_async(&mut self.connection).await.map_err(failed("change keys of all types"))
    }
}
