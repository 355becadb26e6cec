//! Runs tests of the suite at a server, one after the other, as a tenant.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::process::Command;

use super::files::Suite;
use super::rewrite::{PASSWORD, USER};
use crate::mysql::rig::Server;

/// Nobody's: a test may start programs.
const UID: u32 = 65_533;
/// A test that takes longer is ended where it is.
const LONGEST: Duration = Duration::from_secs(10);
/// How often a test is ended earlier, somewhere.
const CUT: f64 = 0.25;

pub(super) struct Runner<'a> {
    suite: &'a Suite,
    server: &'a Server,
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl<'a> Runner<'a> {
    pub(super) async fn new(suite: &'a Suite, server: &'a Server, engines: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hf-suite-").tempdir()?;
        suite.prepare(folder.path(), server.instance.port)?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let mut root = server.root().await?;
        // An event that runs meanwhile would make a moment that nobody read.
        root.query_drop("SET GLOBAL event_scheduler = OFF").await?;
        root.query_drop("CREATE DATABASE test").await?;
        let program = engines.join("suite-mysql/bin/mysqltest");
        Ok(Self { suite, server, program, folder })
    }

    /// Runs `names`; nothing is open behind it.
    pub(super) async fn run(&self, names: &[String], random: &mut StdRng) -> Result<()> {
        for name in names {
            let limit = if random.random_bool(CUT) {
                LONGEST.mul_f64(random.random_range(0.0..0.2))
            } else {
                LONGEST
            };
            let own = own(name);
            let mut root = self.server.root().await?;
            root.query_drop(format!("CREATE DATABASE IF NOT EXISTS {own}")).await?;
            // A test may have taken the account that all of them come by.
            for statement in ["CREATE USER IF NOT EXISTS", "ALTER USER"] {
                root.query_drop(format!("{statement} '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
            }
            root.disconnect().await?;
            let port = self.server.instance.port;
            let file = self.suite.rewritten(name, &own, port, self.folder.path(), random)?;
            let ended = self.one(&file, &own, limit).await.with_context(|| name.clone())?;
            println!("{name}: {ended}");
            self.quiet().await?;
        }
        Ok(())
    }

    /// How it ended.
    async fn one(&self, file: &Path, own: &str, limit: Duration) -> Result<String> {
        let privileged = nix::unistd::geteuid().is_root();
        let mut command = Command::new(&self.program);
        if privileged {
            command.uid(UID).gid(UID);
        }
        let folder = self.folder.path().to_string_lossy().into_owned();
        command
            .args(["--no-defaults", "--host=127.0.0.1", "--silent", "--no-skip", "--max-connect-retries=1"])
            .arg(format!("--port={}", self.server.instance.port))
            .arg(format!("--user={USER}"))
            .arg(format!("--password={PASSWORD}"))
            .arg(format!("--database={own}"))
            .arg(format!("--basedir={folder}/"))
            .arg(format!("--tmpdir={folder}"))
            .arg(format!("--logdir={folder}"))
            .arg(format!("--test-file={}", file.display()))
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("MYSQL_TMP_DIR", &*folder), ("MYSQLTEST_VARDIR", &*folder)])
            .envs([
                ("MYSQL_TEST_DIR", &*folder),
                ("DEFAULT_ENGINE", "InnoDB"),
                ("MYSQL", "false"),
                ("MYSQL_DUMP", "false"),
            ])
            .current_dir(&folder)
            .process_group(0)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().context("start mysqltest")?;
        let group = nix::unistd::Pid::from_raw(child.id().context("it runs")?.cast_signed());
        let waited = tokio::time::timeout(limit, child.wait_with_output()).await;
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        Ok(match waited {
            Err(_) => format!("cut after {} ms", limit.as_millis()),
            Ok(ended) => {
                let ended = ended?;
                let said = String::from_utf8_lossy(&ended.stderr).replace('\n', " ");
                format!("{} {}", ended.status, said.chars().take(300).collect::<String>())
            }
        })
    }

    /// Ends every session of a tenant's and what it left prepared, and keeps events from running in a copy before it is read.
    async fn quiet(&self) -> Result<()> {
        let mut root = self.server.root().await?;
        let sessions = "SELECT id FROM information_schema.processlist WHERE user NOT IN ('root', 'event_scheduler', 'system user')";
        crate::mysql::suite::patiently("the sessions to end", async || {
            let open: Vec<u64> = root.query(sessions).await?;
            for id in &open {
                let _ = root.query_drop(format!("KILL {id}")).await;
            }
            Ok(open.is_empty())
        })
        .await?;
        let prepared: Vec<Row> = root.query("XA RECOVER CONVERT XID").await?;
        for row in prepared {
            xa_rollback(&mut root, &row).await?;
        }
        let events = "SELECT CONCAT('ALTER EVENT `', REPLACE(event_schema, '`', '``'), '`.`', REPLACE(event_name, '`', '``'), '` DISABLE') \
            FROM information_schema.events WHERE status = 'ENABLED'";
        let events: Vec<String> = root.query(events).await?;
        for disable in events {
            root.query_drop(&disable).await.with_context(|| disable.clone())?;
        }
        root.disconnect().await?;
        Ok(())
    }
}

async fn xa_rollback(root: &mut Conn, row: &Row) -> Result<()> {
    let (format, of_global, of_branch) = (
        row.get::<i64, _>(0).unwrap_or(1),
        row.get::<usize, _>(1).unwrap_or(0),
        row.get::<usize, _>(2).unwrap_or(0),
    );
    let data: String = row.get(3).context("an XID")?;
    let digits = data.trim_start_matches("0x");
    let (global, branch) = digits.split_at(of_global * 2);
    let branch = branch.get(..of_branch * 2).unwrap_or_default();
    root.query_drop(format!("XA ROLLBACK X'{global}', X'{branch}', {format}")).await?;
    Ok(())
}

/// The database of a test.
fn own(name: &str) -> String {
    let name = name.trim_end_matches(".test").trim_start_matches("suite/");
    let plain: String =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    format!("s_{}", plain.chars().take(60).collect::<String>())
}
