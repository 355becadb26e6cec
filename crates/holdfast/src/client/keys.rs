//! `holdfast keys`: the key-encryption keys, and their rotation.

use clap::Subcommand;
use holdfast_api::job::Job;
use holdfast_api::keys::{Kek, KekStatus, Keys, StartedRotation};
use jiff::Timestamp;

use super::error::ClientError;
use super::progress::{self, WaitFlags};
use super::{Context, table};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Which key-encryption key is current, what each still wraps, and when the next rotation is due.
    #[command(alias = "list", alias = "ls")]
    Status,
    /// Make a new key-encryption key, wrap everything by it and remove the old one. Touches no data.
    Rotate {
        #[command(flatten)]
        wait: WaitFlags,
    },
}

pub(super) async fn run(ctx: &Context, command: Command) -> Result<(), ClientError> {
    match command {
        Command::Status => status(ctx).await,
        Command::Rotate { wait } => rotate(ctx, wait).await,
    }
}

async fn status(ctx: &Context) -> Result<(), ClientError> {
    let answer = ctx.api.get(&["keys"]).await?;
    match ctx.ui.json {
        true => ctx.ui.data(&answer.text),
        false => ctx.ui.data(&described(&answer.read()?, Timestamp::now())),
    }
}

fn described(keys: &Keys, now: Timestamp) -> String {
    let time = |at| table::moment(at, now);
    let facts = table::facts(&[
        ("current version", Some(keys.current_version.to_string())),
        ("made", keys.created_at.map(time)),
        ("next rotation", Some(keys.next_rotation_at.map_or_else(|| "only on command".to_owned(), time))),
        ("last rotation", keys.rotation.as_ref().map(|job| rotation(job, now))),
        ("why", keys.rotation.as_ref().and_then(|job| job.error_message.clone())),
    ]);
    let rows = keys.versions.iter().map(|kek| row(kek, now)).collect();
    let header = ["VERSION", "STATUS", "WRAPS KEYS", "WRAPS PASSWORDS", "MADE", "RETIRED"];
    format!("{facts}\n\n{}", table::table(&header, rows))
}

fn rotation(job: &Job, now: Timestamp) -> String {
    let how = match &job.progress {
        Some(progress) => format!("{}: {}", table::word(&job.status), table::progress(progress)),
        None => table::word(&job.status),
    };
    let at = job.finished_at.unwrap_or(job.created_at);
    format!("{how}, {}, job {}", table::ago(at, now), job.id)
}

fn row(kek: &Kek, now: Timestamp) -> Vec<String> {
    let time = |at: Option<Timestamp>| at.map_or_else(|| table::NOTHING.to_owned(), |at| table::ago(at, now));
    let status = match kek.status {
        KekStatus::Missing => format!("missing: bring keys/kek-{} back", kek.version),
        other => table::word(&other),
    };
    vec![
        kek.version.to_string(),
        status,
        kek.wrapped_keys.to_string(),
        kek.wrapped_passwords.to_string(),
        time(kek.created_at),
        time(kek.retired_at),
    ]
}

async fn rotate(ctx: &Context, wait: WaitFlags) -> Result<(), ClientError> {
    let answer = ctx.api.post(&["keys", "rotate"], &serde_json::json!({})).await?;
    let started: StartedRotation = answer.read()?;
    if wait.wait {
        let next = "nothing is lost: what could not be rewrapped opens as before; see: holdfast keys status";
        progress::wait(ctx, "rotation of the keys", &[started.job_id], wait, next).await?;
        return status(ctx).await;
    }
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    ctx.ui.data(&started.job_id.to_string())?;
    ctx.ui.note(&format!("queued; look again: holdfast jobs get {} --wait", started.job_id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_missing_and_when_the_next_rotation_is() {
        let at = |seconds: i64| Timestamp::from_second(1_790_000_000 + seconds).expect("in range");
        let kek = |version, status, wrapped_keys| Kek {
            version,
            status,
            created_at: Some(at(0)),
            retired_at: None,
            wrapped_keys,
            wrapped_passwords: 0,
        };
        let mut keys = Keys {
            current_version: 2,
            created_at: Some(at(0)),
            rotate_after_days: Some(90),
            next_rotation_at: Some(at(90 * 86_400)),
            rotation: None,
            versions: vec![kek(2, KekStatus::Current, 7), kek(1, KekStatus::Missing, 3)],
        };
        let text = described(&keys, at(60));
        assert!(text.contains("missing: bring keys/kek-1 back") && text.contains("current"), "{text}");
        assert!(text.contains("next rotation") && !text.contains("only on command"), "{text}");
        keys.next_rotation_at = None;
        assert!(described(&keys, at(60)).contains("only on command"));
    }
}
