//! From the domain to the wire, by hand: what stands here is a promise to clients.

use holdfast_api::{backup, job, keys, metrics, platform, restore, service, user};
use holdfast_catalog::{Credential, Organization};
use holdfast_core::OrganizationId;
use holdfast_core::backup::{BackupMode, BackupStatus, BackupType};
use holdfast_core::disk::Level;
use holdfast_core::job::{Job, JobKind, JobState, Progress};
use holdfast_core::service::{RestoredFrom, ServiceStatus};
use holdfast_core::size::ServicePlan;
use jiff::SignedDuration;

use crate::app::backups::{BackupView, Triggered};
use crate::app::jobs::JobView;
use crate::app::keys::{KekView, KeysView};
use crate::app::metrics::{MetricsView, percent};
use crate::app::pitr::PitrView;
use crate::app::platform::OfferedVersion;
use crate::app::restore::Started;
use crate::app::services::ServiceView;
use crate::app::users::Revealed;
use crate::jobs::agents::PHASES;

/// The cipher of every backup's sealed objects.
const ALGORITHM: &str = "AES-256-GCM";

pub(crate) fn progress(progress: Progress) -> job::Progress {
    job::Progress {
        phase: progress.phase,
        percent: progress.percent,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        eta_seconds: progress.eta_seconds,
    }
}

pub(crate) fn service(view: ServiceView) -> service::Service {
    let ServiceView { service, progress: how_far } = view;
    let attributes = service.attributes;
    let dns_records = match (&service.host, service.port) {
        (Some(host), Some(port)) => vec![service::DnsRecord {
            full_domain: host.clone(),
            record_type: if host.contains(':') { "AAAA" } else { "A" }.to_owned(),
            value: host.clone(),
            port,
        }],
        _ => Vec::new(),
    };
    let lifetime = attributes.ttl_hours.map(|hours| SignedDuration::from_hours(i64::from(hours)));
    service::Service {
        id: service.id.0,
        uuid: service.id.0,
        organization_id: service.organization_id.0,
        name: service.name,
        database_type: service.engine.to_string(),
        version: service.version,
        engine_version: service.engine_version,
        status: service_status(service.status),
        status_message: service.status_message,
        plan_name: service.plan_name,
        zone: service.zone,
        storage_size_gb: attributes.storage_size_gb,
        storage_tier: attributes.storage_tier,
        node_count: attributes.node_count,
        auto_failover_enabled: attributes.auto_failover_enabled,
        replication_mode: attributes.replication_mode,
        encryption_enabled: attributes.encryption_enabled,
        allowed_cidrs: service.allowed_cidrs,
        maintenance_window: attributes.maintenance_window,
        labels: attributes.labels,
        preset: attributes.preset,
        is_ephemeral: attributes.is_ephemeral,
        ttl_hours: attributes.ttl_hours,
        scheduled_deletion_at: lifetime.and_then(|lifetime| service.created_at.checked_add(lifetime).ok()),
        agent_framework: attributes.agent_framework,
        agent_purpose: attributes.agent_purpose,
        created_by_agent_id: attributes.created_by_agent_id,
        host: service.host,
        port: service.port,
        dns_records,
        restored_from: service.restored_from.map(restored_from),
        progress: how_far.map(progress),
        created_at: service.created_at,
        updated_at: service.updated_at,
    }
}

fn service_status(status: ServiceStatus) -> service::ServiceStatus {
    match status {
        ServiceStatus::Pending => service::ServiceStatus::Pending,
        ServiceStatus::Provisioning => service::ServiceStatus::Provisioning,
        ServiceStatus::Running => service::ServiceStatus::Running,
        ServiceStatus::Failed => service::ServiceStatus::Failed,
        ServiceStatus::Stopped => service::ServiceStatus::Stopped,
        ServiceStatus::Error => service::ServiceStatus::Error,
        ServiceStatus::Deleting | ServiceStatus::Deleted => service::ServiceStatus::Deleting,
    }
}

fn restored_from(from: RestoredFrom) -> service::RestoredFrom {
    service::RestoredFrom {
        service_id: from.service_id.0,
        backup_id: from.backup_id.map(|id| id.to_string()),
        restore_point: from.restore_point,
    }
}

pub(crate) fn backup(view: BackupView) -> backup::Backup {
    let BackupView { backup, engine, expires_at, progress: how_far } = view;
    let size_bytes = backup.facts.as_ref().map(|facts| facts.stored_bytes);
    let instead = backup.facts.and_then(|facts| facts.instead);
    let asked = backup.method.unwrap_or_else(|| engine.capability().usual_method().to_owned());
    backup::Backup {
        id: backup.id.to_string(),
        service_id: backup.service_id.0,
        backup_type: match backup.backup_type {
            BackupType::Automated => backup::BackupType::Automated,
            BackupType::Manual => backup::BackupType::Manual,
        },
        status: match backup.status {
            BackupStatus::Pending => backup::BackupStatus::Pending,
            BackupStatus::Running => backup::BackupStatus::Running,
            BackupStatus::Completed => backup::BackupStatus::Completed,
            BackupStatus::Failed => backup::BackupStatus::Failed,
        },
        size_bytes,
        backup_size_bytes: size_bytes,
        size_label: size_bytes.map(size_label),
        label: backup.label,
        encryption_enabled: true,
        encryption_algorithm: ALGORITHM.to_owned(),
        encryption_key_id: backup.key_id.to_string(),
        backup_method: instead.as_ref().map_or(asked, |instead| instead.method.clone()),
        backup_method_reason: instead.map(|instead| instead.reason),
        incremental: backup.mode == BackupMode::Incremental,
        retention_days: backup.retention_days,
        expires_at,
        s3_path_prefix: format!("{engine}/{}", backup.service_id),
        error_message: backup.error,
        progress: how_far.map(progress),
        created_at: backup.created_at,
        started_at: backup.started_at,
        completed_at: backup.completed_at,
    }
}

pub(crate) fn triggered(triggered: Triggered) -> backup::TriggeredBackup {
    let backup = backup(triggered.view);
    backup::TriggeredBackup {
        backup_id: backup.id.clone(),
        task_id: triggered.job.0,
        message: "the backup is queued".to_owned(),
        backup,
    }
}

pub(crate) fn started(started: Started) -> restore::StartedRestore {
    let service = service(started.view);
    restore::StartedRestore {
        service_id: service.id,
        restored_service_id: service.id,
        source_service_id: started.source.0,
        backup_id: started.backup_id.map(|id| id.to_string()),
        restore_point: started.restore_point,
        task_id: started.job.0,
        message: format!("restoring into the new service {}", service.name),
        service,
    }
}

pub(crate) fn pitr(view: PitrView) -> restore::Pitr {
    restore::Pitr {
        enabled: view.enabled,
        archiving_active: view.archiving_active,
        earliest_restore_point: view.window.earliest(),
        latest_restore_point: view.window.latest(),
        archive_lag_seconds: view.lag_seconds,
        archive_lag_bytes: view.lag_bytes,
        last_error: view.last_error,
        windows: (view.window.reaches.iter())
            .map(|reach| restore::PitrWindow { earliest: reach.earliest, latest: reach.latest })
            .collect(),
        gaps: (view.gaps.into_iter())
            .map(|gap| restore::PitrGap {
                from: gap.from_time,
                to: gap.to_time,
                cause: gap.cause,
                acknowledged: gap.acknowledged,
            })
            .collect(),
    }
}

pub(crate) fn metrics(view: MetricsView) -> metrics::Metrics {
    let instance = view.instance.as_ref();
    let disk = view.disk.as_ref();
    let disk_usage_percent = disk.map(|disk| disk.usage.volume.used_percent());
    let used = disk.map(|disk| disk.usage.database_bytes + disk.usage.log_bytes);
    let total = disk.map(|disk| match disk.usage.quota_bytes {
        0 => disk.usage.volume.total_bytes,
        quota => quota.min(disk.usage.volume.total_bytes),
    });
    let connections = instance.map(|i| i.connections_active);
    metrics::Metrics {
        service_id: view.service.id.0,
        database_type: view.service.engine.to_string(),
        timestamp: view.at,
        cpu_usage_percent: None,
        memory_usage_percent: None,
        disk_usage_percent,
        connections_active: connections,
        connections_max: instance.map(|i| i.connections_max),
        replication_lag_ms: None,
        queries_per_second: None,
        storage_usage_percent: used.zip(total).and_then(|(used, total)| percent(used, total)),
        storage_used_bytes: used,
        storage_total_bytes: total,
        connections,
        metrics: metrics::NestedMetrics {
            cpu_usage_percent: None,
            memory_usage_percent: None,
            disk_usage_percent,
            database_connections_active: connections,
            database_queries_per_second: None,
            database_cache_hit_ratio: instance.and_then(|i| i.cache_hit_ratio),
            database_replication_lag_seconds: None,
        },
        disk: disk.map(|disk| metrics::DiskMetrics {
            level: match disk.level {
                Level::Fine => metrics::DiskLevel::Fine,
                Level::Filling => metrics::DiskLevel::Filling,
                Level::NearlyFull => metrics::DiskLevel::NearlyFull,
                Level::Full => metrics::DiskLevel::Full,
            },
            message: disk.message.clone(),
            free_bytes: disk.usage.volume.free_bytes,
            log_bytes: disk.usage.log_bytes,
            waiting_log_bytes: disk.usage.waiting_log_bytes,
            log_usage_percent: disk.usage.log_percent(),
            writes_refused: disk.writes_refused,
        }),
        pitr: metrics::PitrMetrics {
            enabled: view.pitr.enabled,
            archiving_active: view.pitr.archiving_active,
            earliest_restore_point: view.pitr.window.earliest(),
            latest_restore_point: view.pitr.window.latest(),
            archive_lag_seconds: view.pitr.lag_seconds,
            last_error: view.pitr.last_error,
        },
    }
}

pub(crate) fn job(view: JobView) -> job::Job {
    let JobView { job, backup_id, source, restore_point } = view;
    job::Job {
        id: job.id.0,
        kind: job_kind(job.kind),
        service_id: job.service_id.map(|id| id.0),
        backup_id: backup_id.map(|id| id.to_string()),
        source_service_id: source.map(|id| id.0),
        restore_point,
        status: match job.state {
            JobState::Queued => job::JobStatus::Queued,
            JobState::Running => job::JobStatus::Running,
            JobState::Completed => job::JobStatus::Completed,
            JobState::Failed => job::JobStatus::Failed,
            JobState::Cancelled => job::JobStatus::Cancelled,
        },
        steps: steps(&job),
        attempt: job.attempt,
        progress: (!job.state.is_terminal()).then(|| progress(crate::app::jobs::progress(&job))),
        error_message: job.error.as_ref().map(|error| error.message.clone()),
        error_cause: job.error.map(|error| error.cause),
        cancel_requested: job.cancel_requested,
        created_at: job.created_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
    }
}

pub(crate) fn keys(view: KeysView) -> keys::Keys {
    let current = view.versions.iter().find(|kek| kek.version == view.current_version);
    keys::Keys {
        current_version: view.current_version,
        created_at: current.and_then(|kek| kek.record.as_ref()).map(|record| record.created_at),
        rotate_after_days: view.rotate_after_days,
        next_rotation_at: view.next_rotation_at,
        rotation: view.rotation.map(job),
        versions: view.versions.into_iter().map(|one| kek(one, view.current_version)).collect(),
    }
}

fn kek(view: KekView, current: u32) -> keys::Kek {
    let retired_at = view.record.as_ref().and_then(|record| record.retired_at);
    keys::Kek {
        version: view.version,
        status: match (view.version == current, view.is_here) {
            (true, _) => keys::KekStatus::Current,
            (false, true) => keys::KekStatus::Older,
            (false, false) if view.used.is_none() => keys::KekStatus::Retired,
            (false, false) => keys::KekStatus::Missing,
        },
        created_at: view.record.map(|record| record.created_at),
        retired_at,
        wrapped_keys: view.used.keys,
        wrapped_passwords: view.used.passwords,
    }
}

fn steps(job: &Job) -> Vec<job::JobStep> {
    let current = match job.state {
        JobState::Queued => job::StepStatus::Pending,
        JobState::Running => job::StepStatus::Running,
        JobState::Completed => job::StepStatus::Completed,
        JobState::Failed => job::StepStatus::Failed,
        JobState::Cancelled => job::StepStatus::Cancelled,
    };
    let name = |step| match serde_json::to_value(step) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{step:?}"),
    };
    (job.kind.steps().iter().zip(0..))
        .map(|(step, n)| job::JobStep {
            name: name(step),
            phases: job.outputs.get(&name(step)).map(phases).unwrap_or_default(),
            status: match n.cmp(&job.step_index) {
                std::cmp::Ordering::Less => job::StepStatus::Completed,
                std::cmp::Ordering::Equal => current,
                std::cmp::Ordering::Greater => job::StepStatus::Pending,
            },
        })
        .collect()
}

/// None of a step that was done by the control plane, or before phases were kept.
fn phases(output: &serde_json::Value) -> Vec<job::JobPhase> {
    serde_json::from_value(output[PHASES].clone()).unwrap_or_default()
}

fn job_kind(kind: JobKind) -> job::JobKind {
    match kind {
        JobKind::Provision => job::JobKind::Provision,
        JobKind::Backup => job::JobKind::Backup,
        JobKind::Restore => job::JobKind::Restore,
        JobKind::Configure => job::JobKind::Configure,
        JobKind::Stop => job::JobKind::Stop,
        JobKind::Start => job::JobKind::Start,
        JobKind::ResetPassword => job::JobKind::ResetPassword,
        JobKind::DeleteService => job::JobKind::DeleteService,
        JobKind::Expire => job::JobKind::Expire,
        JobKind::RotateKeys => job::JobKind::RotateKeys,
    }
}

pub(crate) fn user(credential: Credential) -> user::DatabaseUser {
    user::DatabaseUser {
        username: credential.username,
        privileges: match credential.privileges.is_empty() {
            true => credential.roles.join(", "),
            false => credential.privileges,
        },
        roles: credential.roles,
        created_at: credential.created_at,
    }
}

pub(crate) fn credentials(revealed: Revealed) -> user::Credentials {
    user::Credentials {
        username: revealed.username,
        password: revealed.password.to_string(),
        host: revealed.host,
        port: revealed.port,
        database: revealed.database.clone(),
        connection_string: revealed.connection_string.to_string(),
    }
}

pub(crate) fn organization(organization: Organization) -> platform::Organization {
    let OrganizationId(id) = organization.id;
    platform::Organization {
        id,
        name: organization.name,
        slug: organization.slug,
        is_personal: organization.is_personal,
        role: "owner".to_owned(),
        created_at: organization.created_at,
    }
}

pub(crate) fn plan(plan: &ServicePlan) -> platform::Plan {
    platform::Plan {
        name: plan.name.to_owned(),
        cpus: plan.cpus,
        memory_mib: plan.memory_mib,
        max_connections: plan.max_connections(),
    }
}

pub(crate) fn version(offered: OfferedVersion) -> platform::DatabaseVersion {
    platform::DatabaseVersion {
        database_type: offered.engine.to_string(),
        version: offered.version.to_owned(),
        default: offered.is_default,
    }
}

/// `1.2 GiB`.
#[allow(clippy::cast_precision_loss)] // one digit behind the point is shown
fn size_label(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_like_sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_073_741_824, "1.0 GiB"),
            (1_048_575, "1.0 MiB"),
        ] {
            assert_eq!(size_label(bytes), expected);
        }
    }
}
