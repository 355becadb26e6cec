//! Power cuts: what was not brought to disk is gone afterwards. A whole Holdfast runs under strace while it makes a service,
//! a backup and a restore, and the calls it made are judged by a file system that keeps as little as POSIX allows:
//! a file's content survives once it was fsynced, a name (of a file or of a folder) once its folder was.
//!
//! Judged are the files that count: keys, the object store's files, the agent's and the instances' records. The catalog is
//! SQLite's, with `synchronous=FULL`; the database's files are the engine's.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::{Holdfast, holdfast, wait_for};
use jiff::Timestamp;

use crate::BINARY;

const CALLS: &str = "fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,mkdir,mkdirat";

/// What a process asked of the file system, and got.
#[derive(Debug, PartialEq)]
enum Call {
    Sync(PathBuf),
    SyncAll,
    /// The first path's content is there under the second one from now on.
    Name(PathBuf, PathBuf),
    MakeFolder(PathBuf),
}

/// Reads one whole line of strace's (`-y`: descriptors come with their paths); failed calls are none.
fn call(line: &str) -> Option<Call> {
    let (call, result) = line.rsplit_once(" = ")?;
    let (name, arguments) = call.split_once('(')?;
    let name = name.rsplit(' ').next()?;
    if !result.trim_start().starts_with('0') {
        return None;
    }
    let quoted: Vec<PathBuf> = arguments.split('"').skip(1).step_by(2).map(PathBuf::from).collect();
    let of_descriptor = || Some(PathBuf::from(arguments.split_once('<')?.1.split_once('>')?.0));
    match name {
        "fsync" | "fdatasync" => of_descriptor().map(Call::Sync),
        "syncfs" => Some(Call::SyncAll),
        "mkdir" | "mkdirat" => quoted.into_iter().next().map(Call::MakeFolder),
        _ => <[PathBuf; 2]>::try_from(quoted).ok().map(|[from, to]| Call::Name(from, to)),
    }
}

/// All calls in the order of their ends; a call that others interrupted is put together again.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut all = Vec::new();
    for line in trace.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        if let Some(first) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(process, first);
        } else if let Some((_, last)) = rest.split_once(" resumed>") {
            let whole = begun.remove(process).map(|first| format!("{first}{last}"));
            all.extend(whole.and_then(|line| call(&line)));
        } else {
            all.extend(call(rest));
        }
    }
    all
}

/// A disk that has lost power: what is not known to be on it, is not.
#[derive(Default)]
struct Disk {
    synced: HashSet<PathBuf>,
    /// Names that their folder has not been synced for yet.
    unsafe_names: HashSet<PathBuf>,
    faults: Vec<String>,
    judged: usize,
}

impl Disk {
    fn apply(&mut self, call: Call, counts: &impl Fn(&Path) -> bool) {
        match call {
            Call::Sync(path) => {
                self.unsafe_names.retain(|name| name.parent() != Some(&path));
                self.synced.insert(path);
            }
            Call::SyncAll => self.unsafe_names.clear(),
            Call::MakeFolder(path) => {
                self.unsafe_names.insert(path);
            }
            Call::Name(from, to) if counts(&to) => {
                self.judged += 1;
                if !self.synced.remove(&from) {
                    self.faults.push(format!("{} got its name before its content was synced", to.display()));
                }
                if to.components().any(|part| part.as_os_str() == "manifest") {
                    self.manifest(&to);
                }
                self.unsafe_names.insert(to);
            }
            Call::Name(..) => {}
        }
    }

    /// Whoever finds the manifest believes that the backup's files are there.
    fn manifest(&mut self, manifest: &Path) {
        let Some(lineage) = manifest.ancestors().nth(2) else { return };
        let base = lineage.join("repository/repo/backup");
        let lost = self.unsafe_names.iter().filter(|name| name.starts_with(&base));
        self.faults
            .extend(lost.map(|name| format!("{} could be lost, and its manifest not", name.display())));
    }

    /// In the end every name that counts, and every folder above one, is safe.
    fn end(mut self, counts: &impl Fn(&Path) -> bool) -> (usize, Vec<String>) {
        let lost = self.unsafe_names.iter().filter(|name| counts(name));
        self.faults
            .extend(lost.map(|name| format!("{}: its folder was not synced after it", name.display())));
        (self.judged, self.faults)
    }
}

/// strace in the binary's place; `-D` makes it a grandchild, so that the process that is started is Holdfast itself.
fn traced(folder: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if !["/usr/bin/strace", "/bin/strace"].iter().any(|program| Path::new(program).is_file()) {
        let why = "there is no strace; run scripts/packages.sh";
        assert!(std::env::var("HOLDFAST_REQUIRE_ENGINES").as_deref() != Ok("1"), "{why}");
        println!("SKIPPED: {why}");
        return Ok(None);
    }
    let (script, trace) = (folder.join("holdfast"), folder.join("trace"));
    let line = format!(
        "#!/bin/sh\nexec strace -D -f -y -qq -s 4096 -e signal=none -e trace={CALLS} -o '{}' '{BINARY}' \"$@\"\n",
        trace.display()
    );
    std::fs::write(&script, line)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(Some((script, trace)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_is_on_the_disk_before_anybody_relies_on_it() -> Result<()> {
    let own = tempfile::tempdir()?;
    let (Some(_), Some((script, trace))) = (holdfast::engines(), traced(own.path())?) else { return Ok(()) };
    let script = script.to_str().context("a plain path")?;
    let holdfast = Holdfast::start(script, "durable").await?;
    let client = holdfast.client();
    let id = client.create("durable").await?;
    let backup = client.wait_first_backup(&id).await?;
    ensure!(backup["status"] == "completed", "{backup}");
    wait_for("there is a recovery window", 60, || async {
        let pitr = client.get(&format!("/managed-services/{id}/pitr")).await?;
        Ok(pitr["latest_restore_point"].is_string().then_some(()))
    })
    .await?;
    let copy = client.restore_to(&id, &Timestamp::now().to_string(), "durable-copy").await?;
    client.wait_running(&copy, 120).await?;
    client.wait_first_backup(&copy).await?;
    let (data, instances) = (holdfast.data(), holdfast.instances.clone());
    let counts = move |path: &Path| {
        let is_ours = |name: &str| path.file_name().is_some_and(|own| own == name);
        let in_data = ["keys", "objects", "agent"].iter().any(|part| path.starts_with(data.join(part)));
        let is_temporary = path.components().any(|part| part.as_os_str() == ".writing");
        (in_data && !is_temporary && !path.to_string_lossy().contains("/probe/"))
            || (path.starts_with(&instances)
                && (is_ours("instance.json") || path.parent() == Some(&instances)))
    };
    let judge = || -> Result<(usize, usize, Vec<String>)> {
        let text = std::fs::read_to_string(&trace)?;
        let mut disk = Disk::default();
        calls(&text).into_iter().for_each(|call| disk.apply(call, &counts));
        let (judged, faults) = disk.end(&counts);
        Ok((text.lines().count(), judged, faults))
    };
    // A write that is under way has its name and waits for its folder: nobody has been told of it yet.
    let (mut lines, mut judged, mut faults) = judge()?;
    for _ in 0..20 {
        if faults.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        (lines, judged, faults) = judge()?;
    }
    println!("{judged} names judged in {lines} lines");
    ensure!(judged > 50, "too few to say anything: {judged}");
    ensure!(faults.is_empty(), "a power cut could lose:\n{}", faults.join("\n"));
    Ok(())
}

#[test]
fn an_interrupted_call_is_read_as_one() {
    let trace = "7 fsync(12</d/a.new> <unfinished ...>\n8 mkdir(\"/d/b\", 0700) = -1 EEXIST (File exists)\n\
                 7 <... fsync resumed>) = 0\n7 rename(\"/d/a.new\", \"/d/a\") = 0\n9 fsync(3</d>) = 0\n";
    let path = PathBuf::from;
    let expected =
        [Call::Sync(path("/d/a.new")), Call::Name(path("/d/a.new"), path("/d/a")), Call::Sync(path("/d"))];
    assert_eq!(calls(trace), expected);
    let all = |_: &Path| true;
    let judge = |trace: &str| {
        let mut disk = Disk::default();
        calls(trace).into_iter().for_each(|call| disk.apply(call, &all));
        disk.end(&all).1.len()
    };
    assert_eq!(judge(trace), 0);
    assert_eq!(judge("7 rename(\"/d/a.new\", \"/d/a\") = 0\n9 fsync(3</d>) = 0\n"), 1, "content");
    assert_eq!(judge("7 fsync(12</d/a.new>) = 0\n7 rename(\"/d/a.new\", \"/d/a\") = 0\n"), 1, "name");
    assert_eq!(judge("7 mkdir(\"/d/b\", 0700) = 0\n"), 1, "folder");
}
