//! The suite for engines whose restores go to a backup: several are made under load, and each holds what clients were told then.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::run::{BackedUp, LEDGER, Run, SECOND, SECOND_FIRST};
use crate::control::{Method, ask};
use crate::error::{ConformanceError, Result};
use crate::ledger::Ledger;
use crate::load::Load;
use crate::report::{Report, Restored};
use crate::service::{self, From};

/// Most backups under load: each is a restore too.
const MOST_BACKUPS: usize = 5;

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// As [`Run::carry_out`], without instants.
    pub(super) async fn carry_out_snapshots(self, seed: u64) -> Result<Report> {
        self.watch.phase(&format!("writing with {} writers", self.plan.writers));
        let load = Load::start(&self.database, Ledger::default(), self.mix(seed)).await?;
        let method = self.kind.capability().usual_method();
        let backups = self.plan.restores.clamp(1, MOST_BACKUPS);
        let pause = Duration::from_secs(self.plan.busy_seconds / backups as u64).max(SHORTEST_PAUSE);
        let mut bases = Vec::new();
        for number in 1..=backups {
            tokio::time::sleep(pause).await;
            self.watch.phase(&format!("backup {number} under load"));
            let backup = self.back_up(method).await?;
            self.watch.found(&format!("backup {} by {method} in {:.1} s", backup.id, backup.seconds));
            bases.push(backup);
        }
        self.wait_for_writes(&load.ledger).await?;
        tokio::time::sleep(pause).await;
        let at_once = self.plan.at_once.max(1);
        self.watch.phase(&format!("restoring the backups, {at_once} at once"));
        let restored = bases.iter().map(|base| self.restore_backup(base, &load.ledger));
        let mut restores: Vec<Restored> =
            stream::iter(restored).buffer_unordered(at_once).try_collect().await?;
        if restores.iter().all(|restored| restored.found == 0) {
            let why = "no restore found any row, so none shows anything";
            return Err(ConformanceError::broken("the restores", why));
        }
        self.watch.phase("restoring a restored service");
        let last = bases.last().expect("several were made");
        restores.push(self.second_snapshot(last, &load.ledger, seed).await?);
        self.watch.phase("asking for a point in time");
        let refused = self.no_points().await?;
        load.pause(true);
        let ledger = load.ledger.clone();
        load.stop().await?;
        let now = Timestamp::now();
        let source = self.database.read().await?;
        ledger.judge(&source, now, now).ensure_exact("the source itself, at the end")?;
        Ok(self.report(ledger.acknowledged(), last, restores, refused, Vec::new()))
    }

    /// A restored service is a service: it goes on, is backed up, and restored itself.
    async fn second_snapshot(&self, base: &BackedUp, ledger: &Ledger, seed: u64) -> Result<Restored> {
        let what = "a restored service, restored again";
        let patience = self.plan.patience_seconds;
        let from = From::Backup(&base.id);
        let child =
            service::restore(self.control, self.made, self.source, from, &self.copy_name(), patience).await?;
        let database = service::database(self.control, self.kind, child.id, LEDGER).await?;
        let inherited = database.read().await?;
        ledger
            .judge(&inherited, base.stretch.from, base.stretch.to)
            .ensure_exact("the parent of a second generation")?;
        let mix = crate::load::Mix { writers: 2, first: SECOND_FIRST, ..self.mix(seed) };
        let load = Load::start(&database.in_space(SECOND), Ledger::default(), mix).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = Timestamp::now();
        let method = self.kind.capability().usual_method();
        let own = service::back_up_by(self.control, child.id, method, patience).await?;
        let after = Timestamp::now();
        let second = load.ledger.clone();
        load.stop().await?;
        let began = Instant::now();
        let from = From::Backup(&own.id);
        let grandchild =
            service::restore(self.control, self.made, child.id, from, &self.copy_name(), patience).await?;
        let seconds = began.elapsed().as_secs_f64();
        let database = service::database(self.control, self.kind, grandchild.id, LEDGER).await?;
        if database.read().await? != inherited {
            return Err(ConformanceError::broken(what, "it does not hold what its parent was born with"));
        }
        let verdict = second.judge(&database.in_space(SECOND).read().await?, before, after);
        verdict.ensure_exact(what)?;
        if verdict.found == 0 {
            return Err(ConformanceError::broken(
                what,
                "it holds no row of its parent's own, which shows nothing",
            ));
        }
        if !self.database.in_space(SECOND).read().await?.is_empty() {
            return Err(ConformanceError::broken(what, "a restored service wrote into its source"));
        }
        self.watch.found(&format!("{what}: {} found, 0 lost, 0 extra, in {seconds:.1} s", verdict.found));
        service::remove_copy(self.control, self.made, grandchild.id).await?;
        service::remove_copy(self.control, self.made, child.id).await?;
        Ok(Restored { what: what.to_owned(), asked: None, reached: None, found: verdict.found, seconds })
    }

    /// An instant is refused, whatever it is, in words that name what there is instead.
    async fn no_points(&self) -> Result<Vec<String>> {
        let what = "any point in time";
        let body =
            json!({"restore_point": Timestamp::now().to_string(), "target_service_name": self.copy_name()});
        let path = service::path(self.source, "/backups/restore");
        match ask::<Value>(self.control, Method::Post, &path, Some(body)).await {
            Err(ConformanceError::Refused { status: 400, text, .. }) if text.contains("backup") => {
                self.watch.found(&format!("{what}: refused"));
                Ok(vec![what.to_owned()])
            }
            Err(error @ ConformanceError::Control { .. }) => Err(error),
            other => Err(ConformanceError::broken(what, format!("it was not refused: {other:?}"))),
        }
    }
}
