//! Commands for the day when Holdfast itself is lost: all that they need is a bucket and the recovery kit.

mod open;
mod rebuild;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use holdfast_core::causes::chain;
use holdfast_store::Store;
use holdfast_store::survey::{Survey, SurveyProgress, is_other_kit, knock, survey};

use crate::client::error::ClientError;
use crate::client::table::Ui;

pub(crate) use open::{OpenArgs, OpenedCommand};
pub(crate) use rebuild::RebuildArgs;

/// How often a long listing says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Where the backups are, and what opens them.
#[derive(Args)]
pub(crate) struct BucketArgs {
    /// The object store: file:///path or s3://bucket/prefix (with the usual AWS_* variables).
    #[arg(long, value_name = "URL")]
    store: String,
    /// The recovery kit that was saved when Holdfast was first started.
    #[arg(long, value_name = "FILE")]
    recovery_kit: PathBuf,
}

pub(crate) async fn rebuild(args: RebuildArgs, ui: Ui) -> ExitCode {
    ended(Box::pin(rebuild::run(args, ui)).await, ui)
}

pub(crate) async fn open(args: OpenArgs, ui: Ui) -> ExitCode {
    ended(Box::pin(open::run(args, ui)).await, ui)
}

pub(crate) async fn opened(command: OpenedCommand, ui: Ui) -> ExitCode {
    ended(Box::pin(open::switch(command)).await, ui)
}

fn ended(done: Result<(), ClientError>, ui: Ui) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// A text with all its causes, and what to do next.
fn failed(error: &dyn std::error::Error, hint: &str) -> ClientError {
    ClientError::Failed { text: chain(error), hint: hint.to_owned() }
}

/// Opens a bucket that is there: a mistyped folder is not made, and an address where nobody answers is told at once.
async fn open_store(url: &str) -> Result<Store, ClientError> {
    if let Some(folder) = url.strip_prefix("file://")
        && !Path::new(folder).join("v1").is_dir()
    {
        let text = format!("{url} is no object store of Holdfast's: there is no folder v1 in it");
        let hint = "the store's address stands in the recovery kit; for a folder it is file:// and its absolute path";
        return Err(ClientError::Failed { text, hint: hint.to_owned() });
    }
    let store =
        Store::open(url).map_err(|error| failed(&error, "give file:///path or s3://bucket/prefix"))?;
    knock(&store).await.map_err(|error| bucket_failed(&error))?;
    Ok(store)
}

fn read_kit(args: &BucketArgs) -> Result<holdfast_seal::RecoveryPrivate, ClientError> {
    holdfast_server::rebuild::read_kit(&args.recovery_kit).map_err(|error| {
        failed(&error, "give the file that was made as recovery-kit.txt at the first start, or its HFPRIV1-… line in a file")
    })
}

/// Looks through the bucket, saying every few seconds how far that is.
async fn look(args: &BucketArgs, ui: Ui) -> Result<(holdfast_seal::RecoveryPrivate, Survey), ClientError> {
    let kit = read_kit(args)?;
    let store = open_store(&args.store).await?;
    let progress = SurveyProgress::default();
    let looking = survey(&store, &kit, &progress);
    let found = telling(looking, ui, || {
        let (objects, services, done) = progress.get();
        format!("looking through the bucket: {objects} objects, {done} of {services} services")
    });
    let found = found.await.map_err(|error| bucket_failed(&error))?;
    Ok((kit, found))
}

fn bucket_failed(error: &holdfast_store::StoreError) -> ClientError {
    let hint = match is_other_kit(error) {
        true => {
            "this bucket was written with another recovery kit: find the one of the Holdfast that wrote it"
        }
        false => "check the address and, for S3, the AWS_* variables; then repeat the command",
    };
    failed(error, hint)
}

/// Waits for the work, and says how far it is while it takes long.
async fn telling<T>(work: impl Future<Output = T>, ui: Ui, say: impl Fn() -> String) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(SAY_EVERY) => ui.note(&say()),
        }
    }
}
