//! The ledger in PostgreSQL: tables, one statement or transaction a write.

use async_trait::async_trait;
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use tokio_postgres::{Client, Config, NoTls};

use super::{Login, Session, pad_in_sql, values_in_sql};
use crate::error::{ConformanceError, Result};
use crate::ledger::{Act, State, Write};

struct PostgresSession {
    client: Client,
    space: &'static str,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let mut config = Config::new();
    config.host(&login.host).port(login.port).user(&login.username).password(&login.password);
    config.dbname(&login.database).connect_timeout(std::time::Duration::from_secs(10));
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|source| {
        ConformanceError::database(&format!("connect to {} {login:?}", EngineKind::Postgresql), source)
    })?;
    tokio::spawn(async move {
        let _ = connection.await; // its end shows in the next statement
    });
    Ok(Box::new(PostgresSession { client, space }))
}

impl PostgresSession {
    async fn run(&self, doing: &str, statements: &str) -> Result<()> {
        let done = self.client.batch_execute(statements).await;
        done.map_err(|source| ConformanceError::database(doing, source))
    }

    async fn pairs<A, B>(&self, query: &str) -> Result<Vec<(A, B)>>
    where
        A: for<'r> tokio_postgres::types::FromSql<'r>,
        B: for<'r> tokio_postgres::types::FromSql<'r>,
    {
        let found = self.client.query(query, &[]).await;
        let found = found.map_err(|source| ConformanceError::database("read the ledger", source))?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

#[async_trait]
impl Session for PostgresSession {
    async fn prepare(&mut self) -> Result<()> {
        let space = self.space;
        let tables = format!(
            "CREATE TABLE IF NOT EXISTS {space} (number bigint, part int, pad text); \
             CREATE INDEX IF NOT EXISTS {space}_number ON {space} (number); \
             CREATE TABLE IF NOT EXISTS {space}_registers (writer int PRIMARY KEY, value bigint); \
             CREATE TABLE IF NOT EXISTS {space}_accounts (account int PRIMARY KEY, balance bigint)"
        );
        self.run("make the ledger's tables", &tables).await
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let Write { number, writer, act } = *write;
        let space = self.space;
        let insert = format!("INSERT INTO {space} {}", values_in_sql(number));
        // Several statements in one message are one transaction.
        let statements = match act {
            Act::Insert => insert,
            Act::Transfer { from, to, amount } => {
                // In the order of their numbers, so that two transfers never wait for each other.
                let mut sides = [(from, -amount), (to, amount)];
                sides.sort_unstable();
                let add = |(account, amount): (i32, i64)| {
                    format!(
                        "INSERT INTO {space}_accounts AS a VALUES ({account}, {amount}) \
                         ON CONFLICT (account) DO UPDATE SET balance = a.balance + {amount}"
                    )
                };
                format!("{insert}; {}; {}", add(sides[0]), add(sides[1]))
            }
            Act::Update => format!(
                "INSERT INTO {space}_registers AS r VALUES ({writer}, {number}) \
                 ON CONFLICT (writer) DO UPDATE SET value = greatest(r.value, {number})"
            ),
            Act::Delete { number } => format!("DELETE FROM {space} WHERE number = {number}"),
        };
        self.run("write", &statements).await
    }

    async fn read(&mut self) -> Result<State> {
        let space = self.space;
        let there = self
            .client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{space}_accounts")])
            .await;
        let there =
            there.map_err(|source| ConformanceError::database("look for the ledger's tables", source))?;
        if !there.get::<_, bool>(0) {
            return Ok(State::default());
        }
        let rows = format!("SELECT number, count(*) FROM {space} GROUP BY number");
        let changed = format!("SELECT number, part FROM {space} WHERE pad IS DISTINCT FROM {}", pad_in_sql());
        let changed: Vec<(i64, i32)> = self.pairs(&changed).await?;
        Ok(State {
            changed: changed.into_iter().map(|(number, _)| number).collect(),
            rows: self.pairs(&rows).await?.into_iter().collect(),
            registers: self
                .pairs(&format!("SELECT writer, value FROM {space}_registers"))
                .await?
                .into_iter()
                .collect(),
            balances: self
                .pairs(&format!("SELECT account, balance FROM {space}_accounts"))
                .await?
                .into_iter()
                .collect(),
            ..State::default()
        })
    }

    async fn clock(&mut self) -> Result<Timestamp> {
        let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.client.query_one(query, &[]).await;
        let row = row.map_err(|source| ConformanceError::database("read the engine's clock", source))?;
        Timestamp::from_microsecond(row.get(0))
            .map_err(|source| ConformanceError::database("read the engine's clock", source))
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        let space = self.space;
        // 960 bytes a row.
        let fill = format!(
            "CREATE TABLE IF NOT EXISTS {space}_noise (id bigint, noise bytea); INSERT INTO {space}_noise \
             SELECT g, decode(string_agg(md5(random()::text || g || part), ''), 'hex') \
             FROM generate_series(1, {}) g, generate_series(1, 60) part GROUP BY g",
            bytes / 960
        );
        self.run("fill a table", &fill).await
    }

    async fn change_schema(&mut self, round: u32) -> Result<()> {
        let space = self.space;
        let change = format!(
            "CREATE TABLE {space}_made_{round} AS SELECT * FROM {space}; \
             ALTER TABLE {space} ADD COLUMN more_{round} int DEFAULT {round}; \
             CREATE INDEX {space}_more_{round} ON {space} (more_{round}); \
             DROP TABLE IF EXISTS {space}_made_{}",
            round.wrapping_sub(1)
        );
        self.run("change the schema", &change).await
    }
}
