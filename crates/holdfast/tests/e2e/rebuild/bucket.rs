//! What the tests do with a bucket, with the command line and with an engine that nobody supervises.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::BINARY;
use crate::rebuild::Left;

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let ended = command.env_remove("HOLDFAST_DATA").stdin(Stdio::null()).output()?;
        Ok(Self {
            code: ended.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{self:?}"))
    }
}

/// The command on this bucket, with this kit.
pub(crate) fn run(arguments: &[&str], store: &str, kit: &Path) -> Result<Run> {
    Run::of(Command::new(BINARY).args(arguments).args(["--store", store, "--recovery-kit"]).arg(kit))
}

/// Copies a folder; the copies have dates of their own.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let ended = Command::new("cp").args(["-r", "--no-preserve=timestamps"]).args([from, to]).status()?;
    ensure!(ended.success(), "cp: {ended}");
    Ok(())
}

/// Every file with its length and date.
pub(crate) fn digest(folder: &Path) -> Result<BTreeMap<PathBuf, (u64, i64)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = std::fs::metadata(&path)?;
        if meta.is_dir() {
            found.extend(digest(&path)?);
        } else {
            found.insert(path, (meta.len(), meta.mtime_nsec() + meta.mtime() * 1_000_000_000));
        }
    }
    Ok(found)
}

/// Files of a bucket whose name holds this text.
pub(crate) fn named(bucket: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let all = digest(bucket)?.into_keys();
    Ok(all.filter(|path| path.to_string_lossy().contains(text)).collect())
}

/// Kills a rebuild between its first and its last write.
pub(crate) async fn kill_while_it_rebuilds(left: &Left, data: &Path) -> Result<()> {
    for _ in 0..20 {
        let mut child = Command::new(BINARY)
            .args(["rebuild", "--store", &left.store, "--recovery-kit"])
            .arg(&left.kit)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let began = Instant::now();
        while !data.join("rebuilding").exists() && child.try_wait()?.is_none() {
            ensure!(began.elapsed() < Duration::from_secs(60), "the rebuild does not begin");
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill()?;
        child.wait()?;
        if data.join("rebuilding").exists() {
            return Ok(());
        }
        std::fs::remove_dir_all(data)?; // it was faster
    }
    anyhow::bail!("it was never killed half-way")
}

/// An engine that `holdfast open` started; it ends with the test.
pub(crate) struct Engine {
    stop: Vec<String>,
}

impl Engine {
    pub(crate) fn of(opened: &Value) -> Result<Self> {
        let stop = opened["stop"].as_str().context("how to stop it")?;
        Ok(Self { stop: stop.split(' ').map(str::to_owned).collect() })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ended =
            Command::new(&self.stop[0]).args(&self.stop[1..]).arg("-w").stdout(Stdio::null()).status();
        assert!(
            std::thread::panicking() || ended.is_ok_and(|status| status.success()),
            "the command that was printed stops it"
        );
    }
}

/// No process of the engine is root's.
pub(crate) fn runs_unprivileged(target: &Path) -> Result<()> {
    let pid = std::fs::read_to_string(target.join("data/postmaster.pid"))?;
    let owner = std::fs::metadata(format!("/proc/{}", pid.lines().next().context("a process id")?))?.uid();
    ensure!(owner != 0, "the engine runs as root");
    Ok(())
}

/// What opened the repository is not left behind.
pub(crate) fn holds_no_secret(target: &Path) -> Result<()> {
    ensure!(!target.join("gateway").exists() && !target.join("conf/source.conf").exists());
    let conf = std::fs::read_to_string(target.join("conf/pgbackrest.conf")).unwrap_or_default();
    ensure!(!conf.lines().any(|line| line.starts_with("repo1-cipher-pass=") && line.len() > 30), "{conf}");
    Ok(())
}
