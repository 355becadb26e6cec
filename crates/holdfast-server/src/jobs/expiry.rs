//! What the agent is told to remove: the backups, log and keys of a stored expiry plan.

use holdfast_api::agent::{ExpiredBackup, RemoveExpired, RepositoryGrant, StepInput};
use holdfast_core::backup::Backup;
use holdfast_core::job::Job;
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::retention::ExpiryPlan;
use holdfast_core::service::Service;
use holdfast_core::{BackupId, KeyId, Timestamp};

use super::grant::{Equipped, newest_manifest};
use super::repository::repository;
use super::steps::service_of;
use super::{StepError, output_of, wrappings};
use crate::ControlPlane;

pub(super) async fn remove_expired(
    cp: &ControlPlane,
    job: &Job,
    service: &Service,
) -> Result<Equipped, StepError> {
    let plan: ExpiryPlan = output_of(job, "select_expired")?;
    if is_nothing(&plan) {
        return Ok(Equipped::Skip);
    }
    let backups = cp.catalog.backups_of(service.id).await?;
    let going: Vec<&Backup> =
        plan.shred.iter().filter_map(|id| backups.iter().find(|b| b.id == *id)).collect();
    // The plan is older than this backup: nothing goes, the next look makes a new plan.
    let kept_parent = |backup: &&Backup| {
        let parent = backup.facts.as_ref().and_then(|facts| facts.parent.as_ref());
        backup.shredded_at.is_none()
            && !plan.shred.contains(&backup.id)
            && parent.is_some_and(|id| plan.shred.contains(id))
    };
    if let Some(child) = backups.iter().find(kept_parent) {
        return Err(StepError::Outdated { job: job.id.to_string(), backup: child.id.to_string() });
    }
    // From here on no new restore is planned from them; one that was planned just before is waited for.
    for backup in &going {
        cp.catalog
            .update_backup(&backup.id, |backup| {
                backup.shredded_at = backup.shredded_at.or(Some(Timestamp::now()))
            })
            .await?;
    }
    let read = super::steps::plans_reading(cp, service).await?;
    if !read.is_some_and(|plans| plans.iter().all(|plan| !plan.chain.iter().any(|id| is_going(&going, id)))) {
        return Err(StepError::Busy { job: job.id.to_string() });
    }
    let mut destroy_keys: Vec<KeyId> = going.iter().map(|backup| backup.key_id).collect();
    destroy_keys.extend(unneeded_epochs(cp, service, &backups, &plan).await?);
    // Destroyed by a job that did not come to removing their copies from the bucket.
    destroy_keys.extend(cp.catalog.unremoved_keys(service.id).await?);
    destroy_keys.sort();
    destroy_keys.dedup();
    let grant = repository(cp, service, |key| !destroy_keys.contains(&key.id)).await?;
    // From here on the catalog cannot give these keys to anybody; the agent removes their copies in the bucket, then the
    // objects.
    wrappings::destroy(cp, &destroy_keys).await?;
    let expired = |backup: &&Backup| ExpiredBackup {
        backup_id: backup.id.clone(),
        tool_label: backup.facts.as_ref().map(|facts| facts.tool_label.clone()),
        manifest_sha256: backup.facts.as_ref().map(|facts| facts.manifest_sha256.clone()),
        previous_manifest_sha256: newest_manifest_before(&backups, backup),
        key_id: backup.key_id,
        reason: if plan.delist.contains(&backup.id) { "expired" } else { "no longer needed" }.to_owned(),
    };
    let input = RemoveExpired {
        engine: service.engine,
        repository: RepositoryGrant { active_epoch: None, ..grant },
        backups: going.iter().map(expired).collect(),
        remove_log_before: plan.remove_log_before.clone(),
        destroy_keys,
        whole_lineage: plan.lineage_done,
    };
    Ok(Equipped::Run(service.id, Box::new(StepInput::RemoveExpired(Box::new(input)))))
}

/// What the agent removed is gone from the bucket too: nothing is looked for again. Jobs of a service run one at a time, so
/// every key that is destroyed by now was among those that this one removed.
pub(super) async fn forget_expired(cp: &ControlPlane, job: &Job, now: Timestamp) -> Result<(), StepError> {
    let plan: ExpiryPlan = output_of(job, "select_expired")?;
    let service = service_of(cp, job).await?;
    for id in &plan.shred {
        cp.catalog
            .update_backup(id, |backup| {
                backup.delisted_at = backup.delisted_at.or(Some(now));
                backup.shredded_at = backup.shredded_at.or(Some(now));
                backup.removed_at = backup.removed_at.or(Some(now));
            })
            .await?;
    }
    for before in &plan.remove_log_before {
        cp.catalog.trim_coverage(service.lineage_id, *before).await?;
    }
    if !is_nothing(&plan) {
        let keys = cp.catalog.unremoved_keys(service.id).await?;
        cp.catalog.keys_removed(&keys, now).await?;
    }
    Ok(())
}

/// Whether the agent has nothing to do.
fn is_nothing(plan: &ExpiryPlan) -> bool {
    plan.shred.is_empty() && plan.remove_log_before.is_empty() && !plan.lineage_done
}

fn is_going(going: &[&Backup], id: &BackupId) -> bool {
    going.iter().any(|backup| backup.id == *id)
}

fn newest_manifest_before(backups: &[Backup], this: &Backup) -> Option<String> {
    let until = this.completed_at?;
    let earlier: Vec<Backup> =
        backups.iter().filter(|other| other.completed_at.is_some_and(|at| at < until)).cloned().collect();
    newest_manifest(&earlier, this)
}

/// Epochs whose log is all gone. The log from the start of the oldest kept base on is sealed with the epoch that was
/// active then: that of the last backup completed before that base. Everything older goes.
async fn unneeded_epochs(
    cp: &ControlPlane,
    service: &Service,
    backups: &[Backup],
    plan: &ExpiryPlan,
) -> Result<Vec<KeyId>, StepError> {
    let mut keys = cp.catalog.keys_of(service.id).await?;
    keys.retain(|key| key.lineage_id == service.lineage_id && key.destroyed_at.is_none());
    let epochs: Vec<&KeyRecord> = keys.iter().filter(|key| key.purpose == KeyPurpose::Epoch).collect();
    if plan.lineage_done {
        return Ok(keys.iter().map(|key| key.id).collect());
    }
    if plan.remove_log_before.is_empty() {
        return Ok(Vec::new());
    }
    let oldest_kept = backups
        .iter()
        .filter(|backup| backup.is_restorable() && !plan.shred.contains(&backup.id))
        .filter(|backup| {
            let log = backup.facts.as_ref().and_then(|facts| facts.log);
            log.is_some_and(|log| {
                let is_before = |cut: &holdfast_core::position::Position| {
                    cut.timeline == log.start.timeline && cut.offset <= log.start.offset
                };
                plan.remove_log_before.iter().any(is_before)
            })
        })
        .map(|backup| backup.created_at)
        .min();
    let Some(oldest_kept) = oldest_kept else { return Ok(Vec::new()) };
    let completed = backups.iter().filter(|backup| backup.facts.is_some()).map(|backup| backup.created_at);
    let made: Vec<(KeyId, Timestamp)> = epochs.iter().map(|key| (key.id, key.created_at)).collect();
    Ok(epochs_before(&made, completed, oldest_kept))
}

/// Of these epochs (with when their keys were made), those that ended before the epoch in which the backup made at
/// `oldest_kept` began. An epoch begins when its backup completes; that of a failed backup never began.
fn epochs_before(
    made: &[(KeyId, Timestamp)],
    completed: impl Iterator<Item = Timestamp>,
    oldest_kept: Timestamp,
) -> Vec<KeyId> {
    let Some(active_since) = completed.filter(|at| *at < oldest_kept).max() else { return Vec::new() };
    made.iter().filter(|(_, at)| *at < active_since).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + hour * 3600).expect("in range")
    }

    /// Backups at hours 10, 20 and 30, each with an epoch of its own made a moment later, and a first epoch at hour 0.
    fn epochs() -> [(KeyId, Timestamp); 4] {
        [hour(0), hour(10), hour(20), hour(30)].map(|at| (KeyId::random(), at))
    }

    #[test]
    fn the_epoch_in_which_the_oldest_kept_base_began_stays() {
        let made = epochs();
        let completed = [hour(10), hour(20), hour(30)];
        let gone = epochs_before(&made, completed.into_iter(), hour(30));
        assert_eq!(gone, [made[0].0, made[1].0], "the log from hour 20 on is sealed with the third");
        assert!(
            epochs_before(&made, completed.into_iter(), hour(10)).is_empty(),
            "the first base needs the first epoch"
        );
    }

    #[test]
    fn the_epoch_of_a_failed_backup_covers_nothing() {
        let made = epochs();
        // The backup at hour 20 failed: until hour 30 the log was sealed with the epoch of hour 10.
        let completed = [hour(10), hour(30)];
        assert_eq!(epochs_before(&made, completed.into_iter(), hour(30)), [made[0].0]);
    }
}
