//! What `sqlsmith` makes up of a database's own tables, types and functions, as a workload: unlike the program itself, which rolls back, each
//! statement is committed.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

const STATEMENTS: u32 = 3000;
/// Most of what it makes up are joins, some of everything with everything.
const OPTIONS: &str = "-c statement_timeout=500";

/// Runs them by `psql`; back when all were tried. Returns how many the server carried out, and how many it refused.
/// The program takes no seed above 2^31.
pub(super) async fn run(psql: &Path, connection: &str, seed: u16) -> Result<(usize, usize)> {
    let made_up = Command::new("sqlsmith")
        .args(["--dry-run", "--exclude-catalog"])
        .arg(format!("--max-queries={STATEMENTS}"))
        .arg(format!("--seed={seed}"))
        .arg(format!("--target={connection}"))
        .stdin(Stdio::null())
        .output()
        .await
        .context("sqlsmith, of Debian's package of that name")?;
    ensure!(made_up.status.success(), "sqlsmith: {}", String::from_utf8_lossy(&made_up.stderr));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("made-up.sql");
    std::fs::write(&file, &made_up.stdout)?;
    let mut psql = Command::new(psql);
    psql.args(["--no-psqlrc", "--no-password", "--tuples-only", "--file"])
        .arg(&file)
        .args(["--dbname", connection]);
    psql.env("PGOPTIONS", OPTIONS).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let told = psql.kill_on_drop(true).output().await.context("psql")?.stderr;
    let told = String::from_utf8_lossy(&told);
    ensure!(!told.contains("server closed the connection"), "sqlsmith with seed {seed}: {told}");
    let refused = told.lines().filter(|line| line.contains("ERROR:  ")).count();
    Ok(((STATEMENTS as usize).saturating_sub(refused), refused))
}
