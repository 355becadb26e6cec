//! A service's server as its superuser sees it, by the socket: everything, whoever owns it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::Holdfast;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::dumps::{self, dumped};

/// Where the writer counts all the time.
const BUSY: &str = "public.ledger*";

pub(super) struct Server {
    engines: PathBuf,
    /// Host and port.
    socket: String,
    folder: PathBuf,
}

/// The dumps of roles and databases by name.
pub(super) struct Reading(BTreeMap<String, Vec<String>>);

impl Server {
    pub(super) fn of(engines: &Path, holdfast: &Holdfast, service: &str) -> Result<Self> {
        let folder = holdfast.instances.join(service);
        let settings = folder.join("conf/postgresql.conf");
        let settings = std::fs::read_to_string(&settings).with_context(|| settings.display().to_string())?;
        let setting = |name: &str| {
            let line = settings.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
            line.with_context(|| format!("no {name}"))
        };
        let socket = format!("host={} port={}", setting("unix_socket_directories")?, setting("port")?);
        Ok(Self { engines: engines.to_owned(), socket, folder })
    }

    pub(super) fn copied(&self, holdfast: &Holdfast, service: &str) -> Result<Self> {
        Self::of(&self.engines, holdfast, service)
    }

    /// The end of what the server has said.
    pub(super) fn log(&self) -> Result<String> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.join("log"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut lines = Vec::new();
        for file in files {
            lines.extend(String::from_utf8_lossy(&std::fs::read(file)?).lines().map(str::to_owned));
        }
        Ok(lines[lines.len().saturating_sub(200)..].join("\n"))
    }

    /// As the superuser.
    pub(super) fn database(&self, name: &str) -> String {
        let name = name.replace('\\', "\\\\").replace('\'', "\\'");
        format!("{} user=postgres dbname='{name}'", self.socket)
    }

    /// Everything. The content of unlogged tables does not come back (`docs/engines/postgresql.md`), and a copy's own users have
    /// passwords of their own.
    pub(super) async fn reading(&self) -> Result<Reading> {
        let mut read = BTreeMap::new();
        let globals =
            dumped(&self.engines, "pg_dumpall", &["--globals-only"], &self.database("postgres")).await?;
        read.insert("roles".to_owned(), globals.into_iter().map(without_given_password).collect());
        for name in self.databases().await? {
            let exclude = format!("--exclude-table={BUSY}");
            let arguments = ["--create", "--no-unlogged-table-data", &exclude];
            let of = if name == "defaultdb" { &arguments[..] } else { &arguments[..2] };
            read.insert(
                format!("database {name}"),
                dumped(&self.engines, "pg_dump", of, &self.database(&name)).await?,
            );
        }
        Ok(Reading(read))
    }

    async fn databases(&self) -> Result<Vec<String>> {
        let (client, connection) = tokio_postgres::connect(&self.database("postgres"), NoTls).await?;
        tokio::spawn(connection);
        let all = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1";
        Ok(client.query(all, &[]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Heaps against themselves and against their B-trees, entry by entry.
    pub(super) async fn check(&self) -> Result<()> {
        let output = Command::new(self.engines.join("postgresql-17/bin/pg_amcheck"))
            .args(["--install-missing", "--heapallindexed"])
            .args(["--all", "--maintenance-db", &self.database("postgres")])
            .stdin(Stdio::null())
            .output()
            .await?;
        let told = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "pg_amcheck: {}", String::from_utf8_lossy(&told));
        Ok(())
    }
}

/// Those of the users that Holdfast made are each service's.
fn without_given_password(line: String) -> String {
    let given = ["ALTER ROLE admin ", "ALTER ROLE app_user "].iter().any(|start| line.starts_with(start));
    line.split_once(" PASSWORD ").filter(|_| given).map_or(line.clone(), |(rest, _)| rest.to_owned())
}

impl Reading {
    /// # Errors
    /// Where the two differ.
    pub(super) fn same(&self, copy: &Self) -> Result<()> {
        let names = |of: &Self| of.0.keys().cloned().collect::<Vec<_>>();
        dumps::same(&names(self), &names(copy))?;
        for (name, expected) in &self.0 {
            dumps::same(expected, &copy.0[name]).with_context(|| name.clone())?;
        }
        Ok(())
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} databases, {} lines of dumps",
            self.0.len() - 1,
            self.0.values().map(Vec::len).sum::<usize>()
        )
    }
}
