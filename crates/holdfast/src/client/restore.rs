//! `holdfast restore`: an instant or a backup, into a new service.

use clap::Args;
use holdfast_api::restore::{RestoreFromBackup, RestoreToPoint, StartedRestore};
use jiff::Timestamp;

use super::error::ClientError;
use super::progress::WaitFlags;
use super::time::parse_time;
use super::{Context, backups, services, table};

#[derive(Args)]
#[group(id = "what", required = true, multiple = false, args = ["at", "backup"])]
pub(crate) struct RestoreArgs {
    /// Name or id of the service to restore from; a deleted one is named by its id.
    service: String,
    /// Name of the new service.
    #[arg(long, value_name = "NEWNAME")]
    to: String,
    /// The instant: "10 minutes ago", "yesterday 14:30", 2026-03-15T14:30:00Z, now. Without an offset it is UTC.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Id of a backup, or `latest`: the service as it was when that was taken.
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Size tier [the source's].
    #[arg(long, value_name = "TIER")]
    plan: Option<String>,
    /// Where it runs [the source's].
    #[arg(long)]
    zone: Option<String>,
    #[command(flatten)]
    wait: WaitFlags,
}

pub(super) async fn run(ctx: &Context, args: RestoreArgs) -> Result<(), ClientError> {
    let now = Timestamp::now();
    let asked = args.at.as_deref().map(|text| parse_time(text, now)).transpose();
    let asked = asked.map_err(|error| ClientError::Usage(error.to_string()))?;
    let source = ctx.api.resolve(&args.service).await?;
    let id = source.id.to_string();
    let answer = match (asked, args.backup) {
        (Some(asked), _) => {
            let assumed = if asked.assumed_utc { ", taken as UTC" } else { "" };
            let (point, ago) = (table::utc(asked.at), table::ago(asked.at, now));
            ctx.ui
                .note(&format!("restoring {} as of {point} ({ago}{assumed}) into {}", source.name, args.to));
            let body = RestoreToPoint {
                restore_point: Some(asked.at.to_string()),
                target_service_name: Some(args.to),
                plan_name: args.plan,
                zone: args.zone,
            };
            let answer = ctx.api.post(&["managed-services", &id, "backups", "restore"], &body).await;
            answer.map_err(|error| with_window(error, &source.name))?
        }
        (None, backup) => {
            let backup = backups::latest_or(ctx, source.id, backup.unwrap_or_default()).await?;
            ctx.ui.note(&format!("restoring backup {backup} of {} into {}", source.name, args.to));
            let body = RestoreFromBackup {
                target_service_name: Some(args.to),
                plan_name: args.plan,
                zone: args.zone,
            };
            ctx.api.post(&["managed-services", &id, "backups", &backup, "restore"], &body).await?
        }
    };
    let started: StartedRestore = answer.read()?;
    let name = &started.service.name;
    if args.wait.wait {
        let next = format!(
            "what can be restored: holdfast window {}; remove what is left: holdfast services delete {name}",
            source.name
        );
        let what = format!("restore {name}");
        return services::arrive(ctx, &what, started.service_id, &[started.task_id], args.wait, &next).await;
    }
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    ctx.ui.data(&format!("{}  {name}", started.service_id))?;
    ctx.ui.note(&format!("started; look again: holdfast jobs get {} --wait", started.task_id));
    Ok(())
}

/// An instant that is refused is mostly one outside the window.
fn with_window(error: ClientError, service: &str) -> ClientError {
    match error {
        ClientError::Refused { status: 400, text, hint: None } => ClientError::Refused {
            status: 400,
            text,
            hint: Some(format!("what can be restored: holdfast window {service}")),
        },
        other => other,
    }
}
