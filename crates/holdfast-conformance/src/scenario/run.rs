//! One run of the suite, phase by phase.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use holdfast_api::service::Service;
use holdfast_core::engine::{EngineKind, TimeUnit};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Plan;
use super::points::{self, Point, Stretch, Stretches};
use crate::control::{Control, Method, ask};
use crate::engines::Database;
use crate::error::{ConformanceError, Result};
use crate::ledger::{Ledger, State};
use crate::load::{Load, Mix};
use crate::report::{Lag, Report, Restored, Watch};
use crate::service::{self, From, Made};

/// The source's ledger, and the one that a restored service writes by itself.
pub(super) const LEDGER: &str = "ledger";
pub(super) const SECOND: &str = "ledger2";
/// Between the first numbers of the two.
pub(super) const SECOND_FIRST: i64 = 1_000_000_000_000;
const PAUSE: Duration = Duration::from_millis(12);
const LAG_EVERY: Duration = Duration::from_millis(100);
const CLOCK_LOOKS: usize = 5;
/// Acknowledged writes of each kind without which a run shows nothing, and how much longer a slow machine gets for them.
const LEAST_OF_A_KIND: usize = 5;
const LEAST_SECONDS: u64 = 60;

pub(super) struct Run<'a> {
    pub(super) control: &'a dyn Control,
    pub(super) kind: EngineKind,
    pub(super) plan: &'a Plan,
    pub(super) made: &'a Made,
    pub(super) watch: &'a dyn Watch,
    began: Instant,
    pub(super) source: Uuid,
    engine_version: Option<String>,
    pub(super) database: Database,
    clock: Clock,
}

/// The engine's clock minus ours, between these two.
#[derive(Debug, Clone, Copy)]
struct Clock {
    least: SignedDuration,
    most: SignedDuration,
}

/// A backup of the run.
pub(super) struct BackedUp {
    pub(super) id: String,
    method: &'static str,
    bytes: Option<u64>,
    pub(super) seconds: f64,
    pub(super) stretch: Stretch,
}

impl<'a> Run<'a> {
    /// Makes the service.
    pub(super) async fn begin(
        control: &'a dyn Control,
        kind: EngineKind,
        plan: &'a Plan,
        made: &'a Made,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let began = Instant::now();
        watch.phase(&format!("making a {kind} service"));
        let body = json!({
            "name": plan.name, "database_type": kind.as_str(), "plan_name": "tier-1", "version": plan.version,
        });
        let source = service::create(control, made, body).await?;
        let running = service::wait_running(control, source, plan.patience_seconds).await?;
        watch.phase("its first backup");
        service::wait_first_backup(control, source, plan.patience_seconds).await?;
        let database = service::database(control, kind, source, LEDGER).await?;
        let clock = Clock::of(&database).await?;
        let engine_version = running.engine_version;
        Ok(Self { control, kind, plan, made, watch, began, source, engine_version, database, clock })
    }

    pub(super) async fn carry_out(self, random: &mut StdRng, seed: u64) -> Result<Report> {
        self.watch.phase(&format!("writing with {} writers", self.plan.writers));
        let load = Load::start(&self.database, Ledger::default(), self.mix(seed)).await?;
        let began = Timestamp::now();
        let mut lag = Vec::new();
        let half = Duration::from_secs(self.plan.busy_seconds.div_ceil(2));
        self.watch_lag(tokio::time::sleep(half), &mut lag).await?;
        self.watch.phase("backing up under load");
        let mut bases = Vec::new();
        // Points behind them are reached from the newest.
        for method in self.kind.capability().backup_methods {
            let backup = self.watch_lag(self.back_up(method), &mut lag).await??;
            self.watch.found(&format!("backup {} by {method} in {:.1} s", backup.id, backup.seconds));
            bases.push(backup);
        }
        self.watch.phase("writing on");
        self.watch_lag(tokio::time::sleep(half), &mut lag).await?;
        self.wait_for_writes(&load.ledger).await?;
        let idle = self.stand_still(&load).await;
        tokio::time::sleep(Duration::from_secs(2)).await;

        let all = Stretch { from: began, to: Timestamp::now() };
        let backup =
            bases.first().ok_or_else(|| ConformanceError::broken("the engine", "it has no method"))?;
        let stretches = Stretches { all, backup: backup.stretch, idle };
        let points = self.points(stretches, &load.ledger, random).await?;
        self.watch.phase(&format!("restoring {} points, {} at once", points.len(), self.plan.at_once));
        let mut restores = self.restore_all(points, &load.ledger).await?;
        if restores.iter().all(|restored| restored.found == 0) {
            let why = "no restore to an instant found any row, so none shows anything";
            return Err(ConformanceError::broken("the restores", why));
        }
        self.watch.phase("restoring the backup");
        for base in &bases {
            restores.push(self.restore_backup(base, &load.ledger).await?);
        }
        self.watch.phase("restoring a restored service");
        restores.push(self.second_generation(&load.ledger, seed).await?);
        self.watch.phase("asking for points that cannot be reached");
        let refused = self.refusals().await?;
        load.pause(true);
        let ledger = load.ledger.clone();
        load.stop().await?;
        // The source never noticed.
        let now = Timestamp::now();
        let source = self.database.read().await?;
        ledger.judge(&source, now, now).ensure_exact("the source itself, at the end")?;
        Ok(self.report(ledger.acknowledged(), backup, restores, refused, lag))
    }

    /// What the source's writers do.
    pub(super) fn mix(&self, seed: u64) -> Mix {
        Mix { writers: self.plan.writers, first: 1, pause: PAUSE, inserts_only: false, seed }
    }

    pub(super) fn report(
        &self,
        acknowledged: usize,
        backup: &BackedUp,
        restores: Vec<Restored>,
        refused: Vec<String>,
        lag: Vec<SignedDuration>,
    ) -> Report {
        Report {
            engine: self.kind.to_string(),
            engine_version: self.engine_version.clone(),
            acknowledged,
            backup_seconds: backup.seconds,
            backup_bytes: backup.bytes,
            restores,
            refused,
            archive_lag_seconds: Lag::of(lag),
            clock_difference_seconds: self.clock.middle().as_secs_f64(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    /// A suite in which nothing was written would pass.
    pub(super) async fn wait_for_writes(&self, ledger: &Ledger) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(LEAST_SECONDS);
        loop {
            match ledger.ensure_each_kind(LEAST_OF_A_KIND) {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    fn unit(&self) -> TimeUnit {
        self.kind.capability().unit
    }

    /// Looks how far the proven window is behind while something else goes on.
    async fn watch_lag<T>(&self, work: impl Future<Output = T>, lag: &mut Vec<SignedDuration>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let mut next = tokio::time::interval(LAG_EVERY);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = next.tick() => {}
            }
            let pitr = tokio::select! {
                done = &mut work => return Ok(done),
                pitr = service::pitr(self.control, self.source) => pitr?,
            };
            if let Some(latest) = pitr.latest_restore_point {
                lag.push(
                    (self.clock.theirs(Timestamp::now()).duration_since(latest)).max(SignedDuration::ZERO),
                );
            }
        }
    }

    pub(super) async fn back_up(&self, method: &'static str) -> Result<BackedUp> {
        let from = Timestamp::now();
        let backup =
            service::back_up_by(self.control, self.source, method, self.plan.patience_seconds).await?;
        let to = Timestamp::now();
        let seconds = to.duration_since(from).as_secs_f64();
        let bytes = backup.size_bytes;
        Ok(BackedUp { id: backup.id, method, bytes, seconds, stretch: Stretch { from, to } })
    }

    async fn stand_still(&self, load: &Load) -> Stretch {
        self.watch.phase("standing still");
        load.pause(true);
        // Writes in flight end first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let from = Timestamp::now();
        tokio::time::sleep(Duration::from_secs(self.plan.idle_seconds)).await;
        let to = Timestamp::now();
        load.pause(false);
        Stretch { from, to }
    }

    /// In the engine's clock.
    async fn points(&self, stretches: Stretches, ledger: &Ledger, random: &mut StdRng) -> Result<Vec<Point>> {
        let chosen = points::choose(self.unit(), stretches, &ledger.entries(), self.plan.restores, random);
        let theirs = chosen
            .into_iter()
            .map(|point| Point { at: self.unit().floor(self.clock.theirs(point.at)), ..point });
        let mut points: Vec<Point> = theirs.collect();
        let pitr = service::pitr(self.control, self.source).await?;
        let (Some(earliest), Some(latest)) = (pitr.earliest_restore_point, pitr.latest_restore_point) else {
            return Err(ConformanceError::broken("the recovery window", "there is none after two backups"));
        };
        if !pitr.gaps.is_empty() || pitr.windows.len() != 1 {
            let why = format!("it has gaps, and nothing was done to it: {:?}", pitr.gaps);
            return Err(ConformanceError::broken("the recovery window", why));
        }
        points.push(Point { what: "the window's first instant".to_owned(), at: earliest });
        points.push(Point { what: "the window's last instant".to_owned(), at: latest });
        Ok(points)
    }

    async fn restore_all(&self, points: Vec<Point>, ledger: &Ledger) -> Result<Vec<Restored>> {
        let restores = points.into_iter().map(|point| self.restore_point(point, ledger));
        stream::iter(restores).buffer_unordered(self.plan.at_once.max(1)).try_collect().await
    }

    /// Restores to a point, judges, and removes the copy again.
    async fn restore_point(&self, point: Point, ledger: &Ledger) -> Result<Restored> {
        let began = Instant::now();
        let what = format!("{} ({})", point.what, point.at);
        let (copy, reached) = self.copy(self.source, &what, point.at).await?;
        let seconds = began.elapsed().as_secs_f64();
        let state = service::database(self.control, self.kind, copy.id, LEDGER).await?.read().await?;
        let found = self.judge(ledger, &state, reached, &what)?;
        self.watch.found(&format!("{what}: {found} found, 0 lost, 0 extra, in {seconds:.1} s"));
        service::remove_copy(self.control, self.made, copy.id).await?;
        Ok(Restored { what: point.what, asked: Some(point.at), reached: Some(reached), found, seconds })
    }

    /// Restores to a point; the instant that it says it reached is the one asked for, but for a part of a unit.
    async fn copy(&self, source: Uuid, what: &str, at: Timestamp) -> Result<(Service, Timestamp)> {
        let name = self.copy_name();
        let patience = self.plan.patience_seconds;
        let copy =
            service::restore(self.control, self.made, source, From::Point(at), &name, patience).await?;
        let reached = copy.restored_from.as_ref().and_then(|from| from.restore_point);
        let unit = SignedDuration::from_micros(self.unit().microseconds());
        match reached {
            Some(reached) if reached <= at && at.duration_since(reached) < unit => Ok((copy, reached)),
            other => {
                let why = format!("{at} was asked for and {other:?} was reached");
                Err(ConformanceError::broken(what, why))
            }
        }
    }

    fn judge(&self, ledger: &Ledger, state: &State, reached: Timestamp, what: &str) -> Result<usize> {
        let (earliest, latest) = self.clock.ours(reached);
        let verdict = ledger.judge(state, earliest, latest);
        verdict.ensure_exact(what)?;
        Ok(verdict.found)
    }

    /// A restore of a backup holds the state at its own consistent point, which lies inside the time that it took.
    pub(super) async fn restore_backup(&self, backup: &BackedUp, ledger: &Ledger) -> Result<Restored> {
        let began = Instant::now();
        let what = format!("from the backup by {}", backup.method);
        let name = self.copy_name();
        let from = From::Backup(&backup.id);
        let patience = self.plan.patience_seconds;
        let copy = service::restore(self.control, self.made, self.source, from, &name, patience).await?;
        let seconds = began.elapsed().as_secs_f64();
        let state = service::database(self.control, self.kind, copy.id, LEDGER).await?.read().await?;
        let verdict = ledger.judge(&state, backup.stretch.from, backup.stretch.to);
        verdict.ensure_exact(&what)?;
        let found = verdict.found;
        self.watch.found(&format!("{what}: {found} found, 0 lost, 0 extra, in {seconds:.1} s"));
        service::remove_copy(self.control, self.made, copy.id).await?;
        let reached = copy.restored_from.and_then(|from| from.restore_point);
        Ok(Restored { what, asked: None, reached, found, seconds })
    }

    /// A restored service is a service: it goes on, and is itself restored to any instant.
    async fn second_generation(&self, ledger: &Ledger, seed: u64) -> Result<Restored> {
        let what = "a restored service, restored again";
        let recent = self.unit().floor(self.clock.theirs(Timestamp::now()));
        let (child, reached) = self.copy(self.source, "the parent of a second generation", recent).await?;
        let database = service::database(self.control, self.kind, child.id, LEDGER).await?;
        let inherited = database.read().await?;
        self.judge(ledger, &inherited, reached, "the parent of a second generation")?;
        service::wait_first_backup(self.control, child.id, self.plan.patience_seconds).await?;
        let mix = Mix { writers: 2, first: SECOND_FIRST, pause: PAUSE, inserts_only: false, seed };
        let load = Load::start(&database.in_space(SECOND), Ledger::default(), mix).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let inside = self.unit().floor(self.clock.theirs(Timestamp::now()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let own = load.ledger.clone();
        load.stop().await?;
        if own.acknowledged() == 0 {
            let why = "it acknowledged nothing in five seconds, which shows nothing";
            return Err(ConformanceError::broken(what, why));
        }

        let began = Instant::now();
        let (grandchild, reached) = self.copy(child.id, what, inside).await?;
        let seconds = began.elapsed().as_secs_f64();
        let database = service::database(self.control, self.kind, grandchild.id, LEDGER).await?;
        if database.read().await? != inherited {
            return Err(ConformanceError::broken(what, "it does not hold what its parent was born with"));
        }
        let state = database.in_space(SECOND).read().await?;
        let found = self.judge(&own, &state, reached, what)?;
        if !self.database.in_space(SECOND).read().await?.is_empty() {
            return Err(ConformanceError::broken(what, "a restored service wrote into its source"));
        }
        self.watch.found(&format!("{what} ({inside}): {found} found, 0 lost, 0 extra, in {seconds:.1} s"));
        service::remove_copy(self.control, self.made, grandchild.id).await?;
        service::remove_copy(self.control, self.made, child.id).await?;
        Ok(Restored { what: what.to_owned(), asked: Some(inside), reached: Some(reached), found, seconds })
    }

    /// Points outside of the window are refused, and the answer names the nearest that can be reached.
    async fn refusals(&self) -> Result<Vec<String>> {
        let pitr = service::pitr(self.control, self.source).await?;
        let earliest = pitr.earliest_restore_point.unwrap_or_else(Timestamp::now);
        let hour = SignedDuration::from_hours(1);
        let now = self.clock.theirs(Timestamp::now());
        let mut refused = Vec::new();
        for (what, at) in [
            ("one unit before the window", points::later(earliest, self.unit(), -1)),
            ("an hour before the window", earliest.checked_sub(hour).unwrap_or(earliest)),
            ("an hour from now", now.checked_add(hour).unwrap_or(now)),
        ] {
            let body = json!({"restore_point": at.to_string(), "target_service_name": self.copy_name()});
            let path = service::path(self.source, "/backups/restore");
            match ask::<Value>(self.control, Method::Post, &path, Some(body)).await {
                Err(ConformanceError::Refused { status: 400, text, .. }) if text.contains("nearest") => {
                    self.watch.found(&format!("{what}: refused"));
                    refused.push(what.to_owned());
                }
                Err(error @ ConformanceError::Control { .. }) => return Err(error),
                other => {
                    let why = format!("{at} was not refused with the nearest reachable point: {other:?}");
                    return Err(ConformanceError::broken(what, why));
                }
            }
        }
        Ok(refused)
    }

    pub(super) fn copy_name(&self) -> String {
        format!("{}-{:06x}", self.plan.name, rand::random::<u32>() & 0xff_ffff)
    }
}

impl Clock {
    /// Asks a few times: between the question and the answer, the engine's clock stood at what it says.
    async fn of(database: &Database) -> Result<Self> {
        let mut session = database.open().await?;
        let mut clock = Self { least: SignedDuration::MIN, most: SignedDuration::MAX };
        for _ in 0..CLOCK_LOOKS {
            let before = Timestamp::now();
            let theirs = session.clock().await?;
            let after = Timestamp::now();
            // What they say may be cut to a whole unit.
            let unit = SignedDuration::from_micros(database.kind.capability().unit.microseconds());
            clock.least = clock.least.max(theirs.duration_since(after));
            clock.most = clock.most.min(theirs.duration_since(before).saturating_add(unit));
        }
        Ok(clock)
    }

    /// Zero unless they differ for certain.
    fn middle(self) -> SignedDuration {
        if self.is_one() {
            return SignedDuration::ZERO;
        }
        self.least + (self.most - self.least) / 2
    }

    fn is_one(self) -> bool {
        self.least <= SignedDuration::ZERO && SignedDuration::ZERO <= self.most
    }

    fn theirs(self, ours: Timestamp) -> Timestamp {
        ours.checked_add(self.middle()).unwrap_or(ours)
    }

    /// Between which of our instants their instant lies.
    fn ours(self, theirs: Timestamp) -> (Timestamp, Timestamp) {
        if self.is_one() {
            return (theirs, theirs);
        }
        let minus = |difference| theirs.checked_sub(difference).unwrap_or(theirs);
        (minus(self.most), minus(self.least))
    }
}
