//! PostgreSQL's regression suite (`src/test/regress`), run file by file as its `pg_regress` does, but by the service's tenant.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::process::Command;

/// Of a group's files so many run at once.
const AT_ONCE: usize = 4;
/// Some wait for what a tenant cannot do.
const LONGEST: Duration = Duration::from_secs(60);
/// Its client has a command for pipelines; release 17's waits for ever.
const LEFT_OUT: [&str; 1] = ["psql_pipeline"];
/// Release 17 makes a domain with two of these, of which `pg_dump` 17.11 crashes: it lists both, and keeps one.
const TWICE_NOT_NULL: &str = " constraint nn2 not null";
/// `pgbackrest` 2.55 refuses a cluster with tablespaces in place, which are for PostgreSQL's own tests and a superuser's alone to make
/// (PostgreSQL 17, 19.17).
const IN_PLACE: &str = "SET allow_in_place_tablespaces = true;";
/// As `pg_regress` sets them.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PGTZ", "America/Los_Angeles"),
    ("PGDATESTYLE", "Postgres, MDY"),
    ("PGOPTIONS", "-c intervalstyle=postgres_verbose -c createrole_self_grant=set,inherit"),
    ("PG_DLSUFFIX", ".so"),
];

/// Who runs it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum By {
    Tenant,
    Superuser,
}

pub(super) struct Suite {
    by: By,
    pub(super) psql: PathBuf,
    folder: PathBuf,
    /// Where files are as a tenant runs them, and what they write.
    own: TempDir,
    /// In their order; the files of a group may run side by side.
    pub(super) groups: Vec<Vec<String>>,
}

/// What came of some files.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) files: usize,
    pub(super) refused: usize,
    pub(super) cut_off: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, refused, cut_off } = self;
        write!(f, "{files} files, {refused} statements refused, cut off {cut_off:?}")
    }
}

impl Suite {
    pub(super) fn open(engines: &Path, by: By) -> Result<Self> {
        let folder = engines.join("suite-postgresql");
        let schedule = std::fs::read_to_string(folder.join("parallel_schedule"))
            .context("no suite of PostgreSQL; run `scripts/engines.sh suites`")?;
        let groups = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
        let files = |names: &str| {
            names.split_whitespace().filter(|name| !LEFT_OUT.contains(name)).map(str::to_owned).collect()
        };
        let groups = groups.map(files).collect();
        let own = tempfile::tempdir()?;
        std::fs::create_dir(own.path().join("results"))?;
        Ok(Self { by, psql: engines.join("postgresql-17/bin/psql"), folder, own, groups })
    }

    /// Runs the files, and adds what came of them.
    pub(super) async fn run(&self, names: &[String], connection: &str, outcome: &mut Outcome) -> Result<()> {
        let files = names.iter().map(|name| self.file(name, connection));
        let mut ended = futures::stream::iter(files).buffer_unordered(AT_ONCE);
        while let Some(ended) = ended.next().await {
            let (name, refused) = ended?;
            outcome.files += 1;
            match refused {
                Some(refused) => outcome.refused += refused,
                None => outcome.cut_off.push(name),
            }
        }
        Ok(())
    }

    /// How many statements the server refused; `None` if it took too long.
    async fn file(&self, name: &str, connection: &str) -> Result<(String, Option<usize>)> {
        let text = std::fs::read(self.folder.join(format!("sql/{name}.sql")))?;
        let file = self.own.path().join(format!("{name}.sql"));
        std::fs::write(&file, self.ready(name, &text))?;
        let mut psql = Command::new(&self.psql);
        psql.args(["--no-psqlrc", "--quiet", "--no-password", "--file"])
            .arg(&file)
            .args(["--dbname", connection]);
        psql.envs(ENVIRONMENT).env("PG_ABS_SRCDIR", &self.folder).env("PG_ABS_BUILDDIR", self.own.path());
        psql.env("PG_LIBDIR", &self.folder).current_dir(self.own.path());
        psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let Ok(ended) = tokio::time::timeout(LONGEST, psql.output()).await else {
            return Ok((name.to_owned(), None));
        };
        let told = ended.with_context(|| format!("psql {name}"))?.stderr;
        let told = String::from_utf8_lossy(&told);
        for sign in ["server closed the connection", "terminating connection because of crash"] {
            ensure!(!told.contains(sign), "{name}: {told}");
        }
        Ok((name.to_owned(), Some(told.lines().filter(|line| line.contains("ERROR:  ")).count())))
    }

    /// A file as it can be run.
    fn ready(&self, name: &str, text: &[u8]) -> Vec<u8> {
        let (mut made, mut file) = (Vec::new(), String::new());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // A few files hold bytes of other encodings.
            let Ok(line) = std::str::from_utf8(line) else {
                made.extend(line);
                continue;
            };
            if let Some(path) = line.strip_prefix("\\set filename :abs_srcdir ") {
                file = format!("{}{}", self.folder.display(), path.trim().trim_matches('\''));
            }
            let line = line.replace(TWICE_NOT_NULL, "").replace(IN_PLACE, "SELECT 1;");
            made.extend(if self.by == By::Tenant { for_a_tenant(name, &line, &file) } else { line }.bytes());
        }
        made
    }
}

/// A tenant cannot read the host's files, become another session's user, or call a function leakproof. So that what follows is done all
/// the same, the client reads the files, and another role will do.
fn for_a_tenant(name: &str, line: &str, file: &str) -> String {
    let line = line.replace("SESSION AUTHORIZATION", "ROLE").replace("session authorization", "role");
    match line.split_once("FROM :'filename'") {
        Some((head, tail)) if head.starts_with("COPY ") => {
            format!("\\{head}FROM '{file}'{tail}").replacen("COPY", "copy", 1)
        }
        _ if name == "test_setup" => line.replace(" leakproof", ""),
        _ => line,
    }
}
