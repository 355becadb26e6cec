//! How each engine is written to and read. One file an engine, the same few functions in each; no engine knows another.

mod kafka;
mod mongodb;
mod mysql;
mod opensearch;
mod postgresql;
mod valkey;

use std::fmt;

use async_trait::async_trait;
use futures::future::BoxFuture;
use holdfast_api::user::Credentials;
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;

use crate::error::{ConformanceError, Result};
use crate::ledger::{State, Write};

/// Where a database is and who comes.
#[derive(Clone)]
pub struct Login {
    pub host: String,
    pub port: u16,
    pub username: String,
    pub password: String,
    pub database: String,
    /// The connection string asks for TLS. Suites go without where the server takes that.
    pub tls: bool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.username, self.host, self.port, self.database)
    }
}

impl Login {
    /// Out of what a platform told of a service.
    #[must_use]
    pub fn of(kind: EngineKind, told: Credentials) -> Self {
        Self {
            tls: kind.capability().notation.asks_for_tls(&told.connection_string),
            host: told.host,
            port: told.port,
            username: told.username,
            password: told.password,
            database: told.database,
        }
    }
}

type Opening<'a> = BoxFuture<'a, Result<Box<dyn Session>>>;

type Open = for<'a> fn(&'a Login, &'static str) -> Opening<'a>;

/// How a tenant of each engine connects.
const SUITES: &[(EngineKind, Open)] = &[
    (EngineKind::Postgresql, |login, space| Box::pin(postgresql::open(login, space))),
    (EngineKind::Mysql, |login, space| Box::pin(mysql::open(login, space))),
    (EngineKind::Mongodb, |login, space| Box::pin(mongodb::open(login, space))),
    (EngineKind::Valkey, |login, space| Box::pin(valkey::open(login, space))),
    (EngineKind::Kafka, |login, space| Box::pin(kafka::open(login, space))),
    (EngineKind::Opensearch, |login, space| Box::pin(opensearch::open(login, space))),
];

/// The engines that there is a suite for.
pub fn kinds() -> impl Iterator<Item = EngineKind> {
    SUITES.iter().map(|(kind, _)| *kind)
}

/// What a row holds beside its number: another text for each part of each number, the same whenever it is asked for.
pub(crate) fn pad(number: i64, part: i64) -> String {
    format!("x{number}.{part}").repeat(PAD_TIMES)
}

/// At most 100 characters with the longest number.
const PAD_TIMES: usize = 6;

/// As [`pad`], in SQL, of a row's columns.
fn pad_in_sql() -> String {
    format!("repeat(concat('x', number, '.', part), {PAD_TIMES})")
}

/// The rows of a write in SQL.
fn values_in_sql(number: i64) -> String {
    let row = |part| format!("({number}, {part}, '{}')", pad(number, part));
    format!("(number, part, pad) VALUES {}, {}", row(1), row(2))
}

/// A database with the tables (collections, keys) of one ledger.
#[derive(Debug, Clone)]
pub struct Database {
    pub kind: EngineKind,
    pub login: Login,
    /// The tables' names begin with it.
    pub space: &'static str,
}

impl Database {
    /// Connects, without TLS where the server takes that: what goes over the wire is made up, and the password goes with it.
    ///
    /// # Errors
    /// `Database` when it cannot be reached; `NoSuite`.
    pub async fn open(&self) -> Result<Box<dyn Session>> {
        match SUITES.iter().find(|(kind, _)| *kind == self.kind) {
            Some((_, open)) => open(&self.login, self.space).await,
            None => Err(ConformanceError::NoSuite(self.kind)),
        }
    }

    /// All that is there.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Session::read`].
    pub async fn read(&self) -> Result<State> {
        self.open().await?.read().await
    }

    /// The same database, another ledger.
    #[must_use]
    pub fn in_space(&self, space: &'static str) -> Self {
        Self { space, ..self.clone() }
    }
}

/// A tenant's connection.
#[async_trait]
pub trait Session: Send {
    /// Makes the ledger's tables where they are not.
    async fn prepare(&mut self) -> Result<()>;
    /// Carries a write out; acknowledged, as durably as the engine promises by itself, when this returns. After an error
    /// nobody knows whether it was carried out, and the session is of no use any more.
    async fn apply(&mut self, write: &Write) -> Result<()>;
    /// All that the ledger's writers have left; an empty state where the tables are not there.
    async fn read(&mut self) -> Result<State>;
    /// The engine's clock.
    async fn clock(&mut self) -> Result<Timestamp>;
    /// Puts about so many bytes that do not compress beside the ledger, with one big statement where there is such a thing.
    async fn fill(&mut self, bytes: u64) -> Result<()>;
    /// Changes the schema beside the ledger and of it: makes, alters, drops. `round` tells repetitions apart.
    async fn change_schema(&mut self, round: u32) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that nobody can forget it.
    #[test]
    fn every_engine_that_is_offered_has_a_suite() {
        let offered = EngineKind::ALL.into_iter().filter(|kind| kind.capability().available);
        assert_eq!(kinds().collect::<Vec<_>>(), offered.collect::<Vec<_>>());
    }
}
