use super::*;

fn record(vault: &Vault) -> KeyRecord {
    let owner = (OrganizationId::random(), ServiceId::random(), LineageId::random());
    vault.mint(KeyId::random(), owner, KeyPurpose::Backup, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_new_kek_wraps_what_is_new_and_the_old_one_opens_what_is_old_until_it_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vault = Vault::open(folder.path(), |_| Ok(())).expect("made");
    let old = record(&vault);
    vault.add_kek(5).expect("writable");
    vault.add_kek(5).expect("it is there");
    assert_eq!((vault.kek_versions(), vault.current_kek_version()), (vec![1, 5], 5));
    let new = record(&vault);
    assert_eq!((old.kek_version, new.kek_version), (1, 5));

    let vault = Vault::open(folder.path(), |_| panic!("there is a kit already")).expect("opens again");
    assert_eq!(vault.current_kek_version(), 5);
    let rewrapped = vault.rewrap(&old, 5).expect("both KEKs are here");
    assert!(vault.holds_same_key(&old, &rewrapped).expect("opens"));
    assert!(!vault.holds_same_key(&old, &new.wrapped).expect("another key"));
    assert!(!vault.holds_same_key(&old, b"no wrapping").expect("nothing like it"));
    vault.remove_kek(1).expect("removable");
    vault.remove_kek(1).expect("again is fine");
    assert_eq!(vault.kek_versions(), [5]);
    assert!(!folder.path().join("kek-1").exists());
    let text = vault.unwrap(&old).map(drop).expect_err("its KEK is gone").to_string();
    assert!(text.contains("/kek-1") && text.contains("bring the file back"), "{text}");
    let moved = KeyRecord { kek_version: 5, wrapped: rewrapped, ..old };
    assert!(vault.unwrap(&moved).is_ok());
}

#[test]
fn passwords_are_long_random_and_plain() {
    let (a, b) = (new_password(), new_password());
    assert_eq!(a.len(), 32);
    assert_ne!(*a, *b);
    assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}
