//! The test vectors of format version 1: what `examples/make_fixtures.rs` wrote once and the tests hold against today's
//! code and against `docs/format.md`.

use holdfast_seal::fixtures::{
    seal_with_salt, wrap_for_recovery_with_byte, wrap_secret_with_nonce, wrap_with_nonce,
};
use holdfast_seal::{
    DataKey, Header, Kek, KeyIdentity, Manifest, ManifestObject, ObjectContext, ObjectKind, RecoveryPrivate,
    Tombstone, sha256_hex,
};
use uuid::Uuid;

/// Around nothing, and around a chunk's edge.
pub(crate) const LENGTHS: [usize; 5] = [0, 1, 16383, 16384, 16385];
pub(crate) const KEY_ID: Uuid = Uuid::from_u128(0x0012_3456_789a_4bcd_8ef0_1122_3344_5566);
pub(crate) const COVERAGE_KEY_ID: Uuid = Uuid::from_u128(0x00ab_cdef_0123_4567_89ab_cdef_0123_4567);
pub(crate) const SECRET: &[u8] = b"correct horse battery staple";

/// `name = value` lines, and the sealed objects by file name.
pub(crate) struct Vectors {
    pub(crate) lines: String,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

pub(crate) fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from + u8::try_from(i).expect("vectors are short"))
}

/// Byte `i` is `i mod 251`: no two chunks are alike.
pub(crate) fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("less than 251")).collect()
}

pub(crate) fn context(kind: ObjectKind, name: &str) -> ObjectContext {
    let owner = match kind {
        ObjectKind::Tombstone => COVERAGE_KEY_ID.to_string(),
        _ => "bkp_abcdefghij012345".to_owned(),
    };
    ObjectContext {
        organization: "0d9c1ac0-5a7e-4a0e-8f57-1a2b3c4d5e6f".to_owned(),
        service: "1b2c3d4e-0000-4000-8000-000000000001".to_owned(),
        lineage: "1b2c3d4e-0000-4000-8000-000000000002".to_owned(),
        owner,
        kind,
        name: name.to_owned(),
    }
}

pub(crate) fn identity() -> KeyIdentity {
    let ctx = context(ObjectKind::Manifest, "");
    KeyIdentity {
        key_id: KEY_ID,
        organization: ctx.organization,
        service: ctx.service,
        lineage: ctx.lineage,
        purpose: "backup".to_owned(),
    }
}

pub(crate) fn data_key() -> DataKey {
    DataKey::from_bytes(counting(0))
}

pub(crate) fn kek() -> Kek {
    Kek::from_bytes(3, counting(0x80))
}

pub(crate) fn kit() -> RecoveryPrivate {
    RecoveryPrivate::from_bytes(counting(0x20))
}

pub(crate) fn compute() -> Vectors {
    let mut vectors = Vectors { lines: String::new(), files: Vec::new() };
    vectors.names();
    let objects = LENGTHS.map(|len| vectors.object(len));
    vectors.documents(objects.into());
    vectors.keys();
    vectors.description();
    vectors
}

impl Vectors {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.lines.push_str(&format!("{name} = {}\n", value.as_ref()));
    }

    fn names(&mut self) {
        let ctx = context(ObjectKind::BackupFile, "");
        self.line("version", "1");
        self.line("data_key", hex::encode(data_key().expose()));
        self.line("key_id", KEY_ID.to_string());
        self.line("organization", ctx.organization);
        self.line("service", ctx.service);
        self.line("lineage", ctx.lineage);
        self.line("owner", ctx.owner);
        self.line("salt", hex::encode(salt()));
    }

    fn seal(&mut self, ctx: &ObjectContext, plain: &[u8]) -> Vec<u8> {
        let sealed = seal_with_salt(&data_key(), KEY_ID, ctx, &salt(), plain).expect("vectors are short");
        self.files.push((format!("{}.sealed", ctx.name), sealed.clone()));
        sealed
    }

    fn object(&mut self, len: usize) -> ManifestObject {
        let ctx = context(ObjectKind::BackupFile, &format!("object-{len}"));
        let sealed = self.seal(&ctx, &plain(len));
        self.line(&format!("object.{len}.context"), hex::encode(ctx.encode(&Header::new(KEY_ID).to_bytes())));
        if len <= 1 {
            self.line(&format!("object.{len}.sealed"), hex::encode(&sealed));
        }
        self.line(&format!("object.{len}.sealed_sha256"), sha256_hex(&sealed));
        ManifestObject {
            name: ctx.name,
            sealed_bytes: sealed.len() as u64,
            plain_bytes: len as u64,
            sha256: sha256_hex(&sealed),
            shared: None,
        }
    }

    fn documents(&mut self, objects: Vec<ManifestObject>) {
        let ctx = context(ObjectKind::Manifest, "manifest");
        let manifest = Manifest {
            format: 1,
            backup_id: ctx.owner.clone(),
            organization: ctx.organization.clone(),
            service: ctx.service.clone(),
            lineage: ctx.lineage.clone(),
            tool_label: "20260102-030405F".to_owned(),
            created_at: "2026-01-02T03:04:05.678901Z".parse().expect("an instant"),
            previous_manifest_sha256: None,
            key_id: KEY_ID,
            objects,
            facts: serde_json::Map::new(),
        };
        let plain = manifest.to_bytes();
        let sealed = self.seal(&ctx, &plain);
        self.line("manifest.plain_sha256", sha256_hex(&plain));
        self.line("manifest.sealed_sha256", sha256_hex(&sealed));
        let tombstone = Tombstone {
            format: 1,
            backup_id: manifest.backup_id,
            organization: manifest.organization,
            service: manifest.service,
            lineage: manifest.lineage,
            manifest_sha256: sha256_hex(&plain),
            previous_manifest_sha256: None,
            deleted_at: "2026-02-01T00:00:00Z".parse().expect("an instant"),
            reason: "expired".to_owned(),
        };
        let plain = tombstone.to_bytes();
        let sealed = self.seal(&context(ObjectKind::Tombstone, "tombstone"), &plain);
        self.line("tombstone.owner", COVERAGE_KEY_ID.to_string());
        self.line("tombstone.plain_sha256", sha256_hex(&plain));
        self.line("tombstone.sealed_sha256", sha256_hex(&sealed));
    }

    fn keys(&mut self) {
        let identity = identity();
        self.line("purpose", &identity.purpose);
        self.line("identity", hex::encode(identity.encode()));
        self.line("kek_version", kek().version().to_string());
        self.line("kek", hex::encode(kek().expose()));
        let by_kek = wrap_with_nonce(&kek(), &identity, &data_key(), counting(0xC0));
        self.line("wrapped_key", hex::encode(by_kek));
        let secret = wrap_secret_with_nonce(&kek(), &identity, SECRET, counting(0xD0));
        self.line("secret", String::from_utf8_lossy(SECRET));
        self.line("wrapped_secret", hex::encode(secret));
        let kit = kit();
        self.line("recovery_private", kit.to_text().as_str());
        self.line("recovery_public", kit.public().to_text());
        self.line("recovery_fingerprint", kit.public().fingerprint());
        let for_recovery = wrap_for_recovery_with_byte(&kit.public(), &identity, &data_key(), 0x77);
        self.line("recovery_wrapped_key", hex::encode(for_recovery));
    }

    /// A description belongs to no lineage: that field of its context is empty.
    fn description(&mut self) {
        let ctx = ObjectContext {
            lineage: String::new(),
            owner: COVERAGE_KEY_ID.to_string(),
            ..context(ObjectKind::Service, "description/00000000000000000001")
        };
        let plain = br#"{"format":1}"#;
        let sealed = seal_with_salt(&data_key(), KEY_ID, &ctx, &salt(), plain).expect("it is short");
        self.line("description.name", &ctx.name);
        self.line("description.plain", String::from_utf8_lossy(plain));
        self.line("description.context", hex::encode(ctx.encode(&Header::new(KEY_ID).to_bytes())));
        self.line("description.sealed", hex::encode(sealed));
    }
}

fn salt() -> [u8; 24] {
    counting(0x40)
}
