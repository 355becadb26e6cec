//! `holdfast jobs`: what the platform is doing.

use std::collections::BTreeMap;

use clap::Subcommand;
use holdfast_api::job::{Job, JobList, JobStep};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::error::ClientError;
use super::progress::{self, WaitFlags};
use super::{Context, table};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The newest jobs, newest first.
    #[command(alias = "ls")]
    List {
        /// Only this service's (name or id).
        #[arg(long)]
        service: Option<String>,
        /// Rows of the table; 0 shows all. JSON is always complete.
        #[arg(long, default_value_t = 30, value_name = "N")]
        limit: usize,
    },
    /// One job.
    Get {
        id: Uuid,
        /// Also show its steps.
        #[arg(long)]
        steps: bool,
        #[command(flatten)]
        wait: WaitFlags,
    },
    /// End a backup, a restore or the making of a service.
    Cancel { id: Uuid },
}

pub(super) async fn run(ctx: &Context, command: Command) -> Result<(), ClientError> {
    match command {
        Command::List { service, limit } => list(ctx, service.as_deref(), limit).await,
        Command::Get { id, steps, wait } => get(ctx, id, steps, wait).await,
        Command::Cancel { id } => cancel(ctx, id).await,
    }
}

async fn list(ctx: &Context, service: Option<&str>, limit: usize) -> Result<(), ClientError> {
    let answer = match service {
        Some(service) => {
            let id = ctx.api.resolve(service).await?.id.to_string();
            ctx.api.get(&["managed-services", &id, "jobs"]).await?
        }
        None => ctx.api.get(&["jobs"]).await?,
    };
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let jobs = answer.read::<JobList>()?.jobs;
    if jobs.is_empty() {
        ctx.ui.note("there are no jobs");
        return Ok(());
    }
    let services = ctx.api.services().await?;
    let names: BTreeMap<Uuid, &str> = services.iter().map(|s| (s.id, s.name.as_str())).collect();
    let now = Timestamp::now();
    let shown = if limit == 0 { jobs.len() } else { limit };
    let rows = jobs.iter().take(shown).map(|job| {
        vec![
            job.id.to_string(),
            table::word(&job.kind),
            job.service_id.map_or_else(
                || table::NOTHING.to_owned(),
                |id| names.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned()),
            ),
            status(job),
            table::ago(job.created_at, now),
            took(job, now).unwrap_or_else(|| table::NOTHING.to_owned()),
        ]
    });
    let header = ["ID", "KIND", "SERVICE", "STATUS", "CREATED", "TOOK"];
    ctx.ui.data(&table::table(&header, rows.collect()))?;
    if let Some(more @ 1..) = jobs.len().checked_sub(shown) {
        ctx.ui.note(&format!("{more} older ones are not shown; --limit 0 shows all"));
    }
    Ok(())
}

fn status(job: &Job) -> String {
    let word = table::word(&job.status);
    let word = if job.cancel_requested && job.finished_at.is_none() {
        format!("{word}, to be cancelled")
    } else {
        word
    };
    match &job.progress {
        Some(progress) if progress.phase != word => format!("{word}: {}", table::progress(progress)),
        _ => word,
    }
}

fn took(job: &Job, now: Timestamp) -> Option<String> {
    let length: SignedDuration = job.finished_at.unwrap_or(now).duration_since(job.started_at?);
    Some(table::long_span(length.max(SignedDuration::ZERO)))
}

async fn get(ctx: &Context, id: Uuid, steps: bool, wait: WaitFlags) -> Result<(), ClientError> {
    let path = ["jobs", &id.to_string()];
    let mut answer = ctx.api.get(&path).await?;
    if wait.wait {
        let job: Job = answer.read()?;
        progress::wait(ctx, &table::word(&job.kind), &[id], wait, "").await?;
        answer = ctx.api.get(&path).await?;
    }
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let job: Job = answer.read()?;
    let mut text = described(&job, Timestamp::now());
    if steps {
        let rows = job.steps.iter().zip(1..);
        let rows = rows.map(|(step, n)| {
            vec![format!("{n}"), table::word(&step.name), table::word(&step.status), phases(step)]
        });
        text = format!("{text}\n\n{}", table::table(&["#", "STEP", "STATUS", "PHASES"], rows.collect()));
    }
    ctx.ui.data(&text)
}

async fn cancel(ctx: &Context, id: Uuid) -> Result<(), ClientError> {
    let answer = ctx.api.post(&["jobs", &id.to_string(), "cancel"], &serde_json::json!({})).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let job: Job = answer.read()?;
    ctx.ui.data(&described(&job, Timestamp::now()))?;
    ctx.ui.note(&format!("it ends within seconds; see: holdfast jobs get {id}"));
    Ok(())
}

fn phases(step: &JobStep) -> String {
    if step.phases.is_empty() {
        return table::NOTHING.to_owned();
    }
    let shown = step.phases.iter().map(|phase| format!("{} {:.1} s", phase.name, phase.seconds));
    shown.collect::<Vec<_>>().join(", ")
}

fn described(job: &Job, now: Timestamp) -> String {
    let time = |at| table::moment(at, now);
    let why = job.error_message.as_ref().map(|why| match &job.error_cause {
        Some(cause) => format!("{why} [{cause}]"),
        None => why.clone(),
    });
    table::facts(&[
        ("id", Some(job.id.to_string())),
        ("kind", Some(table::word(&job.kind))),
        ("service", job.service_id.map(|id| id.to_string())),
        ("source", job.source_service_id.map(|id| id.to_string())),
        ("backup", job.backup_id.clone()),
        ("restore point", job.restore_point.map(table::utc)),
        ("status", Some(status(job))),
        ("why", why),
        ("tries", (job.attempt > 1).then(|| format!("{} of the current step", job.attempt))),
        ("created", Some(time(job.created_at))),
        ("started", job.started_at.map(time)),
        ("finished", job.finished_at.map(time)),
        ("took", took(job, now)),
    ])
}
