//! `holdfast check store`: does a bucket, or a folder, do what Holdfast needs of it? Its sister, `check engine`, is a client of
//! a running Holdfast: `client/conformance.rs`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use holdfast_core::causes::chain;
use holdfast_store::store::check::{Outcome, Report, Verdict, check_address};
use holdfast_store::{Limits, StoreError, StoreSettings};

use crate::client::{ClientError, EngineArgs, Ui, table};
use crate::config;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Try all that Holdfast needs of an object store, and leave nothing behind.
    Store(StoreArgs),
    /// Try on a running Holdfast what it promises of an engine: write, back up, restore to many instants, compare, clean up.
    #[command(disable_version_flag = true)] // --version is the engine's
    Engine(EngineArgs),
}

#[derive(Args)]
pub(crate) struct StoreArgs {
    /// file:///… or s3://bucket/prefix (with the usual AWS_* variables) [the store_url of the settings].
    #[arg(value_name = "URL")]
    address: Option<String>, // `url` is a flag of clients
    /// The settings file of `serve` that names the store (also HOLDFAST_CONFIG).
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
}

/// Checks and prints; 0 when the store is good, 1 when it is not or does not answer.
pub(crate) async fn run(args: StoreArgs, ui: Ui) -> ExitCode {
    match store(args, ui).await {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Unfit | Verdict::Unknown) => ExitCode::FAILURE,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn store(args: StoreArgs, ui: Ui) -> Result<Verdict, ClientError> {
    let usage = |error: &dyn std::fmt::Display| ClientError::Usage(error.to_string());
    let url = match args.address {
        Some(url) => url,
        None => {
            let settings = config::load(&config::Flags::of_file(args.config));
            settings.map_err(|error| usage(&format!("{error:#}")))?.server.store_url
        }
    };
    ui.note(&format!("checking {url}"));
    let settings = StoreSettings { limits: Limits::impatient(), ..StoreSettings::default() };
    let report = check_address(&url, &settings).await.map_err(|error| match error {
        StoreError::Url { .. } => usage(&error),
        _ => ClientError::Failed { text: chain(&error), hint: error.hint().unwrap_or_default().to_owned() },
    })?;
    ui.data(&if ui.json { json(&url, &report) } else { text(&report) })?;
    let verdict = report.verdict();
    ui.note(match verdict {
        Verdict::Good => "this store does what Holdfast needs",
        Verdict::Unfit => "Holdfast cannot use this store as it is",
        Verdict::Unknown => "the store did not answer as it should; try again later",
    });
    Ok(verdict)
}

fn json(url: &str, report: &Report) -> String {
    let good = report.verdict() == Verdict::Good;
    serde_json::json!({ "url": url, "good": good, "checks": report.checks }).to_string()
}

fn text(report: &Report) -> String {
    let rows = report.checks.iter().map(|finding| {
        vec![finding.check.to_owned(), outcome(finding.outcome).to_owned(), finding.detail.clone()]
    });
    let mut text = table(&["CHECK", "RESULT", "WHAT WAS SEEN"], rows.collect());
    let mut steps =
        report.checks.iter().filter_map(|finding| Some((finding.check, finding.next.as_ref()?))).peekable();
    if steps.peek().is_some() {
        text.push_str("\n\nWhat to do:");
        for (check, next) in steps {
            text.push_str(&format!("\n- {check}: {next}"));
        }
    }
    text
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed => "FAILED",
        Outcome::NotNeeded => "not needed",
        Outcome::Note => "note",
    }
}
