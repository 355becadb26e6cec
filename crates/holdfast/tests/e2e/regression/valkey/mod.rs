//! Valkey's regression suite by a service's tenant. Amid units by chance everything is held up for a moment and read; copies of those
//! moments, and of a backup, hold what was read, to the byte.

mod relay;
mod suite;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_conformance::Database;
use holdfast_conformance::service::{self, From, Made};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::exactness::between;
use holdfast_testkit::valkey::{Reading, connect, reading, same};
use holdfast_testkit::{Client, Holdfast, holdfast, seed};
use jiff::{SignedDuration, Timestamp};
use rand::Rng as _;
use rand::rngs::StdRng;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::sync::OwnedRwLockWriteGuard;
use uuid::Uuid;

use crate::BINARY;
use relay::{Login, Relay};
use suite::{Suite, UNITS};

const PATIENCE_SECONDS: u64 = 180;
/// Moments amid units, and restores to instants at which nobody looked.
const MOMENTS: usize = 6;
const AMID: usize = 3;
/// How far into a unit a moment is.
const FAR: u64 = 2500;
/// What was sent before has been answered by then.
const SETTLED: Duration = Duration::from_millis(300);
/// The server's clock may be so late.
const SURPLUS: SignedDuration = SignedDuration::from_millis(500);
/// What ends so soon may have ended when its copy is read.
const SOON: SignedDuration = SignedDuration::from_secs(120);

/// A moment of which everything is known.
struct Known {
    what: String,
    point: Timestamp,
    reading: Reading,
}

struct Source<'a> {
    holdfast: &'a Holdfast,
    client: Client,
    id: Uuid,
    relay: Relay,
}

#[tokio::test(flavor = "multi_thread")]
async fn valkeys_own_suite_comes_back() -> Result<()> {
    let mut random = seed::generator("valkeys_own_suite_comes_back");
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let suite = Suite::open(&engines)?;
    let holdfast = Holdfast::start(BINARY, "regression").await?;
    holdfast.wait_for_agent().await?;
    let source = Source::start(&holdfast).await?;
    let began = Timestamp::now();
    let (known, backup, reading) = source.under(&suite, &mut random).await?;
    let ended = Timestamp::now();
    source.comes_back("the backup", From::Backup(&backup), None, Some(reading)).await?;
    for Known { what, point, reading } in known {
        source.comes_back(&what, From::Point(point), Some(point), Some(reading)).await?;
    }
    for number in 0..AMID {
        let point = Timestamp::from_second(between(&mut random, began, ended).as_second())?;
        source.comes_back(&format!("amid {number}"), From::Point(point), None, None).await?;
    }
    Ok(())
}

impl<'a> Source<'a> {
    async fn start(holdfast: &'a Holdfast) -> Result<Self> {
        let client = holdfast.client();
        let body = json!({"name": "suite", "database_type": "valkey", "plan_name": "tier-1"});
        let id = service::create(&client, &Made::default(), body).await?;
        service::wait_running(&client, id, PATIENCE_SECONDS).await?;
        service::wait_first_backup(&client, id, PATIENCE_SECONDS).await?;
        let Database { login, .. } = service::database(&client, EngineKind::Valkey, id, "suite").await?;
        let agent = Login("default".to_owned(), agents_password(holdfast, id)?);
        let address = format!("{}:{}", login.host, login.port);
        let relay = Relay::start(&address, Login(login.username, login.password), agent).await?;
        Ok(Self { holdfast, client, id, relay })
    }

    /// Runs the suite: a backup and some moments amid units, another backup beside one, and a moment behind all.
    async fn under(&self, suite: &Suite, random: &mut StdRng) -> Result<(Vec<Known>, String, Reading)> {
        let moments = rand::seq::index::sample(random, UNITS.len(), MOMENTS + 2).into_vec();
        let (backed_up, busy) = (moments[0], moments[1]);
        let (mut known, mut backup, mut passed) = (Vec::new(), None, 0);
        for (number, unit) in UNITS.into_iter().enumerate() {
            let running = suite.start(unit, self.relay.port)?;
            let amid = Duration::from_millis(random.random_range(100..FAR));
            if moments.contains(&number) {
                tokio::time::sleep(amid).await;
            }
            if number == busy {
                service::back_up(&self.client, self.id, PATIENCE_SECONDS).await?;
            } else if number == backed_up {
                backup = Some(self.backed_up().await.with_context(|| format!("backup amid {unit}"))?);
            } else if moments.contains(&number) {
                known.push(self.known(&format!("{} ms into {unit}", amid.as_millis())).await?);
            }
            passed += suite.ended(unit, running).await?;
        }
        known.push(self.known("behind the suite").await?);
        println!("valkey: {passed} tests of the suite passed");
        ensure!(passed > 1000, "the suite has more tests");
        let (backup, reading) = backup.context("it was made")?;
        Ok((known, backup, reading))
    }

    async fn reading(&self, service: Uuid) -> Result<Reading> {
        Ok(reading(self.agent(service).await?).await?.without_users())
    }

    async fn agent(&self, service: Uuid) -> Result<MultiplexedConnection> {
        let login = service::database(&self.client, EngineKind::Valkey, service, "suite").await?.login;
        let password = agents_password(self.holdfast, service)?;
        let url = format!("redis://default:{password}@{}:{}/0", login.host, login.port);
        connect(url).await
    }

    /// Holds all clients up, once no script keeps the server busy: who would end it is held up too.
    async fn quiet(&self) -> Result<OwnedRwLockWriteGuard<()>> {
        loop {
            let held = self.relay.held().await;
            tokio::time::sleep(SETTLED).await;
            let answer: redis::RedisResult<i64> =
                redis::cmd("DBSIZE").query_async(&mut self.agent(self.id).await?).await;
            match answer {
                Err(error) if error.code() == Some("BUSY") => {}
                answer => return answer.map(|_| held).context("look whether the server is busy"),
            }
            drop(held);
            tokio::time::sleep(SETTLED).await;
        }
    }

    /// Everything, and the beginning of the next second, before which nothing more is written: there a copy's log ends.
    async fn known(&self, what: &str) -> Result<Known> {
        let held = self.quiet().await?;
        let reading = self.reading(self.id).await?;
        let point = Timestamp::from_second(Timestamp::now().as_second() + 1)?;
        let left = (point + SURPLUS).duration_since(Timestamp::now());
        tokio::time::sleep(Duration::try_from(left)?).await;
        drop(held);
        println!("{what}: {}", reading.summary());
        Ok(Known { what: what.to_owned(), point, reading })
    }

    async fn backed_up(&self) -> Result<(String, Reading)> {
        let _held = self.quiet().await?;
        let reading = self.reading(self.id).await?;
        println!("the backup: {}", reading.summary());
        let backup = service::back_up(&self.client, self.id, PATIENCE_SECONDS).await?;
        Ok((backup.id, reading))
    }

    async fn comes_back(
        &self,
        what: &str,
        from: From<'_>,
        point: Option<Timestamp>,
        expected: Option<Reading>,
    ) -> Result<()> {
        let made = Made::default();
        let name = format!("r-{:08x}", rand::random::<u32>());
        let copy = service::restore(&self.client, &made, self.id, from, &name, PATIENCE_SECONDS).await;
        let copy = copy.with_context(|| format!("restore {what}"))?.id;
        let mut found = self.reading(copy).await.with_context(|| what.to_owned())?;
        let how = match expected {
            Some(mut expected) => {
                expected.leave_out_what_ends(point.unwrap_or_else(Timestamp::now) + SOON, &mut found);
                let any = SignedDuration::ZERO..SignedDuration::from_hours(1);
                same(&expected, &found, any, false).map(|()| "as it was")
            }
            None => Ok("whole"),
        };
        println!("valkey, {what}: {}, {}", how.with_context(|| what.to_owned())?, found.summary());
        Ok(service::remove_copy(&self.client, &made, copy).await?)
    }
}

fn agents_password(holdfast: &Holdfast, service: Uuid) -> Result<String> {
    let own = std::fs::read(holdfast.instances.join(service.to_string()).join("conf/agent.json"))?;
    let own: serde_json::Value = serde_json::from_slice(&own)?;
    Ok(own["password"].as_str().context("it has a password")?.to_owned())
}
