//! The ledger in MySQL: InnoDB tables, one statement or transaction a write.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, OptsBuilder};

use super::{Login, Session, pad_in_sql, values_in_sql};
use crate::error::{ConformanceError, Result};
use crate::ledger::{Act, State, Write};

const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a row of [`Session::fill`].
const NOISE_BYTES: u64 = 960;

struct MysqlSession {
    conn: Conn,
    space: &'static str,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let options = OptsBuilder::default()
        .ip_or_hostname(login.host.clone())
        .tcp_port(login.port)
        .user(Some(login.username.clone()))
        .pass(Some(login.password.clone()))
        .db_name(Some(login.database.clone()))
        // As clients elsewhere do.
        .prefer_socket(false);
    let connected = tokio::time::timeout(PATIENCE, Conn::new(options)).await;
    let failed = |source| ConformanceError::database(&format!("connect to mysql {login:?}"), source);
    match connected {
        Ok(Ok(conn)) => Ok(Box::new(MysqlSession { conn, space })),
        Ok(Err(error)) => Err(failed(error.into())),
        Err(late) => Err(failed(Box::<dyn std::error::Error + Send + Sync>::from(late))),
    }
}

impl MysqlSession {
    async fn run(&mut self, doing: &str, statements: &str) -> Result<()> {
        let done = self.conn.query_drop(statements).await;
        done.map_err(|source| ConformanceError::database(doing, source))
    }

    async fn rows<T: FromRow + Send + 'static>(&mut self, query: &str) -> Result<Vec<T>> {
        let found = self.conn.query(query).await;
        found.map_err(|source| ConformanceError::database("read the ledger", source))
    }
}

#[async_trait]
impl Session for MysqlSession {
    async fn prepare(&mut self) -> Result<()> {
        let space = self.space;
        let tables = format!(
            "CREATE TABLE IF NOT EXISTS {space} (number bigint, part int, pad varchar(100), \
             PRIMARY KEY (number, part)); \
             CREATE TABLE IF NOT EXISTS {space}_registers (writer int PRIMARY KEY, value bigint); \
             CREATE TABLE IF NOT EXISTS {space}_accounts (account int PRIMARY KEY, balance bigint)"
        );
        self.run("make the ledger's tables", &tables).await
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let Write { number, writer, act } = *write;
        let space = self.space;
        let insert = format!("INSERT INTO {space} {}", values_in_sql(number));
        let statements = match act {
            Act::Insert => insert,
            Act::Transfer { from, to, amount } => {
                // In the order of their numbers, so that two transfers never wait for each other.
                let mut sides = [(from, -amount), (to, amount)];
                sides.sort_unstable();
                let add = |(account, amount): (i32, i64)| {
                    format!(
                        "INSERT INTO {space}_accounts VALUES ({account}, {amount}) \
                         ON DUPLICATE KEY UPDATE balance = balance + {amount}"
                    )
                };
                format!("START TRANSACTION; {insert}; {}; {}; COMMIT", add(sides[0]), add(sides[1]))
            }
            Act::Update => format!(
                "INSERT INTO {space}_registers VALUES ({writer}, {number}) \
                 ON DUPLICATE KEY UPDATE value = greatest(value, {number})"
            ),
            Act::Delete { number } => format!("DELETE FROM {space} WHERE number = {number}"),
        };
        self.run("write", &statements).await
    }

    async fn read(&mut self) -> Result<State> {
        let space = self.space;
        let there: Vec<i64> = self
            .rows(&format!(
                "SELECT count(*) FROM information_schema.tables \
                 WHERE table_schema = database() AND table_name = '{space}_accounts'"
            ))
            .await?;
        if there != [1] {
            return Ok(State::default());
        }
        let rows: Vec<(i64, i64)> =
            self.rows(&format!("SELECT number, count(*) FROM {space} GROUP BY number")).await?;
        let registers: Vec<(i32, i64)> =
            self.rows(&format!("SELECT writer, value FROM {space}_registers")).await?;
        let balances: Vec<(i32, i64)> =
            self.rows(&format!("SELECT account, balance FROM {space}_accounts")).await?;
        let changed = format!("SELECT DISTINCT number FROM {space} WHERE NOT pad <=> {}", pad_in_sql());
        let changed: Vec<i64> = self.rows(&changed).await?;
        Ok(State {
            changed: changed.into_iter().collect(),
            rows: rows.into_iter().collect(),
            registers: registers.into_iter().collect(),
            balances: balances.into_iter().collect(),
            ..State::default()
        })
    }

    async fn clock(&mut self) -> Result<Timestamp> {
        // Whatever the session's time zone is.
        let query = "SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6))";
        let micros: Vec<i64> = self.rows(query).await?;
        Timestamp::from_microsecond(micros.first().copied().unwrap_or(0))
            .map_err(|source| ConformanceError::database("read the engine's clock", source))
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        let (space, rows) = (self.space, bytes / NOISE_BYTES);
        let fill = format!(
            "CREATE TABLE IF NOT EXISTS {space}_noise (id bigint AUTO_INCREMENT PRIMARY KEY, noise varbinary({NOISE_BYTES})); \
             SET SESSION cte_max_recursion_depth = {}; INSERT INTO {space}_noise (noise) \
             WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) \
             SELECT random_bytes({NOISE_BYTES}) FROM s",
            rows + 1
        );
        self.run("fill a table", &fill).await
    }

    async fn change_schema(&mut self, round: u32) -> Result<()> {
        let space = self.space;
        let change = format!(
            "CREATE TABLE {space}_made_{round} LIKE {space}; \
             INSERT INTO {space}_made_{round} SELECT * FROM {space}; \
             ALTER TABLE {space} ADD COLUMN more_{round} int DEFAULT {round}; \
             CREATE INDEX {space}_more_{round} ON {space} (more_{round}); \
             DROP TABLE IF EXISTS {space}_made_{}",
            round.wrapping_sub(1)
        );
        self.run("change the schema", &change).await
    }
}
