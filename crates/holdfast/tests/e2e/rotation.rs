//! Rotation of the key-encryption key on a whole Holdfast: during a backup, during a restore, under archiving, and killed
//! half-way. Nothing is lost, one KEK is left in the end, and the recovery kit of the first day opens a backup made after
//! three rotations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_catalog::Catalog;
use holdfast_core::key::{KeyPurpose, KeyRecord};
use holdfast_core::service::Service;
use holdfast_core::{BackupId, KeyId, LineageId};
use holdfast_seal::{KeyIdentity, RecoveryPrivate, unwrap_with_recovery};
use holdfast_server::vault::Vault;
use holdfast_store::manifest::read_manifest;
use holdfast_store::{LineageScope, ObjectName, OwnedKey, ServiceScope, Store};
use holdfast_testkit::client::text;
use holdfast_testkit::holdfast::PASSWORD;
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed, wait_for};
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Value, json};

use crate::BINARY;

/// Keys of another life of the service's data, so that rewrapping takes long enough to be met in the middle.
const MORE_KEYS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_everything_and_nothing_is_lost() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("keys_rotate_under_everything_and_nothing_is_lost");
    let faults = tempfile::tempdir()?;
    let folder = faults.path().to_str().context("a temporary folder with an odd name")?;
    let mut holdfast = Holdfast::start_with(BINARY, "rotation", &[("HOLDFAST_FAULTS", folder)]).await?;
    let client = holdfast.client();
    let kit = holdfast.data().join("recovery-kit.txt");
    let day_one = std::fs::read_to_string(&kit)?;
    std::fs::remove_file(&kit)?;
    let id = client.create("keyed").await?;
    client.wait_first_backup(&id).await?;
    let catalog = Catalog::open(&holdfast.data().join("catalog.db")).await?;
    let service = catalog.service(id.parse()?).await?.context("the service's row")?;
    more_keys(&holdfast, &catalog, &service).await?;
    let url = client.connection_string(&id).await?;
    let bulk = "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) || md5((g * 7)::text) AS text \
                FROM generate_series(1, 200000) g";
    connect(&url).await?.batch_execute(bulk).await?;
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();

    // During a backup, asked for on the command line.
    let backup = client.trigger(&id).await?;
    wait_for("the backup has begun", 30, || async {
        let found = client.get(&format!("/managed-services/{id}/backups/{backup}")).await?;
        Ok((found["status"] == "running").then_some(()))
    })
    .await?;
    by_command(&holdfast)?;
    client.wait_backup(&id, &backup, 120).await?;
    one_kek(&holdfast, &client, 2).await?;

    // During a restore, and the control plane dies while keys are rewrapped.
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let copy = client.restore_to(&id, &point.to_string(), "copy").await?;
    let delay = random.random_range(5..200);
    die_in(faults.path(), "rewrap_keys", delay)?;
    let job = text(&client.post("/keys/rotate", json!({})).await?, "job_id")?;
    dead(&holdfast).await?;
    let left = catalog.kek_uses().await?.get(&2).copied().unwrap_or_default();
    println!(
        "killed {delay} ms into rewrapping, with {} keys and {} passwords left",
        left.keys, left.passwords
    );
    again(&mut holdfast).await?;
    ended(&client, &job).await?;
    client.wait_running(&copy, 180).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact("a restore during a rotation")?;
    one_kek(&holdfast, &client, 3).await?;

    // Under archiving alone, and it dies while the old KEK is retired.
    let delay = random.random_range(1..200);
    die_in(faults.path(), "retire_keks", delay)?;
    let job = text(&client.post("/keys/rotate", json!({})).await?, "job_id")?;
    dead(&holdfast).await?;
    println!("killed {delay} ms into retiring");
    again(&mut holdfast).await?;
    ended(&client, &job).await?;
    one_kek(&holdfast, &client, 4).await?;

    let backup = client.trigger(&id).await?;
    client.wait_backup(&id, &backup, 120).await?;
    writer.stop().await?;
    ensure!(ledger.entries().iter().all(|entry| entry.acknowledged_at.is_some()), "a write was refused");
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let copy = client.restore_to(&id, &point.to_string(), "copy-later").await?;
    client.wait_running(&copy, 180).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact("a restore after three rotations")?;
    opens_with_day_one(&day_one, &holdfast, &service, &backup.parse()?, &catalog).await
}

/// Keys as earlier lives of the service's data would have left them, in catalog and bucket.
async fn more_keys(holdfast: &Holdfast, catalog: &Catalog, service: &Service) -> Result<()> {
    let vault = Vault::open(&holdfast.data().join("keys"), |_| Ok(()))?;
    let store = store(holdfast)?;
    let owner = (service.organization_id, service.id, LineageId::random());
    for _ in 0..MORE_KEYS {
        let record = vault.mint(KeyId::random(), owner, KeyPurpose::Epoch, Timestamp::now());
        catalog.insert_key(&record).await?;
        let scope = scope(&record);
        let wrapped = ObjectName::Key { service: scope, key: record.id, kek_version: 1 };
        store.put_if_absent(&wrapped, record.wrapped.into()).await?;
        let recovery = ObjectName::KeyRecovery { service: scope, key: record.id };
        store.put_if_absent(&recovery, record.recovery_wrapped.into()).await?;
    }
    Ok(())
}

fn store(holdfast: &Holdfast) -> Result<Store> {
    Ok(Store::open(&format!("file://{}", holdfast.objects().display()))?)
}

fn scope(record: &KeyRecord) -> ServiceScope {
    ServiceScope { organization: record.organization_id, service: record.service_id }
}

/// `holdfast keys rotate --wait`; a second one meanwhile is refused.
fn by_command(holdfast: &Holdfast) -> Result<()> {
    let command = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments).env("HOLDFAST_URL", holdfast.base()).env("HOLDFAST_PASSWORD", PASSWORD);
        command
    };
    let done = command(&["keys", "rotate", "--wait", "--output", "json"]).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{said}");
    let keys: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(keys["current_version"] == 2 && keys["rotation"]["status"] == "completed", "{keys}");
    Ok(())
}

/// The control plane is killed so long after that step of the next rotation has begun.
fn die_in(faults: &Path, step: &str, milliseconds: u64) -> Result<()> {
    Ok(std::fs::write(faults.join(format!("any.rotate_keys.{step}.before")), format!("kill {milliseconds}"))?)
}

async fn dead(holdfast: &Holdfast) -> Result<()> {
    let pid = holdfast.serve_pid().context("it runs")?;
    wait_for("the control plane is dead", 60, || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    })
    .await
}

async fn again(holdfast: &mut Holdfast) -> Result<()> {
    holdfast.kill_serve()?;
    holdfast.spawn().await
}

async fn ended(client: &Client, job: &str) -> Result<()> {
    let ended = wait_for("the rotation has ended", 120, || async {
        let job = client.get(&format!("/jobs/{job}")).await?;
        Ok((!job["finished_at"].is_null()).then_some(job))
    })
    .await?;
    ensure!(ended["status"] == "completed", "{ended}");
    Ok(())
}

/// Nothing but this KEK is left: in the vault, in the catalog and in the bucket (where a new key's second wrapping may be
/// a moment behind its first).
async fn one_kek(holdfast: &Holdfast, client: &Client, version: u32) -> Result<()> {
    let mut last = None;
    for _ in 0..100 {
        match look(holdfast, client, version).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(last.context("it was looked at")?)
}

async fn look(holdfast: &Holdfast, client: &Client, version: u32) -> Result<()> {
    let keys = client.get("/keys").await?;
    ensure!(keys["current_version"] == version, "{keys}");
    for kek in keys["versions"].as_array().context("a list")? {
        let expected = if kek["version"] == version { "current" } else { "retired" };
        ensure!(kek["status"] == expected, "{keys}");
        ensure!(expected == "current" || kek["wrapped_keys"] == 0, "{keys}");
    }
    let names = |folder: &Path| -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let files = names(&holdfast.data().join("keys"))?;
    ensure!(files == BTreeSet::from([format!("kek-{version}"), "recovery.pub".to_owned()]), "{files:?}");
    let mut wrappings = 0;
    for folder in key_folders(&holdfast.objects()) {
        let found = names(&folder)?;
        ensure!(found == BTreeSet::from([version.to_string(), "recovery".to_owned()]), "{found:?}");
        wrappings += 1;
    }
    ensure!(wrappings > MORE_KEYS, "{wrappings} keys in the bucket");
    Ok(())
}

/// `v1/<organization>/<service>/key/<key>` of all keys.
fn key_folders(objects: &Path) -> Vec<PathBuf> {
    let below = |folders: Vec<PathBuf>| -> Vec<PathBuf> {
        let entries = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
        entries.flatten().map(|entry| entry.path()).collect()
    };
    let services = below(below(vec![objects.join("v1")]));
    below(services.into_iter().map(|service| service.join("key")).collect())
}

/// With the bucket and the kit alone: the newest backup's key, and its manifest with that key.
async fn opens_with_day_one(
    kit: &str,
    holdfast: &Holdfast,
    service: &Service,
    backup: &BackupId,
    catalog: &Catalog,
) -> Result<()> {
    let line =
        kit.lines().find_map(|line| line.trim().strip_prefix("recovery key:")).context("the kit's line")?;
    let private = RecoveryPrivate::from_text(line.trim())?;
    let key = catalog.backup(backup).await?.context("the backup's row")?.key_id;
    let store = store(holdfast)?;
    let service_scope = ServiceScope { organization: service.organization_id, service: service.id };
    let name = ObjectName::KeyRecovery { service: service_scope, key };
    let wrapped = store.get(&name).await?.collect(4096).await?;
    let identity = KeyIdentity {
        key_id: key.0,
        organization: service.organization_id.to_string(),
        service: service.id.to_string(),
        lineage: service.lineage_id.to_string(),
        purpose: "backup".to_owned(),
    };
    let opened = unwrap_with_recovery(&private, &identity, &wrapped)?;
    let lineage = LineageScope {
        organization: service.organization_id,
        service: service.id,
        lineage: service.lineage_id,
    };
    let owned = OwnedKey { key_id: key, owner: backup.to_string(), key: opened };
    let (manifest, _) = read_manifest(&store, lineage, backup, &owned).await?;
    ensure!(manifest.backup_id == backup.to_string() && !manifest.objects.is_empty(), "another manifest");
    println!("the kit of the first day opens {} objects' manifest", manifest.objects.len());
    Ok(())
}
