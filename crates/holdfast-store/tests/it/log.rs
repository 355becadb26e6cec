//! Log segments and streams of backups: written, read while compaction runs, damaged, sent twice.

use std::collections::HashMap;

use futures::TryStreamExt;
use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::DataKey;
use holdfast_store::log::{
    LogItem, SEGMENT_FORMAT, SegmentHeader, compaction, last_segment, pieces, read_log,
};
use holdfast_store::log::{segment_name, write_segment};
use holdfast_store::sealed::{SealedReader, SealedWriter, store_compressed};
use holdfast_store::{ErrorKind, LineageScope, ObjectName, OwnedKey, RepositoryPath, Store, StoreError};
use rand::RngCore as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

struct Bucket {
    folder: TempDir,
    store: Store,
    scope: LineageScope,
    keys: HashMap<KeyId, OwnedKey>,
}

impl Bucket {
    fn new() -> Self {
        let scope = LineageScope {
            organization: OrganizationId::random(),
            service: ServiceId::random(),
            lineage: LineageId::random(),
        };
        Self::of(scope, HashMap::new())
    }

    fn of(scope: LineageScope, keys: HashMap<KeyId, OwnedKey>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
        Self { folder, store, scope, keys }
    }

    /// Another one with the same objects.
    fn copy(&self, objects: &[ObjectName]) -> Self {
        let copy = Self::of(self.scope, self.keys.clone());
        for object in objects {
            let to = copy.path(object);
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            std::fs::copy(self.path(object), to).expect("copied");
        }
        copy
    }

    fn key(&mut self) -> OwnedKey {
        let key_id = KeyId::random();
        let key = OwnedKey { key_id, owner: key_id.to_string(), key: DataKey::from_bytes(rand::random()) };
        self.keys.insert(key_id, key.clone());
        key
    }

    async fn write(&self, key: &OwnedKey, from: u64, log: &[u8]) -> Result<(), StoreError> {
        let to = from + log.len() as u64;
        let name = segment_name(self.scope, 0, from, to);
        let find = |id| self.keys.get(&id).cloned();
        write_segment(&self.store, &name, key, &find, &header(from, to), log).await.map(drop)
    }

    /// The log from the segment that holds `from` on, and the cursors at which segments began.
    async fn read(&self, from: u64, to: u64) -> Result<(Vec<u8>, Vec<serde_json::Value>), StoreError> {
        let keys = self.keys.clone();
        let mut items = read_log(&self.store, self.scope, 0, from, to, move |id| keys.get(&id).cloned());
        let (mut log, mut cursors) = (Vec::new(), Vec::new());
        while let Some(item) = items.try_next().await? {
            match item {
                LogItem::Segment(header) => cursors.push(header.from),
                LogItem::Bytes(bytes) => log.extend_from_slice(&bytes),
            }
        }
        Ok((log, cursors))
    }

    async fn compact(&self, hours_later: i64) -> compaction::Compacted {
        let find = |id| self.keys.get(&id).cloned();
        let now = Timestamp::now() + jiff::SignedDuration::from_hours(hours_later);
        compaction::compact(&self.store, self.scope, &find, now).await.expect("it is compacted")
    }

    fn path(&self, name: &ObjectName) -> std::path::PathBuf {
        self.folder.path().join(name.to_path().to_string())
    }
}

fn header(from: u64, to: u64) -> SegmentHeader {
    let (from, to) = (json!({ "at": from }), json!({ "at": to }));
    SegmentHeader { format: SEGMENT_FORMAT, from, to, complete_until: None, gap: None }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rand::rng().fill_bytes(&mut noise);
    noise
}

#[tokio::test]
async fn log_comes_back_byte_for_byte_before_and_after_compaction() {
    let mut bucket = Bucket::new();
    let (first, second) = (bucket.key(), bucket.key());
    let log = noise(900_000);
    let cuts = [0, 0, 10, 300_000, 300_001, 650_000, 899_000, 900_000];
    for pair in cuts.windows(2) {
        let key = if pair[0] < 650_000 { &first } else { &second };
        bucket.write(key, pair[0] as u64, &log[pair[0]..pair[1]]).await.expect("a segment");
    }
    let whole = |read: Vec<u8>| assert!(read == log, "{} of {} bytes, or other ones", read.len(), log.len());
    whole(bucket.read(0, 900_000).await.expect("it reads").0);
    let (part, cursors) = bucket.read(300_000, 900_000).await.expect("it reads");
    assert!(part == log[300_000..], "from a cut on");
    assert_eq!(cursors[0], json!({ "at": 300_000 }));

    let done = bucket.compact(2).await;
    assert_eq!((done.merged, done.removed), (1, 4), "the other epoch's last segment but one stands alone");
    let left: Vec<_> =
        pieces(&bucket.store, bucket.scope).await.expect("a list").iter().map(|p| (p.from, p.to)).collect();
    assert_eq!(left, [(0, 0), (0, 650_000), (650_000, 899_000), (899_000, 900_000)]);
    let (read, cursors) = bucket.read(0, 900_000).await.expect("it reads");
    whole(read);
    assert_eq!(cursors, [json!({ "at": 0 }), json!({ "at": 650_000 }), json!({ "at": 899_000 })]);
    let (read, _) = bucket.read(300_000, 900_000).await.expect("it reads");
    whole(read); // from the merged segment's beginning
    assert_eq!(bucket.compact(2).await, compaction::Compacted::default(), "a second run finds nothing to do");

    let find = |id| bucket.keys.get(&id).cloned();
    let (end, last) = last_segment(&bucket.store, bucket.scope, &find).await.expect("it opens").expect("one");
    assert_eq!((end, last.to), (900_000, json!({ "at": 900_000 })));
}

#[tokio::test]
async fn a_reader_does_not_notice_compaction() {
    let mut bucket = Bucket::new();
    let key = bucket.key();
    let log = noise(4_000_000);
    for (index, piece) in log.chunks(50_000).enumerate() {
        bucket.write(&key, index as u64 * 50_000, piece).await.expect("a segment");
    }
    let keys = bucket.keys.clone();
    let mut items = read_log(&bucket.store, bucket.scope, 0, 0, 4_000_000, move |id| keys.get(&id).cloned());
    let mut read = Vec::new();
    while let Some(item) = items.try_next().await.expect("it reads on") {
        let LogItem::Bytes(bytes) = item else { continue };
        read.extend_from_slice(&bytes);
        if read.len() == 500_000 {
            let done = bucket.compact(2).await;
            assert_eq!((done.merged, done.removed), (1, 79));
        }
    }
    assert!(read == log, "{} bytes, or other ones", read.len());
}

#[tokio::test]
async fn what_a_merged_segment_replaces_goes_only_if_that_opens_to_its_end() {
    let mut bucket = Bucket::new();
    let key = bucket.key();
    let log = noise(400_000);
    for (index, piece) in log.chunks(100_000).enumerate() {
        bucket.write(&key, index as u64 * 100_000, piece).await.expect("a segment");
    }
    // A run was cut off behind an object that was not confirmed: too short, or not what was sent.
    let name = segment_name(bucket.scope, 0, 0, 300_000);
    let find = |id| bucket.keys.get(&id).cloned();
    for damage in [false, true] {
        let long = if damage { 300_000 } else { 200_000 };
        write_segment(&bucket.store, &name, &key, &find, &header(0, 300_000), &log[..long])
            .await
            .expect("stored");
        if damage {
            let mut sealed = std::fs::read(bucket.path(&name)).expect("the object");
            *sealed.last_mut().expect("it has bytes") ^= 1;
            std::fs::write(bucket.path(&name), sealed).expect("written");
        }
        let done = bucket.compact(0).await;
        assert_eq!((done.merged, done.removed), (0, 1), "it goes, and what it was made of stays");
        assert!(bucket.read(0, 400_000).await.expect("it reads").0 == log);
    }
    // One that is whole takes their place.
    write_segment(&bucket.store, &name, &key, &find, &header(0, 300_000), &log[..300_000])
        .await
        .expect("stored");
    assert_eq!(bucket.compact(0).await.removed, 3);
    assert!(bucket.read(0, 400_000).await.expect("it reads").0 == log);
}

#[tokio::test]
async fn a_hole_and_damage_are_errors_that_name_what_is_missing() {
    let mut bucket = Bucket::new();
    let key = bucket.key();
    bucket.write(&key, 0, b"abc").await.expect("a segment");
    bucket.write(&key, 4, b"e").await.expect("a segment");
    let error = bucket.read(0, 5).await.expect_err("byte 3 is missing");
    assert!(error.to_string().contains("byte 3"), "{error}");
    bucket.write(&key, 3, b"d").await.expect("a segment");
    assert_eq!(bucket.read(0, 5).await.expect("it reads").0, b"abcde");

    let segment = |from, to| segment_name(bucket.scope, 0, from, to);
    let objects = [segment(0, 3), segment(3, 4), segment(4, 5)];
    let path = bucket.path(&objects[1]);
    let sealed = std::fs::read(&path).expect("the object");
    // Each waits between its tries to read, so all go at once.
    let refused = (0..sealed.len()).step_by(7).map(|index| {
        let damaged = bucket.copy(&objects);
        let mut bytes = sealed.clone();
        bytes[index] ^= 0x40;
        std::fs::write(damaged.path(&objects[1]), &bytes).expect("written");
        async move {
            let error = damaged.read(0, 5).await.expect_err("a flipped bit");
            assert_eq!(error.kind(), ErrorKind::Permanent, "byte {index}: {error}");
        }
    });
    futures::future::join_all(refused).await;
    // A segment in another's place does not open there.
    std::fs::copy(bucket.path(&objects[2]), &path).expect("copied");
    bucket.read(0, 5).await.expect_err("it is another segment");
}

#[tokio::test]
async fn a_segment_sent_twice_is_one_and_another_one_is_refused() {
    let mut bucket = Bucket::new();
    let (key, next_epoch) = (bucket.key(), bucket.key());
    bucket.write(&key, 0, b"abc").await.expect("a segment");
    bucket.write(&key, 0, b"abc").await.expect("its answer was lost");
    bucket.write(&next_epoch, 0, b"abc").await.expect("its answer was lost, and a backup completed");
    let error = bucket.write(&key, 0, b"abd").await.expect_err("other log");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

/// The segment of docs/format.md, built by hand as that page says; what release wrote it counts for nothing (T9).
#[tokio::test]
async fn a_segment_of_format_1_opens() {
    let mut bucket = Bucket::new();
    let key = bucket.key();
    let doc = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md");
    let doc = std::fs::read_to_string(doc).expect("the page");
    let (_, line) = doc.split_once("\nlog.segment.plaintext = ").expect("the vector");
    let plain = hex::decode(line.lines().next().unwrap_or_default()).expect("hex");
    let name = segment_name(bucket.scope, 0, 0, 6);
    let mut writer = SealedWriter::begin(&bucket.store, &name, &key).await.expect("begun");
    writer.write(&plain).await.expect("written");
    writer.finish().await.expect("stored");
    let (log, cursors) = bucket.read(0, 6).await.expect("it reads");
    assert_eq!((log.as_slice(), cursors), (&b"abcdef"[..], vec![json!({ "file": 7 })]));
    let find = |id| bucket.keys.get(&id).cloned();
    let (_, header) = last_segment(&bucket.store, bucket.scope, &find).await.expect("it opens").expect("one");
    assert_eq!(header.complete_until, Some("2026-11-22T10:00:00.25Z".parse().expect("a time")));
    assert_eq!(header.gap.as_deref(), Some("purged"));
}

#[tokio::test]
async fn a_backups_stream_is_compressed_and_whole_or_absent() {
    let mut bucket = Bucket::new();
    let key = bucket.key();
    let path = RepositoryPath::new("dump/ä.sql").expect("a path");
    let backup: holdfast_core::BackupId = "bkp_0123456789abcdef".parse().expect("an id");
    let name = ObjectName::BackupObject { lineage: bucket.scope, backup, attempt: 7, path };
    let mut broken = reader_of(vec![Ok(b"x".repeat(1_000_000)), Err(())]);
    store_compressed(&bucket.store, &name, &key, &mut broken).await.expect_err("the dump broke off");
    let error = bucket.store.head(&name).await.expect_err("nothing is left");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let plain = b"insert into t values (1);\n".repeat(100_000);
    let (read, object) = store_compressed(&bucket.store, &name, &key, &mut &plain[..]).await.expect("stored");
    assert_eq!(read, plain.len() as u64);
    assert!(object.sealed_bytes < read / 50, "{} bytes", object.sealed_bytes);
    let find = |id| bucket.keys.get(&id).cloned();
    let mut found = Vec::new();
    let reader = SealedReader::open(&bucket.store, &name, &find).await.expect("it opens");
    reader.decompressed().read_to_end(&mut found).await.expect("it reads");
    assert!(found == plain);
    let canary = std::fs::read(bucket.path(&name)).expect("the object");
    assert!(!canary.windows(6).any(|window| window == b"insert"), "plaintext in the store");
}

/// Yields these pieces, and an I/O error for `Err`.
fn reader_of(pieces: Vec<Result<Vec<u8>, ()>>) -> impl tokio::io::AsyncRead + Send + Unpin {
    let pieces = pieces.into_iter().map(|piece| match piece {
        Ok(bytes) => Ok(bytes::Bytes::from(bytes)),
        Err(()) => Err(std::io::Error::other("the tool was killed")),
    });
    tokio_util::io::StreamReader::new(futures::stream::iter(pieces))
}
