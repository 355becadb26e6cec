//! What a survey found, for people and for programs.

use holdfast_core::Timestamp;
use holdfast_core::backup::Backup;
use holdfast_core::retention::Policy;
use holdfast_core::window::{History, RecoveryWindow, recovery_window};
use holdfast_store::survey::{FoundService, Survey};
use serde_json::{Value, json};

use crate::client::table::{NOTHING, table, utc, word};

/// A window without an end at its old side: what the bucket holds can be restored, whatever a policy shows.
pub(super) const EVERYTHING: Policy = Policy { automated_days: u32::MAX, pitr_days: u32::MAX };

/// What is known of a service's backups and log.
pub(super) fn history(found: &FoundService) -> History<'_> {
    History { backups: &found.backups, coverage: &found.coverage, gaps: &found.gaps, live_until: None }
}

pub(super) fn window(found: &FoundService, now: Timestamp) -> RecoveryWindow {
    recovery_window(&history(found), &EVERYTHING, now)
}

fn listed(found: &FoundService) -> impl Iterator<Item = &Backup> {
    found.backups.iter().filter(|backup| backup.is_listed())
}

fn was(found: &FoundService) -> String {
    found.description.as_ref().map_or_else(|| NOTHING.to_owned(), |known| word(&known.service.status))
}

/// Services, then their backups.
pub(super) fn tables(survey: &Survey, now: Timestamp) -> String {
    let services = survey.services.iter().map(|found| {
        let window = window(found, now);
        let instant = |at: Option<Timestamp>| at.map_or_else(|| NOTHING.to_owned(), utc);
        vec![
            found.name(),
            found.scope.service.to_string(),
            was(found),
            listed(found).count().to_string(),
            instant(window.earliest()),
            instant(window.latest()),
            window.reaches.len().saturating_sub(1).to_string(),
        ]
    });
    let services =
        table(&["SERVICE", "ID", "WAS", "BACKUPS", "RESTORABLE FROM", "UNTIL", "HOLES"], services.collect());
    let backups = survey.services.iter().flat_map(|found| {
        listed(found).map(move |backup| {
            vec![
                found.name(),
                backup.id.to_string(),
                word(&backup.backup_type),
                word(&backup.mode),
                word(&backup.status),
                utc(backup.created_at),
                backup.label.clone().unwrap_or_else(|| NOTHING.to_owned()),
            ]
        })
    });
    let backups =
        table(&["SERVICE", "BACKUP", "TYPE", "MODE", "STATUS", "CREATED", "LABEL"], backups.collect());
    format!("{services}\n\n{backups}")
}

/// The same, with everything.
pub(super) fn object(survey: &Survey, now: Timestamp) -> Value {
    let services: Vec<Value> = survey.services.iter().map(|found| service(found, now)).collect();
    let unreadable: Vec<Value> = survey
        .unreadable
        .iter()
        .map(|(scope, why)| json!({"id": scope.service, "organization": scope.organization, "problem": why}))
        .collect();
    json!({"services": services, "unreadable": unreadable})
}

fn service(found: &FoundService, now: Timestamp) -> Value {
    let backups: Vec<Value> = listed(found)
        .map(|backup| {
            json!({
                "id": backup.id, "type": backup.backup_type, "mode": backup.mode, "status": backup.status,
                "label": backup.label, "created_at": backup.created_at, "completed_at": backup.completed_at,
                "consistent_at": backup.facts.as_ref().map(|facts| facts.consistent_at), "error": backup.error,
            })
        })
        .collect();
    json!({
        "id": found.scope.service, "name": found.name(), "organization": found.scope.organization,
        "engine": found.engine().as_str(), "status": found.description.as_ref().map(|known| known.service.status),
        "window": window(found, now).reaches, "gaps": found.gaps, "backups": backups, "problems": found.problems,
    })
}

/// Everything that is wrong, with whose it is.
pub(super) fn problems(survey: &Survey) -> Vec<String> {
    let of_services = survey
        .services
        .iter()
        .flat_map(|found| found.problems.iter().map(move |problem| format!("{found}: {problem}")));
    let unreadable =
        survey.unreadable.iter().map(|(scope, why)| format!("{}: nothing of it opens: {why}", scope.service));
    of_services.chain(unreadable).collect()
}
