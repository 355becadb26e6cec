//! T9: what format version 1 wrote still opens, is still written the same, and is what `docs/format.md` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_seal::{
    DataKey, Kek, KeyIdentity, Manifest, ObjectContext, ObjectKind, RecoveryPrivate, RecoveryPublic,
    Tombstone, open_to_vec, sha256_hex, unwrap, unwrap_secret, unwrap_with_recovery,
};

use crate::vectors;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// The vectors as they were written down, by name.
struct Written(BTreeMap<String, String>);

impl Written {
    fn read() -> Self {
        let text = std::fs::read_to_string(folder().join("vectors.txt")).unwrap();
        let lines = text.lines().map(|line| line.split_once(" = ").expect("name = value"));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[track_caller]
    fn get(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no vector {name}"))
    }

    #[track_caller]
    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.get(name)).unwrap()
    }

    fn key(&self) -> DataKey {
        DataKey::from_bytes(self.bytes("data_key").try_into().unwrap())
    }

    /// From the written names, not from today's code.
    fn context(&self, kind: ObjectKind, name: &str) -> ObjectContext {
        let owner = if kind == ObjectKind::Tombstone { "tombstone.owner" } else { "owner" };
        ObjectContext {
            organization: self.get("organization").to_owned(),
            service: self.get("service").to_owned(),
            lineage: self.get("lineage").to_owned(),
            owner: self.get(owner).to_owned(),
            kind,
            name: name.to_owned(),
        }
    }

    #[track_caller]
    fn open(&self, kind: ObjectKind, name: &str) -> (Vec<u8>, Vec<u8>) {
        let sealed = std::fs::read(folder().join(format!("{name}.sealed"))).unwrap();
        let plain = open_to_vec(&self.key(), &self.context(kind, name), &sealed).expect(name);
        (sealed, plain)
    }
}

#[test]
fn t9_objects_of_version_1_still_open() {
    let written = Written::read();
    for len in vectors::LENGTHS {
        let (sealed, plain) = written.open(ObjectKind::BackupFile, &format!("object-{len}"));
        assert!(plain == vectors::plain(len), "length {len}");
        assert_eq!(sha256_hex(&sealed), written.get(&format!("object.{len}.sealed_sha256")));
    }
    for len in [0, 1] {
        let (sealed, _) = written.open(ObjectKind::BackupFile, &format!("object-{len}"));
        assert_eq!(hex::encode(sealed), written.get(&format!("object.{len}.sealed")));
    }
}

#[test]
fn t9_documents_of_version_1_are_still_read() {
    let written = Written::read();
    let (_, plain) = written.open(ObjectKind::Manifest, "manifest");
    assert_eq!(sha256_hex(&plain), written.get("manifest.plain_sha256"));
    let manifest = Manifest::from_bytes(&plain).unwrap();
    assert_eq!(manifest.objects.len(), vectors::LENGTHS.len());
    for object in &manifest.objects {
        let sealed = std::fs::read(folder().join(format!("{}.sealed", object.name))).unwrap();
        assert_eq!((object.sealed_bytes, &object.sha256), (sealed.len() as u64, &sha256_hex(&sealed)));
    }
    let (_, plain) = written.open(ObjectKind::Tombstone, "tombstone");
    assert_eq!(Tombstone::from_bytes(&plain).unwrap().manifest_sha256, written.get("manifest.plain_sha256"));
}

#[test]
fn t9_a_description_of_version_1_still_opens() {
    let written = Written::read();
    let context = ObjectContext {
        lineage: String::new(),
        owner: written.get("tombstone.owner").to_owned(),
        ..written.context(ObjectKind::Service, written.get("description.name"))
    };
    let plain = open_to_vec(&written.key(), &context, &written.bytes("description.sealed")).unwrap();
    assert_eq!(plain, written.get("description.plain").as_bytes());
}

#[test]
fn t9_keys_of_version_1_still_unwrap() {
    let written = Written::read();
    let identity = KeyIdentity {
        key_id: written.get("key_id").parse().unwrap(),
        organization: written.get("organization").to_owned(),
        service: written.get("service").to_owned(),
        lineage: written.get("lineage").to_owned(),
        purpose: written.get("purpose").to_owned(),
    };
    let version = written.get("kek_version").parse().unwrap();
    let kek = Kek::from_bytes(version, written.bytes("kek").try_into().unwrap());
    assert_eq!(unwrap(&kek, &identity, &written.bytes("wrapped_key")), Ok(written.key()));
    let secret = unwrap_secret(&kek, &identity, &written.bytes("wrapped_secret")).unwrap();
    assert_eq!(*secret, written.get("secret").as_bytes());
    let kit = RecoveryPrivate::from_text(written.get("recovery_private")).unwrap();
    assert_eq!(RecoveryPublic::from_text(written.get("recovery_public")), Ok(kit.public()));
    assert_eq!(kit.public().fingerprint(), written.get("recovery_fingerprint"));
    let wrapped = written.bytes("recovery_wrapped_key");
    assert_eq!(unwrap_with_recovery(&kit, &identity, &wrapped), Ok(written.key()));
}

#[test]
fn version_1_is_still_written_the_same() {
    let today = vectors::compute();
    let written = std::fs::read_to_string(folder().join("vectors.txt")).unwrap();
    for (today, written) in today.lines.lines().zip(written.lines()) {
        assert_eq!(today, written);
    }
    assert_eq!(today.lines.len(), written.len());
    for (name, bytes) in today.files {
        assert!(bytes == std::fs::read(folder().join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn the_documented_vectors_are_the_fixtures() {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let doc = std::fs::read_to_string(doc).unwrap();
    let (_, block) = doc.split_once("```vectors\n").expect("docs/format.md has a block of vectors");
    let (block, _) = block.split_once("```").expect("the block ends");
    assert_eq!(block, std::fs::read_to_string(folder().join("vectors.txt")).unwrap());
}

#[test]
fn every_fixture_is_used() {
    let mut names: Vec<_> = vectors::compute().files.into_iter().map(|(name, _)| name).collect();
    names.push("vectors.txt".to_owned());
    names.sort();
    let mut found: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}
