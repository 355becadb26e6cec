//! `holdfast rebuild`: a catalog, made anew from the bucket and the recovery kit.

use std::path::PathBuf;

use clap::Args;
use holdfast_core::Timestamp;
use holdfast_core::retention::Policy;
use holdfast_server::rebuild::{RebuildError, check_folder, rebuild};
use holdfast_store::survey::Survey;

use super::{BucketArgs, failed, look, view};
use crate::client::error::ClientError;
use crate::client::table::Ui;

#[derive(Args)]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// The new data folder, for `holdfast serve`. It must be empty or not there.
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    data: Option<PathBuf>,
    /// Only say what would come back and what is damaged or missing; exit code 1 when anything is.
    #[arg(long)]
    check: bool,
    /// Go on although nothing opens of some services: they will be missing.
    #[arg(long)]
    partial: bool,
}

/// # Errors
/// `Failed`, with what to do next; the bucket is never written.
pub(super) async fn run(args: RebuildArgs, ui: Ui) -> Result<(), ClientError> {
    let data = args
        .data
        .map(std::path::absolute)
        .transpose()
        .map_err(|source| ClientError::Io { doing: "find the data folder".to_owned(), source })?;
    if let Some(data) = &data {
        check_folder(data).map_err(|error| refused(&error))?;
    }
    let (kit, survey) = look(&args.bucket, ui).await?;
    let now = Timestamp::now();
    ui.data(&if ui.json { view::object(&survey, now).to_string() } else { view::tables(&survey, now) })?;
    let problems = view::problems(&survey);
    for problem in &problems {
        ui.note(&format!("damaged or missing: {problem}"));
    }
    match data.filter(|_| !args.check) {
        Some(_) if !survey.unreadable.is_empty() && !args.partial => Err(ClientError::Failed {
            text: format!("nothing opens of {} services, and they would be missing", survey.unreadable.len()),
            hint: "mend the bucket if you can (another copy, another recovery kit); with --partial the others come back"
                .to_owned(),
        }),
        Some(data) => {
            rebuild(&data, &kit, &survey).await.map_err(|error| refused(&error))?;
            ui.note(&format!("the catalog of {} services is in {}", survey.services.len(), data.display()));
            say_what_is_next(&data, &args.bucket.store, &survey, ui);
            Ok(())
        }
        None if problems.is_empty() => {
            ui.note("nothing is damaged or missing");
            Ok(())
        }
        None => Err(ClientError::Failed {
            text: format!("{} things are damaged or missing in the bucket", problems.len()),
            hint: "a rebuild brings back what is whole, and shows damaged backups as failed".to_owned(),
        }),
    }
}

fn refused(error: &RebuildError) -> ClientError {
    failed(
        error,
        match error {
            RebuildError::NotEmpty(_) => "give an empty folder; a catalog that is there is never overwritten",
            RebuildError::Locked(_) => "end the other holdfast, or give another folder",
            _ => "repeat the command once that is mended; a rebuild begins anew",
        },
    )
}

fn say_what_is_next(data: &std::path::Path, store: &str, survey: &Survey, ui: Ui) {
    let described: Vec<Policy> =
        survey.services.iter().filter_map(|found| Some(found.description.as_ref()?.policy)).collect();
    let longest = Policy {
        automated_days: described.iter().map(|policy| policy.automated_days).max().unwrap_or(7),
        pitr_days: described.iter().map(|policy| policy.pitr_days).max().unwrap_or(7),
    };
    let mut settings = String::new();
    if longest != Policy::default() {
        let Policy { automated_days, pitr_days } = longest;
        settings = format!("HOLDFAST_AUTOMATED_DAYS={automated_days} HOLDFAST_PITR_DAYS={pitr_days} ");
        ui.note(
            "the retention of before is not Holdfast's default: keep these settings, or older backups expire at once",
        );
    }
    ui.note("make sure that the lost control plane is gone for good: two must never work on one bucket");
    ui.note(&format!("then: {settings}holdfast serve --data {} --store-url {store}", data.display()));
    ui.note("services come back as stopped, without their instances: restore each into a new one (holdfast restore)");
}
