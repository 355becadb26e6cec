//! What is asked of an S3 bucket only.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;

use super::probe::Probe;
use super::{NO_CONDITIONS, Report};
use crate::error::{ErrorKind, Result, StoreError};
use crate::store::s3::Bucket;

/// Length of the first part: what a long object's parts have.
const PART_BYTES: usize = 8 << 20;
/// Requests of which the median is shown.
const SAMPLES: usize = 9;
const LIFECYCLE: &str = "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or let a lifecycle rule of the bucket \
    abort incomplete uploads after 7 days (docs/object-stores.md)";

pub(super) async fn check(bucket: &Bucket, probe: &Probe, report: &mut Report) {
    checksums(bucket, probe, report).await;
    let uploaded = multipart(bucket, probe, report).await;
    unfinished(bucket, probe, report).await;
    settings(bucket, report).await;
    if let Some(uploaded) = uploaded {
        speed(probe, uploaded, report).await;
    }
}

/// T15: a body that is not what its checksum says must not be stored.
async fn checksums(bucket: &Bucket, probe: &Probe, report: &mut Report) {
    if !bucket.checksums {
        return report
            .not_needed("checksums", "not asked for (?checksums=none); signatures cover the content");
    }
    let path = probe.path("checksum");
    // SHA-256 of nothing, for a body of something.
    let wrong = HeaderValue::from_static("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    let headers = HeaderMap::from_iter([(crate::store::wire::CHECKSUM, wrong)]);
    let sent =
        bucket.send("writing", Method::PUT, &bucket.key(&path), &[], headers, Bytes::from("something")).await;
    match sent {
        Err(StoreError::Unreachable { .. }) if probe.head(&path).await.is_ok() => {
            report.ok("checksums", "a body that differs is told apart by the answer");
        }
        Err(error @ StoreError::Unreachable { .. }) => report.error("checksums", &error),
        Err(_) => report.ok("checksums", "a body that differs from its SHA-256 is refused"),
        Ok(_) => report.note(
            "checksums",
            "the store takes a SHA-256 and does not compare it; the signed one and the length guard each write",
            "",
        ),
    }
}

/// Two parts, joined only where nothing lies. How long the first took.
async fn multipart(bucket: &Bucket, probe: &Probe, report: &mut Report) -> Option<Duration> {
    let path = probe.path("parts");
    let first = upload(bucket, &path).await;
    let took = match first {
        Ok((took, true)) => {
            report.ok("multipart", "two parts became one object");
            Some(took)
        }
        Ok((took, false)) => {
            report.failed_with("create-only multipart", "refused where nothing lies", NO_CONDITIONS);
            return Some(took);
        }
        Err(error) => {
            report.error("multipart", &error);
            return None;
        }
    };
    match probe.head(&path).await {
        Ok((length, _)) if length == PART_BYTES as u64 + 1 => {}
        Ok((length, _)) => {
            let detail = format!("{} bytes were sent in two parts, the store has {length}", PART_BYTES + 1);
            report.failed_with("multipart", detail, "use another store");
        }
        Err(error) => report.error("multipart", &error),
    }
    match upload(bucket, &path).await {
        Ok((_, false)) => report.ok("create-only multipart", "a second writer is refused"),
        Ok((_, true)) => {
            report.failed_with("create-only multipart", "a second writer replaces the object", NO_CONDITIONS);
        }
        Err(error) => report.error("create-only multipart", &error),
    }
    took
}

/// How long the first part took, and whether the object was made; false: something lay there.
async fn upload(bucket: &Bucket, path: &Path) -> Result<(Duration, bool)> {
    let wrap = |source| bucket.error("uploading", path, source);
    let (writer, key) = (bucket.writer(true), bucket.key(path));
    let id = writer.create_multipart(&key).await.map_err(wrap)?;
    let began = Instant::now();
    let first = writer.put_part(&key, &id, 0, vec![7; PART_BYTES].into()).await.map_err(wrap)?;
    let took = began.elapsed();
    let second = writer.put_part(&key, &id, 1, "!".into()).await.map_err(wrap)?;
    match writer.complete_multipart(&key, &id, vec![first, second]).await.map_err(wrap) {
        Ok(_) => Ok((took, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            writer.abort_multipart(&key, &id).await.map_err(wrap)?;
            Ok((took, false))
        }
        Err(error) => Err(error),
    }
}

/// R22: an upload that nobody finishes can be found and ended.
async fn unfinished(bucket: &Bucket, probe: &Probe, report: &mut Report) {
    let path = probe.path("unfinished");
    let tried = async {
        let wrap = |source| bucket.error("uploading", &path, source);
        let (writer, key) = (bucket.writer(false), bucket.key(&path));
        let id = writer.create_multipart(&key).await.map_err(wrap)?;
        let begun = bucket.unfinished(&probe.folder()).await;
        writer.abort_multipart(&key, &id).await.map_err(wrap)?;
        let mine = begun?.into_iter().find(|upload| upload.id == id);
        let left = bucket.unfinished(&probe.folder()).await?.iter().any(|upload| upload.id == id);
        let old = bucket.count_unfinished().await?;
        Ok::<_, StoreError>((mine, left, old))
    };
    match tried.await {
        Ok((Some(upload), false, (open, orphans))) if upload.age.is_some() => {
            let detail = format!(
                "can be listed and aborted; open now: {open}, of which the agent will sweep {orphans}"
            );
            report.ok("unfinished uploads", detail);
        }
        Ok(_) => report.note("unfinished uploads", "they are not listed as they are", LIFECYCLE),
        Err(error) if error.kind() == ErrorKind::Transient => report.error("unfinished uploads", &error),
        Err(error) => report.note("unfinished uploads", error.to_string(), LIFECYCLE),
    }
}

/// What the bucket does by itself.
async fn settings(bucket: &Bucket, report: &mut Report) {
    let ask = async |parameter: &'static str| {
        let answer = bucket.ask("asking for settings of the bucket", &[(parameter, "")]).await.ok()?;
        let body = answer.into_body().bytes().await.ok()?;
        Some(String::from_utf8_lossy(&body).into_owned())
    };
    match ask("versioning").await {
        None => report.note("versioning", "not known (s3:GetBucketVersioning is missing)", ""),
        Some(text) if text.contains("Enabled") => report.note(
            "versioning",
            "on: what Holdfast deletes, keys that are to be shredded among it, stays as an older version",
            "let a lifecycle rule of the bucket expire noncurrent versions",
        ),
        Some(_) => report.not_needed("versioning", "off"),
    }
    match ask("object-lock").await {
        Some(text) if text.contains("<ObjectLockEnabled>Enabled") => report.note(
            "object lock",
            "on: with a default retention, deletes of expired backups are refused until it ends",
            "see docs/object-stores.md",
        ),
        _ => report.not_needed("object lock", "off, or not known"),
    }
}

async fn speed(probe: &Probe, up: Duration, report: &mut Report) {
    let measured = async {
        let path = probe.path("latency");
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            let began = Instant::now();
            probe.put(&path, Bytes::from_static(&[7; 1024]), false).await?;
            samples.push(began.elapsed());
        }
        samples.sort();
        let began = Instant::now();
        let whole = probe.get(&probe.path("parts"), None).await?;
        Ok::<_, StoreError>((samples[SAMPLES / 2], began.elapsed(), whole.len()))
    };
    match measured.await {
        Ok((median, down, bytes)) => report.note(
            "speed",
            format!(
                "a put of 1 KiB takes {} ms (median of {SAMPLES}); 8 MiB up at {} MiB/s, down at {} MiB/s",
                median.as_millis(),
                mib_per_second(PART_BYTES, up),
                mib_per_second(bytes, down)
            ),
            "",
        ),
        Err(error) => report.error("speed", &error),
    }
}

fn mib_per_second(bytes: usize, took: Duration) -> u128 {
    (bytes as u128 * 1_000_000 / took.as_micros().max(1)) >> 20
}
