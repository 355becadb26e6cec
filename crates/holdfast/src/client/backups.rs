//! `holdfast backups`: what can be restored without asking for an instant.

use std::collections::BTreeSet;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use holdfast_api::backup::{Backup, BackupList, BackupStatus, BackupType, TriggerBackup, TriggeredBackup};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use uuid::Uuid;

use super::error::ClientError;
use super::progress::{self, WaitFlags};
use super::{Context, table};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// A service's backups, newest first. A deleted service is named by its id.
    #[command(alias = "ls")]
    List {
        /// Name or id of the service.
        service: String,
    },
    /// Everything about one backup.
    Get {
        /// Name or id of the service.
        service: String,
        /// Id of the backup, or `latest`.
        backup: String,
    },
    /// Take a backup now.
    Create(CreateArgs),
    /// Delete a manual backup for good.
    #[command(alias = "rm")]
    Delete {
        /// Name or id of the service.
        service: String,
        /// Id of the backup.
        backup: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Name or id of the service.
    service: String,
    /// full, or incremental where the engine's tool can.
    #[arg(long = "type", value_parser = ["full", "incremental"], default_value = "full")]
    kind: String,
    /// How it is made, where the engine has more than one way [the engine's usual one].
    #[arg(long, value_parser = methods(), hide_possible_values = true)]
    method: Option<String>,
    /// A few words to find it again.
    #[arg(long)]
    label: Option<String>,
    /// Days to keep it, 1 to 365 [until deleted].
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    #[command(flatten)]
    wait: WaitFlags,
}

/// The methods of all engines, for completion.
fn methods() -> PossibleValuesParser {
    let all: BTreeSet<_> = EngineKind::ALL.iter().flat_map(|kind| kind.capability().backup_methods).collect();
    PossibleValuesParser::new(all)
}

pub(super) async fn run(ctx: &Context, command: Command) -> Result<(), ClientError> {
    match command {
        Command::List { service } => list(ctx, &service).await,
        Command::Get { service, backup } => {
            let id = ctx.api.resolve(&service).await?.id;
            let backup = latest_or(ctx, id, backup).await?;
            show(ctx, id, &backup).await
        }
        Command::Create(args) => create(ctx, args).await,
        Command::Delete { service, backup, yes } => delete(ctx, &service, &backup, yes).await,
    }
}

async fn list(ctx: &Context, service: &str) -> Result<(), ClientError> {
    let named = ctx.api.resolve(service).await?;
    let answer = ctx.api.get(&["managed-services", &named.id.to_string(), "backups"]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let backups = answer.read::<BackupList>()?.backups;
    if backups.is_empty() {
        ctx.ui.note(&format!("{} has no backups; take one with `holdfast backups create {0}`", named.name));
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = backups.iter().map(|backup| {
        vec![
            backup.id.clone(),
            kind(backup),
            status(backup),
            backup.size_bytes.map_or_else(|| table::NOTHING.to_owned(), table::size),
            table::ago(backup.created_at, now),
            expiry(backup, now),
            backup.label.clone().unwrap_or_default(),
        ]
    });
    let header = ["ID", "TYPE", "STATUS", "SIZE", "CREATED", "EXPIRES", "LABEL"];
    ctx.ui.data(&table::table(&header, rows.collect()))
}

fn kind(backup: &Backup) -> String {
    let mode = if backup.incremental { "incremental" } else { "full" };
    format!("{}, {mode}", table::word(&backup.backup_type))
}

fn status(backup: &Backup) -> String {
    let word = table::word(&backup.status);
    match &backup.progress {
        Some(progress) => format!("{word}: {}", table::progress(progress)),
        None => word,
    }
}

fn expiry(backup: &Backup, now: Timestamp) -> String {
    match (backup.expires_at, backup.retention_days) {
        (Some(at), _) => table::ago(at, now),
        (None, Some(days)) => format!("after {days} days"),
        // Its time runs from its completion.
        (None, None) if backup.backup_type == BackupType::Automated => table::NOTHING.to_owned(),
        (None, None) => "never".to_owned(),
    }
}

async fn show(ctx: &Context, service: Uuid, backup: &str) -> Result<(), ClientError> {
    let path = ["managed-services", &service.to_string(), "backups", backup];
    let answer = ctx.api.get(&path).await?;
    match ctx.ui.json {
        true => ctx.ui.data(&answer.text),
        false => ctx.ui.data(&described(&answer.read()?, Timestamp::now())),
    }
}

fn described(backup: &Backup, now: Timestamp) -> String {
    let time = |at| table::moment(at, now);
    table::facts(&[
        ("id", Some(backup.id.clone())),
        ("service", Some(backup.service_id.to_string())),
        ("type", Some(kind(backup))),
        ("status", Some(status(backup))),
        ("why", backup.error_message.clone()),
        ("size", backup.size_bytes.map(|bytes| format!("{} ({bytes} bytes)", table::size(bytes)))),
        ("label", backup.label.clone()),
        ("method", Some(backup.backup_method.clone())),
        ("no dump because of", backup.backup_method_reason.clone()),
        ("sealed with", Some(format!("{}, key {}", backup.encryption_algorithm, backup.encryption_key_id))),
        ("created", Some(time(backup.created_at))),
        ("completed", backup.completed_at.map(time)),
        ("expires", Some(backup.expires_at.map_or_else(|| expiry(backup, now), time))),
    ])
}

async fn create(ctx: &Context, args: CreateArgs) -> Result<(), ClientError> {
    let named = ctx.api.resolve(&args.service).await?;
    let body = TriggerBackup {
        backup_type: Some(args.kind),
        label: args.label,
        retention_days: args.retention_days,
        backup_method: args.method,
    };
    let answer = ctx.api.post(&["managed-services", &named.id.to_string(), "backups"], &body).await?;
    let triggered: TriggeredBackup = answer.read()?;
    if !args.wait.wait {
        if ctx.ui.json {
            return ctx.ui.data(&answer.text);
        }
        ctx.ui.data(&triggered.backup_id)?;
        ctx.ui.note(&format!("queued; look again: holdfast jobs get {} --wait", triggered.task_id));
        return Ok(());
    }
    let next = format!("see the backups: holdfast backups list {}", named.name);
    progress::wait(ctx, &format!("backup of {}", named.name), &[triggered.task_id], args.wait, &next).await?;
    show(ctx, named.id, &triggered.backup_id).await
}

async fn delete(ctx: &Context, service: &str, backup: &str, yes: bool) -> Result<(), ClientError> {
    let named = ctx.api.resolve(service).await?;
    ctx.ui.confirm(&format!("Delete backup {backup} of {} for good?", named.name), yes)?;
    ctx.api.delete(&["managed-services", &named.id.to_string(), "backups", backup]).await?;
    ctx.ui.note(&format!("backup {backup} is deleted"));
    Ok(())
}

/// The id itself; for `latest` that of the service's newest completed backup.
pub(super) async fn latest_or(ctx: &Context, service: Uuid, backup: String) -> Result<String, ClientError> {
    if backup != "latest" {
        return Ok(backup);
    }
    let answer = ctx.api.get(&["managed-services", &service.to_string(), "backups"]).await?;
    let backups = answer.read::<BackupList>()?.backups;
    let completed = backups.into_iter().find(|backup| backup.status == BackupStatus::Completed);
    completed.map(|backup| backup.id).ok_or_else(|| ClientError::NotFound {
        text: "no backup of the service is completed".to_owned(),
        hint: Some("take one with `holdfast backups create --wait`".to_owned()),
    })
}
