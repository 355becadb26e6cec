//! Does a store do what Holdfast needs of it? Asked by `holdfast check store`, and in short whenever `serve` starts.

mod bucket;
mod folder;
mod probe;
mod report;

use bytes::Bytes;

use super::clock::SKEW_WARNING;
use super::confirm::ENCRYPTED;
use super::s3::{Bucket, Encryption};
use super::wire::Facts;
use super::{Backend, Store, StoreSettings};
use crate::error::{ErrorKind, Result};
use probe::Probe;

pub use report::{Finding, Outcome, Report, Verdict};

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What decides whether anything may be written here at all: some ten requests.
    Essential,
    /// All, with some 30 MB there and back.
    Full,
}

const CREATE_ONLY: &str = "create-only put";
const NO_CONDITIONS: &str = "use a store (or a version of it) that takes `If-None-Match: *`, see docs/object-stores.md: \
    without it two writers could replace each other's objects";

impl Store {
    /// Tries what Holdfast needs, below a random name of its own, and removes what it wrote.
    pub async fn check(&self, depth: Depth) -> Report {
        let mut report = Report::default();
        let probe = Probe::new(self.clone());
        if !basics(&probe, &mut report).await {
            // It has been said that nothing can be written; something may have been, nevertheless.
            let _ = probe.clean_up().await;
            return report;
        }
        if depth == Depth::Full {
            reading(&probe, &mut report).await;
            match &self.backend {
                Backend::S3(bucket) => bucket::check(bucket, &probe, &mut report).await,
                Backend::Local(folder) => folder::check(folder, &probe, &mut report).await,
            }
        }
        cleaning(&probe, &mut report).await;
        report
    }
}

/// Opens a store only to check it. A folder that was not there is away again afterwards.
///
/// # Errors
/// [`crate::StoreError`] when the address is none, or the folder cannot be used.
pub async fn check_address(url: &str, settings: &StoreSettings) -> Result<Report> {
    let root = url.strip_prefix("file://").map(std::path::Path::new);
    let missing: Vec<_> =
        root.iter().flat_map(|root| root.ancestors()).take_while(|folder| !folder.exists()).collect();
    let report = Store::open_with(url, settings)?.check(Depth::Full).await;
    if let (Some(root), false) = (root, missing.is_empty()) {
        // Only what is empty goes.
        let _ = std::fs::remove_dir(root.join(super::local::WRITING));
        for folder in missing {
            let _ = std::fs::remove_dir(folder);
        }
    }
    Ok(report)
}

/// Writing, reading back, encryption and create-only writes. False when nothing else can be asked.
async fn basics(probe: &Probe, report: &mut Report) -> bool {
    let (path, content) = (probe.path("object"), Bytes::from("what was written"));
    if let Err(error) = probe.put(&path, content.clone(), false).await {
        report.first_error(&error);
        return false;
    }
    if let Backend::S3(bucket) = &probe.store.backend {
        report.ok("reachable", "it answers");
        report.ok("credentials", "accepted");
        report.clock(bucket.clock.ahead(), SKEW_WARNING);
    }
    report.ok("write", "an object was stored");
    match probe.head(&path).await {
        Err(error) => report.error("read back", &error),
        Ok((length, facts)) => {
            if length == content.len() as u64 {
                report.ok("read back", "it has the length that was sent");
            } else {
                let detail = format!("{} bytes were sent, the store has {length}", content.len());
                report.failed_with(
                    "read back",
                    detail,
                    "do not use this store: it does not keep what it is given",
                );
            }
            if let Backend::S3(bucket) = &probe.store.backend {
                encryption(bucket, &facts, report);
            }
        }
    }
    create_only(probe, &content, report).await;
    true
}

fn encryption(bucket: &Bucket, facts: &Facts, report: &mut Report) {
    match (&bucket.encryption, facts.encryption.as_deref()) {
        (Encryption::Elsewhere, _) => {
            report.not_needed("encryption", "not asked for: ?encryption=elsewhere says that the store sees to it");
        }
        (Encryption::Asked, Some(said)) if ENCRYPTED.contains(&said) => {
            report.ok("encryption", format!("confirmed by the store ({said})"));
        }
        (Encryption::Asked, said) => report.failed_with(
            "encryption",
            format!("AES-256 was asked for; the store says {}", said.unwrap_or("nothing of it")),
            "let the store encrypt with AES-256 (SSE-S3); if it encrypts all that it holds in another way, say so by \
             ?encryption=elsewhere at the end of store_url",
        ),
    }
}

/// R4, R14: of two writers of a name, one is refused.
async fn create_only(probe: &Probe, content: &Bytes, report: &mut Report) {
    let path = probe.path("object");
    match probe.put(&path, Bytes::from("by another writer"), true).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match probe.get(&path, None).await {
            Ok(found) if found == *content => report.ok(CREATE_ONLY, "a second writer is refused"),
            Ok(_) => report.failed_with(
                CREATE_ONLY,
                "a second writer is refused and replaces the object",
                NO_CONDITIONS,
            ),
            Err(error) => report.error(CREATE_ONLY, &error),
        },
        Err(error) => report.error(CREATE_ONLY, &error),
        Ok(()) => report.failed_with(CREATE_ONLY, "a second writer replaces the object", NO_CONDITIONS),
    }
    match probe.put(&probe.path("created"), content.clone(), true).await {
        Ok(()) => {}
        Err(error) => report.error(CREATE_ONLY, &error),
    }
}

/// Ranges, listings right after a write, and the names that occur.
async fn reading(probe: &Probe, report: &mut Report) {
    let path = probe.path("ranges");
    let read = async {
        probe.put(&path, Bytes::from("0123456789"), false).await?;
        Ok((probe.get(&path, Some(2..5)).await?, probe.get(&path, Some(8..100)).await?))
    };
    match read.await {
        Ok((middle, end)) if middle == "234" && end == "89" => report.ok("ranged read", "exact"),
        Ok(_) => {
            report.failed_with("ranged read", "other bytes came than were asked for", "use another store")
        }
        Err(error) => report.error("ranged read", &error),
    }
    // As long and as odd as a name of ours gets (`repository_path.rs`), below folders of ids.
    let odd = format!(
        "odd/%2E%2E/a%20b+c,d=e@f_g-h.i/{}/{}/{}/{}",
        "n".repeat(255),
        "%C3%A4".repeat(42),
        "m".repeat(255),
        "o".repeat(64)
    );
    let odd = probe.path(&odd);
    let written = async {
        probe.put(&odd, Bytes::from("odd"), true).await?;
        Ok((probe.get(&odd, None).await?, probe.list().await?))
    };
    match written.await {
        Err(error) => report.error("names", &error),
        Ok((content, listed)) => {
            if content == "odd" && listed.iter().any(|name| name == odd.as_ref()) {
                report.ok("names", format!("names of {} bytes come back as they are", odd.as_ref().len()));
            } else {
                report.failed_with(
                    "names",
                    "a long name with signs in it does not come back",
                    "use another store",
                );
            }
            let seen = |name: &str| listed.iter().any(|listed| listed == probe.path(name).as_ref());
            if seen("object") && seen("created") && seen("ranges") {
                report.ok("listing", "shows an object as soon as it is written");
            } else {
                report.failed_with(
                    "listing",
                    "an object that was just written is missing",
                    "use a store with consistent listings, or turn off the cache before it",
                );
            }
        }
    }
}

/// Deletes everything and looks whether it is gone.
async fn cleaning(probe: &Probe, report: &mut Report) {
    if let Err(error) = probe.clean_up().await {
        return report.error("delete", &error);
    }
    match probe.list().await {
        Ok(left) if left.is_empty() => report.ok("delete", "nothing is left of this check"),
        Ok(left) => report.failed_with(
            "delete",
            format!("{} objects are listed after they were deleted", left.len()),
            "look for a lock or a retention rule on the bucket",
        ),
        Err(error) => report.error("delete", &error),
    }
}
