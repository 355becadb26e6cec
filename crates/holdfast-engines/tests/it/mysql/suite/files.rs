//! The files of the suite, and a copy of what they include.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::rewrite::{for_a_tenant, with_less_cleaning, without_errors};

/// Folders of tests whose statements a tenant may run; each is chosen from as often as it stands here.
const FOLDERS: &[&str] = &[
    "t",
    "t",
    "t",
    "t",
    "t",
    "t",
    "suite/json",
    "suite/gis/t",
    "suite/collations/t",
    "suite/funcs_1",
    "suite/innodb/t",
    "suite/innodb/t",
    "suite/engines/funcs",
    "suite/engines/iuds",
    "suite/gcol/t",
    "suite/parts/t",
    "suite/innodb_fts/t",
    "suite/innodb_gis/t",
    "suite/jp/t",
    "suite/jdv",
    "suite/auth_sec/t",
];
/// Tests that stop the server or look into a debug build of it end without statements.
const NOT_FOR_TENANTS: &[&str] =
    &["have_debug", "restart_mysqld", "shutdown_server", "kill_mysqld", "start_mysqld", "rpl_", "ndb"];

/// What cannot come back, and is said in docs/engines/mysql.md: a key that the server made for a foreign key goes in the source; a trigger's
/// text that the server cannot parse itself.
const NOT_HELD: &[&str] = &["virtual_fk.test", "gcol_bugfixes.test"];

pub(super) struct Suite {
    root: PathBuf,
    /// By entry of `FOLDERS`.
    files: Vec<Vec<PathBuf>>,
}

impl Suite {
    /// `only`: a part of the names of those that are wanted.
    pub(super) fn find(engines: &Path, only: &str) -> Result<Self> {
        let root = engines.join("suite-mysql/root/usr/lib/mysql-test");
        ensure!(root.is_dir(), "no {}: scripts/engines.sh mysql-testsuite", root.display());
        let mut files = Vec::new();
        for folder in FOLDERS {
            let mut found = Vec::new();
            walk(&root.join(folder), &mut found)?;
            found.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
            found.retain(|path| !NOT_HELD.iter().any(|name| path.ends_with(name)));
            found.retain(|path| path.to_string_lossy().contains(only) && runs(path));
            found.sort();
            files.push(found);
        }
        files.retain(|found| !found.is_empty());
        ensure!(!files.is_empty(), "no test is called {only}");
        Ok(Self { root, files })
    }

    /// Names of all, each once.
    pub(super) fn all(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.files.iter().flatten().map(|path| self.name(path)).collect();
        names.into_iter().collect()
    }

    /// Of all in an order that stays the part `number` of `parts`, counted from one.
    pub(super) fn part(&self, number: usize, parts: usize) -> Vec<String> {
        let mut all = self.all();
        all.shuffle(&mut StdRng::seed_from_u64(1));
        all.into_iter().skip(number - 1).step_by(parts).collect()
    }

    /// Names of `count` of them, in any order.
    pub(super) fn some(&self, count: usize, random: &mut StdRng) -> Vec<String> {
        let mut chosen: Vec<&PathBuf> =
            (0..count).filter_map(|_| self.files.choose(random)?.choose(random)).collect();
        chosen.sort();
        chosen.dedup();
        chosen.shuffle(random);
        chosen.into_iter().map(|path| self.name(path)).collect()
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// Copies what tests include into `to`, for a tenant at `port`. What they read besides is linked.
    pub(super) fn prepare(&self, to: &Path, port: u16) -> Result<()> {
        let mut found = Vec::new();
        for folder in ["include", "common", "suite", "t"] {
            walk(&self.root.join(folder), &mut found)?;
        }
        for path in &found {
            let into = to.join(self.name(path));
            std::fs::create_dir_all(into.parent().unwrap_or(to))?;
            match path
                .extension()
                .is_some_and(|extension| ["inc", "pre"].iter().any(|kind| extension == *kind))
            {
                true => {
                    std::fs::write(&into, without_errors(&for_a_tenant(&std::fs::read(path)?, "test", port)))?
                }
                false => symlink(path, &into)?,
            }
        }
        std::fs::create_dir(to.join("tmp"))?;
        std::fs::set_permissions(to.join("tmp"), std::fs::Permissions::from_mode(0o777))?;
        symlink(self.root.join("std_data"), to.join("std_data"))?;
        Ok(())
    }

    /// The test `name` as it is run, in `to`; errors do not end it.
    pub(super) fn rewritten(
        &self,
        name: &str,
        own: &str,
        port: u16,
        to: &Path,
        random: &mut StdRng,
    ) -> Result<PathBuf> {
        let text = std::fs::read(self.root.join(name)).with_context(|| name.to_owned())?;
        let text = without_errors(&with_less_cleaning(&for_a_tenant(&text, own, port), random));
        let path = to.join(name);
        std::fs::remove_file(&path).with_context(|| name.to_owned())?; // never through the link
        std::fs::write(&path, [&b"--disable_abort_on_error\n"[..], &text].concat())?;
        Ok(path)
    }
}

fn runs(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    !NOT_FOR_TENANTS.iter().any(|word| text.contains(word))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => walk(&entry.path(), found)?,
            false => found.push(entry.path()),
        }
    }
    Ok(())
}
