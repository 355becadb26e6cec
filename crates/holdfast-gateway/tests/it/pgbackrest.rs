//! The real pgBackRest through the gateway: stanza, full and incremental backup, WAL, restore with a credential that
//! may only read, expiry. Needs the engines (`scripts/engines.sh`); `HOLDFAST_REQUIRE_ENGINES=1` makes that a must.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::{Bench, Tenant};
use holdfast_gateway::{Access, BUCKET, RepositoryKeys};
use holdfast_seal::open_to_vec;
use holdfast_store::repository::ObjectClass;
use tokio::process::Command;

const CANARY: &str = "canary-row-that-must-never-lie-in-the-store";
const READER: &str = "reader-of-the-source";
const STEP_LIMIT: Duration = Duration::from_secs(180);
const SEGMENT_BYTES: u64 = 16 << 20;

/// `postgresql-17/bin` and `pgbackrest` in the engines' folder.
struct Engines {
    postgresql: PathBuf,
    pgbackrest: PathBuf,
}

fn engines() -> Option<Engines> {
    let folder = std::env::var_os("HOLDFAST_ENGINES").unwrap_or_else(|| "/var/cache/holdfast/engines".into());
    let folder = PathBuf::from(folder);
    let engines = Engines {
        postgresql: folder.join("postgresql-17/bin"),
        pgbackrest: folder.join("pgbackrest/usr/bin/pgbackrest"),
    };
    if engines.postgresql.join("postgres").exists() && engines.pgbackrest.exists() {
        return Some(engines);
    }
    let reason = format!("no PostgreSQL 17 and pgBackRest in {}", folder.display());
    assert!(std::env::var_os("HOLDFAST_REQUIRE_ENGINES").is_none_or(|value| value != "1"), "{reason}");
    println!("SKIPPED: {reason}");
    None
}

/// One cluster's files and how to run programs beside it.
struct Cluster<'a> {
    engines: &'a Engines,
    folder: PathBuf,
    port: u16,
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let data = self.data();
        let mut stop = self.std_command(&self.engines.postgresql.join("pg_ctl"));
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(data).output();
    }
}

impl<'a> Cluster<'a> {
    fn new(engines: &'a Engines, base: &Path, name: &str) -> Self {
        let folder = base.join(name);
        for part in ["", "data", "log", "lock", "spool", "socket"] {
            let path = folder.join(part);
            std::fs::create_dir(&path).expect("a new folder");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("private");
            give_away(&path);
        }
        let port = holdfast_testkit::ports::reserve().expect("a port");
        Self { engines, folder, port }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("pgbackrest.conf")
    }

    /// As an ordinary user: PostgreSQL refuses to run as root.
    fn std_command(&self, program: &Path) -> std::process::Command {
        let mut command = if is_root() {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
            command
        } else {
            std::process::Command::new(program)
        };
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC").current_dir("/");
        command
    }

    async fn output(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::from(self.std_command(program));
        command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
        tokio::time::timeout(STEP_LIMIT, command.output()).await.expect("in time").expect("it runs")
    }

    async fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let started = Instant::now();
        let output = self.output(program, arguments).await;
        println!("{:>6} ms: {:?} {:?}", started.elapsed().as_millis(), program.file_name(), arguments.last());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} {arguments:?}:\n{text}\n{errors}", program.display());
        text
    }

    async fn postgres_tool(&self, tool: &str, arguments: &[&str]) -> String {
        self.run(&self.engines.postgresql.join(tool), arguments).await
    }

    fn pgbackrest_arguments<'b>(&self, config: &'b str, arguments: &[&'b str]) -> Vec<&'b str> {
        let mut all = vec![config, "--stanza=db", "--log-level-console=info"];
        all.extend_from_slice(arguments);
        all
    }

    async fn pgbackrest(&self, arguments: &[&str]) -> String {
        let config = format!("--config={}", self.config().display());
        let arguments = self.pgbackrest_arguments(&config, arguments);
        self.run(&self.engines.pgbackrest, &arguments).await
    }

    async fn try_pgbackrest(&self, arguments: &[&str]) -> Output {
        let config = format!("--config={}", self.config().display());
        let arguments = self.pgbackrest_arguments(&config, arguments);
        self.output(&self.engines.pgbackrest, &arguments).await
    }

    async fn sql(&self, text: &str) -> String {
        let (socket, port) = (self.folder.join("socket").display().to_string(), self.port.to_string());
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"];
        let mut arguments = arguments.to_vec();
        arguments.extend_from_slice(&["-h", &socket, "-p", &port, "-c", text]);
        self.postgres_tool("psql", &arguments).await.trim().to_owned()
    }

    fn write_pgbackrest_config(&self, bench: &Bench, access_key: &str, secret_key: &str) {
        let folder = self.folder.display();
        let authority = self.folder.join("ca.crt");
        write(&authority, &bench.certificate_pem);
        let text = format!(
            "[global]
repo1-type=s3
repo1-s3-bucket={BUCKET}
repo1-s3-endpoint=localhost
repo1-storage-port={gateway}
repo1-storage-ca-file={authority}
repo1-s3-uri-style=path
repo1-s3-region=us-east-1
repo1-s3-key={access_key}
repo1-s3-key-secret={secret_key}
repo1-path=/repo
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=a passphrase that only this test uses
repo1-bundle=y
repo1-block=y
repo1-retention-full-type=count
repo1-retention-full=9999999
compress-type=zst
process-max=2
start-fast=y
archive-copy=y
resume=n
expire-auto=n
io-timeout=20
spool-path={folder}/spool
log-path={folder}/log
lock-path={folder}/lock
[db]
pg1-path={data}
pg1-socket-path={folder}/socket
pg1-port={port}
pg1-user=postgres
",
            gateway = bench.gateway.local_addr().port(),
            authority = authority.display(),
            data = self.data().display(),
            port = self.port,
        );
        write(&self.config(), &text);
    }

    fn write_settings(&self, archive: bool) {
        let archive = if archive {
            let (program, config) = (self.engines.pgbackrest.display(), self.config().display().to_string());
            format!(
                "archive_mode = on\narchive_command = '{program} --config={config} --stanza=db archive-push \"%p\"'"
            )
        } else {
            "archive_mode = off".to_owned()
        };
        let file = self.data().join("postgresql.auto.conf");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        let socket = self.folder.join("socket");
        let text = format!(
            "{before}\nlisten_addresses = ''\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n{archive}\n",
            self.port,
            socket.display()
        );
        write(&file, &text);
    }

    async fn start(&self) {
        let (data, log) =
            (self.data().display().to_string(), self.folder.join("log/server").display().to_string());
        self.postgres_tool("pg_ctl", &["start", "-w", "-D", &data, "-l", &log]).await;
    }

    async fn wait_for(&self, what: &str, question: &str, answer: &str) {
        let deadline = Instant::now() + STEP_LIMIT;
        while self.sql(question).await != answer {
            let log = std::fs::read_to_string(self.folder.join("log/server")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what} in vain:\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(65_534), Some(65_534)).expect("root may give files away");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("writable");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("private");
    give_away(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbackrest_backs_up_and_restores_through_the_gateway() {
    let Some(engines) = engines() else { return };
    let bench = Bench::start().await;
    let tenant = bench.tenant();
    bench.register(&tenant, READER, Access::ReadOnly);
    let base = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o755))
        .expect("open to the cluster's user");

    let source = Cluster::new(&engines, base.path(), "source");
    let data = source.data().display().to_string();
    source.postgres_tool("initdb", &["-D", &data, "-U", "postgres", "--no-sync", "-A", "trust"]).await;
    source.write_pgbackrest_config(&bench, &tenant.access_key, &tenant.secret_key);
    source.write_settings(true);
    source.start().await;
    source.pgbackrest(&["stanza-create"]).await;
    source.pgbackrest(&["check"]).await;

    // Incompressible rows, so that files are longer than a part of a multipart upload.
    source.sql("create table ledger (id bigint primary key, note text)").await;
    let fill = |from: u32, to: u32| {
        format!(
            "insert into ledger select i, '{CANARY} ' || md5(random()::text) || md5(random()::text) || md5(random()::text)
             from generate_series({from}, {to}) i"
        )
    };
    source.sql(&fill(1, 200_000)).await;
    source.pgbackrest(&["--type=full", "backup"]).await;
    source.sql(&fill(200_001, 210_000)).await;
    source.pgbackrest(&["--type=incr", "backup"]).await;
    source.sql(&fill(210_001, 215_000)).await;
    let last = source.sql("select pg_walfile_name(pg_switch_wal())").await;
    source
        .wait_for("archiving", &format!("select last_archived_wal >= '{last}' from pg_stat_archiver"), "t")
        .await;
    let sum = "select count(*) || ' ' || md5(string_agg(note, '' order by id)) from ledger";
    let expected = source.sql(sum).await;

    check_events(&tenant);
    check_store(&bench, &tenant).await;
    let labels = labels(&source).await;
    assert_eq!(labels.len(), 2, "{labels:?}");
    check_restore(&bench, &tenant, &engines, base.path(), &labels[1], sum, &expected).await;

    // Expiry of the incremental leaves the full one whole.
    source.pgbackrest(&[&format!("--set={}", labels[1]), "expire"]).await;
    assert_eq!(self::labels(&source).await, [labels[0].clone()]);
    assert!(!bench.contains(format!("/backup/db/{}/", labels[1]).as_bytes()), "its files stay");
    source.pgbackrest(&["verify"]).await;
}

async fn labels(cluster: &Cluster<'_>) -> Vec<String> {
    let config = format!("--config={}", cluster.config().display());
    let text =
        cluster.run(&cluster.engines.pgbackrest, &[&config, "--stanza=db", "--output=json", "info"]).await;
    let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(info[0]["status"]["code"], 0, "{info}");
    let backups = info[0]["backup"].as_array().expect("backups").iter();
    backups.map(|backup| backup["label"].as_str().expect("a label").to_owned()).collect()
}

/// What was told is what an archiver needs: every segment in turn, and a class for every file.
fn check_events(tenant: &Tenant) {
    let stored = tenant.events.stored.lock().expect("no panic");
    let mut segments = BTreeSet::new();
    for object in stored.iter() {
        match &object.class {
            ObjectClass::Log { from, .. } => {
                assert_eq!(from.timeline, 1);
                segments.insert(from.offset);
            }
            ObjectClass::Other => assert!(object.path.ends_with(".backup"), "{} has no class", object.path),
            _ => {}
        }
    }
    let first = *segments.first().expect("segments were archived");
    let expected: BTreeSet<u64> = (0..segments.len() as u64).map(|i| first + i * SEGMENT_BYTES).collect();
    assert_eq!(segments, expected, "a hole");
    assert!(
        stored.iter().any(|object| object.plain_bytes > 5 << 20),
        "no file was long enough for a multipart upload"
    );
}

/// Everything that lies in the store was told of, opens with its key, and shows nothing.
async fn check_store(bench: &Bench, tenant: &Tenant) {
    assert!(!bench.contains(CANARY.as_bytes()));
    let stored = tenant.events.stored.lock().expect("no panic").clone();
    let mut kinds = BTreeSet::new();
    let files = bench.files();
    for file in &files {
        let name = file.strip_prefix(bench.folder.path()).expect("below").to_string_lossy().into_owned();
        let told = stored.iter().rev().find(|object| object.name.to_string() == name).expect(&name);
        let sealed = std::fs::read(file).expect("readable");
        assert_eq!(holdfast_seal::sha256_hex(&sealed), told.sha256, "{name}");
        let key = tenant.keys.opening_key(told.key_id).expect("a known key");
        let context = told.name.context(&key.owner).expect("sealed");
        let plain = open_to_vec(&key.key, &context, &sealed).expect("opens");
        assert_eq!(plain.len() as u64, told.plain_bytes, "{name}");
        kinds.insert(context.kind.as_str());
    }
    assert_eq!(kinds, BTreeSet::from(["backup-file", "log", "repository-info"]));
    println!("{} objects in the store, {} told of", files.len(), stored.len());
}

/// Restores with a credential that may only read, and lets the restored cluster try to push into its source.
async fn check_restore(
    bench: &Bench,
    tenant: &Tenant,
    engines: &Engines,
    base: &Path,
    label: &str,
    sum: &str,
    expected: &str,
) {
    let restored = Cluster::new(engines, base, "restored");
    restored.write_pgbackrest_config(bench, READER, &tenant.secret_key);
    restored.pgbackrest(&[&format!("--set={label}"), "--type=default", "restore"]).await;
    restored.write_settings(false);
    restored.start().await;
    restored.wait_for("recovering", "select pg_is_in_recovery()", "f").await;
    assert_eq!(restored.sql(sum).await, expected, "the restored rows differ");
    assert!(*tenant.events.served.lock().expect("no panic") > 10 << 20, "a restore was not seen");

    let before = bench.files();
    let segment = restored.sql("select pg_walfile_name(pg_switch_wal())").await;
    let file = restored.data().join("pg_wal").join(segment);
    let pushed = restored.try_pgbackrest(&["archive-push", &file.display().to_string()]).await;
    assert!(!pushed.status.success(), "a restored cluster pushed into its source's repository");
    let text =
        String::from_utf8_lossy(&pushed.stderr).into_owned() + &String::from_utf8_lossy(&pushed.stdout);
    assert!(text.contains("may only read"), "{text}");
    assert_eq!(bench.files(), before);
}
