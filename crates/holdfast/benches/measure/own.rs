//! Backup and restore of MySQL, MongoDB and Valkey through Holdfast, against what a person would run by hand: mysqldump through
//! zstd and a load of it, a plain find and bulk inserts, a snapshot over the replication protocol and a server started on it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use holdfast_conformance::Database;
use holdfast_conformance::service::{self, From, Made};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Client, Holdfast, holdfast};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::json;
use uuid::Uuid;

use crate::by_hand;
use crate::report::table;
use crate::restores::{by_phase, took};
use crate::timed::{median, ratio, shown};
use crate::{BINARY, Size};

const PATIENCE_SECONDS: u64 = 3600;

/// One side's run.
#[derive(Default)]
struct Cost {
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
    peak_mib: u64,
}

pub(crate) async fn measure(size: &Size, kind: EngineKind) -> Result<String> {
    println!("{kind} against its own tools");
    let engines = holdfast::engines().context("no engines")?;
    let holdfast = Holdfast::start(BINARY, "bench").await?;
    holdfast.wait_for_agent().await?;
    let client = holdfast.client();
    let (source, database) = make(&client, kind, "source").await?;
    database.open().await?.fill(size.noise_mib << 20).await?;
    let folder = tempfile::tempdir_in(engines.parent().context("a cache folder")?.join("run"))?;
    let mut tool = by_hand::tool(kind, &engines, folder.path(), &database, size.noise_mib << 20).await?;

    let (mut our_backups, mut our_restores) = (Cost::default(), Cost::default());
    let (mut their_backups, mut their_restores) = (Cost::default(), Cost::default());
    let (mut stored, mut by_hand) = (0, 0);
    let (mut backups, mut restores) = (Vec::new(), Vec::new());
    for pair in 0..size.pairs {
        for ours in [pair % 2 == 0, pair % 2 != 0] {
            if ours {
                let backup = our_backups
                    .of_agent(&holdfast, service::back_up(&client, source, PATIENCE_SECONDS))
                    .await?;
                stored = backup.size_bytes.unwrap_or(0);
                backups.push(took(&client, &source.to_string(), "backup").await?);
                let (made, name) = (Made::default(), format!("copy-{pair}"));
                let from = From::Backup(&backup.id);
                let restore = service::restore(&client, &made, source, from, &name, PATIENCE_SECONDS);
                let copy = our_restores.of_agent(&holdfast, restore).await?;
                restores.push(took(&client, &copy.id.to_string(), "restore").await?);
                service::remove_copy(&client, &made, copy.id).await?;
            } else {
                let (_, target) = make(&client, kind, &format!("by-hand-{pair}")).await?;
                by_hand = their_backups.of_children(tool.backup()).await?;
                their_restores.of_children(tool.restore(&target)).await?;
            }
        }
    }
    let row = |what: &str, ours: &Cost, theirs: &Cost| {
        vec![
            what.to_owned(),
            shown(&ours.seconds),
            shown(&theirs.seconds),
            ratio(&ours.seconds, &theirs.seconds),
            format!("{:.1} / {:.1}", median(&ours.cpu_seconds), median(&theirs.cpu_seconds)),
            format!("{} / {}", ours.peak_mib, theirs.peak_mib),
        ]
    };
    let rows = [row("backup", &our_backups, &their_backups), row("restore", &our_restores, &their_restores)];
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let bytes = stored as f64 / by_hand.max(1) as f64;
    Ok(format!(
        "## {kind} against its own tools\n\n{} MiB that do not compress. By hand: {}. Holdfast's restore makes a service of its own, by hand an empty one \
         was there. Bytes stored: **{bytes:.2}** of those by hand.\n\n{}\nThe backup's seconds by phase: {}. The restore's: {}.\n",
        size.noise_mib,
        tool.what(),
        table(
            &["seconds", "Holdfast", "by hand", "ratio", "CPU s, ours / theirs", "peak MiB, agent / tool"],
            &rows
        ),
        by_phase(&backups),
        by_phase(&restores)
    ))
}

/// A running service with its first backup done, so that nothing is left to do but what is measured.
pub(crate) async fn make(client: &Client, kind: EngineKind, name: &str) -> Result<(Uuid, Database)> {
    let body = json!({"name": name, "database_type": kind.as_str(), "plan_name": "tier-1"});
    let id = service::create(client, &Made::default(), body).await?;
    service::wait_running(client, id, PATIENCE_SECONDS).await?;
    service::wait_first_backup(client, id, PATIENCE_SECONDS).await?;
    Ok((id, service::database(client, kind, id, "bench").await?))
}

impl Cost {
    /// What the agent and the tools that it started took.
    async fn of_agent<T, E>(
        &mut self,
        holdfast: &Holdfast,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T>
    where
        anyhow::Error: std::convert::From<E>,
    {
        let agent = holdfast.agent_pid().context("no agent")?;
        let (before, began) = (cpu_seconds(agent)?, Instant::now());
        let done = work.await?;
        self.seconds.push(began.elapsed().as_secs_f64());
        self.cpu_seconds.push(cpu_seconds(agent)? - before);
        self.peak_mib = self.peak_mib.max(holdfast_testkit::memory::peak_mib(agent).unwrap_or(0));
        Ok(done)
    }

    /// What ended children of this process took; of work in this process itself only the time counts.
    async fn of_children<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (before, began) = (getrusage(UsageWho::RUSAGE_CHILDREN)?, Instant::now());
        let done = work.await?;
        self.seconds.push(began.elapsed().as_secs_f64());
        let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let micros = (after.user_time() + after.system_time() - before.user_time() - before.system_time())
            .num_microseconds();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        self.cpu_seconds.push(micros as f64 / 1e6);
        self.peak_mib = self.peak_mib.max(u64::try_from(after.max_rss()).unwrap_or(0) >> 10);
        Ok(done)
    }
}

/// Of a process and its ended children: fields 14 to 17 of `/proc/PID/stat`, in ticks of a hundredth (proc(5)).
fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// A file of the run.
pub(crate) fn dump_in(folder: &Path) -> PathBuf {
    folder.join("dump")
}
