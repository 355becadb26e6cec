//! What users say about a service, checked and given its defaults (contract, section 3).

use holdfast_api::service::{CreateService, PatchService};
use holdfast_core::engine::{EngineKind, UnknownEngine};
use holdfast_core::name::{check_plan, check_service_name, check_zone};
use holdfast_core::service::{Attributes, Service, ServiceStatus};
use holdfast_core::{LineageId, OrganizationId, ServiceId, Timestamp};

use super::platform::default_version;
use super::{AppError, check};

const DEFAULT_ZONE: &str = "se-sto1";
const DEFAULT_STORAGE_GB: u32 = 50;
const STORAGE_GB: (u32, u32) = (10, 16384);
const NODES: (u32, u32) = (1, 9);
const TTL_HOURS: (u32, u32) = (1, 720);

/// The service as asked for, with a new id and lineage; `offered` are the versions of an engine that can be had.
pub(super) fn new_service(
    asked: CreateService,
    organization_id: OrganizationId,
    offered: impl Fn(EngineKind) -> Vec<&'static str>,
    now: Timestamp,
) -> Result<Service, AppError> {
    let name = check::required("name", asked.name.as_ref())?.to_owned();
    check_service_name("name", &name)?;
    let engine: EngineKind = check::required("database_type", asked.database_type.as_ref())?
        .parse()
        .map_err(|e: UnknownEngine| AppError::invalid(e.to_string()))?;
    let capability = engine.capability();
    if !capability.available {
        let text = format!(
            "database_type {engine} is not available yet in this release; see GET /database-versions"
        );
        return Err(AppError::Invalid(text));
    }
    let plan_name = check::required("plan_name", asked.plan_name.as_ref())?.to_owned();
    check_plan(&plan_name)?;
    let version = version(engine, asked.version.as_deref().unwrap_or_default(), &offered(engine))?;
    let zone = asked.zone.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| DEFAULT_ZONE.to_owned());
    check_zone(&zone)?;
    let allowed_cidrs = asked.allowed_cidrs.clone().unwrap_or_default();
    check::cidrs(engine, &allowed_cidrs)?;
    let attributes = attributes(asked)?;
    Ok(Service {
        id: ServiceId::random(),
        organization_id,
        lineage_id: LineageId::random(),
        name,
        engine,
        version,
        engine_version: None,
        status: ServiceStatus::Pending,
        status_message: None,
        plan_name,
        zone,
        allowed_cidrs,
        attributes,
        restored_from: None,
        host: None,
        port: None,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    })
}

/// The version asked for, or the default one.
fn version(engine: EngineKind, asked: &str, offered: &[&'static str]) -> Result<String, AppError> {
    if asked.is_empty() {
        let version = default_version(engine, offered).map(str::to_owned);
        return version.ok_or_else(|| AppError::Invalid(nobody_runs(engine)));
    }
    if offered.contains(&asked) {
        return Ok(asked.to_owned());
    }
    if offered.is_empty() {
        return Err(AppError::Invalid(nobody_runs(engine)));
    }
    if engine.capability().versions.contains(&asked) {
        let text =
            format!("no host here can run version {asked} of {engine}; available: {}", offered.join(", "));
        return Err(AppError::Invalid(text));
    }
    let known = offered.join(", ");
    Err(AppError::Invalid(format!("unknown version {asked:?} of {engine}; available: {known}")))
}

fn nobody_runs(engine: EngineKind) -> String {
    format!(
        "no host here can run {engine}: none has a version of it that this release knows; see holdfast doctor there"
    )
}

/// The fields that are stored and echoed, with their defaults.
fn attributes(asked: CreateService) -> Result<Attributes, AppError> {
    if let Some(preset) = asked.preset.filter(|preset| !preset.is_empty()) {
        return Err(AppError::Invalid(format!("unknown preset {preset:?}; this server has none")));
    }
    let storage_size_gb = asked.storage_size_gb.unwrap_or(DEFAULT_STORAGE_GB);
    let node_count = asked.node_count.unwrap_or(1);
    let labels = asked.labels.unwrap_or_default();
    check::labels(&labels)?;
    let ttl = |hours| check::within("ttl_hours", hours, TTL_HOURS.0, TTL_HOURS.1);
    let maintenance_window = asked.maintenance_window.filter(|window| !window.is_empty());
    if let Some(window) = &maintenance_window {
        check::maintenance_window(window)?;
    }
    Ok(Attributes {
        storage_size_gb: check::within("storage_size_gb", storage_size_gb, STORAGE_GB.0, STORAGE_GB.1)?,
        storage_tier: check::one_of("storage_tier", asked.storage_tier, &["maxiops", "standard"], "maxiops")?,
        node_count: check::within("node_count", node_count, NODES.0, NODES.1)?,
        auto_failover_enabled: asked.auto_failover_enabled.unwrap_or(false),
        replication_mode: check::one_of(
            "replication_mode",
            asked.replication_mode,
            &["async", "sync"],
            "async",
        )?,
        encryption_enabled: asked.encryption_enabled.unwrap_or(true),
        maintenance_window,
        labels,
        preset: None,
        is_ephemeral: asked.is_ephemeral.or(asked.ephemeral).unwrap_or(false),
        ttl_hours: asked.ttl_hours.map(ttl).transpose()?,
        agent_framework: check::optional_text("agent_framework", asked.agent_framework)?,
        agent_purpose: check::optional_text("agent_purpose", asked.agent_purpose)?,
        created_by_agent_id: check::optional_text("created_by_agent_id", asked.created_by_agent_id)?,
    })
}

pub(super) fn check_patch(engine: EngineKind, asked: &PatchService) -> Result<(), AppError> {
    if let Some(name) = &asked.name {
        check_service_name("name", name)?;
    }
    if let Some(cidrs) = &asked.allowed_cidrs {
        check::cidrs(engine, cidrs)?;
    }
    if let Some(window) = asked.maintenance_window.as_ref().filter(|window| !window.is_empty()) {
        check::maintenance_window(window)?;
    }
    if let Some(plan) = &asked.plan_name {
        check_plan(plan)?;
    }
    if let Some(size) = asked.storage_size_gb {
        check::within("storage_size_gb", size, STORAGE_GB.0, STORAGE_GB.1)?;
    }
    Ok(())
}

pub(super) fn apply(service: &mut Service, asked: &PatchService) {
    if let Some(name) = &asked.name {
        service.name.clone_from(name);
    }
    if let Some(cidrs) = &asked.allowed_cidrs {
        service.allowed_cidrs.clone_from(cidrs);
    }
    if let Some(plan) = &asked.plan_name {
        service.plan_name.clone_from(plan);
    }
    if let Some(window) = &asked.maintenance_window {
        service.attributes.maintenance_window = Some(window.clone()).filter(|window| !window.is_empty());
    }
    if let Some(size) = asked.storage_size_gb {
        service.attributes.storage_size_gb = size;
    }
}
