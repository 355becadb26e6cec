//! `holdfast services`: databases as the platform sees them.

use clap::{Args, Subcommand};
use holdfast_api::job::{JobKind, JobList};
use holdfast_api::platform::DatabaseVersionList;
use holdfast_api::service::{CreateService, PatchService, Service, ServiceStatus};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use uuid::Uuid;

use super::error::ClientError;
use super::http::Named;
use super::progress::{self, WaitFlags};
use super::{Context, service_view, table, users};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// All services, oldest first.
    #[command(alias = "ls")]
    List,
    /// Everything about one service.
    Get {
        /// Name or id.
        service: String,
    },
    /// Make a service.
    #[command(disable_version_flag = true)] // --version is the engine's
    Create(CreateArgs),
    /// Change networks, size or name; what is not given stays.
    Update(UpdateArgs),
    /// Stop a running service; its data and backups stay.
    Stop {
        /// Name or id.
        service: String,
        #[command(flatten)]
        wait: WaitFlags,
    },
    /// Start a stopped service.
    Start {
        /// Name or id.
        service: String,
        #[command(flatten)]
        wait: WaitFlags,
    },
    /// Delete a service for good. Its backups stay restorable until they expire or are deleted.
    #[command(alias = "rm")]
    Delete {
        /// Name or id.
        service: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Which engines and versions a new service can have here.
    Versions,
    /// Print the connection string, with the password, as in psql "$(holdfast services connect-info NAME)".
    ConnectInfo {
        /// Name or id.
        service: String,
        /// Database user [the service's first].
        #[arg(long = "as", value_name = "USER")]
        database_user: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Lower-case letters, digits and hyphens.
    name: String,
    /// The kind of database; `holdfast services versions` says which this platform has.
    #[arg(long, ignore_case = true, value_parser = EngineKind::ALL.map(EngineKind::as_str))]
    engine: String,
    /// Size tier, tier-1 to tier-16.
    #[arg(long, value_name = "TIER")]
    plan: String,
    /// Version of the engine [the platform's default].
    #[arg(long)]
    version: Option<String>,
    /// Where it runs [se-sto1].
    #[arg(long)]
    zone: Option<String>,
    /// A network that may connect, such as 10.0.0.0/8; repeat for more [all]. What the engine cannot enforce is refused.
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// Disk size [50].
    #[arg(long, value_name = "GB")]
    storage_gb: Option<u32>,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Args)]
#[group(id = "change", required = true, multiple = true, args = ["cidrs", "no_cidrs", "plan", "new_name", "storage_gb", "maintenance_window"])]
pub(crate) struct UpdateArgs {
    /// Name or id.
    service: String,
    /// A network that may connect; all that are given replace the old ones.
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// Let every network connect.
    #[arg(long, conflicts_with = "cidrs")]
    no_cidrs: bool,
    /// Size tier, tier-1 to tier-16.
    #[arg(long, value_name = "TIER")]
    plan: Option<String>,
    /// New name.
    #[arg(long = "name", value_name = "NAME")]
    new_name: Option<String>,
    /// Disk size; it can only grow.
    #[arg(long, value_name = "GB")]
    storage_gb: Option<u32>,
    /// Such as sun:03:00-sun:05:00 (UTC); an empty text removes it.
    #[arg(long, value_name = "WINDOW")]
    maintenance_window: Option<String>,
    #[command(flatten)]
    wait: WaitFlags,
}

pub(super) async fn run(ctx: &Context, command: Command) -> Result<(), ClientError> {
    match command {
        Command::List => list(ctx).await,
        Command::Get { service } => {
            let named = ctx.api.resolve(&service).await?;
            show(ctx, named.id).await
        }
        Command::Create(args) => create(ctx, args).await,
        Command::Update(args) => update(ctx, args).await,
        Command::Stop { service, wait } => {
            let kinds = [JobKind::Stop];
            switch(ctx, &service, "stop", &kinds, wait).await
        }
        Command::Start { service, wait } => {
            let kinds = [JobKind::Start, JobKind::Configure];
            switch(ctx, &service, "start", &kinds, wait).await
        }
        Command::Delete { service, yes } => delete(ctx, &service, yes).await,
        Command::Versions => versions(ctx).await,
        Command::ConnectInfo { service, database_user } => {
            let named = ctx.api.resolve(&service).await?;
            users::connection_string(ctx, &named, database_user).await
        }
    }
}

async fn list(ctx: &Context) -> Result<(), ClientError> {
    let answer = ctx.api.get(&["managed-services"]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let services = answer.read::<holdfast_api::service::ServiceList>()?.services;
    if services.is_empty() {
        ctx.ui.note("there are no services; make one with `holdfast services create`");
        return Ok(());
    }
    ctx.ui.data(&service_view::listed(&services, Timestamp::now()))
}

async fn versions(ctx: &Context) -> Result<(), ClientError> {
    let answer = ctx.api.get(&["database-versions"]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    let versions = answer.read::<DatabaseVersionList>()?.versions;
    let rows = versions.into_iter().map(|one| {
        let default = if one.default { "default" } else { "" };
        vec![one.database_type, one.version, default.to_owned()]
    });
    ctx.ui.data(&table::table(&["ENGINE", "VERSION", ""], rows.collect()))
}

/// Shows a service as it is now.
pub(super) async fn show(ctx: &Context, id: Uuid) -> Result<(), ClientError> {
    let answer = ctx.api.get(&["managed-services", &id.to_string()]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    ctx.ui.data(&service_view::described(&answer.read()?, Timestamp::now()))
}

async fn create(ctx: &Context, args: CreateArgs) -> Result<(), ClientError> {
    let body = CreateService {
        name: Some(args.name.clone()),
        database_type: Some(args.engine),
        plan_name: Some(args.plan),
        version: args.version,
        zone: args.zone,
        storage_size_gb: args.storage_gb,
        allowed_cidrs: Some(args.cidrs),
        ..CreateService::default()
    };
    let answer = ctx.api.post(&["managed-services"], &body).await?;
    let service: Service = answer.read()?;
    if !args.wait.wait {
        if ctx.ui.json {
            return ctx.ui.data(&answer.text);
        }
        ctx.ui.data(&format!("{}  {}", service.id, service.name))?;
        ctx.ui.note(&format!("{} is being made; look again: holdfast services get {0}", service.name));
        return Ok(());
    }
    let jobs = new_jobs(ctx, service.id, &[], &[JobKind::Provision]).await?;
    let next = format!("remove what is left: holdfast services delete {}", service.name);
    arrive(ctx, &format!("create {}", service.name), service.id, &jobs, args.wait, &next).await
}

/// Waits for the jobs and shows the service; one that did not arrive is a failure whatever the jobs say.
pub(super) async fn arrive(
    ctx: &Context,
    what: &str,
    id: Uuid,
    jobs: &[Uuid],
    wait: WaitFlags,
    next: &str,
) -> Result<(), ClientError> {
    progress::wait(ctx, what, jobs, wait, next).await?;
    let answer = ctx.api.get(&["managed-services", &id.to_string()]).await?;
    let service: Service = answer.read()?;
    if matches!(service.status, ServiceStatus::Failed | ServiceStatus::Error | ServiceStatus::Deleting) {
        let why = service.status_message.map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("{what}: {} is {}{why}", service.name, table::word(&service.status));
        return Err(ClientError::Failed { text, hint: next.to_owned() });
    }
    match ctx.ui.json {
        true => ctx.ui.data(&answer.text),
        false => ctx.ui.data(&service_view::described(&service, Timestamp::now())),
    }
}

async fn update(ctx: &Context, args: UpdateArgs) -> Result<(), ClientError> {
    let named = ctx.api.resolve(&args.service).await?;
    let before = if args.wait.wait { job_ids(ctx, named.id).await? } else { Vec::new() };
    let body = PatchService {
        name: args.new_name,
        allowed_cidrs: (args.no_cidrs || !args.cidrs.is_empty()).then_some(args.cidrs),
        maintenance_window: args.maintenance_window,
        plan_name: args.plan,
        storage_size_gb: args.storage_gb,
    };
    let path = ["managed-services", &named.id.to_string()];
    let answer = ctx.api.patch(&path, &body).await?;
    if args.wait.wait {
        let jobs = new_jobs(ctx, named.id, &before, &[JobKind::Configure]).await?;
        if jobs.is_empty() {
            return show(ctx, named.id).await; // nothing that the instance must be told, or none is up
        }
        return arrive(ctx, &format!("update {}", named.name), named.id, &jobs, args.wait, "").await;
    }
    match ctx.ui.json {
        true => ctx.ui.data(&answer.text),
        false => ctx.ui.data(&service_view::described(&answer.read()?, Timestamp::now())),
    }
}

async fn switch(
    ctx: &Context,
    service: &str,
    verb: &str,
    kinds: &[JobKind],
    wait: WaitFlags,
) -> Result<(), ClientError> {
    let named = ctx.api.resolve(service).await?;
    let before = if wait.wait { job_ids(ctx, named.id).await? } else { Vec::new() };
    let path = ["managed-services", &named.id.to_string(), verb];
    let answer = ctx.api.post(&path, &serde_json::json!({})).await?;
    if wait.wait {
        let jobs = new_jobs(ctx, named.id, &before, kinds).await?;
        return arrive(ctx, &format!("{verb} {}", named.name), named.id, &jobs, wait, "").await;
    }
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    ctx.ui.note(&format!("{verb} {} is queued; look again: holdfast services get {0}", named.name));
    Ok(())
}

async fn delete(ctx: &Context, service: &str, yes: bool) -> Result<(), ClientError> {
    let Named { id, name } = ctx.api.resolve(service).await?;
    let id = id.to_string();
    let question = format!(
        "Delete service {name} ({id}) for good? Its automated backups stay until they expire, others until deleted."
    );
    ctx.ui.confirm(&question, yes)?;
    ctx.api.delete(&["managed-services", &id]).await?;
    ctx.ui.note(&format!("{name} is deleted; its backups: holdfast backups list {id}"));
    Ok(())
}

async fn job_ids(ctx: &Context, service: Uuid) -> Result<Vec<Uuid>, ClientError> {
    let answer = ctx.api.get(&["managed-services", &service.to_string(), "jobs"]).await?;
    Ok(answer.read::<JobList>()?.jobs.into_iter().map(|job| job.id).collect())
}

/// The service's jobs of these kinds that are not among `before`, oldest first: a change may have none.
async fn new_jobs(
    ctx: &Context,
    service: Uuid,
    before: &[Uuid],
    kinds: &[JobKind],
) -> Result<Vec<Uuid>, ClientError> {
    let answer = ctx.api.get(&["managed-services", &service.to_string(), "jobs"]).await?;
    let jobs = answer.read::<JobList>()?.jobs.into_iter().rev();
    Ok(jobs.filter(|job| kinds.contains(&job.kind) && !before.contains(&job.id)).map(|job| job.id).collect())
}
