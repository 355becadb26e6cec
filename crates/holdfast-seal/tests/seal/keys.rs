//! Wrapped keys: the right key, version and identity, or nothing.

use holdfast_seal::{
    DataKey, Kek, KeyIdentity, RecoveryPrivate, RecoveryPublic, SealError, unwrap, unwrap_secret,
    unwrap_with_recovery, wrap, wrap_for_recovery, wrap_secret, wrapped_kek_version,
};
use uuid::Uuid;

fn identity() -> KeyIdentity {
    KeyIdentity {
        key_id: Uuid::from_u128(5),
        organization: "o".to_owned(),
        service: "s".to_owned(),
        lineage: "l".to_owned(),
        purpose: "backup".to_owned(),
    }
}

fn other_identities() -> Vec<KeyIdentity> {
    let mut all = vec![identity(); 6];
    all[0].key_id = Uuid::from_u128(6);
    all[1].organization.push('x');
    all[2].service.push('x');
    all[3].lineage.push('x');
    all[4].purpose = "epoch".to_owned();
    (all[5].organization, all[5].service) = ("os".to_owned(), String::new());
    all
}

#[test]
fn a_wrapped_key_comes_back() {
    let (kek, key) = (Kek::random(7), DataKey::random());
    let wrapped = wrap(&kek, &identity(), &key);
    assert_eq!(unwrap(&kek, &identity(), &wrapped), Ok(key.clone()));
    assert_eq!(wrapped_kek_version(&wrapped), Some(7));
    assert_ne!(wrapped, wrap(&kek, &identity(), &key), "a nonce of its own each time");
    assert!(!wrapped.windows(8).any(|w| key.expose().windows(8).any(|k| k == w)), "the key shows");
}

#[test]
fn secrets_of_any_length_come_back() {
    let kek = Kek::random(1);
    for len in [0, 1, 32, 33, 1000] {
        let secret = vec![0x5A; len];
        let wrapped = wrap_secret(&kek, &identity(), &secret);
        assert_eq!(*unwrap_secret(&kek, &identity(), &wrapped).unwrap(), secret);
    }
}

#[test]
fn a_secret_never_passes_for_a_key() {
    let kek = Kek::random(1);
    let (key, secret) =
        (wrap(&kek, &identity(), &DataKey::random()), wrap_secret(&kek, &identity(), &[1; 32]));
    assert!(matches!(unwrap(&kek, &identity(), &secret), Err(SealError::NotAWrappedKey { .. })));
    assert!(matches!(unwrap_secret(&kek, &identity(), &key), Err(SealError::NotAWrappedKey { .. })));
    // Nor with its kind overwritten: the kind is authenticated.
    let relabelled = [&secret[..5], &[1], &secret[6..]].concat();
    assert!(matches!(unwrap(&kek, &identity(), &relabelled), Err(SealError::Unwrap { .. })));
}

#[test]
fn t6_another_kek_version_is_told_apart_from_damage() {
    let key = DataKey::random();
    let (old, new) = (Kek::random(1), Kek::random(2));
    let wrapped = wrap(&old, &identity(), &key);
    let error = unwrap(&new, &identity(), &wrapped).unwrap_err();
    assert_eq!(error, SealError::WrongKekVersion { key_id: Uuid::from_u128(5), wrapped_by: 1, given: 2 });
    // The same bytes under another version number, or the version overwritten, is no way round.
    let renamed = Kek::from_bytes(2, *old.expose());
    let mut relabelled = wrapped.clone();
    relabelled[11] = 2;
    assert!(matches!(unwrap(&renamed, &identity(), &wrapped), Err(SealError::WrongKekVersion { .. })));
    assert!(matches!(unwrap(&renamed, &identity(), &relabelled), Err(SealError::Unwrap { .. })));
    assert!(matches!(unwrap(&Kek::random(1), &identity(), &wrapped), Err(SealError::Unwrap { .. })));
}

#[test]
fn rotation_rewraps_and_the_recovery_wrap_stays() {
    let (key, kit) = (DataKey::random(), RecoveryPrivate::generate());
    let for_recovery = wrap_for_recovery(&kit.public(), &identity(), &key);
    let mut kek = Kek::random(1);
    let mut wrapped = wrap(&kek, &identity(), &key);
    for version in 2..5 {
        let next = Kek::random(version);
        wrapped = wrap(&next, &identity(), &unwrap(&kek, &identity(), &wrapped).unwrap());
        kek = next;
    }
    assert_eq!(unwrap(&kek, &identity(), &wrapped), Ok(key.clone()));
    assert_eq!(unwrap_with_recovery(&kit, &identity(), &for_recovery), Ok(key));
}

#[test]
fn a_key_opens_only_under_its_own_identity() {
    let (kek, key, kit) = (Kek::random(1), DataKey::random(), RecoveryPrivate::generate());
    let wrapped = wrap(&kek, &identity(), &key);
    let for_recovery = wrap_for_recovery(&kit.public(), &identity(), &key);
    assert!(unwrap_with_recovery(&kit, &identity(), &for_recovery).is_ok());
    for other in other_identities() {
        assert!(matches!(unwrap(&kek, &other, &wrapped), Err(SealError::Unwrap { .. })), "{other:?}");
        let result = unwrap_with_recovery(&kit, &other, &for_recovery);
        assert!(matches!(result, Err(SealError::Unwrap { .. })), "{other:?}: {result:?}");
    }
}

#[test]
fn every_bit_and_every_length_of_a_wrapped_key_counts() {
    let (kek, key, kit) = (Kek::random(1), DataKey::random(), RecoveryPrivate::generate());
    let by_kek = wrap(&kek, &identity(), &key);
    let for_recovery = wrap_for_recovery(&kit.public(), &identity(), &key);
    let opens = |wrapped: &[u8]| {
        unwrap(&kek, &identity(), wrapped).is_ok() || unwrap_with_recovery(&kit, &identity(), wrapped).is_ok()
    };
    for wrapped in [by_kek, for_recovery] {
        assert!(opens(&wrapped));
        for position in 0..wrapped.len() {
            assert!(!opens(&wrapped[..position]), "cut to {position} bytes");
            for bit in 0..8 {
                // X25519 ignores the topmost bit of the encapsulated key, but HPKE hashes it: refused like the rest.
                let mut changed = wrapped.clone();
                changed[position] ^= 1 << bit;
                assert!(!opens(&changed), "bit {bit} of byte {position}");
            }
        }
        assert!(!opens(&[wrapped.as_slice(), &[0]].concat()), "a byte appended");
    }
}

#[test]
fn another_kit_is_told_apart_from_damage() {
    let (ours, theirs) = (RecoveryPrivate::generate(), RecoveryPrivate::generate());
    let wrapped = wrap_for_recovery(&theirs.public(), &identity(), &DataKey::random());
    let error = unwrap_with_recovery(&ours, &identity(), &wrapped).unwrap_err();
    let (wrapped_for, given) = (theirs.public().fingerprint(), ours.public().fingerprint());
    assert_eq!(error, SealError::WrongRecoveryKey { key_id: Uuid::from_u128(5), wrapped_for, given });
}

#[test]
fn a_kit_line_survives_paper() {
    for _ in 0..50 {
        let kit = RecoveryPrivate::generate();
        let line = kit.to_text();
        let read = RecoveryPrivate::from_text(&line).unwrap();
        assert_eq!(read.public(), kit.public());
        assert_eq!(RecoveryPublic::from_text(&kit.public().to_text()), Ok(kit.public()));
        let lower = line.to_lowercase().replace('-', " ");
        let typed = format!("  {}\n", lower.replacen("hfpriv1 ", "hfpriv1-", 1));
        assert_eq!(RecoveryPrivate::from_text(&typed).unwrap().public(), kit.public());
        let (label, body) = line.split_at("HFPRIV1-".len());
        let lookalike = format!("{label}{}", body.replace('0', "o").replace('1', "l"));
        assert_eq!(RecoveryPrivate::from_text(&lookalike).unwrap().public(), kit.public());
    }
}

#[test]
fn a_misread_kit_line_is_refused_and_not_repeated() {
    let kit = RecoveryPrivate::from_bytes([0x42; 32]);
    let line = kit.to_text();
    let public = kit.public().to_text();
    assert!(RecoveryPrivate::from_text(&public).is_err(), "the public line is not the private one");
    assert!(RecoveryPublic::from_text(&line).is_err());
    let mut bad = vec![String::new(), "HFPRIV1-".to_owned(), format!("{}A", line.as_str())];
    bad.push(line[..line.len() - 1].to_owned());
    bad.push(line.replacen("HFPRIV1", "HFPRIV2", 1));
    bad.push(format!("{}ü", &line[..line.len() - 1]));
    bad.push(format!("{}U", &line[..line.len() - 1]));
    for (at, c) in line.char_indices().skip("HFPRIV1-".len()).filter(|(_, c)| *c != '-') {
        let other = if c == 'Z' { 'Y' } else { 'Z' };
        bad.push(format!("{}{other}{}", &line[..at], &line[at + 1..]));
    }
    for line in bad {
        let error = RecoveryPrivate::from_text(&line).expect_err(&line);
        let text = format!("{error} {error:?}");
        for group in line.split('-').skip(1).filter(|group| group.len() == 4) {
            assert!(!text.contains(group), "the error repeats the line: {text}");
        }
    }
}

#[test]
fn a_public_key_that_nothing_can_be_wrapped_for_is_refused_when_read() {
    assert!(matches!(RecoveryPublic::from_bytes([0; 32]), Err(SealError::RecoveryText { .. })));
    let mut one = [0; 32];
    one[0] = 1;
    assert!(RecoveryPublic::from_bytes(one).is_err(), "a point of small order");
}
