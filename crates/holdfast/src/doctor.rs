//! `holdfast doctor`: what is missing on this host, and the command that mends it. It changes nothing; the one thing it
//! leaves out is the object store, which `holdfast check store` tries.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use holdfast_core::causes::chain;
use holdfast_core::disk::Size;
use holdfast_engines::Driver;
use holdfast_engines::exec::{self, ProcessSpec};
use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use crate::client::{ClientError, Ui, table};
use crate::config::{self, Config};

/// Where the system's programs are, also those that only root uses.
const PROGRAM_FOLDERS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const FEW_FILES: u64 = 1024;

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// The settings file of `serve` (also HOLDFAST_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warning,
    Failed,
}

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    outcome: Outcome,
    detail: String,
    /// What mends it.
    next: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, detail: detail.into(), next: None }
    }

    fn not(
        outcome: Outcome,
        check: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { check, outcome, detail: detail.into(), next: Some(next.into()) }
    }

    fn failed(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self::not(Outcome::Failed, check, detail, next)
    }

    fn warning(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self::not(Outcome::Warning, check, detail, next)
    }
}

/// Looks and prints; 0 unless something is missing.
pub(crate) async fn run(args: DoctorArgs, ui: Ui) -> ExitCode {
    match examine(args, ui).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn examine(args: DoctorArgs, ui: Ui) -> Result<bool, ClientError> {
    let config = config::load(&config::Flags::of_file(args.config))
        .map_err(|error| ClientError::Usage(format!("{error:#}")))?;
    let data = &config.server.data_dir;
    let mut findings = vec![system_programs()];
    findings.extend(engines(&config.engines_dir).await);
    findings.push(way_to_instances(&config.instances_dir));
    findings.extend(private_files(data));
    findings.push(recovery_kit(data));
    findings.push(space("disk of the data folder", data));
    findings.push(space("disk of the instances", &config.instances_dir));
    findings.push(open_files());
    findings.push(address(&config));
    let good = findings.iter().all(|finding| finding.outcome != Outcome::Failed);
    let json = || serde_json::json!({ "good": good, "checks": findings }).to_string();
    ui.data(&if ui.json { json() } else { text(&findings) })?;
    ui.note(match good {
        true => {
            "nothing that Holdfast needs is missing here; `holdfast check store` looks at the object store"
        }
        false => "Holdfast cannot do its work here as it is",
    });
    Ok(good)
}

fn text(findings: &[Finding]) -> String {
    let word = |outcome| match outcome {
        Outcome::Ok => "ok",
        Outcome::Warning => "warning",
        Outcome::Failed => "FAILED",
    };
    let rows = findings.iter().map(|finding| {
        vec![finding.check.to_owned(), word(finding.outcome).to_owned(), finding.detail.clone()]
    });
    let mut text = table(&["CHECK", "RESULT", "WHAT WAS SEEN"], rows.collect());
    let steps: Vec<String> = (findings.iter())
        .filter_map(|finding| Some(format!("\n- {}: {}", finding.check, finding.next.as_ref()?)))
        .collect();
    if !steps.is_empty() {
        text.push_str("\n\nWhat to do:");
        text.push_str(&steps.concat());
    }
    text
}

/// `setpriv` starts everything; root also makes the users that engines run as.
fn system_programs() -> Finding {
    let check = "system programs";
    let is_root = nix::unistd::geteuid().is_root();
    let needed: &[(&str, &str)] = match is_root {
        true => &[("setpriv", "util-linux"), ("useradd", "passwd")],
        false => &[("setpriv", "util-linux")],
    };
    let is_there =
        |program: &str| PROGRAM_FOLDERS.iter().any(|folder| Path::new(folder).join(program).is_file());
    let missing: Vec<_> = needed.iter().filter(|(program, _)| !is_there(program)).collect();
    if missing.is_empty() {
        let user = if is_root { "root: each service gets a user of its own" } else { "one user for all" };
        return Finding::ok(check, format!("all there; running as {user}"));
    }
    let (programs, packages): (Vec<_>, Vec<_>) = missing.into_iter().copied().unzip();
    let next = format!("apt-get install {}", packages.join(" "));
    Finding::failed(check, format!("missing: {}", programs.join(", ")), next)
}

/// All programs of the engines start and say their version. An engine that is not there is nobody's duty, as long as one is.
async fn engines(folder: &Path) -> Vec<Finding> {
    let mend =
        format!("run `make engines`, or let HOLDFAST_ENGINES name the folder; it is {}", folder.display());
    let drivers = holdfast_engines::drivers(folder, &holdfast_engines::DriverSettings::default());
    let is_there = |driver: &dyn Driver| !driver.versions().is_empty();
    let none = !drivers.values().any(|driver| is_there(driver.as_ref()));
    let mut findings = Vec::new();
    for (engine, driver) in &drivers {
        if !is_there(driver.as_ref()) {
            let detail = format!("none in {}: no such service can be made", folder.display());
            let outcome = if none { Outcome::Failed } else { Outcome::Warning };
            findings.push(Finding::not(outcome, engine.capability().title, detail, mend.clone()));
            continue;
        }
        for program in driver.programs() {
            findings.push(version(program.name, &program.path, program.argument, &mend).await);
        }
    }
    findings
}

async fn version(check: &'static str, program: &Path, argument: &str, mend: &str) -> Finding {
    if !program.is_file() {
        return Finding::failed(check, format!("no {}", program.display()), mend);
    }
    match exec::run(ProcessSpec::new(program, "/").args([argument]).timeout_seconds(10)).await {
        Ok(said) => Finding::ok(check, said.lines().next().unwrap_or_default()),
        // A missing library is named in what the loader says.
        Err(error) => Finding::failed(check, chain(&error), format!("run `make packages`; {mend}")),
    }
}

/// Services' users must be able to pass through every folder above the instances.
fn way_to_instances(instances: &Path) -> Finding {
    let check = "way to the instances";
    let closed = instances
        .ancestors()
        .skip(1)
        .find(|folder| folder.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    match closed {
        Some(folder) if nix::unistd::geteuid().is_root() => {
            let next = format!("chmod o+x {}, or choose another folder with --instances", folder.display());
            Finding::failed(check, format!("{} is closed to services' users", folder.display()), next)
        }
        _ => Finding::ok(check, instances.display().to_string()),
    }
}

/// Data folder and keys are for their owner alone.
fn private_files(data: &Path) -> Vec<Finding> {
    let check = "data folder";
    if !data.is_dir() {
        return vec![Finding::ok(check, format!("{} is made at the first start", data.display()))];
    }
    let keys = std::fs::read_dir(data.join("keys")).into_iter().flatten().flatten().map(|entry| entry.path());
    let open: Vec<String> = std::iter::once(data.to_owned())
        .chain(keys)
        .filter(|path| path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0))
        .map(|path| path.display().to_string())
        .collect();
    if open.is_empty() {
        return vec![Finding::ok(check, format!("{}, closed to others", data.display()))];
    }
    let next = format!("chmod go= {}", open.join(" "));
    vec![Finding::failed(check, "others may read what only its owner should", next)]
}

fn recovery_kit(data: &Path) -> Finding {
    let check = "recovery kit";
    let kit = data.join("recovery-kit.txt");
    if !data.join("keys").is_dir() {
        return Finding::ok(check, "made at the first start");
    }
    if !kit.exists() {
        return Finding::ok(check, "not on this host, as it should be");
    }
    let next = format!(
        "store a copy of {} where this host's loss does not reach it, then remove it here",
        kit.display()
    );
    Finding::warning(check, "still beside the data that it is meant to survive", next)
}

fn space(check: &'static str, folder: &Path) -> Finding {
    // The folder may not have been made yet; its parent's file system is where it will be.
    let Some(space) = folder.ancestors().find_map(|folder| holdfast_store::space_of(folder).ok()) else {
        return Finding::warning(check, "cannot be measured", format!("look at {}", folder.display()));
    };
    let detail = format!("{} free of {}", Size(space.free_bytes), Size(space.total_bytes));
    let next = format!("free some room where {} lies", folder.display());
    match space.used_percent() {
        _ if space.is_low() => Finding::failed(check, format!("{detail}; writes are refused"), next),
        used if used >= 80.0 => Finding::warning(check, format!("{detail}, {used:.0} % used"), next),
        _ => Finding::ok(check, detail),
    }
}

fn open_files() -> Finding {
    let check = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, most)) if most >= FEW_FILES => Finding::ok(check, format!("{most} at once")),
        Ok((_, most)) => {
            let next = "ulimit -Hn 65536, or LimitNOFILE=65536 in the systemd unit";
            Finding::warning(check, format!("only {most} at once"), next)
        }
        Err(error) => Finding::warning(check, error.to_string(), "look at `ulimit -Hn`"),
    }
}

/// Somebody listens there already: Holdfast itself, or what keeps it from starting.
fn address(config: &Config) -> Finding {
    let check = "address of the API";
    let listen: SocketAddr = config.server.listen;
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok(check, format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let next = format!(
                "nothing, if that is Holdfast (`holdfast services list`); else see `ss -ltnp` or choose another --listen than {listen}"
            );
            Finding::warning(check, format!("{listen} is in use"), next)
        }
        Err(error) => Finding::failed(check, format!("{listen}: {error}"), "choose another --listen"),
    }
}
