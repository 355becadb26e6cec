use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn lineage() -> impl Strategy<Value = LineageScope> {
    any::<[u128; 3]>().prop_map(|[a, b, c]| LineageScope {
        organization: OrganizationId(Uuid::from_u128(a)),
        service: ServiceId(Uuid::from_u128(b)),
        lineage: LineageId(Uuid::from_u128(c)),
    })
}

fn path() -> impl Strategy<Value = RepositoryPath> {
    let part = prop_oneof![
        "[A-Za-z0-9._@+=,-]{1,40}",
        "\\PC{1,12}",
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just("%2E".to_owned()),
        Just("x#1".to_owned()),
        Just("a\\b\n\u{0}".to_owned()),
    ];
    prop::collection::vec(part, 1..6)
        .prop_map(|parts| parts.join("/"))
        .prop_filter_map("no repository path", |text| RepositoryPath::new(&text).ok())
}

fn backup() -> impl Strategy<Value = BackupId> {
    "bkp_[a-z0-9]{16}".prop_map(|text| text.parse().expect("the pattern is a backup id's"))
}

fn name() -> impl Strategy<Value = ObjectName> {
    let key = || any::<u128>().prop_map(|id| KeyId(Uuid::from_u128(id)));
    prop_oneof![
        (lineage(), path()).prop_map(|(lineage, path)| ObjectName::Repository { lineage, path }),
        (lineage(), path(), any::<u64>())
            .prop_map(|(lineage, path, generation)| ObjectName::InfoGeneration { lineage, path, generation }),
        (lineage(), any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(lineage, timeline, from, to)| ObjectName::LogPiece { lineage, timeline, from, to }),
        (lineage(), backup(), any::<u64>(), path()).prop_map(|(lineage, backup, attempt, path)| {
            ObjectName::BackupObject { lineage, backup, attempt, path }
        }),
        (lineage(), key()).prop_map(|(lineage, key)| ObjectName::Shared { lineage, key }),
        (lineage(), backup()).prop_map(|(lineage, backup)| ObjectName::BackupManifest { lineage, backup }),
        (lineage(), backup()).prop_map(|(lineage, backup)| ObjectName::Tombstone { lineage, backup }),
        (lineage(), any::<u64>()).prop_map(|(lineage, sequence)| ObjectName::Coverage { lineage, sequence }),
        (lineage(), any::<u64>()).prop_map(|(lineage, sequence)| ObjectName::TimeMap { lineage, sequence }),
        (lineage(), key(), any::<u32>()).prop_map(|(lineage, key, kek_version)| ObjectName::Key {
            service: lineage.service_scope(),
            key,
            kek_version
        }),
        (lineage(), key())
            .prop_map(|(lineage, key)| ObjectName::KeyRecovery { service: lineage.service_scope(), key }),
        (lineage(), any::<u64>()).prop_map(|(lineage, sequence)| ObjectName::ServiceDescription {
            service: lineage.service_scope(),
            sequence
        }),
    ]
}

proptest! {
    #[test]
    fn each_name_comes_back_from_its_path(name in name()) {
        let path = name.to_path();
        prop_assert_eq!(path.as_ref().parse::<ObjectName>(), Ok(name));
        prop_assert!(path.as_ref().len() <= 1024, "longer than an S3 key may be: {}", path);
    }

    #[test]
    fn two_names_never_share_a_path(one in name(), other in name()) {
        prop_assert_eq!(one == other, one.to_path() == other.to_path());
    }

    #[test]
    fn no_path_leaves_its_lineage(lineage in lineage(), path in path()) {
        let folder = lineage.to_string();
        let stored = ObjectName::Repository { lineage, path }.to_path();
        prop_assert!(stored.as_ref().starts_with(&folder));
        prop_assert!(stored.as_ref().split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        prop_assert!(stored.as_ref().bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#'));
    }

    #[test]
    fn other_text_is_refused_or_is_the_name_that_it_spells(text in "v1/\\PC{0,80}") {
        if let Ok(name) = text.parse::<ObjectName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }
}

#[test]
fn paths_that_name_nothing_are_refused() {
    for bad in ["", "/", "a//b", "a/", "//a"] {
        assert!(RepositoryPath::new(bad).is_err(), "{bad:?} was accepted");
    }
    assert!(RepositoryPath::new(&"x".repeat(256)).is_err());
    assert!(RepositoryPath::new(&"ä".repeat(100)).is_err(), "encoded it is too long for a file name");
    assert!(RepositoryPath::decode("a%2eb").is_err(), "a second spelling of one path");
    assert!(RepositoryPath::decode("a%41").is_err(), "a second spelling of one path");
}

#[test]
fn generations_sort_as_numbers_do() {
    let lineage = LineageScope {
        organization: OrganizationId::random(),
        service: ServiceId::random(),
        lineage: LineageId::random(),
    };
    let path = RepositoryPath::new("repo/backup/db/backup.info").expect("a plain path");
    let name = |generation| ObjectName::InfoGeneration { lineage, path: path.clone(), generation }.to_path();
    assert!(name(9) < name(10));
    assert!(name(u64::MAX - 1) < name(u64::MAX));
}
