//! Missing, rolled-back and forked backups show in the chain of manifests; lawful deletions do not.

use holdfast_seal::{
    ChainEntry, DataKey, Manifest, ObjectContext, ObjectKind, SealError, Tombstone, open_to_vec, seal_to_vec,
    sha256_hex, verify_chain,
};
use uuid::Uuid;

struct Backup {
    id: String,
    plain: Vec<u8>,
}

impl Backup {
    fn entry(&self) -> ChainEntry {
        ChainEntry::of_manifest(&self.plain).unwrap()
    }

    fn tombstone(&self) -> ChainEntry {
        let entry = self.entry();
        let tombstone = Tombstone {
            format: 1,
            backup_id: self.id.clone(),
            organization: "o".to_owned(),
            service: "s".to_owned(),
            lineage: "l".to_owned(),
            manifest_sha256: entry.manifest_sha256,
            previous_manifest_sha256: entry.previous_manifest_sha256,
            deleted_at: "2026-03-01T00:00:00Z".parse().unwrap(),
            reason: "expired".to_owned(),
        };
        ChainEntry::from(&Tombstone::from_bytes(&tombstone.to_bytes()).unwrap())
    }
}

fn backups(count: usize) -> Vec<Backup> {
    let mut all: Vec<Backup> = Vec::new();
    for number in 0..count {
        let manifest = Manifest {
            format: 1,
            backup_id: format!("bkp_abcdefghij{number:06}"),
            organization: "o".to_owned(),
            service: "s".to_owned(),
            lineage: "l".to_owned(),
            tool_label: format!("label {number}"),
            created_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            previous_manifest_sha256: all.last().map(|last| sha256_hex(&last.plain)),
            key_id: Uuid::from_u128(number as u128),
            objects: Vec::new(),
            facts: serde_json::Map::new(),
        };
        all.push(Backup { id: manifest.backup_id.clone(), plain: manifest.to_bytes().to_vec() });
    }
    all
}

#[track_caller]
fn check_broken(entries: &[ChainEntry], head: Option<&str>) {
    let result = verify_chain("l", entries, head);
    assert!(matches!(result, Err(SealError::Chain { .. })), "{result:?}");
}

#[test]
fn a_whole_chain_is_found_in_any_order() {
    let entries: Vec<_> = backups(5).iter().map(Backup::entry).collect();
    let head = entries[4].manifest_sha256.clone();
    let mut shuffled = entries.clone();
    shuffled.swap(0, 3);
    shuffled.reverse();
    assert_eq!(verify_chain("l", &shuffled, Some(&head)).unwrap(), entries);
    assert_eq!(verify_chain("l", &shuffled, None).unwrap(), entries);
    assert_eq!(verify_chain("l", &[], None).unwrap(), []);
    check_broken(&[], Some(&head));
}

#[test]
fn t5_a_missing_backup_shows() {
    let entries: Vec<_> = backups(5).iter().map(Backup::entry).collect();
    let head = entries[4].manifest_sha256.as_str();
    for missing in 0..5 {
        let mut left = entries.clone();
        left.remove(missing);
        check_broken(&left, Some(head));
        // Without the catalog's memory, only the newest can vanish unseen.
        assert_eq!(verify_chain("l", &left, None).is_ok(), missing == 4, "backup {missing}");
    }
}

#[test]
fn t5_a_chain_rolled_back_shows() {
    let entries: Vec<_> = backups(5).iter().map(Backup::entry).collect();
    for kept in 0..5 {
        check_broken(&entries[..kept], Some(&entries[4].manifest_sha256));
    }
}

#[test]
fn t5_an_older_manifest_does_not_open_as_a_newer_backups() {
    let all = backups(2);
    let key = DataKey::random();
    let context = |backup: &Backup| ObjectContext {
        organization: "o".to_owned(),
        service: "s".to_owned(),
        lineage: "l".to_owned(),
        owner: backup.id.clone(),
        kind: ObjectKind::Manifest,
        name: "manifest.json".to_owned(),
    };
    let old = seal_to_vec(&key, Uuid::nil(), &context(&all[0]), &all[0].plain).unwrap();
    assert!(open_to_vec(&key, &context(&all[0]), &old).is_ok());
    assert!(open_to_vec(&key, &context(&all[1]), &old).is_err(), "even with the right key");
}

#[test]
fn a_tombstone_keeps_its_place() {
    let all = backups(5);
    for deleted in 0..5 {
        let mut entries: Vec<_> = all.iter().map(Backup::entry).collect();
        let head = entries[4].manifest_sha256.clone();
        // While the deletion is under way both are there; afterwards only the tombstone.
        entries.push(all[deleted].tombstone());
        assert!(verify_chain("l", &entries, Some(&head)).is_ok());
        entries.remove(deleted);
        assert!(verify_chain("l", &entries, Some(&head)).is_ok());
        // A tombstone for another manifest does not fill the gap.
        entries.last_mut().unwrap().manifest_sha256 = sha256_hex(b"another");
        check_broken(&entries, Some(&head));
    }
}

#[test]
fn a_fork_shows() {
    let entries: Vec<_> = backups(3).iter().map(Backup::entry).collect();
    // Also at the newest end, where nothing follows the entry that was put aside.
    for forked in 0..3 {
        let mut both = entries.clone();
        let mut second = entries[forked].clone();
        second.manifest_sha256 = sha256_hex(b"another history");
        both.push(second);
        check_broken(&both, None);
        both.reverse();
        check_broken(&both, None);
    }
}
