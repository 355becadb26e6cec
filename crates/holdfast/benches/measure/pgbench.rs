//! The database that is copied: pgbench's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// How to reach a database. The password goes through the environment of one process.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) password: String,
}

impl Database {
    /// Takes `postgresql://user:password@…` apart.
    pub(crate) fn of(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("a URL")?;
        let (user, rest) = rest.split_once(':').context("a user")?;
        let (password, rest) = rest.split_once('@').context("a password")?;
        Ok(Self { url: format!("{scheme}://{user}@{rest}"), password: password.to_owned() })
    }

    fn command(&self, engines: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program(engines, "pgbench"));
        command.args(args).arg(&self.url).env("PGPASSWORD", &self.password);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Fills the database at this scale: some 15 MB a unit.
    pub(crate) async fn fill(&self, engines: &Path, scale: u32) -> Result<()> {
        let mut command = self.command(engines, &["-i", "-q", "-s", &scale.to_string()]);
        let status = tokio::task::spawn_blocking(move || command.status()).await??;
        ensure!(status.success(), "pgbench could not fill the database: {status}");
        Ok(())
    }

    /// Runs pgbench's TPC-B-like load beside; `rate` transactions a second, or as many as it can.
    pub(crate) fn load(&self, engines: &Path, seconds: u64, rate: Option<u32>) -> Result<Child> {
        let seconds = seconds.to_string();
        let rate = rate.map(|rate| format!("--rate={rate}"));
        let mut args = vec!["-n", "-c", "4", "-j", "1", "-T", &seconds];
        args.extend(rate.as_deref());
        self.command(engines, &args).spawn().context("start pgbench")
    }
}

pub(crate) fn program(engines: &Path, name: &str) -> PathBuf {
    engines.join("postgresql-17/bin").join(name)
}
