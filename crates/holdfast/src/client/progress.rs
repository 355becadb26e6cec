//! `--wait`: follows jobs to their end, with a bar on a terminal and with a line per phase elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_api::job::{Job, JobStatus, Progress, StepStatus};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tokio::time::sleep;
use uuid::Uuid;

use super::Context;
use super::error::ClientError;
use super::table::{self, Ui};
use super::time::parse_wait;

const POLL: Duration = Duration::from_millis(400);
/// A control plane that is being started again is no reason to give up at once.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(60);

/// Flags of every command whose work goes on after its answer.
#[derive(Args, Clone, Copy)]
pub(crate) struct WaitFlags {
    /// Stay until the work is done; exit code 1 when it fails. Ctrl-C leaves it running.
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this time (90s, 15m, 1h30m), with exit code 4; the work goes on.
    #[arg(long, value_name = "TIME", value_parser = parse_wait, requires = "wait")]
    pub timeout: Option<Duration>,
}

/// Follows the jobs, one after the other, until all are completed. `next` is what to do when one fails; it may be empty.
///
/// # Errors
/// `Failed` when one fails or is cancelled, with `next` as the hint; `StillRunning` when the patience ends;
/// `Interrupted` at Ctrl-C; what the API says, once the control plane cannot be reached for a minute.
pub(crate) async fn wait(
    ctx: &Context,
    what: &str,
    jobs: &[Uuid],
    flags: WaitFlags,
    next: &str,
) -> Result<(), ClientError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    let mut view = View::new(ctx.ui, what);
    let current = std::cell::Cell::new(jobs.first().copied());
    let follow_all = async {
        for job in jobs {
            current.set(Some(*job));
            follow(ctx, what, *job, next, &mut view).await?;
        }
        Ok(())
    };
    let patience = async {
        match flags.timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        done = follow_all => Ok(done),
        () = patience => Err(true),
        _ = tokio::signal::ctrl_c() => Err(false),
    };
    view.close();
    let passed = table::long_span(SignedDuration::try_from(started.elapsed()).unwrap_or_default());
    let look = || {
        current.get().map_or_else(String::new, |job| format!("look again: holdfast jobs get {job} --wait"))
    };
    match ended {
        Ok(Ok(())) => {
            ctx.ui.note(&format!("{what}: done in {passed}"));
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(true) => Err(ClientError::StillRunning {
            text: format!("{what}: not done after {passed}, it goes on"),
            hint: look(),
        }),
        Err(false) => Err(ClientError::Interrupted {
            text: format!("{what}: no longer waiting, the work goes on"),
            hint: look(),
        }),
    }
}

async fn follow(ctx: &Context, what: &str, id: Uuid, next: &str, view: &mut View) -> Result<(), ClientError> {
    let mut reached = Instant::now();
    let mut polls = tokio::time::interval(POLL);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        polls.tick().await;
        match look(ctx, id).await {
            Ok(job) => {
                reached = Instant::now();
                view.show(&job);
                match job.status {
                    JobStatus::Queued | JobStatus::Running => {}
                    JobStatus::Completed => return Ok(()),
                    JobStatus::Failed | JobStatus::Cancelled => return Err(ended_badly(what, &job, next)),
                }
            }
            Err(error) if error.is_passing() && reached.elapsed() < OUTAGE_PATIENCE => {
                view.outage(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn look(ctx: &Context, id: Uuid) -> Result<Job, ClientError> {
    ctx.api.get(&["jobs", &id.to_string()]).await?.read()
}

fn ended_badly(what: &str, job: &Job, next: &str) -> ClientError {
    let how = table::word(&job.status);
    let why = job.error_message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    let step =
        (job.steps.iter().find(|step| matches!(step.status, StepStatus::Failed | StepStatus::Cancelled)))
            .map(|step| format!(" at step {}", step.name.replace('_', " ")))
            .unwrap_or_default();
    let see = format!("see the steps: holdfast jobs get {} --steps", job.id);
    let hint = if next.is_empty() { see } else { format!("{see}; {next}") };
    ClientError::Failed { text: format!("{what}: {how}{step}{why}"), hint }
}

/// What is shown while waiting.
struct View {
    ui: Ui,
    what: String,
    started: Instant,
    bar: Option<ProgressBar>,
    /// What the last line said.
    said: String,
}

impl View {
    fn new(ui: Ui, what: &str) -> Self {
        let is_drawn = !ui.quiet && !ui.json && std::io::stderr().is_terminal();
        let bar = is_drawn.then(|| {
            let bar = ProgressBar::new(1000);
            bar.set_style(spinner());
            bar.set_prefix(table::clean(what));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { ui, what: what.to_owned(), started: Instant::now(), bar, said: String::new() }
    }

    fn show(&mut self, job: &Job) {
        let Some(progress) = &job.progress else { return };
        let step = step_number(job);
        match &self.bar {
            Some(bar) => {
                bar.set_style(if progress.percent.is_some() { with_bar() } else { spinner() });
                bar.set_position(tenths(progress.percent));
                bar.set_message(table::clean(&format!("{step}{}", table::progress(progress))));
            }
            None => self.say(&format!("{step}{}", progress.phase), Some(progress)),
        }
    }

    fn outage(&mut self, error: &ClientError) {
        match &self.bar {
            Some(bar) => bar.set_message(table::clean(&format!("{error}; trying again"))),
            None => self.say(&format!("{error}; trying again"), None),
        }
    }

    /// One line per phase: a log file is no place for a bar.
    fn say(&mut self, text: &str, progress: Option<&Progress>) {
        if self.ui.quiet || self.said == text {
            return;
        }
        text.clone_into(&mut self.said);
        let passed = self.started.elapsed().as_secs();
        self.ui.stderr_line(&if self.ui.json {
            serde_json::json!({ "waiting_for": self.what, "elapsed_seconds": passed, "progress": progress, "note": text })
                .to_string()
        } else {
            table::clean(&format!("{}: {passed:>3} s  {text}", self.what))
        });
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn step_number(job: &Job) -> String {
    let of = job.steps.len();
    let current = job.steps.iter().position(|step| step.status != StepStatus::Completed);
    match current {
        Some(index) if of > 1 => format!("step {} of {of}: ", index + 1),
        _ => String::new(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
fn tenths(percent: Option<f64>) -> u64 {
    percent.map_or(0, |percent| (percent.clamp(0.0, 100.0) * 10.0) as u64)
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}").expect("a template of ours")
}

fn with_bar() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {bar:24} {wide_msg}")
        .expect("a template of ours")
        .progress_chars("█▌░")
}
