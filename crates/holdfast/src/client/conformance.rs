//! `holdfast check engine`: the conformance suite, carried out on the Holdfast that one uses. It makes services of its own and
//! removes them, however it ends.

use std::time::Instant;

use async_trait::async_trait;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use holdfast_conformance::error::BoxError;
use holdfast_conformance::{Answer, ConformanceError, Control, Made, Method, Plan, Report, Watch, scenario};
use holdfast_core::causes::chain;
use holdfast_core::engine::EngineKind;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::ClientError;
use super::http::Api;
use super::{Context, table};
use crate::config;

fn kinds() -> impl TypedValueParser<Value = EngineKind> {
    let names = PossibleValuesParser::new(holdfast_conformance::engines::kinds().map(EngineKind::as_str));
    names.map(|name| name.parse().expect("a name of a kind"))
}

#[derive(Args)]
pub(crate) struct EngineArgs {
    /// The kind of database.
    #[arg(ignore_case = true, value_parser = kinds())]
    kind: EngineKind,
    /// Version of the engine [the platform's default].
    #[arg(long)]
    version: Option<String>,
    /// Restores to random instants; some special ones come on top.
    #[arg(long, value_name = "N", default_value_t = 10)]
    restores: usize,
    /// Restores that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    at_once: u8,
    /// Repeats the choices of an earlier run [HOLDFAST_SEED, by chance].
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the services there, for a look.
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(ctx: &Context, args: EngineArgs) -> Result<(), ClientError> {
    let seed =
        args.seed.or_else(|| config::variable("HOLDFAST_SEED")?.parse().ok()).unwrap_or_else(rand::random);
    let name = format!("check-{}-{:06x}", args.kind, rand::random::<u32>() & 0xff_ffff);
    let plan = Plan {
        version: args.version.clone(),
        restores: args.restores,
        at_once: args.at_once.into(),
        ..Plan::named(name)
    };
    ctx.ui.note(&format!("checking {}; services are named {}…; --seed {seed}", args.kind, plan.name));
    let (made, mut random) = (Made::default(), StdRng::seed_from_u64(seed));
    let mut asked = Asked::listen()?;
    let told = Told { ctx, began: Instant::now() };
    let done = {
        let suite = Box::pin(scenario::run(&ctx.api, args.kind, &plan, &made, &mut random, &told));
        tokio::select! {
            done = suite => done.map_err(|error| failed(error, seed)),
            () = asked.heard() => Err(interrupted("the check was interrupted", String::new())),
        }
    };
    let report = match (done, remove(ctx, &made, args.keep, &mut asked).await) {
        (done, Ok(())) => done?,
        (Ok(_), Err(left)) => return Err(left),
        (Err(error), Err(left)) => {
            ctx.ui.error(&left);
            return Err(error);
        }
    };
    ctx.ui.data(&if ctx.ui.json { json(&report, seed)? } else { text(&report) })?;
    ctx.ui.note(&format!("{} keeps what Holdfast promises", args.kind));
    Ok(())
}

/// Removes what there is, and gives up only when asked a second time.
async fn remove(ctx: &Context, made: &Made, keep: bool, asked: &mut Asked) -> Result<(), ClientError> {
    let named = || made.services().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if made.is_empty() {
        return Ok(());
    }
    if keep {
        ctx.ui.note(&format!("kept: {}", named()));
        return Ok(());
    }
    ctx.ui.note("removing what was made");
    let hint = || format!("remove what is left with `holdfast services delete`: {}", named());
    tokio::select! {
        removed = made.remove(&ctx.api) => {
            removed.map_err(|error| ClientError::Failed { text: chain(&error), hint: hint() })
        }
        () = asked.heard() => Err(interrupted("not everything was removed", hint())),
    }
}

fn interrupted(text: &str, hint: String) -> ClientError {
    ClientError::Interrupted { text: text.to_owned(), hint }
}

/// Ctrl-C, or a polite kill. Heard from the moment on at which this is made: before it, both end the process on the spot.
struct Asked {
    interrupt: Signal,
    terminate: Signal,
}

impl Asked {
    fn listen() -> Result<Self, ClientError> {
        let heard = |kind| {
            signal(kind).map_err(|error| ClientError::Failed {
                text: format!("cannot listen for signals: {error}"),
                hint: String::new(),
            })
        };
        Ok(Self { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    async fn heard(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[async_trait]
impl Control for Api {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, BoxError> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let method = match method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let (status, text, asked) = self.exchange(method, &segments, body.as_ref()).await?;
        if status == reqwest::StatusCode::UNAUTHORIZED {
            return Err(self.refusal(status, &text, asked).into());
        }
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok(Answer { status: status.as_u16(), body })
    }
}

/// A line for each phase and each finding.
struct Told<'a> {
    ctx: &'a Context,
    began: Instant,
}

impl Watch for Told<'_> {
    fn phase(&self, what: &str) {
        self.ctx.ui.note(&format!("{:>4} s  {what}", self.began.elapsed().as_secs()));
    }

    fn found(&self, what: &str) {
        self.ctx.ui.note(&format!("        {what}"));
    }
}

fn failed(error: ConformanceError, seed: u64) -> ClientError {
    let (text, again) = (chain(&error), format!("--seed {seed} --keep"));
    match error {
        // What this side says of a broken way already tells what to do.
        ConformanceError::Control { source, .. } => match source.downcast::<ClientError>() {
            Ok(error) => *error,
            Err(_) => ClientError::Failed { text, hint: String::new() },
        },
        ConformanceError::NoSuite(_) => ClientError::Usage(text),
        ConformanceError::Refused { status, .. } => ClientError::Refused { status, text, hint: None },
        ConformanceError::Database { .. } => ClientError::Failed {
            text,
            hint: "the check writes as a tenant: run it where the databases can be reached".to_owned(),
        },
        ConformanceError::Broken { .. } => ClientError::Failed {
            text: format!("a promise does not hold: {text}"),
            hint: format!("please report it; the same choices again, leaving the services there: {again}"),
        },
        ConformanceError::Failed { .. } | ConformanceError::TooLate { .. } => ClientError::Failed {
            text,
            hint: format!("see `holdfast jobs list`; for a look at the services: {again}"),
        },
        ConformanceError::Strange { asked, because } => ClientError::Strange { asked, because },
    }
}

fn json(report: &Report, seed: u64) -> Result<String, ClientError> {
    let strange = |error: serde_json::Error| ClientError::Strange {
        asked: "the report".to_owned(),
        because: error.to_string(),
    };
    let mut value = serde_json::to_value(report).map_err(strange)?;
    value["good"] = true.into();
    value["seed"] = seed.into();
    Ok(value.to_string())
}

fn text(report: &Report) -> String {
    let rows = report.restores.iter().map(|restore| {
        let instant = restore.reached.map_or_else(|| table::NOTHING.to_owned(), |at| at.to_string());
        vec![
            restore.what.clone(),
            instant,
            restore.found.to_string(),
            "0".to_owned(),
            "0".to_owned(),
            format!("{:.1} s", restore.seconds),
        ]
    });
    let rows = table::table(&["RESTORED", "INSTANT", "FOUND", "LOST", "EXTRA", "TOOK"], rows.collect());
    let lag = report.archive_lag_seconds.as_ref();
    let facts = table::facts(&[
        (
            "engine",
            Some(format!("{} {}", report.engine, report.engine_version.as_deref().unwrap_or_default())),
        ),
        ("writes", Some(format!("{} acknowledged", report.acknowledged))),
        (
            "backup",
            Some(format!(
                "{:.1} s under load, {}",
                report.backup_seconds,
                table::size(report.backup_bytes.unwrap_or(0))
            )),
        ),
        (
            "window",
            lag.map(|lag| format!("p50 {:.2} s, p99 {:.2} s behind the clock under load", lag.p50, lag.p99)),
        ),
        ("refused", Some(report.refused.join(", "))),
        ("took", Some(format!("{:.0} s", report.seconds))),
    ]);
    format!("{rows}\n\n{facts}")
}
