//! The store on a real S3 server behind a faulty network: what passes is lived with, what does not is named, and nothing
//! waits for ever (T13, T15, T16, T17, R22).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::DataKey;
use holdfast_store::log::{SEGMENT_FORMAT, SegmentHeader, compaction, segment_name, write_segment};
use holdfast_store::{
    ErrorKind, Limits, LineageScope, ObjectName, ObjectPrefix, OwnedKey, Refusal, RepositoryPath, Store,
    StoreError, StoreSettings, Stored,
};
use holdfast_testkit::fault::Seen;
use holdfast_testkit::s3::{BUCKET, Identity};
use holdfast_testkit::{Fault, Proxy, S3Server};
use object_store::ObjectStoreExt;
use rand::RngCore;

/// Two parts.
const LONG: usize = (9 << 20) + 1;
const PART_BYTES: u64 = 8 << 20;

/// Short enough for a test, and long enough for a machine that is busy.
fn limits() -> Limits {
    Limits { silence: Duration::from_secs(3), retry_for: Duration::from_secs(20), ..Limits::default() }
}

struct Bench {
    server: Arc<S3Server>,
    identity: Identity,
    proxy: Proxy,
    lineage: LineageScope,
    content: Bytes,
}

impl Bench {
    async fn start() -> Option<Self> {
        let server = S3Server::start().await.expect("the server starts")?;
        let identity = server.identity().await.expect("an identity");
        let proxy = Proxy::start(server.port()).await.expect("the proxy starts");
        proxy.slow_for(Duration::from_secs(5));
        let mut content = vec![0; LONG];
        holdfast_testkit::seed::generator("s3_faults").fill_bytes(&mut content);
        let lineage = LineageScope {
            organization: OrganizationId::random(),
            service: ServiceId::random(),
            lineage: LineageId::random(),
        };
        Some(Self { server, identity, proxy, lineage, content: content.into() })
    }

    fn store(&self, limits: Limits) -> Store {
        self.open("", limits)
    }

    fn open(&self, options: &str, limits: Limits) -> Store {
        let settings = StoreSettings { limits, environment: self.identity.environment(self.proxy.port()) };
        Store::open_with(&format!("s3://{BUCKET}/{}{options}", self.lineage.lineage), &settings)
            .expect("opens")
    }

    fn name(&self, path: &str) -> ObjectName {
        ObjectName::Repository { lineage: self.lineage, path: RepositoryPath::new(path).expect("a path") }
    }

    async fn write_long(&self, store: &Store, name: &ObjectName) -> Result<Stored, StoreError> {
        let mut writer = store.writer(name, true).await?;
        for piece in self.content.chunks(1 << 20) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        writer.finish().await
    }

    /// Unfinished uploads of ours that lie in the bucket.
    async fn unfinished(&self) -> u64 {
        self.proxy.heal();
        self.store(Limits::default()).sweep().await.expect("swept").kept
    }
}

async fn whole(store: &Store, name: &ObjectName) -> Bytes {
    store.get(name).await.expect("there").collect(1 << 30).await.expect("whole")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_lived_with() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(limits());
    for fault in [
        Fault::ServerError,
        Fault::SlowDown,
        Fault::TooManyRequests,
        Fault::ResetRequest,
        Fault::ResetAnswer,
        Fault::ErrorInsideOk,
        Fault::Slow,
        Fault::LostAnswer,
        Fault::Hang,
        Fault::FlippedBitSent,
    ] {
        bench.proxy.inject_where(fault, Some(3), |_| true);
        let (short, long) = (bench.name(&format!("{fault:?}/short")), bench.name(&format!("{fault:?}/long")));
        store
            .put_if_absent(&short, Bytes::from("short"))
            .await
            .unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
        bench.write_long(&store, &long).await.unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
        assert_eq!(whole(&store, &short).await, "short", "{fault:?}");
        assert!(whole(&store, &long).await == bench.content, "{fault:?}");
        for name in [&short, &long] {
            store.delete(name).await.unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
            assert_eq!(store.head(name).await.expect_err("gone").kind(), ErrorKind::NotFound, "{fault:?}");
        }
        assert!(bench.proxy.count(fault) > 0, "{fault:?} met nobody");
        bench.proxy.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_is_named_and_not_asked_again() {
    let Some(bench) = Bench::start().await else { return };
    for (fault, cause, kind) in [
        (Fault::Forbidden, "store_permission", ErrorKind::Permanent),
        (Fault::WrongClock, "store_clock", ErrorKind::Permanent),
        (Fault::Full, "store_full", ErrorKind::Transient),
        (Fault::Unencrypted, "store_not_encrypted", ErrorKind::Permanent),
    ] {
        let store = bench.store(limits());
        bench.proxy.inject(fault);
        let before = bench.proxy.requests();
        let name = bench.name(&format!("{fault:?}"));
        let error = store.put_if_absent(&name, Bytes::from("x")).await.expect_err("it cannot be stored");
        assert_eq!((error.cause(), error.kind()), (cause, kind), "{fault:?}: {error:?}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{fault:?}");
        assert!(bench.proxy.requests() - before <= 2, "{fault:?} was asked again and again");
        if fault == Fault::WrongClock {
            assert!(error.to_string().contains("20 minutes behind"), "{error}");
        }
        bench.proxy.heal();
    }
    // Whose bucket encrypts by itself says so, and is not asked.
    bench.proxy.inject(Fault::Unencrypted);
    let store = bench.open("?encryption=elsewhere", limits());
    store.put_if_absent(&bench.name("elsewhere"), Bytes::from("x")).await.expect("stored");
    bench.proxy.heal();

    bench.server.revoke(&bench.identity).await.expect("revoked");
    let error =
        bench.store(limits()).put(&bench.name("revoked"), Bytes::new()).await.expect_err("not let in");
    assert_eq!((error.cause(), error.kind()), ("store_credentials", ErrorKind::Permanent), "{error:?}");
    bench.server.grant(&bench.identity).await.expect("granted");
    bench.store(limits()).put(&bench.name("revoked"), Bytes::new()).await.expect("let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_store_ends_one_write_and_not_the_next() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits {
        silence: Duration::from_secs(1),
        slowest_bytes_per_second: 16 << 20,
        retry_for: Duration::from_secs(2),
        ..Limits::default()
    });
    let name = bench.name("hung");
    bench.proxy.inject(Fault::Hang);
    let began = Instant::now();
    let error = bench.write_long(&store, &name).await.expect_err("nobody answers");
    assert_eq!((error.cause(), error.kind()), ("store_unreachable", ErrorKind::Transient), "{error:?}");
    // Some seconds by the limits; the rest is for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    bench.proxy.heal();
    bench.write_long(&bench.store(limits()), &name).await.expect("stored");
    assert!(whole(&bench.store(limits()), &name).await == bench.content);
}

/// The limits that run in earnest, and a store that is restarted: whatever was asked meanwhile is done once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_ten_seconds_fails_nothing() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits::default());
    let (old, short, long) = (bench.name("old"), bench.name("short"), bench.name("long"));
    bench.write_long(&store, &old).await.expect("stored");
    bench.proxy.go_away().await;
    let prefix = ObjectPrefix::Repository { lineage: bench.lineage, folder: None };
    let work = async {
        let (put, wrote, read, head, listed) = tokio::join!(
            store.put_if_absent(&short, Bytes::from("short")),
            bench.write_long(&store, &long),
            async { store.get(&old).await?.collect(1 << 30).await },
            store.head(&old),
            store.list(&prefix).try_collect::<Vec<_>>(),
        );
        put.expect("stored");
        wrote.expect("stored");
        assert!(read.expect("read") == bench.content);
        head.expect("there");
        assert!(!listed.expect("listed").is_empty());
        store.delete(&old).await.expect("deleted");
    };
    let back = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        bench.proxy.come_back().await.expect("it comes back");
    };
    tokio::join!(work, back);
    assert!(whole(&store, &long).await == bench.content);
}

/// A backup is read for hours. Each break has the whole patience again, however long ago the first byte came.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_goes_on_over_any_number_of_breaks() {
    let Some(bench) = Bench::start().await else { return };
    let retry_for = Duration::from_secs(2);
    let store = bench.store(Limits { retry_for, ..limits() });
    let name = bench.name("long");
    bench.write_long(&store, &name).await.expect("stored");
    // Each answer ends half-way.
    bench.proxy.inject_where(Fault::ResetAnswer, Some(8), Seen::reads_object);
    let mut reading = store.get(&name).await.expect("there");
    let (mut found, mut is_first) = (Vec::new(), true);
    while let Some(piece) = reading.bytes.try_next().await.expect("it goes on") {
        found.extend_from_slice(&piece);
        if std::mem::take(&mut is_first) {
            // What the store's client allows itself for the whole is used up.
            tokio::time::sleep(retry_for * 5 / 4).await;
        }
    }
    assert!(found == bench.content);
    assert_eq!(bench.proxy.count(Fault::ResetAnswer), 8);
    // Another object under the same name is not taken for the rest of this one.
    bench.proxy.inject_where(Fault::ResetAnswer, Some(1), Seen::reads_object);
    let mut reading = store.get(&name).await.expect("there");
    reading.bytes.try_next().await.expect("begun");
    store.put(&name, Bytes::from(vec![7; LONG])).await.expect("replaced");
    let mut rest = Ok(Some(Bytes::new()));
    while let Ok(Some(_)) = rest {
        rest = reading.bytes.try_next().await;
    }
    rest.expect_err("the rest of another object was read");
}

/// T13: the answer is lost, and the write is repeated by its own means: one object, and `Ok`.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_makes_no_second_object() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(limits());
    bench.proxy.inject_where(Fault::LostAnswer, Some(1), Seen::puts_object);
    store.put_if_absent(&bench.name("short"), Bytes::from("x")).await.expect("stored, and known to be");
    bench.proxy.inject_where(Fault::LostAnswer, Some(1), Seen::completes_upload);
    bench.write_long(&store, &bench.name("long")).await.expect("stored, and known to be");
    assert_eq!(bench.proxy.count(Fault::LostAnswer), 2);
    assert!(whole(&store, &bench.name("long")).await == bench.content);
    let error = store.put_if_absent(&bench.name("long"), Bytes::from("y")).await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(bench.unfinished().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_success_never_counts_as_stored() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits { retry_for: Duration::from_secs(3), ..limits() });
    for fault in [Fault::ErrorInsideOk, Fault::WrongEtag] {
        bench.proxy.inject(fault);
        let name = bench.name(&format!("{fault:?}"));
        let error = bench.write_long(&store, &name).await.expect_err("it is not stored");
        assert_eq!(error.kind(), ErrorKind::Transient, "{fault:?}: {error:?}");
        assert!(matches!(error, StoreError::Refused { refusal: Refusal::Busy, .. }), "{fault:?}: {error:?}");
        bench.proxy.heal();
        assert_eq!(store.head(&name).await.expect_err("absent").kind(), ErrorKind::NotFound, "{fault:?}");
        bench.write_long(&store, &name).await.expect("written anew");
    }
    assert_eq!(bench.unfinished().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_uploads_older_than_any_writer_are_swept() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits::default());
    let begin = async |name: &str| {
        let mut writer = store.writer(&bench.name(name), true).await.expect("begun");
        writer.write(bench.content.clone()).await.expect("written");
        writer
    };
    // As kill -9 leaves them: a backup's upload, and an object of a check.
    std::mem::forget(begin("killed").await);
    let of_a_check = format!("{}/probe/{}/object", bench.lineage.lineage, bench.lineage.service);
    let bucket = bench.server.bucket().expect("a client");
    bucket.put(&of_a_check.as_str().into(), "x".into()).await.expect("stored");
    let age = Duration::from_secs(15);
    tokio::time::sleep(age + Duration::from_secs(2)).await;
    let living = begin("living").await;
    let sweeper = bench.store(Limits { orphan_age: age, ..Limits::default() });
    let swept = sweeper.sweep().await.expect("swept");
    assert_eq!((swept.removed, swept.kept), (2, 1));
    bucket.head(&of_a_check.as_str().into()).await.expect_err("an object of a check stays");
    living.finish().await.expect("a living upload was swept");
    assert_eq!(bench.unfinished().await, 0);

    // Who takes longer than half of that gives up by himself.
    let mut writer = bench
        .store(Limits { orphan_age: Duration::ZERO, ..Limits::default() })
        .writer(&bench.name("slow"), true)
        .await;
    let writer = writer.as_mut().expect("begun");
    let mut failed = None;
    for _ in 0..4 {
        failed = failed.or(writer.write(bench.content.clone()).await.err());
    }
    assert!(matches!(failed, Some(StoreError::TooOld { .. })), "{failed:?}");
}

/// Memory of a writer: the part being filled and the one on its way, whatever the store does.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_holds_the_writer_back() {
    const PIECE: u64 = 1 << 20;
    let Some(bench) = Bench::start().await else { return };
    bench.proxy.slow_for(Duration::from_millis(300));
    let taken = Arc::new(AtomicU64::new(0));
    let (seen, most_ahead) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    bench.proxy.inject_where(Fault::Slow, None, {
        let (taken, seen, most_ahead) = (Arc::clone(&taken), Arc::clone(&seen), Arc::clone(&most_ahead));
        move |request| {
            if request.puts_part() {
                // All parts before this one have been answered.
                let answered = seen.fetch_add(1, Ordering::SeqCst) * PART_BYTES;
                most_ahead.fetch_max(taken.load(Ordering::SeqCst).saturating_sub(answered), Ordering::SeqCst);
            }
            request.puts_part()
        }
    });
    let store = bench.store(Limits::default());
    let mut writer = store.writer(&bench.name("long"), true).await.expect("begun");
    for _ in 0..5 * PART_BYTES / PIECE {
        writer.write(bench.content.slice(..usize::try_from(PIECE).expect("small"))).await.expect("written");
        taken.fetch_add(PIECE, Ordering::SeqCst);
    }
    writer.finish().await.expect("stored");
    assert_eq!(seen.load(Ordering::SeqCst), 5, "parts");
    let held = most_ahead.load(Ordering::SeqCst);
    assert!(held <= 2 * PART_BYTES, "{held} bytes were held");
}

/// The answer to the write of a segment was lost, and the store answers badly when it is asked what lies there.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_cannot_be_read_back_is_not_taken_for_another_one() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits { retry_for: Duration::from_secs(2), ..limits() });
    let key_id = KeyId::random();
    let key = OwnedKey { key_id, owner: key_id.to_string(), key: DataKey::from_bytes([7; 32]) };
    let find = |id| Some(key.clone()).filter(|_| id == key_id);
    let header = SegmentHeader {
        format: SEGMENT_FORMAT,
        from: serde_json::Value::Null,
        to: serde_json::Value::Null,
        complete_until: None,
        gap: None,
    };
    let name = segment_name(bench.lineage, 0, 0, 3);
    let write = async |log: &'static [u8]| write_segment(&store, &name, &key, &find, &header, log).await;
    write(b"abc").await.expect("stored");
    for passing in 0..3 {
        let reads = AtomicU64::new(0);
        bench.proxy.inject_where(Fault::ServerError, None, move |request| {
            request.reads_object() && reads.fetch_add(1, Ordering::SeqCst) >= passing
        });
        let error = write(b"abc").await.expect_err("the store does not answer");
        assert_eq!(error.kind(), ErrorKind::Transient, "after {passing} reads: {error:?}");
        bench.proxy.heal();
    }
    write(b"abc").await.expect("it lies there");
    assert_eq!(write(b"abd").await.expect_err("another one").kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_segment_that_is_not_confirmed_does_not_stay() {
    let Some(bench) = Bench::start().await else { return };
    let store = bench.store(Limits { retry_for: Duration::from_secs(2), ..limits() });
    let key_id = KeyId::random();
    let key = OwnedKey { key_id, owner: key_id.to_string(), key: DataKey::from_bytes([7; 32]) };
    let find = |id| Some(key.clone()).filter(|_| id == key_id);
    let cursor = serde_json::Value::Null;
    let header = SegmentHeader {
        format: SEGMENT_FORMAT,
        from: cursor.clone(),
        to: cursor,
        complete_until: None,
        gap: None,
    };
    for from in 0..4 {
        let name = segment_name(bench.lineage, 0, from, from + 1);
        write_segment(&store, &name, &key, &find, &header, b"x").await.expect("stored");
    }
    let whole = segment_name(bench.lineage, 0, 0, 3);
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(2);
    bench.proxy.inject_where(Fault::ServerError, None, |request| request.method == "HEAD");
    let compacted = compaction::compact(&store, bench.lineage, &find, later).await;
    let error = compacted.expect_err("the store does not confirm");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    bench.proxy.heal();
    assert_eq!(store.head(&whole).await.expect_err("absent").kind(), ErrorKind::NotFound);
    let done = compaction::compact(&store, bench.lineage, &find, later).await.expect("compacted");
    assert_eq!((done.merged, done.removed), (1, 3));
}
