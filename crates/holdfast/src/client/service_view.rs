//! Services as people read them.

use holdfast_api::service::Service;
use jiff::Timestamp;

use super::table;

/// A table of services. Every command takes the name, so the ids stay out of the way.
pub(super) fn listed(services: &[Service], now: Timestamp) -> String {
    let rows = services.iter().map(|service| {
        vec![
            service.name.clone(),
            service.database_type.clone(),
            service.version.clone(),
            status(service),
            service.plan_name.clone(),
            service.zone.clone(),
            address(service).unwrap_or_else(|| table::NOTHING.to_owned()),
            table::ago(service.created_at, now),
        ]
    });
    let header = ["NAME", "ENGINE", "VERSION", "STATUS", "PLAN", "ZONE", "ADDRESS", "CREATED"];
    table::table(&header, rows.collect())
}

/// Everything about one service, a fact a line.
pub(super) fn described(service: &Service, now: Timestamp) -> String {
    let version = match &service.engine_version {
        Some(real) if *real != service.version => {
            format!("{} {} ({real})", service.database_type, service.version)
        }
        _ => format!("{} {}", service.database_type, service.version),
    };
    let networks = match &service.allowed_cidrs[..] {
        [] => "all".to_owned(),
        some => some.join(", "),
    };
    let origin = service.restored_from.as_ref().map(|from| {
        let backup = from.backup_id.as_ref().map(|id| format!(", backup {id}")).unwrap_or_default();
        let point = from.restore_point.map(|at| format!(", as of {}", table::utc(at))).unwrap_or_default();
        format!("service {}{backup}{point}", from.service_id)
    });
    table::facts(&[
        ("name", Some(service.name.clone())),
        ("id", Some(service.id.to_string())),
        ("engine", Some(version)),
        ("status", Some(status(service))),
        ("why", service.status_message.clone()),
        ("plan", Some(service.plan_name.clone())),
        ("zone", Some(service.zone.clone())),
        ("storage", Some(format!("{} GB, {}", service.storage_size_gb, service.storage_tier))),
        ("address", address(service)),
        ("networks", Some(networks)),
        ("maintenance", service.maintenance_window.clone()),
        ("restored from", origin),
        ("created", Some(table::moment(service.created_at, now))),
    ])
}

fn status(service: &Service) -> String {
    let word = table::word(&service.status);
    match &service.progress {
        Some(progress) => format!("{word}: {}", table::progress(progress)),
        None => word,
    }
}

fn address(service: &Service) -> Option<String> {
    let (host, port) = (service.host.as_ref()?, service.port?);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
