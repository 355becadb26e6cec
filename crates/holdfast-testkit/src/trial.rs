//! A service of any engine under the conformance suite's load, on a whole Holdfast, for what tests do to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_api::service::Service;
use holdfast_conformance::service::{self, From, Made};
use holdfast_conformance::{Database, Ledger, Load, Mix};
use holdfast_core::engine::{EngineKind, TimeUnit};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::{Client, Holdfast, wait_for};

const PATIENCE_SECONDS: u64 = 300;

/// A service that is being written to. What it makes goes with the Holdfast.
pub struct Trial {
    pub client: Client,
    pub kind: EngineKind,
    pub source: Uuid,
    pub database: Database,
    pub ledger: Ledger,
    load: Option<Load>,
}

impl Trial {
    /// Makes the service, waits for its first backup, and begins to write.
    ///
    /// # Errors
    /// When that takes too long or fails.
    pub async fn start(holdfast: &Holdfast, kind: EngineKind, writers: i32, pause: Duration) -> Result<Self> {
        let client = holdfast.client();
        let body =
            json!({"name": format!("trial-{kind}"), "database_type": kind.as_str(), "plan_name": "tier-1"});
        let source = service::create(&client, &Made::default(), body).await?;
        service::wait_running(&client, source, PATIENCE_SECONDS).await?;
        service::wait_first_backup(&client, source, PATIENCE_SECONDS).await?;
        let database = service::database(&client, kind, source, "ledger").await?;
        let mix = Mix { writers, first: 1, pause, inserts_only: false, seed: rand::random() };
        let load = Load::start(&database, Ledger::default(), mix).await?;
        let ledger = load.ledger.clone();
        Ok(Self { client, kind, source, database, ledger, load: Some(load) })
    }

    /// Ends the writing; returns the longest time between two acknowledgements of a writer.
    ///
    /// # Errors
    /// When a writer panicked.
    pub async fn stop_writing(&mut self) -> Result<Duration> {
        match self.load.take() {
            Some(load) => Ok(load.stop().await?),
            None => Ok(Duration::ZERO),
        }
    }

    #[must_use]
    pub fn unit(&self) -> TimeUnit {
        self.kind.capability().unit
    }

    /// Waits until the recovery window reaches `point`.
    ///
    /// # Errors
    /// When it does not within the given time.
    pub async fn covered(&self, point: Timestamp, seconds: u64) -> Result<()> {
        wait_for(&format!("the window reaches {point}"), seconds, || async {
            let pitr = service::pitr(&self.client, self.source).await?;
            Ok(pitr.latest_restore_point.is_some_and(|latest| latest >= point).then_some(()))
        })
        .await
    }

    /// Restores to `point` (cut to the engine's unit), judges, removes the copy.
    ///
    /// # Errors
    /// When the restore fails or is not exact.
    pub async fn exact(&self, what: &str, point: Timestamp) -> Result<()> {
        let point = self.unit().floor(point);
        let made = Made::default();
        let copy = self.copy(&made, From::Point(point)).await;
        let copy = copy.with_context(|| format!("{what}: restore to {point}"))?;
        let reached =
            copy.restored_from.and_then(|from| from.restore_point).context("it says what it reached")?;
        let unit = SignedDuration::from_micros(self.unit().microseconds());
        ensure!(reached <= point && point.duration_since(reached) < unit, "{what}: {reached}, not {point}");
        let database = service::database(&self.client, self.kind, copy.id, self.database.space).await?;
        let verdict = self.ledger.judge(&database.read().await?, reached, reached);
        verdict.ensure_exact(&format!("{what} {point}"))?;
        println!("{what} {point}: {verdict}");
        Ok(service::remove_copy(&self.client, &made, copy.id).await?)
    }
    async fn copy(&self, made: &Made, from: From<'_>) -> Result<Service> {
        let name = format!("t-{:08x}", rand::random::<u32>());
        Ok(service::restore(&self.client, made, self.source, from, &name, PATIENCE_SECONDS).await?)
    }

    /// Restores a backup, which was made in this time, judges, removes the copy.
    ///
    /// # Errors
    /// When the restore fails or is not exact.
    pub async fn exact_backup(
        &self,
        what: &str,
        backup: &str,
        made_in: (Timestamp, Timestamp),
    ) -> Result<()> {
        let made = Made::default();
        let copy = self.copy(&made, From::Backup(backup)).await;
        let copy = copy.with_context(|| format!("{what}: restore of {backup}"))?;
        let database = service::database(&self.client, self.kind, copy.id, self.database.space).await?;
        let verdict = self.ledger.judge(&database.read().await?, made_in.0, made_in.1);
        verdict.ensure_exact(&format!("{what}, {backup}"))?;
        println!("{what}, {backup}: {verdict}");
        Ok(service::remove_copy(&self.client, &made, copy.id).await?)
    }
}
