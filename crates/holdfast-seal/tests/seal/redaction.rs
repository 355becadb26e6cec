//! No secret shows in Debug output or in an error's text.

use holdfast_seal::{
    DataKey, Kek, Manifest, ManifestObject, RecoveryPrivate, SharedKey, sealed_len, sha256_hex,
};
use uuid::Uuid;

/// 0xA5 = 165, in every spelling that a secret could slip out in.
fn check_silent(text: &str) {
    for spelling in ["a5a5", "A5A5", "165, 165", "paWl", "a5, a5", "\\xa5"] {
        assert!(!text.contains(spelling), "{text}");
    }
}

fn manifest() -> Manifest {
    Manifest {
        format: 1,
        backup_id: "bkp_abcdefghij012345".to_owned(),
        organization: "o".to_owned(),
        service: "s".to_owned(),
        lineage: "l".to_owned(),
        tool_label: "20260102-030405F".to_owned(),
        created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        previous_manifest_sha256: None,
        key_id: Uuid::nil(),
        objects: vec![ManifestObject {
            name: "blob".to_owned(),
            sealed_bytes: sealed_len(5),
            plain_bytes: 5,
            sha256: sha256_hex(b"blob"),
            shared: Some(SharedKey {
                key_id: Uuid::nil(),
                key: DataKey::from_bytes([0xA5; 32]),
                path: "indices/0/1".to_owned(),
            }),
        }],
        facts: serde_json::Map::new(),
    }
}

#[test]
fn debug_output_tells_no_secret() {
    check_silent(&format!("{:?}", DataKey::from_bytes([0xA5; 32])));
    check_silent(&format!("{:#?}", Kek::from_bytes(3, [0xA5; 32])));
    check_silent(&format!("{:?}", RecoveryPrivate::from_bytes([0xA5; 32])));
    check_silent(&format!("{:?}", manifest()));
}

#[test]
fn a_bad_manifest_is_refused_without_quoting_it() {
    let good = String::from_utf8(manifest().to_bytes().to_vec()).unwrap();
    assert!(good.contains("paWl"), "the key is in the document");
    let object = &good[good.find("{\"name\"").unwrap()..=good.find("}}").unwrap() + 1];
    for bad in [
        good.replace(object, &format!("{object},{object}")),
        good.replace("\"key\":\"", "\"key\":\"!"),
        good.replace("\"key\":", "\"key\":1,\"yek\":"),
        good.replace("\"key_id\":\"0", "\"key_id\":\"paWl"),
        good[..good.len() - 5].to_owned(),
        good.replace("\"format\":1", "\"format\":2"),
        good.replace("\"plain_bytes\":5", "\"plain_bytes\":6"),
        good.replace(&sha256_hex(b"blob"), "paWl"),
    ] {
        assert_ne!(bad, good);
        let error = Manifest::from_bytes(bad.as_bytes()).expect_err(&bad);
        check_silent(&error.to_string());
        check_silent(&format!("{error:?}"));
    }
    assert_eq!(Manifest::from_bytes(good.as_bytes()).unwrap(), manifest());
}
