//! The gateway, driven by an independent S3 client over TLS.

use std::sync::Arc;

use crate::support::Bench;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_core::KeyId;
use holdfast_gateway::{Access, RepositoryKeys};
use holdfast_seal::open_to_vec;
use holdfast_store::repository::ObjectClass;
use holdfast_store::{ObjectName, RepositoryPath};
use holdfast_testkit::seed::generator;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};

const CANARY: &[u8] = b"canary-plaintext-that-must-never-lie-in-the-store";
const LABEL: &str = "20261122-101500F";

fn path(text: &str) -> Path {
    Path::parse(text).expect("a legal path")
}

fn file(name: &str) -> Path {
    path(&format!("repo/backup/db/{LABEL}/pg_data/{name}"))
}

fn random_bytes(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_comes_back_and_lies_sealed() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let mut rng = generator("gateway");
    // Around the edges of chunks, of the gateway's pieces, and nothing at all.
    for length in [0, 1, 16_383, 16_384, 16_385, 65_536, 262_144, 1_000_003] {
        let mut content = random_bytes(&mut rng, length);
        if length > 10_000 {
            content[5_000..5_000 + CANARY.len()].copy_from_slice(CANARY);
        }
        let name = file(&format!("f{length}"));
        client.put(&name, content.clone().into()).await.expect("stored");
        let head = client.head(&name).await.expect("there");
        assert_eq!(head.size, length as u64);
        let got = client.get(&name).await.expect("readable").bytes().await.expect("whole");
        assert!(got == content, "{length} bytes came back otherwise");

        let told = tenant.events.stored.lock().expect("no panic").last().cloned().expect("told of");
        assert_eq!(told.path, name.as_ref());
        assert_eq!(told.class, ObjectClass::BackupFile { label: LABEL.to_owned() });
        assert_eq!(told.plain_bytes, length as u64);
        let sealed = bench.store.get(&told.name).await.expect("there").collect(1 << 30).await.expect("whole");
        assert_eq!(told.sealed_bytes, sealed.len() as u64);
        assert_eq!(told.sha256, holdfast_seal::sha256_hex(&sealed));
        let key = tenant.keys.opening_key(told.key_id).expect("the key that was told of");
        let context = told.name.context(&key.owner).expect("sealed");
        assert!(open_to_vec(&key.key, &context, &sealed).expect("opens with holdfast-seal") == content);
    }
    assert!(!bench.contains(CANARY), "plaintext lies in the store");
    assert_eq!(
        *tenant.events.served.lock().expect("no panic"),
        1_000_003 + 262_144 + 65_536 + 3 * 16_384 + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let mut rng = generator("gateway");
    for length in [1_u64, 16_384, 49_152, 300_001] {
        let content = random_bytes(&mut rng, usize::try_from(length).expect("small"));
        let name = file(&format!("r{length}"));
        client.put(&name, content.clone().into()).await.expect("stored");
        for _ in 0..60 {
            let start = rng.random_range(0..length);
            let end = rng.random_range(start + 1..=length);
            let got = client.get_range(&name, start..end).await.expect("in range");
            let expected =
                &content[usize::try_from(start).expect("small")..usize::try_from(end).expect("small")];
            assert!(got == expected, "{start}..{end} of {length}");
        }
        let error = client.get_range(&name, length..length + 1).await.expect_err("behind the end");
        assert!(format!("{error:?}").contains("416"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_uploads_come_back_whole() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let mut rng = generator("gateway");
    let content = random_bytes(&mut rng, (20 << 20) + 4321);
    let name = file("big");
    let mut upload = client.put_multipart(&name).await.expect("begun");
    for part in content.chunks(5 << 20) {
        upload.put_part(Bytes::copy_from_slice(part).into()).await.expect("sent");
    }
    assert!(client.head(&name).await.is_err(), "half an object shows");
    upload.complete().await.expect("completed");
    let got = client.get(&name).await.expect("readable").bytes().await.expect("whole");
    assert!(got == content);
    assert_eq!(tenant.events.stored.lock().expect("no panic").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_idempotent_and_in_order() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let name = file("parts");
    let part = |byte: u8| PutPayload::from(vec![byte; 5 << 20]);
    let id = client.create_multipart(&name).await.expect("begun");
    let first = client.put_part(&name, &id, 0, part(1)).await.expect("sent");
    let again = client.put_part(&name, &id, 0, part(1)).await.expect("sent again");
    assert_eq!(first.content_id, again.content_id);
    client.put_part(&name, &id, 0, part(9)).await.expect_err("other content for a part that was sent");
    let error = client.put_part(&name, &id, 2, part(3)).await.expect_err("out of order");
    assert!(error.to_string().contains("in order") || format!("{error:?}").contains("in order"), "{error:?}");
    let second = client.put_part(&name, &id, 1, part(2)).await.expect("sent");
    // The answer to a completion may get lost.
    for _ in 0..2 {
        let parts = vec![
            object_store::multipart::PartId { content_id: first.content_id.clone() },
            object_store::multipart::PartId { content_id: second.content_id.clone() },
        ];
        client.complete_multipart(&name, &id, parts).await.expect("completed");
    }
    let got = client.get(&name).await.expect("readable").bytes().await.expect("whole");
    assert!(got[..5 << 20].iter().all(|b| *b == 1) && got[5 << 20..].iter().all(|b| *b == 2));

    let other = file("aborted");
    let id = client.create_multipart(&other).await.expect("begun");
    client.put_part(&other, &id, 0, part(1)).await.expect("sent");
    client.abort_multipart(&other, &id).await.expect("aborted");
    client.put_part(&other, &id, 1, part(1)).await.expect_err("the upload is gone");
    assert!(client.head(&other).await.is_err());
    assert!(bench.files().iter().all(|file| !file.to_string_lossy().contains(".writing/")), "garbage stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_folders_pages_and_plain_lengths() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let names: Vec<String> = (0..25).map(|i| format!("repo/backup/db/{LABEL}/pg_data/base/{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        client.put(&path(name), vec![7; 1000 + i].into()).await.expect("stored");
    }
    client.put(&path("repo/backup/db/backup.info"), "one".into()).await.expect("stored");
    client.put(&path("repo/archive/db/archive.info"), "three".into()).await.expect("stored");
    // A character that is encoded in the store's names.
    client.put(&path(&format!("repo/backup/db/{LABEL}/pg_data/a b~c")), "x".into()).await.expect("stored");

    let all: Vec<_> = client.list(Some(&path("repo"))).try_collect().await.expect("listed");
    assert_eq!(all.len(), 28);
    let size = |name: &str| all.iter().find(|meta| meta.location.as_ref() == name).map(|meta| meta.size);
    assert_eq!(size(&names[20]), Some(1020));
    assert_eq!(size("repo/backup/db/backup.info"), Some(3));

    let top = client.list_with_delimiter(Some(&path("repo/backup/db"))).await.expect("listed");
    assert_eq!(top.objects.len(), 1);
    assert_eq!(top.objects[0].location.as_ref(), "repo/backup/db/backup.info");
    assert_eq!(top.common_prefixes, vec![path(&format!("repo/backup/db/{LABEL}"))]);
    let only_info = client.list_with_delimiter(Some(&path("repo/archive"))).await.expect("listed");
    assert_eq!(only_info.common_prefixes, vec![path("repo/archive/db")]);
    let nothing = client.list_with_delimiter(Some(&path("repo/nowhere"))).await.expect("listed");
    assert!(nothing.objects.is_empty() && nothing.common_prefixes.is_empty());

    let folder = path(&format!("repo/backup/db/{LABEL}"));
    let below: Vec<_> =
        client.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await.expect("listed");
    let stream = futures::stream::iter(below.into_iter().map(Ok)).boxed();
    client.delete_stream(stream).try_collect::<Vec<_>>().await.expect("deleted");
    let left: Vec<_> = client.list(Some(&path("repo"))).try_collect().await.expect("listed");
    assert_eq!(left.len(), 2, "{left:?}");
    let top = client.list_with_delimiter(Some(&path("repo/backup/db"))).await.expect("listed");
    assert!(top.common_prefixes.is_empty(), "an empty folder shows: {:?}", top.common_prefixes);
    assert_eq!(tenant.events.deleted.lock().expect("no panic").len(), 26);
    client.delete(&path("repo/backup/db/backup.info")).await.expect("deleted");
    assert!(client.head(&path("repo/backup/db/backup.info")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_listings_come_in_pages() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = Arc::new(bench.client(&tenant));
    let puts = (0..1100).map(|i| {
        let client = Arc::clone(&client);
        async move { client.put(&file(&format!("{i:04}")), "x".into()).await.map(drop) }
    });
    futures::stream::iter(puts).buffer_unordered(16).try_collect::<Vec<()>>().await.expect("stored");
    for by_folder in [false, true] {
        let folder = path(&format!("repo/backup/db/{LABEL}/pg_data"));
        let mut names: Vec<Path> = if by_folder {
            let listed = client.list_with_delimiter(Some(&folder)).await.expect("listed");
            listed.objects.into_iter().map(|meta| meta.location).collect()
        } else {
            client.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await.expect("listed")
        };
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 1100, "by_folder={by_folder}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_info_files_are_rewritten() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    let name = file("once");
    client.put(&name, "first".into()).await.expect("stored");
    client.put(&name, "first".into()).await.expect("the answer was lost, the tool sends it again");
    assert_eq!(tenant.events.stored.lock().expect("no panic").len(), 2, "told again");
    for other in ["other", "first and more", ""] {
        let error = client.put(&name, other.into()).await.expect_err("other content");
        assert!(format!("{error:?}").contains("409"), "{error:?}");
    }
    let got = client.get(&name).await.expect("there").bytes().await.expect("whole");
    assert_eq!(&got[..], b"first");

    let info = path("repo/backup/db/backup.info");
    for content in ["one", "two", "two", "three"] {
        client.put(&info, content.into()).await.expect("rewritten");
        let got = client.get(&info).await.expect("there").bytes().await.expect("whole");
        assert_eq!(&got[..], content.as_bytes());
    }
    let generations = bench.files().iter().filter(|file| file.to_string_lossy().contains("/info/")).count();
    assert_eq!(generations, 1, "older generations stay");
    assert_eq!(client.get_range(&info, 1..3).await.expect("in range"), "hr");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_finds_an_info_file_whole_while_it_is_rewritten() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = Arc::new(bench.client(&tenant));
    let info = path("repo/backup/db/backup.info");
    client.put(&info, vec![0; 40_000].into()).await.expect("stored");
    let writer = {
        let (client, info) = (Arc::clone(&client), info.clone());
        tokio::spawn(async move {
            for byte in 1..40 {
                client.put(&info, vec![byte; 40_000].into()).await.expect("rewritten");
            }
        })
    };
    let mut newest = 0;
    while !writer.is_finished() {
        let got = client.get(&info).await.expect("always there").bytes().await.expect("whole");
        assert!(got.len() == 40_000 && got.iter().all(|byte| *byte == got[0]), "two generations mixed");
        assert!(got[0] >= newest, "an older generation after a newer one");
        newest = got[0];
    }
    writer.await.expect("the writer is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_see_their_own_repository_and_no_more() {
    let bench = Bench::start().await;
    let (ours, theirs) = (bench.tenant(), bench.tenant());
    let client = bench.client(&ours);
    client.put(&file("mine"), "secret".into()).await.expect("stored");

    let other = bench.client(&theirs);
    assert!(other.get(&file("mine")).await.is_err(), "another service reads ours");
    assert_eq!(other.list(None).count().await, 0);

    for wrong in [
        bench.client_with(&ours.access_key, "wrong secret"),
        bench.client_with("unknown", &ours.secret_key),
        bench.client_with(&theirs.access_key, &ours.secret_key),
    ] {
        let error = wrong.get(&file("mine")).await.expect_err("a wrong credential");
        assert!(format!("{error:?}").contains("403"), "{error:?}");
    }

    bench.register(&ours, "reader", Access::ReadOnly);
    let reader = bench.client_with("reader", &ours.secret_key);
    assert_eq!(reader.get(&file("mine")).await.expect("may read").bytes().await.expect("whole"), "secret");
    let refused = [
        reader.put(&file("more"), "x".into()).await.map(drop),
        reader.put(&path("repo/archive/db/archive.info"), "x".into()).await.map(drop),
        reader.delete(&file("mine")).await,
        reader.put_multipart(&file("more")).await.map(drop),
    ];
    for result in refused {
        let error = result.expect_err("a restored cluster writes to its source");
        assert!(format!("{error:?}").contains("403"), "{error:?}");
    }
    assert_eq!(client.get(&file("mine")).await.expect("untouched").bytes().await.expect("whole"), "secret");

    bench.gateway.unregister(&ours.access_key);
    assert!(client.get(&file("mine")).await.is_err(), "an unregistered credential still reads");
}

/// T5, and T1 for the gateway: what was moved or changed in the store does not come back as something else.
#[tokio::test(flavor = "multi_thread")]
async fn moved_and_damaged_objects_do_not_open() {
    let bench = Bench::start().await;
    let (ours, theirs) = (bench.tenant(), bench.tenant());
    let client = bench.client(&ours);
    let mut rng = generator("gateway");
    let content = random_bytes(&mut rng, 200_000);
    client.put(&file("good"), content.clone().into()).await.expect("stored");
    let stored = bench.file_ending("/good");

    // Under another name of the same backup, and in another service's place whose holder has our key.
    std::fs::copy(&stored, stored.with_file_name("moved")).expect("copied");
    assert!(client.get(&file("moved")).await.is_err());
    let text = stored.to_string_lossy().replace(&ours.scope.to_string(), &theirs.scope.to_string());
    std::fs::create_dir_all(std::path::Path::new(&text).parent().expect("a folder")).expect("made");
    std::fs::copy(&stored, &text).expect("copied");
    let mut thief = bench.tenant();
    thief.scope = theirs.scope;
    thief.keys = Arc::clone(&ours.keys);
    bench.register(&thief, "thief", Access::ReadWrite);
    let thief = bench.client_with("thief", &thief.secret_key);
    assert!(thief.head(&file("good")).await.is_ok(), "the copy lies where it should for this test");
    assert!(thief.get(&file("good")).await.is_err(), "another service's copy opens");

    let sealed = std::fs::read(&stored).expect("readable");
    for _ in 0..40 {
        let mut damaged = sealed.clone();
        let at = rng.random_range(0..damaged.len());
        damaged[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&stored, &damaged).expect("written");
        if let Ok(result) = client.get(&file("good")).await {
            let mut stream = result.into_stream();
            let mut got = Vec::new();
            let outcome = loop {
                match stream.next().await {
                    Some(Ok(piece)) => got.extend_from_slice(&piece),
                    Some(Err(_)) => break Err(()),
                    None => break Ok(()),
                }
            };
            assert!(outcome.is_err(), "byte {at} flipped, and the read succeeded");
            assert!(content.starts_with(&got), "byte {at} flipped, and other bytes were released");
        }
    }
    for cut in [0, 31, 87, 88, 88 + 16_400, 88 + 16_400 + 16, sealed.len() - 1] {
        std::fs::write(&stored, &sealed[..cut]).expect("written");
        let outcome = match client.get(&file("good")).await {
            Ok(result) => result.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "cut to {cut} bytes, and the read succeeded");
        let good = file("good");
        let last = client.get_opts(
            &good,
            object_store::GetOptions::new().with_range(Some(object_store::GetRange::Suffix(5))),
        );
        let outcome = match last.await {
            Ok(result) => result.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "cut to {cut} bytes, and its end was read");
    }
    std::fs::write(&stored, &sealed).expect("written");
    assert!(client.get(&file("good")).await.expect("whole again").bytes().await.expect("whole") == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_key_is_refused() {
    let bench = Bench::start().await;
    let (ours, theirs) = (bench.tenant(), bench.tenant());
    bench.client(&ours).put(&file("x"), "x".into()).await.expect("stored");
    // A reader of our repository that holds only the other's keys.
    let mut reader = bench.tenant();
    reader.scope = ours.scope;
    reader.keys = Arc::clone(&theirs.keys);
    bench.register(&reader, "reader", Access::ReadOnly);
    let error = bench.client_with("reader", &reader.secret_key).get(&file("x")).await.expect_err("no key");
    assert!(format!("{error:?}").contains("403"), "{error:?}");
    assert!(reader.keys.opening_key(KeyId::random()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_it() {
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    let client = bench.client(&tenant);
    client.put(&file("x"), "x".into()).await.expect("stored");
    bench.gateway.clone().shutdown().await;
    assert!(client.get(&file("x")).await.is_err());
    let path = RepositoryPath::new(file("x").as_ref()).expect("a path");
    let name = ObjectName::Repository { lineage: tenant.scope, path };
    bench.store.head(&name).await.expect("the store stays");
}
