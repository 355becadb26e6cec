//! The local folder as object store: whole or absent, create-only, private, and clean after a kill.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::open;
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId};
use holdfast_seal::{DataKey, MANIFEST_FORMAT, Manifest};
use holdfast_store::manifest::{read_manifest, write_manifest};
use holdfast_store::{
    ErrorKind, LineageScope, ObjectName, ObjectPrefix, OwnedKey, RepositoryPath, Store, StoreError,
};

fn lineage() -> LineageScope {
    LineageScope {
        organization: OrganizationId::random(),
        service: ServiceId::random(),
        lineage: LineageId::random(),
    }
}

fn name(lineage: LineageScope, path: &str) -> ObjectName {
    ObjectName::Repository { lineage, path: RepositoryPath::new(path).expect("a path") }
}

async fn read(store: &Store, name: &ObjectName) -> Bytes {
    store.get(name).await.expect("there").collect(1 << 20).await.expect("whole")
}

fn writing(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join(".writing")).expect("readable");
    entries.map(|entry| entry.expect("readable").path()).collect()
}

#[tokio::test]
async fn any_range_of_a_long_object_comes_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let name = name(lineage(), "long");
    // Longer than what is read at once, and no byte like that of one piece before.
    let whole: Vec<u8> = (0..700_001_u32).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
    store.put(&name, Bytes::from(whole.clone())).await.expect("stored");
    for range in [0..700_001, 0..1, 700_000..700_001, 262_143..262_145, 1..524_289, 300_000..600_000_u64] {
        let read = store.get_range(&name, range.clone()).await.expect("there").collect(1 << 20).await;
        let (from, to) =
            (usize::try_from(range.start).expect("short"), usize::try_from(range.end).expect("short"));
        assert_eq!(read.expect("whole"), whole[from..to], "{range:?}");
    }
}

#[tokio::test]
async fn objects_are_created_once_or_overwritten_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let name = name(lineage(), "a/ä b#1/../c");
    let stored = store.put_if_absent(&name, Bytes::from("one")).await.expect("stored");
    assert_eq!(stored.sealed_bytes, 3);
    assert_eq!(stored.sha256, holdfast_seal::sha256_hex(b"one"));
    store.put_if_absent(&name, Bytes::from("one")).await.expect("the answer was lost, sent again");
    let error = store.put_if_absent(&name, Bytes::from("two")).await.expect_err("other bytes");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(read(&store, &name).await, "one");
    store.put(&name, Bytes::from("three")).await.expect("overwritten");
    assert_eq!(read(&store, &name).await, "three");
    assert_eq!(store.head(&name).await.expect("there").sealed_bytes, 5);
    let range = store.get_range(&name, 1..3).await.expect("there").collect(10).await.expect("whole");
    assert_eq!(range, "hr");
    let listed: Vec<_> = store.list(&ObjectPrefix::All).try_collect().await.expect("listed");
    assert_eq!(listed.iter().map(|object| &object.name).collect::<Vec<_>>(), [&name]);
    assert!(writing(folder.path()).is_empty());

    store.delete(&name).await.expect("deleted");
    store.delete(&name).await.expect("deleted again");
    assert_eq!(store.head(&name).await.expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(store.get(&name).await.expect_err("gone").kind(), ErrorKind::NotFound);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").collect();
    assert_eq!(left.len(), 1, "folders that fell empty stay: {left:?}");
}

#[tokio::test]
async fn files_and_folders_are_private() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("made/by/us");
    let store = open(&root);
    store.put(&name(lineage(), "x/y"), Bytes::from("z")).await.expect("stored");
    let mut paths = vec![root];
    while let Some(path) = paths.pop() {
        let meta = std::fs::metadata(&path).expect("readable");
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.mode() & 0o7777, expected, "{}", path.display());
        if meta.is_dir() {
            paths.extend(
                std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()),
            );
        }
    }
}

#[tokio::test]
async fn an_unfinished_write_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let name = name(lineage(), "x");
    for abort in [true, false] {
        let mut writer = store.writer(&name, true).await.expect("begun");
        writer.write(Bytes::from(vec![1; 1 << 20])).await.expect("written");
        assert_eq!(writing(folder.path()).len(), 1);
        assert_eq!(store.head(&name).await.expect_err("not yet").kind(), ErrorKind::NotFound);
        if abort {
            writer.abort().await;
        } else {
            drop(writer);
        }
        assert!(writing(folder.path()).is_empty());
        assert_eq!(store.head(&name).await.expect_err("never").kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_one_wins_while_folders_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let lineage = lineage();
    for round in 0..20 {
        let contended = name(lineage, &format!("f/contended{round}"));
        let tasks: Vec<_> = (0..8_u8)
            .map(|i| {
                let (store, contended) = (store.clone(), contended.clone());
                tokio::spawn(async move {
                    // Makes the folder fall empty now and then.
                    let beside = name(lineage, &format!("f/beside{i}"));
                    store.put(&beside, Bytes::from(vec![i])).await.expect("stored");
                    store.delete(&beside).await.expect("deleted");
                    store.put_if_absent(&contended, Bytes::from(vec![i])).await.map(|_| i)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(winner) => winners.push(winner),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(read(&store, &contended).await[..], winners[..]);
        store.delete(&contended).await.expect("deleted");
    }
}

/// Run by the test below in a process of its own, and killed there.
#[tokio::test]
#[ignore = "a part of the next test, which starts it"]
async fn write_without_end() {
    let Ok(folder) = std::env::var("HOLDFAST_TEST_FOLDER") else { return };
    let store = open(folder.as_ref());
    let mut writer = store.writer(&name(lineage(), "endless"), true).await.expect("begun");
    loop {
        writer.write(Bytes::from(vec![1; 1 << 16])).await.expect("written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_writers_file_is_swept_and_a_living_ones_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let mut living = store.writer(&name(lineage(), "living"), true).await.expect("begun");
    living.write(Bytes::from("alive")).await.expect("written");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::write_without_end", "--ignored"])
        .env("HOLDFAST_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("a child");
    let deadline = Instant::now() + Duration::from_secs(30);
    while writing(folder.path()).len() < 2 {
        assert!(Instant::now() < deadline, "the child does not write");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    open(folder.path());
    assert_eq!(writing(folder.path()).len(), 2, "a living writer's file was swept");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let empty = folder.path().join("v1/left/by/a/delete");
    std::fs::create_dir_all(&empty).expect("made");
    open(folder.path());
    assert_eq!(writing(folder.path()).len(), 1, "the killed writer's file stays");
    assert!(!folder.path().join("v1").exists(), "empty folders stay");
    living.finish().await.expect("stored");
}

#[test]
fn addresses_of_no_store_are_refused() {
    for url in [
        "",
        "/tmp/x",
        "file://relative",
        "ftp://x/y",
        "s3://",
        "s3:///x",
        "s3://bucket/a//b",
        "s3://bucket/a?encryption=none",
        "s3://bucket?x",
    ] {
        assert!(matches!(Store::open(url), Err(StoreError::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_manifest_is_written_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let (lineage, backup) = (lineage(), BackupId::random());
    let key = OwnedKey { key_id: KeyId::random(), owner: backup.to_string(), key: DataKey::random() };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        backup_id: backup.to_string(),
        organization: lineage.organization.to_string(),
        service: lineage.service.to_string(),
        lineage: lineage.lineage.to_string(),
        tool_label: "20261122-101500F".to_owned(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        previous_manifest_sha256: None,
        key_id: key.key_id.0,
        objects: Vec::new(),
        facts: serde_json::Map::new(),
    };
    let sha256 = write_manifest(&store, lineage, &backup, &key, &manifest).await.expect("written");
    assert_eq!(sha256, holdfast_seal::sha256_hex(&manifest.to_bytes()));
    let again = write_manifest(&store, lineage, &backup, &key, &manifest).await.expect("written before");
    assert_eq!(again, sha256);
    let other = Manifest { tool_label: "other".to_owned(), ..manifest.clone() };
    let error = write_manifest(&store, lineage, &backup, &key, &other).await.expect_err("another manifest");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let (found, found_sha256) = read_manifest(&store, lineage, &backup, &key).await.expect("readable");
    assert_eq!((found, found_sha256), (manifest, sha256));
    let wrong = OwnedKey { key_id: KeyId::random(), ..key.clone() };
    let error = read_manifest(&store, lineage, &backup, &wrong).await.expect_err("another key");
    assert!(matches!(error, StoreError::OtherKey { found, .. } if found == key.key_id), "{error:?}");
}
