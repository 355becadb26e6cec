//! pgBackRest's repository: what a file of it is, by its path alone (pgBackRest 2.55: `info/infoArchive.h`, `info/infoBackup.h`,
//! `command/archive/common.h`, `command/backup/common.c`), its passphrase, and with which codes the gateway refuses.
//!
//! The repository's own folder (`repo1-path`) may be anything; what counts is what follows its `archive` or `backup`
//! folder: the stanza and then the names below.

use holdfast_core::engine::WAL_SEGMENT_BYTES;
use holdfast_core::position::Position;
use holdfast_seal::{DataKey, ObjectKind};

/// Hexadecimal digits of a segment's name: timeline, and the segment's number in two halves.
const SEGMENT_DIGITS: usize = 24;

/// The S3 error code of an object that does not open: damaged, or not the one that was stored.
pub const DAMAGED: &str = "DamagedObject";

/// The S3 error code of an object that the store has no room for.
pub const FULL: &str = "StoreFull";

/// pgBackRest's cipher passphrase of a repository, derived from the repository's key (`docs/format.md`): whoever can
/// unwrap the key has it, and there is no second secret to keep.
#[must_use]
pub fn cipher_passphrase(repository_key: &DataKey) -> String {
    repository_key.derived_secret(b"holdfast/v1/pgbackrest-cipher-passphrase").to_string()
}

/// Whose key seals a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectClass {
    /// Belongs to one backup, `label` as pgBackRest names it: `20261122-101500F`, `20261122-101500F_20261123-101500I`.
    BackupFile { label: String },
    /// A copy of a backup's manifest that outlives the backup, under `backup.history`.
    BackupHistory,
    /// `archive.info`, `backup.info` or the `.copy` of one: the only files that are rewritten.
    Info,
    /// A piece of log: a WAL segment, from its first byte to behind its last.
    Log { from: Position, to: Position },
    /// The last, unfinished piece of a timeline that ended.
    PartialLog { from: Position },
    /// Where a timeline branched off.
    TimelineHistory { timeline: u32 },
    /// Anything else: `.backup` files in the archive, files that a later pgBackRest may invent.
    Other,
}

impl ObjectClass {
    /// Whether a restore needs the file at `path`, which is of this class: the tool's own indexes have copies that it turns to.
    #[must_use]
    pub fn is_needed(&self, path: &str) -> bool {
        let is_index = path.rsplit('/').next().is_some_and(|file| file.starts_with("backup.manifest"));
        let is_data = matches!(
            self,
            Self::BackupFile { .. }
                | Self::Log { .. }
                | Self::PartialLog { .. }
                | Self::TimelineHistory { .. }
        );
        is_data && !is_index
    }

    /// What a file of this class is sealed as.
    #[must_use]
    pub fn sealed_kind(&self) -> ObjectKind {
        match self {
            Self::BackupFile { .. } => ObjectKind::BackupFile,
            Self::Log { .. } | Self::PartialLog { .. } | Self::TimelineHistory { .. } => ObjectKind::Log,
            Self::BackupHistory | Self::Info | Self::Other => ObjectKind::RepositoryInfo,
        }
    }
}

/// When a backup began, by its label, in a form that ascends with time; empty for what is none (pgBackRest user guide, 5.2).
#[must_use]
pub fn began(label: &str) -> &str {
    label.rsplit('_').next().and_then(|last| last.get(..15)).unwrap_or_default()
}

/// The engine's version in the path of a file in its archive, `repo/archive/<stanza>/17-1/…`.
#[must_use]
pub fn version_in(path: &str) -> Option<String> {
    let (_, below) = path.split_once("archive/")?;
    let (version, _) = below.split('/').nth(1)?.split_once('-')?;
    Some(version.to_owned())
}

/// Says what the file at `path` is.
#[must_use]
pub fn classify(path: &str) -> ObjectClass {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let Some(at) = parts.iter().position(|part| matches!(*part, "archive" | "backup")) else {
        return ObjectClass::Other;
    };
    match (parts[at], &parts[at + 1..]) {
        ("archive", [_stanza, "archive.info" | "archive.info.copy"])
        | ("backup", [_stanza, "backup.info" | "backup.info.copy"]) => ObjectClass::Info,
        ("archive", [_stanza, _id, file]) => match timeline_history(file) {
            Some(timeline) => ObjectClass::TimelineHistory { timeline },
            None => ObjectClass::Other,
        },
        ("archive", [_stanza, _id, folder, file]) => wal(folder, file).unwrap_or(ObjectClass::Other),
        ("backup", [_stanza, "backup.history", ..]) => ObjectClass::BackupHistory,
        ("backup", [_stanza, label, _, ..]) if is_label(label) => {
            ObjectClass::BackupFile { label: (*label).to_owned() }
        }
        _ => ObjectClass::Other,
    }
}

/// `00000002.history`
fn timeline_history(file: &str) -> Option<u32> {
    hex32(file.strip_suffix(".history")?)
}

/// `000000010000000A000000FE-<SHA-1>[.zst]` or `….partial-<SHA-1>[.zst]` in the folder of its first 16 digits.
fn wal(folder: &str, file: &str) -> Option<ObjectClass> {
    let (name, checksum) = file.split_once('-')?;
    let checksum = checksum.split('.').next()?;
    if checksum.len() != 40 || !checksum.bytes().all(is_lower_hex) {
        return None;
    }
    let (segment_name, partial) = match name.strip_suffix(".partial") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    if segment_name.len() != SEGMENT_DIGITS || !segment_name.is_ascii() || folder != &segment_name[..16] {
        return None;
    }
    let timeline = hex32(&segment_name[..8])?;
    let (high, low) = (hex32(&segment_name[8..16])?, hex32(&segment_name[16..])?);
    let segment = (u64::from(high) << 32)
        | u64::from(low).checked_mul(WAL_SEGMENT_BYTES).filter(|lsn| *lsn <= 0xFFFF_FFFF)?;
    let from = Position { timeline, offset: segment };
    Some(if partial {
        ObjectClass::PartialLog { from }
    } else {
        ObjectClass::Log { from, to: from.plus(WAL_SEGMENT_BYTES) }
    })
}

fn hex32(digits: &str) -> Option<u32> {
    let canonical =
        digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if canonical { u32::from_str_radix(digits, 16).ok() } else { None }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// `YYYYMMDD-HHMMSSF`, followed by `_YYYYMMDD-HHMMSS` and `D` or `I` for one that builds on it.
fn is_label(text: &str) -> bool {
    let is_time = |text: &str| {
        text.len() == 15
            && text.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'-' } else { b.is_ascii_digit() })
    };
    match text.split_once('F') {
        Some((full, "")) => is_time(full),
        Some((full, rest)) => {
            let time = rest.strip_prefix('_').and_then(|rest| rest.strip_suffix(['D', 'I']));
            is_time(full) && time.is_some_and(is_time)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_path() {
        let sha1 = "0123456789abcdef0123456789abcdef01234567";
        let full = "20261122-101500F";
        let incremental = "20261122-101500F_20261123-111500I";
        let file = |label: &str| ObjectClass::BackupFile { label: label.to_owned() };
        let wal = |timeline, offset| {
            let from = Position { timeline, offset };
            ObjectClass::Log { from, to: from.plus(16 << 20) }
        };
        let rows: Vec<(String, ObjectClass)> = vec![
            ("repo/archive/db/archive.info".into(), ObjectClass::Info),
            ("repo/archive/db/archive.info.copy".into(), ObjectClass::Info),
            ("/repo/backup/db/backup.info".into(), ObjectClass::Info),
            ("deep/er/backup/db/backup.info.copy".into(), ObjectClass::Info),
            ("backup/db/backup.info.old".into(), ObjectClass::Other),
            (format!("repo/backup/db/{full}/backup.manifest"), file(full)),
            (format!("repo/backup/db/{full}/bundle/1"), file(full)),
            (format!("repo/backup/db/{incremental}/pg_data/base/1/2.zst"), file(incremental)),
            (format!("repo/backup/db/{full}_20261123-111500D/x"), file("20261122-101500F_20261123-111500D")),
            (format!("repo/backup/db/{full}"), ObjectClass::Other),
            (format!("repo/backup/db/{full}_20261123-111500X/x"), ObjectClass::Other),
            (format!("repo/backup/db/{full}I/x"), ObjectClass::Other),
            (format!("repo/backup/db/backup.history/2026/{full}.manifest.zst"), ObjectClass::BackupHistory),
            (
                format!("repo/archive/db/17-1/0000000100000000/000000010000000000000001-{sha1}.zst"),
                wal(1, 16 << 20),
            ),
            (
                format!("repo/archive/db/17-1/0000000A00000002/0000000A00000002000000FF-{sha1}"),
                wal(10, 0x2_FF00_0000),
            ),
            (
                format!("repo/archive/db/17-1/0000000100000000/000000010000000000000002.partial-{sha1}.lz4"),
                ObjectClass::PartialLog { from: Position { timeline: 1, offset: 32 << 20 } },
            ),
            ("repo/archive/db/17-1/00000002.history".into(), ObjectClass::TimelineHistory { timeline: 2 }),
            (
                "repo/archive/db/17-1/0000000100000000/000000010000000000000002.00000028.backup".into(),
                ObjectClass::Other,
            ),
            // Wrong folder, short checksum, segment number beyond 4 GiB, lower case.
            (
                format!("repo/archive/db/17-1/0000000200000000/000000010000000000000001-{sha1}"),
                ObjectClass::Other,
            ),
            (
                "repo/archive/db/17-1/0000000100000000/000000010000000000000001-0123".into(),
                ObjectClass::Other,
            ),
            (
                format!("repo/archive/db/17-1/0000000100000000/000000010000000000000100-{sha1}"),
                ObjectClass::Other,
            ),
            (
                format!("repo/archive/db/17-1/0000000a00000000/0000000a0000000000000001-{sha1}"),
                ObjectClass::Other,
            ),
            ("whatever/else".into(), ObjectClass::Other),
            (String::new(), ObjectClass::Other),
        ];
        for (path, class) in rows {
            assert_eq!(classify(&path), class, "{path}");
        }
    }

    #[test]
    fn the_archives_folder_tells_the_engines_version() {
        let path = "repo/archive/hf-0123/17-1/0000000100000000/000000010000000000000001-ab.zst";
        assert_eq!(version_in(path).as_deref(), Some("17"));
        assert_eq!(version_in("repo/backup/hf-0123/x"), None);
    }
}
