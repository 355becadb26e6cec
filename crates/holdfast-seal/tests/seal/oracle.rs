//! The independent oracle: `docs/open_object.py` and `tests/oracle/cross_check.py` on PyPI's `cryptography`, an implementation by other people.
//!
//! The interpreter comes from `HOLDFAST_ORACLE_PYTHON` (`tests/oracle/requirements.txt` says how to make one). Without it
//! the tests say that they were skipped, and fail where `HOLDFAST_REQUIRE_ORACLE=1`.

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_seal::{
    CHUNK_PLAIN, CHUNK_SEALED, DataKey, Kek, KeyIdentity, ObjectContext, ObjectKind, PREFIX_LEN,
    RecoveryPrivate, open_to_vec, seal_to_vec, sha256_hex, unwrap, unwrap_secret, unwrap_with_recovery, wrap,
    wrap_for_recovery, wrap_secret,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::common::Random;
use crate::fixtures::folder;
use crate::vectors::{self, plain};

fn python(test: &str) -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("HOLDFAST_ORACLE_PYTHON") {
        return Some(python.into());
    }
    let required = std::env::var("HOLDFAST_REQUIRE_ORACLE").is_ok_and(|value| value == "1");
    assert!(!required, "{test} may not be skipped: set HOLDFAST_ORACLE_PYTHON");
    eprintln!("SKIPPED: {test}: HOLDFAST_ORACLE_PYTHON names no Python with tests/oracle/requirements.txt");
    None
}

fn command(python: &Path, script: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-B"); // leave no __pycache__ in the source tree
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(script));
    command
}

/// Collects what to ask, asks once, and compares.
struct Oracle {
    folder: TempDir,
    request: Value,
    /// What each object opens to here: its hash, or none if it must be refused.
    opens: Vec<(String, Option<String>)>,
    kek_unwraps: Vec<Option<String>>,
    recovery_unwraps: Vec<Option<String>>,
}

fn describe(ctx: &ObjectContext) -> Value {
    json!({
        "organization": ctx.organization, "service": ctx.service, "lineage": ctx.lineage, "owner": ctx.owner,
        "kind": ctx.kind.as_str(), "name": ctx.name,
    })
}

fn describe_identity(identity: &KeyIdentity) -> Value {
    json!({
        "key_id": identity.key_id.to_string(), "organization": identity.organization, "service": identity.service,
        "lineage": identity.lineage, "purpose": identity.purpose,
    })
}

impl Oracle {
    fn new() -> Self {
        let names = ["opens", "seals", "kek_unwraps", "recovery_unwraps", "kek_wraps", "recovery_wraps"];
        Self {
            folder: TempDir::new().unwrap(),
            request: names.into_iter().map(|name| (name.to_owned(), json!([]))).collect::<Value>(),
            opens: Vec::new(),
            kek_unwraps: Vec::new(),
            recovery_unwraps: Vec::new(),
        }
    }

    fn push(&mut self, list: &str, item: Value) -> usize {
        let list = self.request[list].as_array_mut().unwrap();
        list.push(item);
        list.len() - 1
    }

    /// Both must do with this object what this crate does with it, which is checked here already.
    fn open(&mut self, key: &DataKey, ctx: &ObjectContext, sealed: &[u8], opens: bool, what: String) {
        let ours = open_to_vec(key, ctx, sealed).ok().map(|plain| sha256_hex(&plain));
        assert_eq!(ours.is_some(), opens, "{what}");
        let file = format!("{}.sealed", self.opens.len());
        std::fs::write(self.folder.path().join(&file), sealed).unwrap();
        self.push("opens", json!({"file": file, "key": hex::encode(key.expose()), "context": describe(ctx)}));
        self.opens.push((what, ours));
    }

    fn ask(&mut self, python: &Path) -> Value {
        let request = self.folder.path().join("request.json");
        std::fs::write(request, self.request.to_string()).unwrap();
        let run = command(python, "tests/oracle/cross_check.py").arg(self.folder.path()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let answer = std::fs::read(self.folder.path().join("answer.json")).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        for (number, (what, ours)) in self.opens.iter().enumerate() {
            for oracle in ["primitives", "cobblestone"] {
                assert_eq!(answer[oracle][number].as_str(), ours.as_deref(), "{oracle}: {what}");
            }
        }
        for (list, ours) in [("kek_unwraps", &self.kek_unwraps), ("recovery_unwraps", &self.recovery_unwraps)]
        {
            assert_eq!(answer[list], json!(ours), "{list}");
        }
        answer
    }
}

const LENGTHS: [usize; 9] =
    [0, 1, 100, CHUNK_PLAIN - 1, CHUNK_PLAIN, CHUNK_PLAIN + 1, 2 * CHUNK_PLAIN, 3 * CHUNK_PLAIN + 5, 300_000];

#[test]
fn what_we_seal_they_open_and_what_they_seal_we_open() {
    let Some(python) = python("what_we_seal_they_open_and_what_they_seal_we_open") else { return };
    let mut oracle = Oracle::new();
    let mut theirs = Vec::new();
    for (kind, len) in ObjectKind::ALL.into_iter().zip(LENGTHS) {
        let (key, key_id) = (DataKey::random(), Uuid::new_v4());
        let ctx = vectors::context(kind, &format!("Größe/{len}"));
        let sealed = seal_to_vec(&key, key_id, &ctx, &plain(len)).unwrap();
        oracle.open(&key, &ctx, &sealed, true, format!("{len} bytes"));
        std::fs::write(oracle.folder.path().join(format!("{len}.plain")), plain(len)).unwrap();
        let (plain_file, sealed_file) = (format!("{len}.plain"), format!("{len}.theirs"));
        oracle.push(
            "seals",
            json!({"plain": plain_file, "sealed": sealed_file, "key": hex::encode(key.expose()),
                "key_id": key_id.to_string(), "context": describe(&ctx)}),
        );
        theirs.push((key, ctx, sealed_file, len));
    }
    oracle.ask(&python);
    for (key, ctx, file, len) in theirs {
        let sealed = std::fs::read(oracle.folder.path().join(file)).unwrap();
        assert!(open_to_vec(&key, &ctx, &sealed).unwrap() == plain(len), "their {len} bytes");
        let mut damaged = sealed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(open_to_vec(&key, &ctx, &damaged).is_err(), "their {len} bytes, damaged");
    }
}

#[test]
fn they_open_the_fixtures() {
    let Some(python) = python("they_open_the_fixtures") else { return };
    let mut oracle = Oracle::new();
    let objects = vectors::LENGTHS.map(|len| (ObjectKind::BackupFile, format!("object-{len}")));
    let documents = [(ObjectKind::Manifest, "manifest"), (ObjectKind::Tombstone, "tombstone")];
    for (kind, name) in objects.into_iter().chain(documents.map(|(kind, name)| (kind, name.to_owned()))) {
        let sealed = std::fs::read(folder().join(format!("{name}.sealed"))).unwrap();
        oracle.open(&vectors::data_key(), &vectors::context(kind, &name), &sealed, true, name);
    }
    oracle.ask(&python);
}

#[test]
fn what_is_damaged_both_refuse() {
    let Some(python) = python("what_is_damaged_both_refuse") else { return };
    let mut random = Random::new("what_is_damaged_both_refuse");
    let mut oracle = Oracle::new();
    let (key, key_id) = (DataKey::random(), Uuid::new_v4());
    let ctx = vectors::context(ObjectKind::BackupFile, "a");
    for len in [0, 100, 2 * CHUNK_PLAIN, 2 * CHUNK_PLAIN + 100] {
        let sealed = seal_to_vec(&key, key_id, &ctx, &plain(len)).unwrap();
        for _ in 0..40 {
            let (position, bit) = (random.below(sealed.len()), random.below(8));
            let mut damaged = sealed.clone();
            damaged[position] ^= 1 << bit;
            oracle.open(&key, &ctx, &damaged, false, format!("{len} bytes, bit {bit} of byte {position}"));
            let cut = random.below(sealed.len());
            oracle.open(&key, &ctx, &sealed[..cut], false, format!("{len} bytes, cut to {cut}"));
        }
        for cut in (PREFIX_LEN..sealed.len()).step_by(CHUNK_SEALED) {
            oracle.open(
                &key,
                &ctx,
                &sealed[..cut],
                false,
                format!("{len} bytes, cut at a chunk's edge, {cut}"),
            );
        }
        oracle.open(&key, &ctx, &[sealed.as_slice(), b"x"].concat(), false, format!("{len} bytes and junk"));
        oracle.open(&key, &ctx, &[sealed.as_slice(), &sealed].concat(), false, format!("{len} bytes twice"));
        if len > CHUNK_PLAIN {
            let (prefix, body) = sealed.split_at(PREFIX_LEN);
            let mut chunks: Vec<_> = body.chunks(CHUNK_SEALED).collect();
            chunks.swap(0, 1);
            oracle.open(
                &key,
                &ctx,
                &[prefix, &chunks.concat()].concat(),
                false,
                "two chunks swapped".to_owned(),
            );
        }
        let other = vectors::context(ObjectKind::BackupFile, "b");
        oracle.open(&key, &other, &sealed, false, "as another object".to_owned());
        oracle.open(&DataKey::random(), &ctx, &sealed, false, "with another key".to_owned());
    }
    oracle.ask(&python);
}

#[test]
fn wrapped_keys_go_both_ways() {
    let Some(python) = python("wrapped_keys_go_both_ways") else { return };
    let mut oracle = Oracle::new();
    let (kek, key, kit) = (Kek::random(0x0102_0304), DataKey::random(), RecoveryPrivate::generate());
    let identity = KeyIdentity { key_id: Uuid::new_v4(), ..vectors::identity() };
    let another = KeyIdentity { purpose: "epoch".to_owned(), ..identity.clone() };

    let by_kek = wrap(&kek, &identity, &key);
    let secret = wrap_secret(&kek, &identity, b"a password");
    let damaged = {
        let mut d = by_kek.clone();
        d[40] ^= 1;
        d
    };
    for (identity, wrapped) in
        [(&identity, &by_kek), (&another, &by_kek), (&identity, &damaged), (&identity, &secret)]
    {
        let as_key = unwrap(&kek, identity, wrapped).ok().map(|key| sha256_hex(key.expose()));
        let as_secret = unwrap_secret(&kek, identity, wrapped).ok().map(|secret| sha256_hex(&secret));
        oracle.kek_unwraps.push(as_key.or(as_secret));
        oracle.push(
            "kek_unwraps",
            json!({"kek": hex::encode(kek.expose()), "version": kek.version(), "wrapped": hex::encode(wrapped),
                "identity": describe_identity(identity)}),
        );
    }
    assert_eq!(
        oracle.kek_unwraps.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, false, true]
    );

    let for_recovery = wrap_for_recovery(&kit.public(), &identity, &key);
    let damaged = {
        let mut d = for_recovery.clone();
        d[90] ^= 1;
        d
    };
    let foreign = wrap_for_recovery(&RecoveryPrivate::generate().public(), &identity, &key);
    let cases =
        [(&identity, &for_recovery), (&another, &for_recovery), (&identity, &damaged), (&identity, &foreign)];
    for (identity, wrapped) in cases {
        let ours = unwrap_with_recovery(&kit, identity, wrapped).ok();
        oracle.recovery_unwraps.push(ours.map(|key| sha256_hex(key.expose())));
        oracle.push(
            "recovery_unwraps",
            json!({"line": kit.to_text().as_str(), "wrapped": hex::encode(wrapped), "identity": describe_identity(identity)}),
        );
    }
    assert_eq!(
        oracle.recovery_unwraps.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, false, false]
    );

    let (key_hex, identity_json) = (hex::encode(key.expose()), describe_identity(&identity));
    oracle.push(
        "kek_wraps",
        json!({"kek": hex::encode(kek.expose()), "version": kek.version(), "key": key_hex, "identity": identity_json}),
    );
    let line = kit.public().to_text();
    oracle.push("recovery_wraps", json!({"line": line, "key": key_hex, "identity": identity_json}));
    let answer = oracle.ask(&python);
    let theirs = |list: &str| hex::decode(answer[list][0].as_str().unwrap()).unwrap();
    assert_eq!(unwrap(&kek, &identity, &theirs("kek_wraps")), Ok(key.clone()));
    assert_eq!(unwrap_with_recovery(&kit, &identity, &theirs("recovery_wraps")), Ok(key));
}

/// The command of docs/format.md, as a stranger would run it: from the kit to the plaintext.
#[test]
fn a_stranger_gets_from_the_kit_to_the_data() {
    let Some(python) = python("a_stranger_gets_from_the_kit_to_the_data") else { return };
    let folder = TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let name = "repository/repo/backup/db/20260102-030405F/bundle/1";
    let ctx = vectors::context(ObjectKind::BackupFile, name);
    let (key, public) = (vectors::data_key(), vectors::kit().public());
    let sealed = seal_to_vec(&key, vectors::KEY_ID, &ctx, &plain(16385)).unwrap();
    let kit_text = format!("A kit\nrecovery key: {}\nend", *vectors::kit().to_text());
    let kit = file("kit", kit_text.as_bytes());
    let wrapped = file("wrapped", &wrap_for_recovery(&public, &vectors::identity(), &key));
    let whole_name = format!("v1/{}/{}/{}/{name}", ctx.organization, ctx.service, ctx.lineage);
    let run = |object: &Path, wrapped: Option<&Path>, backup: &str| {
        let mut command = command(&python, "docs/open_object.py");
        command.arg("--kit").arg(&kit).arg("--object").arg(object).args(["--name", &whole_name]);
        command.args(wrapped.into_iter().flat_map(|path| [Path::new("--wrapped-key"), path]));
        command.args(["--backup", backup]).output().unwrap()
    };
    let object = file("object", &sealed);
    let which = run(&object, None, "");
    assert_eq!(String::from_utf8_lossy(&which.stdout).trim(), vectors::KEY_ID.to_string());
    let opened = run(&object, Some(&wrapped), &ctx.owner);
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    assert!(opened.stdout == plain(16385));
    let another = run(&object, Some(&wrapped), "bkp_abcdefghij012346");
    assert!(!another.status.success() && another.stdout.is_empty(), "it is no other backup's");

    // A blob that backups share opens with what their manifests say of it.
    let blob_name = format!("shared/{}", vectors::KEY_ID);
    let blob_ctx = ObjectContext {
        owner: vectors::KEY_ID.to_string(),
        ..vectors::context(ObjectKind::Shared, &blob_name)
    };
    let blob = file("blob", &seal_to_vec(&key, vectors::KEY_ID, &blob_ctx, &plain(5)).unwrap());
    let shared =
        holdfast_seal::SharedKey { key_id: vectors::KEY_ID, key: key.clone(), path: "0/1".to_owned() };
    let manifest = json!({"objects": [{"name": blob_name, "shared": shared}]});
    let manifest = file("manifest", manifest.to_string().as_bytes());
    let mut command = command(&python, "docs/open_object.py");
    command.arg("--manifest").arg(manifest).arg("--object").arg(blob);
    let opened = command.args(["--name", &whole_name.replace(name, &blob_name)]).output().unwrap();
    assert!(opened.stdout == plain(5), "{}", String::from_utf8_lossy(&opened.stderr));

    // And a damaged one ends in an error, with nothing of the damaged chunk written.
    let mut damaged = sealed;
    *damaged.last_mut().unwrap() ^= 1;
    let refused = run(&file("damaged", &damaged), Some(&wrapped), &ctx.owner);
    assert!(!refused.status.success());
    assert!(refused.stdout == plain(CHUNK_PLAIN));
}
