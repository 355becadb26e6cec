//! Valkey's regression suite, unit by unit, as its `runtest --host` runs it against a server that is there already.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// What writes, and may be done at a server that runs already. Without `unit/multi`: it sets the server up from inside transactions,
/// which the relay does not carry, and leaves a script that never ends.
pub(super) const UNITS: [&str; 24] = [
    "unit/type/string",
    "unit/type/incr",
    "unit/type/list",
    "unit/type/list-2",
    "unit/type/list-3",
    "unit/type/set",
    "unit/type/zset",
    "unit/type/hash",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/expire",
    "unit/hashexpire",
    "unit/scripting",
    "unit/functions",
    "unit/sort",
    "unit/bitops",
    "unit/bitfield",
    "unit/geo",
    "unit/hyperloglog",
    "unit/keyspace",
    "unit/scan",
    "unit/dump",
    "unit/other",
    "unit/querybuf",
];
/// A tenant may not do what these do (`docs/engines/valkey.md`).
const TAGS: &str = "-slow -needs:debug -needs:repl -needs:save";
/// It waits for ever where `CLIENT PAUSE` is refused.
const LEFT_OUT: &str = "Blocking timeout following PAUSE should honor the timeout";
/// Some wait for what a tenant cannot do.
const LONGEST: Duration = Duration::from_secs(150);

pub(super) struct Suite {
    /// A copy: the suite writes where it lies.
    own: TempDir,
    engines: PathBuf,
}

impl Suite {
    pub(super) fn open(engines: &Path) -> Result<Self> {
        let folder = engines.join("suite-valkey");
        ensure!(folder.join("tests").is_dir(), "no suite of Valkey; run `scripts/engines.sh suites`");
        let own = tempfile::tempdir()?;
        let copied =
            std::process::Command::new("cp").arg("-r").arg(folder).arg(own.path().join("suite")).status()?;
        ensure!(copied.success(), "copy the suite");
        Ok(Self { own, engines: engines.to_owned() })
    }

    pub(super) fn start(&self, unit: &str, port: u16) -> Result<Child> {
        let mut tcl = Command::new("tclsh");
        tcl.arg("tests/test_helper.tcl").args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        tcl.args(["--single", unit, "--durable", "--tags", TAGS, "--skiptest", LEFT_OUT]);
        tcl.args(["--ignore-encoding", "--ignore-digest"]);
        tcl.args(["--baseport", &holdfast_testkit::ports::reserve()?.to_string(), "--portcount", "10"]);
        tcl.env("VALKEY_BIN_DIR", self.engines.join("valkey-9.1/bin"))
            .current_dir(self.own.path().join("suite"));
        tcl.stdin(Stdio::null())
            .stdout(File::create(self.told(unit))?)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        tcl.spawn().context("start tclsh (Debian's package tcl)")
    }

    fn told(&self, unit: &str) -> PathBuf {
        self.own.path().join(unit.replace('/', "-"))
    }

    /// How many of its tests passed. What it found wrong is no matter.
    pub(super) async fn ended(&self, unit: &str, mut suite: Child) -> Result<usize> {
        if tokio::time::timeout(LONGEST, suite.wait()).await.is_err() {
            println!("{unit}: cut off");
            suite.kill().await?;
        }
        let told = std::fs::read(self.told(unit))?;
        let told = String::from_utf8_lossy(&told);
        for line in told.lines().filter(|line| line.contains("exception\u{1b}")).take(3) {
            println!("{unit}: {line}");
        }
        Ok(told.matches("ok\u{1b}[0m]: ").count())
    }
}
