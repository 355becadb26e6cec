//! Settings: defaults, then the file, then the environment, then flags. An unknown key is an error, not a surprise later.
//!
//! One table names every setting once; file keys, environment variables and flags follow from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use holdfast_agent::{DriverSettings, OnLogFull};
use holdfast_core::retention::Policy;
use holdfast_fault::FaultPoints;

/// Flags of `holdfast serve`.
#[derive(Args, Default)]
pub(crate) struct Flags {
    /// A TOML file with settings (also HOLDFAST_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, made with mode 0700.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address and port of the HTTP API.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// file:///… or s3://bucket/prefix (with the usual AWS_* variables).
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Folder of the instances' folders.
    #[arg(long, value_name = "DIR")]
    instances: Option<String>,
    /// Folder with the engines' programs.
    #[arg(long, value_name = "DIR")]
    engines: Option<String>,
    /// Folder in which system users and ports for engines are claimed.
    #[arg(long, value_name = "DIR")]
    users: Option<String>,
    /// Address that engines listen on and that clients are told.
    #[arg(long, value_name = "IP")]
    service_address: Option<String>,
    /// Run an agent of its own: embedded or none.
    #[arg(long, value_name = "WHICH")]
    agent: Option<String>,
    /// What is logged, e.g. info or holdfast_agent=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Flags {
    /// Nothing but a settings file.
    pub(crate) fn of_file(config: Option<PathBuf>) -> Self {
        Self { config, ..Self::default() }
    }
}

/// Notices of engines are no news.
const DEFAULT_LOG: &str = "info,tokio_postgres=warn,s3s=off";

/// A setting's key in the file, its meaning and its default.
#[derive(Clone, Copy)]
struct Setting {
    key: &'static str,
    meaning: &'static str,
    default: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        meaning: "data folder, made with mode 0700: catalog, keys, local object store",
        default: "./holdfast-data",
    },
    Setting { key: "listen", meaning: "address and port of the HTTP API", default: "127.0.0.1:8080" },
    Setting {
        key: "store_url",
        meaning: "object store: file:///path or s3://bucket/prefix with AWS_* variables (docs/object-stores.md)",
        default: "file://<data>/objects",
    },
    Setting {
        key: "instances",
        meaning: "folder of the instances; services' users must be able to pass through it",
        default: "<data>/instances; as root /var/lib/holdfast/<hash of data>",
    },
    Setting {
        key: "engines",
        meaning: "folder with the engines' programs, as `make engines` fills it",
        default: "/var/cache/holdfast/engines, else ~/.cache/holdfast/engines",
    },
    Setting {
        key: "users",
        meaning: "folder in which system users and ports for engines are claimed, shared by all agents of the host",
        default: "/var/cache/holdfast/users",
    },
    Setting {
        key: "service_address",
        meaning: "address that engines listen on and that clients are told",
        default: "127.0.0.1",
    },
    Setting {
        key: "agent",
        meaning: "embedded: run an agent as a child process; none: agents come from elsewhere",
        default: "embedded",
    },
    Setting {
        key: "on_log_full",
        meaning: "when log that waits for the object store is about to fill a disk: stop (refuse writes, nothing is \
                  lost) or break (give the log up and record a gap)",
        default: "stop",
    },
    Setting {
        key: "log_interval_ms",
        meaning: "milliseconds after which log that Holdfast reads itself is shipped, while there is any; each costs a \
                  request to the object store (500: up to 172,800 a day for a service that is never quiet)",
        default: "500",
    },
    Setting { key: "automated_days", meaning: "days that automated backups are listed", default: "7" },
    Setting { key: "pitr_days", meaning: "days that the recovery window reaches back", default: "7" },
    Setting {
        key: "kek_rotation_days",
        meaning: "days after which the key-encryption key is replaced by itself; 0: only by `holdfast keys rotate`",
        default: "90",
    },
    Setting { key: "max_body_bytes", meaning: "largest request body that is read", default: "1048576" },
    Setting {
        key: "max_services",
        meaning: "living services an organization may have; restores are never refused for it; 0: any number",
        default: "0",
    },
    Setting { key: "log", meaning: "what is logged, a tracing filter", default: DEFAULT_LOG },
    Setting { key: "log_format", meaning: "text or json", default: "text" },
];

/// The settings of `serve` and of its engines.
fn all_settings() -> impl Iterator<Item = Setting> {
    let of_engines =
        holdfast_engines::settings().map(|s| Setting { key: s.key, meaning: s.meaning, default: s.default });
    SETTINGS.iter().copied().chain(of_engines)
}

/// Environment variables that are no settings of the table.
const OTHER_VARIABLES: &[(&str, &str)] = &[
    ("HOLDFAST_CONFIG", "path of the settings file"),
    ("HOLDFAST_ADMIN_PASSWORD", "password of user admin at the first start; made and printed once if absent"),
    ("HOLDFAST_URL", "clients: address of the control plane"),
    ("HOLDFAST_USER", "clients: user name"),
    ("HOLDFAST_PASSWORD", "clients: password"),
];

/// Checked settings of `serve`.
pub(crate) struct Config {
    pub server: holdfast_server::settings::Settings,
    pub instances_dir: PathBuf,
    pub engines_dir: PathBuf,
    pub users_dir: PathBuf,
    pub service_address: IpAddr,
    pub embedded_agent: bool,
    pub on_log_full: OnLogFull,
    pub log_interval: std::time::Duration,
    pub engines: DriverSettings,
    pub log: String,
    pub log_json: bool,
    pub admin_password: Option<String>,
}

/// The environment, read here and nowhere else.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// For the tests of this repository (crate `holdfast-fault`); a release build forgets it.
pub(crate) fn faults() -> FaultPoints {
    FaultPoints::in_folder(variable("HOLDFAST_FAULTS").map(PathBuf::from))
}

/// # Errors
/// An unknown key, or a value that cannot be what it should be; the text names key and source.
pub(crate) fn load(flags: &Flags) -> anyhow::Result<Config> {
    let file = flags.config.clone().or_else(|| variable("HOLDFAST_CONFIG").map(PathBuf::from));
    let mut values = match &file {
        Some(path) => read_file(path)?,
        None => BTreeMap::new(),
    };
    for setting in all_settings() {
        if let Some(value) = variable(&format!("HOLDFAST_{}", setting.key.to_uppercase())) {
            values.insert(setting.key.to_owned(), value);
        }
    }
    let given = [
        ("data", &flags.data),
        ("listen", &flags.listen),
        ("store_url", &flags.store_url),
        ("instances", &flags.instances),
        ("engines", &flags.engines),
        ("users", &flags.users),
        ("service_address", &flags.service_address),
        ("agent", &flags.agent),
        ("log", &flags.log),
        ("log_format", &flags.log_format),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            values.insert(key.to_owned(), value.clone());
        }
    }
    check(&values)
}

fn read_file(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is no TOML", path.display()))?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !all_settings().any(|setting| setting.key == key) {
            bail!("{}: unknown setting {key:?}; `holdfast config` lists them all", path.display());
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => bail!("{}: {key} must be a text or a number, not {other}", path.display()),
        };
        values.insert(key, value);
    }
    Ok(values)
}

fn check(values: &BTreeMap<String, String>) -> anyhow::Result<Config> {
    let get = |key: &str| values.get(key).map(String::as_str);
    let data_dir = absolute(get("data").unwrap_or("./holdfast-data"))?;
    let listen: SocketAddr = parsed("listen", get("listen").unwrap_or("127.0.0.1:8080"))?;
    let days = |key| get(key).map_or(Ok(7), |text| parsed::<u32>(key, text));
    let store_url =
        get("store_url").map_or_else(|| format!("file://{}/objects", data_dir.display()), str::to_owned);
    let one_of = |key: &str, words: [&str; 2]| -> anyhow::Result<bool> {
        let word = get(key).unwrap_or(words[0]);
        if words.contains(&word) {
            Ok(word == words[0])
        } else {
            bail!("{key} must be {} or {}, not {word:?}", words[0], words[1])
        }
    };
    Ok(Config {
        instances_dir: get("instances").map_or_else(|| Ok(default_instances(&data_dir)), absolute)?,
        engines_dir: get("engines").map_or_else(|| Ok(default_engines()), absolute)?,
        users_dir: absolute(get("users").unwrap_or("/var/cache/holdfast/users"))?,
        service_address: match get("service_address") {
            Some(text) => parsed("service_address", text)?,
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        },
        embedded_agent: one_of("agent", ["embedded", "none"])?,
        on_log_full: match one_of("on_log_full", ["stop", "break"])? {
            true => OnLogFull::Stop,
            false => OnLogFull::Break,
        },
        log_interval: match get("log_interval_ms").map_or(Ok(500), |text| parsed("log_interval_ms", text))? {
            interval_ms @ 10..=600_000 => std::time::Duration::from_millis(interval_ms),
            other => bail!("log_interval_ms must lie between 10 and 600000, not {other}"),
        },
        engines: engines(&get)?,
        log: get("log").unwrap_or(DEFAULT_LOG).to_owned(),
        log_json: !one_of("log_format", ["text", "json"])?,
        admin_password: variable("HOLDFAST_ADMIN_PASSWORD"),
        server: holdfast_server::settings::Settings {
            data_dir,
            listen,
            store_url,
            max_body_bytes: get("max_body_bytes")
                .map_or(Ok(1 << 20), |text| parsed("max_body_bytes", text))?,
            max_services: get("max_services")
                .map_or(Ok(0), |text| parsed("max_services", text))
                .map(|limit: u32| (limit > 0).then_some(limit))?,
            faults: faults(),
            kek_rotation_days: get("kek_rotation_days")
                .map_or(Ok(90), |text| parsed("kek_rotation_days", text))?,
            policy: Policy { automated_days: days("automated_days")?, pitr_days: days("pitr_days")? },
        },
    })
}

fn engines<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> anyhow::Result<DriverSettings> {
    let mut settings = DriverSettings::default();
    for setting in holdfast_engines::settings() {
        if let Some(text) = get(setting.key) {
            settings.set(setting.key, text).map_err(anyhow::Error::msg)?;
        }
    }
    Ok(settings)
}

fn parsed<T: std::str::FromStr>(key: &str, text: &str) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{key} cannot be {text:?}"))
}

fn absolute(path: &str) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{path:?} is no path"))
}

/// A privileged agent runs engines as other users, who cannot pass through a data folder of mode 0700.
fn default_instances(data: &Path) -> PathBuf {
    if !nix::unistd::geteuid().is_root() {
        return data.join("instances");
    }
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new(); // fixed keys: the same path gives the same folder
    data.hash(&mut hasher);
    PathBuf::from(format!("/var/lib/holdfast/{:016x}", hasher.finish()))
}

pub(crate) fn default_engines() -> PathBuf {
    let shared = PathBuf::from("/var/cache/holdfast/engines");
    if shared.is_dir() {
        return shared;
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or(home).map_or(shared, |cache| cache.join("holdfast/engines"))
}

/// # Errors
/// When standard output is gone.
pub(crate) fn print_reference() -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "# Settings of `holdfast serve`. Each can stand in a TOML file (--config FILE), in the environment and,"
    )?;
    writeln!(
        out,
        "# for most, as a flag; a flag wins over the environment, the environment over the file.\n"
    )?;
    for setting in all_settings() {
        writeln!(out, "# {}", setting.meaning)?;
        writeln!(out, "# environment HOLDFAST_{}", setting.key.to_uppercase())?;
        writeln!(out, "# {} = \"{}\"\n", setting.key, setting.default)?;
    }
    writeln!(out, "# Environment only:")?;
    for (name, meaning) in OTHER_VARIABLES {
        writeln!(out, "#   {name}: {meaning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
        rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        for (key, value) in [
            ("listen", "here"),
            ("agent", "maybe"),
            ("pitr_days", "-1"),
            ("kek_rotation_days", "soon"),
            ("log_format", "xml"),
            ("wal_tail", "sometimes"),
            ("mongodb_oplog_mib", "0"),
        ] {
            let error = check(&values(&[(key, value)])).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(error.contains(key), "{key}={value}: {error:?}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_an_error() {
        let file = std::env::temp_dir().join(format!("holdfast-config-{}.toml", std::process::id()));
        std::fs::write(&file, "data = \"/d\"\nlisten_to = \"x\"\n").expect("writable");
        let error = read_file(&file).expect_err("listen_to is unknown");
        std::fs::remove_file(&file).expect("it was written");
        assert!(format!("{error:#}").contains("listen_to"));
    }

    #[test]
    fn the_store_defaults_to_a_folder_of_the_data() {
        let config = check(&values(&[("data", "/srv/h")])).expect("valid");
        assert_eq!(config.server.store_url, "file:///srv/h/objects");
    }
}
