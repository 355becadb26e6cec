//! What a survey finds of a log that Holdfast shipped itself, in a bucket made by hand; and that a stranger's script opens
//! its segments and the streams of a backup.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_core::key::KeyPurpose;
use holdfast_core::position::Position;
use holdfast_core::{BackupId, KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::{DataKey, KeyIdentity, RecoveryPrivate, wrap_for_recovery};
use holdfast_store::documents::{CoverageDocument, DOCUMENT_FORMAT};
use holdfast_store::log::segment::segment_name;
use holdfast_store::log::{SEGMENT_FORMAT, SegmentHeader, write_segment};
use holdfast_store::manifest::write_document;
use holdfast_store::sealed::store_compressed;
use holdfast_store::survey::{FoundService, SurveyProgress, survey_service};
use holdfast_store::{LineageScope, ObjectName, OwnedKey, RepositoryPath, Store};
use serde_json::json;

struct Bucket {
    folder: tempfile::TempDir,
    store: Store,
    kit: RecoveryPrivate,
    scope: LineageScope,
    epoch: OwnedKey,
    coverage: OwnedKey,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).expect("in range")
}

impl Bucket {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&format!("file://{}", folder.path().join("bucket").display()))?;
        let scope = LineageScope {
            organization: OrganizationId::random(),
            service: ServiceId::random(),
            lineage: LineageId::random(),
        };
        let kit = RecoveryPrivate::generate();
        let epoch = key(&store, &kit, scope, KeyPurpose::Epoch).await?;
        let coverage = key(&store, &kit, scope, KeyPurpose::Coverage).await?;
        Ok(Self { folder, store, kit, scope, epoch, coverage })
    }

    /// A segment `[from, to)` that is complete until that second.
    async fn segment(&self, from: u64, to: u64, second: i64) -> Result<ObjectName> {
        let name = segment_name(self.scope, 0, from, to);
        let header = SegmentHeader {
            format: SEGMENT_FORMAT,
            from: json!(from),
            to: json!(to),
            complete_until: Some(at(second)),
            gap: None,
        };
        let log = vec![b'x'; usize::try_from(to - from)?];
        let keys = |id| (id == self.epoch.key_id).then(|| self.epoch.clone());
        write_segment(&self.store, &name, &self.epoch, &keys, &header, &log).await?;
        Ok(name)
    }

    async fn survey(&self) -> Result<FoundService> {
        let scope = self.scope.service_scope();
        Ok(survey_service(&self.store, &self.kit, scope, &SurveyProgress::default()).await?.0)
    }

    fn path(&self, name: &ObjectName) -> std::path::PathBuf {
        self.folder.path().join("bucket").join(name.to_string())
    }
}

/// A key as the bucket keeps it.
async fn key(
    store: &Store,
    kit: &RecoveryPrivate,
    scope: LineageScope,
    purpose: KeyPurpose,
) -> Result<OwnedKey> {
    let (key_id, key) = (KeyId::random(), DataKey::random());
    let identity = KeyIdentity {
        key_id: key_id.0,
        organization: scope.organization.to_string(),
        service: scope.service.to_string(),
        lineage: scope.lineage.to_string(),
        purpose: purpose.as_str().to_owned(),
    };
    let wrapped = wrap_for_recovery(&kit.public(), &identity, &key);
    let name = ObjectName::KeyRecovery { service: scope.service_scope(), key: key_id };
    store.put_if_absent(&name, Bytes::from(wrapped)).await?;
    Ok(OwnedKey { key_id, owner: key_id.to_string(), key })
}

/// Where each stretch begins and ends, and until which second it is complete.
fn stretches(found: &FoundService) -> Vec<(u64, u64, Option<i64>)> {
    let seconds = |until: Timestamp| until.as_second() - at(0).as_second();
    let row =
        |c: &holdfast_core::position::Coverage| (c.from.offset, c.to.offset, c.complete_until.map(seconds));
    found.coverage.iter().map(row).collect()
}

#[tokio::test]
async fn segments_say_until_when_the_log_is_complete() -> Result<()> {
    let bucket = Bucket::new().await?;
    bucket.segment(0, 100, 10).await?;
    bucket.segment(100, 150, 11).await?;
    let last = bucket.segment(150, 170, 12).await?;
    // Behind a gap; and a merge that was cut off before it had removed what it replaced.
    bucket.segment(171, 200, 30).await?;
    bucket.segment(200, 210, 31).await?;
    bucket.segment(171, 210, 31).await?;
    let found = bucket.survey().await?;
    assert_eq!(stretches(&found), [(0, 170, Some(12)), (171, 210, Some(31))], "{:?}", found.problems);

    // A document that is behind takes nothing away, one that is ahead adds what no segment tells: idle time.
    for (sequence, second, expected) in [(1, 9, 31), (2, 40, 40)] {
        let stretch = holdfast_core::position::Coverage {
            from: Position { timeline: 0, offset: 171 },
            to: Position { timeline: 0, offset: 210 },
            complete_until: Some(at(second)),
        };
        let document = CoverageDocument {
            format: DOCUMENT_FORMAT,
            written_at: at(50),
            coverage: vec![stretch],
            gaps: Vec::new(),
        };
        let name = ObjectName::Coverage { lineage: bucket.scope, sequence };
        write_document(&bucket.store, &name, &bucket.coverage, &document.to_bytes()).await?;
        let found = bucket.survey().await?;
        assert_eq!(stretches(&found)[1], (171, 210, Some(expected)), "{:?}", found.problems);
    }

    // One that is damaged is told, and the one before it is believed.
    let path = bucket.path(&last);
    let mut sealed = std::fs::read(&path)?;
    let end = sealed.len() - 1;
    sealed[end] ^= 1;
    std::fs::remove_file(&path)?;
    std::fs::write(&path, sealed)?;
    let found = bucket.survey().await?;
    assert_eq!(stretches(&found)[0], (0, 170, Some(11)));
    let told = found.problems.iter().filter(|text| text.contains("a segment of log does not open")).count();
    assert_eq!(told, 1, "{:?}", found.problems);
    Ok(())
}

#[tokio::test]
async fn a_strangers_script_opens_segments_and_streams() -> Result<()> {
    let python = std::env::var_os("HOLDFAST_ORACLE_PYTHON");
    let required = std::env::var("HOLDFAST_REQUIRE_ORACLE").is_ok_and(|value| value == "1");
    assert!(python.is_some() || !required, "set HOLDFAST_ORACLE_PYTHON");
    let Some(python) = python else {
        println!("SKIPPED: docs/open_object.py: HOLDFAST_ORACLE_PYTHON names no Python (scripts/python.sh)");
        return Ok(());
    };
    let bucket = Bucket::new().await?;
    let kit = bucket.folder.path().join("kit");
    std::fs::write(&kit, bucket.kit.to_text().as_bytes())?;
    let segment = bucket.segment(0, 40_000, 1).await?;
    let backup = BackupId::random();
    let stream = ObjectName::BackupObject {
        lineage: bucket.scope,
        backup: backup.clone(),
        attempt: 7,
        path: RepositoryPath::new("dump/größe.sql")?,
    };
    let sealing = key(&bucket.store, &bucket.kit, bucket.scope, KeyPurpose::Backup).await?;
    let sealing = OwnedKey { owner: backup.to_string(), ..sealing };
    store_compressed(&bucket.store, &stream, &sealing, &mut &b"INSERT INTO t VALUES (1);"[..]).await?;

    for (name, key) in [(&segment, &bucket.epoch), (&stream, &sealing)] {
        let wrapped = ObjectName::KeyRecovery { service: bucket.scope.service_scope(), key: key.key_id };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/open_object.py");
        let mut command = Command::new(&python);
        command.arg("-B").arg(script).arg("--kit").arg(&kit).arg("--object").arg(bucket.path(name));
        command.args(["--name", &name.to_string()]).arg("--wrapped-key").arg(bucket.path(&wrapped));
        let opened = command.output()?;
        ensure!(opened.status.success(), "{name}: {}", String::from_utf8_lossy(&opened.stderr));
        let frames = match name {
            ObjectName::LogPiece { .. } => behind_the_header(&opened.stdout)?,
            _ => &opened.stdout[..],
        };
        let mut plain = Vec::new();
        let mut decoder = async_compression::tokio::bufread::ZstdDecoder::new(frames);
        tokio::io::AsyncReadExt::read_to_end(&mut decoder, &mut plain).await?;
        match name {
            ObjectName::LogPiece { .. } => ensure!(plain == [b'x'; 40_000], "{} bytes", plain.len()),
            _ => ensure!(plain == b"INSERT INTO t VALUES (1);", "{}", String::from_utf8_lossy(&plain)),
        }
    }
    Ok(())
}

/// As `docs/format.md` says it, without our own reader.
fn behind_the_header(segment: &[u8]) -> Result<&[u8]> {
    let (magic, rest) = segment.split_at_checked(8).context("too short")?;
    let (length, rest) = rest.split_first_chunk::<4>().context("too short")?;
    let (header, frames) =
        rest.split_at_checked(u32::from_be_bytes(*length) as usize).context("too short")?;
    let header: serde_json::Value = serde_json::from_slice(header)?;
    ensure!(magic == b"HFLOGSEG" && header["format"] == 1 && header["to"] == 40_000, "{header}");
    Ok(frames)
}
