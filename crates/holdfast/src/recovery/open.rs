//! `holdfast open`: a database restored from the bucket and the recovery kit alone.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use holdfast_agent::open::{OpenRequest, Opened, OpenedAccess, open, start, stop};
use holdfast_api::agent::Secret;
use holdfast_core::backup::BackupFacts;
use holdfast_core::engine::Endpoint;
use holdfast_core::window::{RestorePlan, Target, plan_backup_restore, plan_restore_point};
use holdfast_core::{BackupId, Timestamp};
use holdfast_engines::ProgressSink;
use holdfast_store::survey::{FoundService, Survey, SurveyProgress, choose, names, survey_service};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{BucketArgs, bucket_failed, failed, look, open_store, read_kit, telling, view};
use crate::client::error::ClientError;
use crate::client::table::{Ui, utc};
use crate::client::time::parse_time;

/// An opened instance listens here alone.
const HOST: &str = "127.0.0.1";

#[derive(Args)]
#[group(id = "point", multiple = false, args = ["at", "backup"])]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// Only say what the bucket holds: services, backups, windows.
    #[arg(long, conflicts_with_all = ["service", "at", "backup", "target", "port"])]
    list: bool,
    /// Id of the service, or its name.
    #[arg(long, value_name = "SERVICE", required_unless_present = "list")]
    service: Option<String>,
    /// The instant, as for `holdfast restore`; without it and --backup the latest one.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Id of a backup, or `latest`: the service as it was when that was taken.
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Folder for the database; it must be empty or not there.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    target: Option<PathBuf>,
    /// Port on 127.0.0.1 [a free one].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Folder with the engines' programs.
    #[arg(long, value_name = "DIR")]
    engines: Option<PathBuf>,
    /// As root: folder in which system users and ports for engines are claimed.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/holdfast/users")]
    users: PathBuf,
}

/// What was decided to restore.
struct Decided {
    plan: RestorePlan,
    base: BackupFacts,
}

/// # Errors
/// `Usage`, `NotFound`, `Failed`; what was begun is removed again.
pub(super) async fn run(args: OpenArgs, ui: Ui) -> Result<(), ClientError> {
    let now = Timestamp::now();
    let (Some(service), Some(target)) = (&args.service, &args.target) else {
        let (_, survey) = look(&args.bucket, ui).await?;
        return list(&survey, now, ui);
    };
    let target = std::path::absolute(target)
        .map_err(|source| ClientError::Io { doing: "find the target folder".to_owned(), source })?;
    let kit = read_kit(&args.bucket)?;
    let store = open_store(&args.bucket.store).await?;
    let known = names(&store, &kit).await.map_err(|error| bucket_failed(&error))?;
    let scope = choose(&known, service).map_err(|text| ClientError::NotFound {
        text,
        hint: Some("`holdfast open --list` with the same bucket shows them all".to_owned()),
    })?;
    let progress = SurveyProgress::default();
    let looking = telling(survey_service(&store, &kit, scope, &progress), ui, || {
        format!("looking through the bucket: {} objects", progress.get().0)
    });
    let (found, _) = looking.await.map_err(|error| bucket_failed(&error))?;
    for problem in &found.problems {
        ui.note(&format!("damaged or missing: {problem}"));
    }
    let decided = decide(&found, &args, now)?;
    ui.note(&format!("restoring {} {} into {}", found.name(), point(&decided), target.display()));
    let engines = args.engines.clone().unwrap_or_else(crate::config::default_engines);
    let request = OpenRequest {
        store,
        found: &found,
        plan: &decided.plan,
        base: &decided.base,
        target: &target,
        port: args.port,
        engines_dir: &engines,
        claims_dir: &args.users,
    };
    let opened = carry_out(&request, ui).await?;
    tell(&found, &decided, &opened, &target, ui)
}

fn list(survey: &Survey, now: Timestamp, ui: Ui) -> Result<(), ClientError> {
    ui.data(&if ui.json { view::object(survey, now).to_string() } else { view::tables(survey, now) })?;
    for problem in view::problems(survey) {
        ui.note(&format!("damaged or missing: {problem}"));
    }
    Ok(())
}

/// The same planner as the control plane's, over everything that the bucket holds.
fn decide(found: &FoundService, args: &OpenArgs, now: Timestamp) -> Result<Decided, ClientError> {
    let history = view::history(found);
    let plan = match (&args.at, &args.backup) {
        (Some(text), _) => {
            let asked = parse_time(text, now).map_err(|error| ClientError::Usage(error.to_string()))?;
            plan_restore_point(&history, &view::EVERYTHING, asked.at, now)
        }
        (None, Some(text)) => plan_backup_restore(&history, &backup(found, text)?),
        (None, None) => match view::window(found, now).latest() {
            Some(latest) => plan_restore_point(&history, &view::EVERYTHING, latest, now),
            None => plan_backup_restore(&history, &backup(found, "latest")?),
        },
    };
    let hint = "`holdfast open --list` with the same bucket shows what can be restored";
    let plan = plan.map_err(|refusal| failed(&refusal, hint))?;
    let base = found.backups.iter().find(|backup| backup.id == plan.base);
    let base = base.and_then(|backup| backup.facts.clone()).expect("a plan's base is a backup with facts");
    Ok(Decided { plan, base })
}

fn backup(found: &FoundService, text: &str) -> Result<BackupId, ClientError> {
    let unknown = || ClientError::NotFound {
        text: format!("{} has no backup {text} that can be restored", found.name()),
        hint: Some("`holdfast open --list` with the same bucket shows them all".to_owned()),
    };
    if text == "latest" {
        let restorable = found.backups.iter().filter(|backup| backup.is_restorable() && backup.is_listed());
        return restorable.max_by_key(|backup| backup.completed_at).map(|b| b.id.clone()).ok_or_else(unknown);
    }
    text.parse().map_err(|_| unknown())
}

fn point(decided: &Decided) -> String {
    match decided.plan.target {
        Target::Instant(at) => format!("as of {}", utc(at)),
        Target::Backup => format!("from backup {}", decided.plan.base),
    }
}

async fn carry_out(request: &OpenRequest<'_>, ui: Ui) -> Result<Opened, ClientError> {
    let (sink, stop) = (ProgressSink::default(), CancellationToken::new());
    let work = telling(open(request, &sink, &stop), ui, || {
        sink.get().map_or_else(
            || "preparing".to_owned(),
            |progress| match progress.percent {
                Some(percent) => format!("{}, {percent:.0} %", progress.phase),
                None => progress.phase,
            },
        )
    });
    tokio::pin!(work);
    let opened = tokio::select! {
        opened = &mut work => opened,
        _ = tokio::signal::ctrl_c() => {
            stop.cancel();
            work.await
        }
    };
    opened.map_err(|error| {
        let target = request.target.display();
        failed(&error, &format!(
            "mend that, or choose another point (--list), and repeat; as root the folder must be below ones that everybody \
             may pass through, such as /var/lib/holdfast/open; if an earlier try was killed, stop its engine and remove {target}"
        ))
    })
}

fn tell(
    found: &FoundService,
    decided: &Decided,
    opened: &Opened,
    target: &Path,
    ui: Ui,
) -> Result<(), ClientError> {
    let told = Told::of(found, opened, target);
    if ui.json {
        let object = json!({
            "service": found.scope.service, "name": found.name(), "backup": decided.plan.base,
            "engine": opened.engine, "engine_version": opened.engine_version,
            "restore_point": match decided.plan.target {
                Target::Instant(at) => Some(opened.reached.unwrap_or(at)),
                Target::Backup => None,
            },
            "connection_string": told.connection, "host": HOST, "port": opened.port, "data": opened.data,
            "run_as": opened.run_as, "stop": told.stop,
        });
        return ui.data(&object.to_string());
    }
    let reached = match (decided.plan.target, opened.reached) {
        (Target::Instant(asked), Some(reached)) if reached != asked => {
            format!(" (it stands at {})", utc(reached))
        }
        _ => String::new(),
    };
    ui.data(&format!(
        "{engine} {version} with {name} {point}{reached} is running.\n\
         {how}\n\
         stop:                  {stop}\n\
         start again:           {start}\n\
         It stands alone: it archives nothing, and no backup is made of it.",
        engine = opened.engine,
        version = opened.engine_version,
        name = found.name(),
        point = point(decided),
        how = told.how,
        stop = told.stop,
        start = told.start,
    ))
}

/// How to get into the instance, and how to stop it.
struct Told {
    connection: String,
    how: String,
    stop: String,
    start: String,
}

impl Told {
    fn of(found: &FoundService, opened: &Opened, target: &Path) -> Self {
        let (port, data) = (opened.port, opened.data.display());
        match &opened.access {
            OpenedAccess::Socket { folder, control: program } => {
                let as_user = opened.run_as.as_ref().map_or_else(String::new, |user| {
                    format!("setpriv --reuid={user} --regid={user} --clear-groups -- ")
                });
                let control = format!("{as_user}{} -D {data}", program.display());
                let connection =
                    format!("host={} port={port} user=postgres dbname=defaultdb", folder.display());
                Self {
                    how: format!(
                        "connect as superuser:  psql \"{connection}\"\n\
                         or over TCP:           {HOST}:{port}, with the users and passwords of that time"
                    ),
                    connection,
                    stop: format!("{control} stop"),
                    start: format!("{control} -l {data}/../log/startup.log start"),
                }
            }
            OpenedAccess::Account { username, password: Secret(password) } => {
                let capability = found.engine().capability();
                let (database, tls) = (capability.default_database, capability.tls);
                let endpoint = Endpoint { host: HOST, port, username, password, database, tls };
                let connection = found.engine().connection_string(endpoint);
                let by_hand = |verb| format!("holdfast opened {verb} {}", target.display());
                Self {
                    how: format!("connect:               {connection}"),
                    connection,
                    stop: by_hand("stop"),
                    start: by_hand("start"),
                }
            }
        }
    }
}

/// `holdfast opened`: an instance that `holdfast open` made.
#[derive(Subcommand)]
pub(crate) enum OpenedCommand {
    /// Start it again.
    Start(OpenedArgs),
    /// Stop it; its data stays.
    Stop(OpenedArgs),
}

#[derive(Args)]
pub(crate) struct OpenedArgs {
    /// The folder that was given as --target.
    target: PathBuf,
    /// Folder with the engines' programs.
    #[arg(long, value_name = "DIR")]
    engines: Option<PathBuf>,
}

/// # Errors
/// `Failed`: the folder is none that `open` made, or the engine does not do it.
pub(super) async fn switch(command: OpenedCommand) -> Result<(), ClientError> {
    let (OpenedCommand::Start(args) | OpenedCommand::Stop(args)) = &command;
    let target = std::path::absolute(&args.target)
        .map_err(|source| ClientError::Io { doing: "find the folder".to_owned(), source })?;
    let engines = args.engines.clone().unwrap_or_else(crate::config::default_engines);
    let done = match &command {
        OpenedCommand::Start(_) => start(&target, &engines).await,
        OpenedCommand::Stop(_) => stop(&target, &engines).await,
    };
    done.map_err(|error| {
        failed(&error, "give the folder that was the --target of `holdfast open`, as the same user")
    })
}
