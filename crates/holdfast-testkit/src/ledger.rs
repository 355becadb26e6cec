//! One writer of inserts into PostgreSQL, and the judge of a restore: the conformance suite's ledger, for tests that need no
//! more than that.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_conformance::{Database, Load, Login, Mix, State};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

pub use holdfast_conformance::ledger::Entry;

/// The table.
const SPACE: &str = "ledger";
/// About 50 transactions a second.
const PAUSE: Duration = Duration::from_millis(18);

/// What was written, by whom it was told.
#[derive(Clone, Default)]
pub struct Ledger(holdfast_conformance::Ledger);

/// What a restore holds against the ledger.
#[derive(Debug)]
pub struct Verdict(holdfast_conformance::Verdict);

impl Ledger {
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.entries()
    }

    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.0.acknowledged()
    }

    /// Judges the rows of a restored service at the instant `point`.
    #[must_use]
    pub fn judge(&self, rows: &HashMap<i64, i64>, point: Timestamp) -> Verdict {
        self.judge_between(rows, point, point)
    }

    /// As [`Self::judge`], where only an interval is known that holds the instant.
    #[must_use]
    pub fn judge_between(&self, rows: &HashMap<i64, i64>, earliest: Timestamp, latest: Timestamp) -> Verdict {
        let state = State { rows: rows.clone(), ..State::default() };
        Verdict(self.0.judge(&state, earliest, latest))
    }
}

impl Verdict {
    /// # Errors
    /// When anything is lost, extra or torn.
    pub fn ensure_exact(&self, what: &str) -> Result<()> {
        ensure!(self.0.is_exact(), "{what}: {:?}", self.0);
        println!("{what}: {} transactions, 0 lost, 0 extra", self.0.found);
        Ok(())
    }
}

/// Connects as the tenant, without TLS (a test of its own shows TLS).
///
/// # Errors
/// When the service cannot be reached.
pub async fn connect(connection_string: &str) -> Result<Client> {
    let plain = connection_string.replace("sslmode=require", "sslmode=disable");
    let (client, connection) =
        tokio_postgres::connect(&plain, NoTls).await.context("connect to the service as its tenant")?;
    tokio::spawn(async move {
        let _ = connection.await; // its end shows in the next statement
    });
    Ok(client)
}

/// The numbers in a service with how many rows each has.
///
/// # Errors
/// When the service cannot be read.
pub async fn rows(connection_string: &str) -> Result<HashMap<i64, i64>> {
    let client = connect(connection_string).await?;
    let found = client.query("SELECT number, count(*) FROM ledger GROUP BY number", &[]).await?;
    Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A task that commits about 50 transactions a second until it is stopped.
pub struct Writer {
    pub ledger: Ledger,
    load: Load,
}

impl Writer {
    /// Makes the table if need be and begins to write, counting on from `first`.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn start(connection_string: &str, ledger: Ledger, first: i64) -> Result<Self> {
        let database =
            Database { kind: EngineKind::Postgresql, login: login(connection_string)?, space: SPACE };
        let mix = Mix { writers: 1, first, pause: PAUSE, inserts_only: true, seed: 0 };
        let load = Load::start(&database, ledger.0.clone(), mix).await?;
        Ok(Self { ledger, load })
    }

    /// Stops writing for a while; transactions in flight end first.
    pub fn pause(&self, paused: bool) {
        self.load.pause(paused);
    }

    /// Ends; returns the longest time between two acknowledgements.
    ///
    /// # Errors
    /// When the writer panicked.
    pub async fn stop(self) -> Result<Duration> {
        Ok(self.load.stop().await?)
    }
}

fn login(connection_string: &str) -> Result<Login> {
    let config: Config = connection_string.replace("sslmode=require", "sslmode=disable").parse()?;
    let Some(Host::Tcp(host)) = config.get_hosts().first() else {
        anyhow::bail!("no host in the connection string")
    };
    Ok(Login {
        host: host.clone(),
        port: config.get_ports().first().copied().unwrap_or(5432),
        username: config.get_user().context("no user")?.to_owned(),
        password: String::from_utf8(config.get_password().context("no password")?.to_vec())?,
        database: config.get_dbname().context("no database")?.to_owned(),
        tls: false,
    })
}
