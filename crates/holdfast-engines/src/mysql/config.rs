//! The server's settings, its folders' secrets, and the option file of MySQL's own tools.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::Rng as _;

use crate::files::{write_private, write_readable, write_secret};
use crate::{EngineError, Instance, Paths, Result};

/// The agent's account. Tenants never get SYSTEM_USER, so they cannot touch it.
pub(super) const ADMIN: &str = "root";
/// A finished binlog file; small, so that what the archive has leaves the disk soon.
const BINLOG_MIB: u32 = 64;
/// Connections that the agent needs beside the tenants': a backup, the reader of the log, probes. No user takes them alone: each has its plan's
/// at most, by the server's limit for users.
const OWN_CONNECTIONS: u32 = 10;
/// Below it the performance schema would take too large a part (300 of 470 MiB of an idle server).
const PERFORMANCE_SCHEMA_MIB: u64 = 4096;
/// How long a copy that stands alone keeps its binlog.
const ALONE_SECONDS: u32 = 3600;
/// Storage engines whose tables no backup could hold exactly: they know no transactions, so no snapshot.
const NOT_EXACT: &str = "MyISAM,MRG_MyISAM,MEMORY,CSV,ARCHIVE,BLACKHOLE,FEDERATED";

/// The whole `my.cnf` of an instance.
#[must_use]
pub fn my_cnf(instance: &Instance) -> String {
    let paths = Paths(&instance.folder);
    let mut text =
        String::from("# Written by Holdfast at every start; changes made here are lost.\n[mysqld]\n");
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {value}");
    };
    let path = |path: PathBuf| format!("\"{}\"", path.display());
    set("datadir", &path(paths.data()));
    set("socket", &path(socket(instance)));
    set("pid-file", &path(pid_file(instance)));
    set("log-error", &path(paths.log().join("mysqld.log")));
    set("bind-address", &instance.listen.to_string());
    set("port", &instance.port.to_string());
    set("server-id", &server_id(instance).to_string());
    set("max-connections", &(instance.max_connections + OWN_CONNECTIONS).to_string());
    set("max-user-connections", &instance.max_connections.to_string());
    set("innodb-buffer-pool-size", &format!("{}M", buffer_pool_mib(instance)));
    set("innodb-redo-log-capacity", &format!("{}M", (instance.memory_mib / 4).clamp(64, 1024)));
    let performance_schema = instance.memory_mib >= PERFORMANCE_SCHEMA_MIB;
    set("performance-schema", if performance_schema { "ON" } else { "OFF" });
    // What point-in-time recovery rests on. Files are removed by the agent alone, once the store has them.
    set("log-bin", "binlog");
    set("gtid-mode", "ON");
    set("enforce-gtid-consistency", "ON");
    set("sync-binlog", "1");
    set("innodb-flush-log-at-trx-commit", "1");
    set("max-binlog-size", &format!("{BINLOG_MIB}M"));
    let purges_itself = alone_file(instance).exists();
    set("binlog-expire-logs-auto-purge", if purges_itself { "ON" } else { "OFF" });
    set("binlog-expire-logs-seconds", &ALONE_SECONDS.to_string());
    set("log-replica-updates", "ON");
    // Tenants make functions and triggers; rows are logged, so what these do need not be the same twice.
    set("log-bin-trust-function-creators", "ON");
    set("skip-replica-start", "ON");
    set("relay-log", "relay-bin");
    set("disabled-storage-engines", &format!("\"{NOT_EXACT}\""));
    // Replay finds the rows of a table by a key; without one it would compare whole rows with whole tables.
    set("sql-generate-invisible-primary-key", "ON");
    // Tenants hold rights on all databases but the server's own.
    set("partial-revokes", "ON");
    set("secure-file-priv", "NULL");
    set("local-infile", "OFF");
    set("mysqlx", "OFF");
    set("skip-name-resolve", "ON");
    set("default-time-zone", "\"+00:00\"");
    if is_read_only(instance) {
        set("super-read-only", "ON");
    }
    text
}

/// A quarter of a small plan's memory, half of a larger one: what else the server takes hardly grows.
fn buffer_pool_mib(instance: &Instance) -> u64 {
    let share = if instance.memory_mib < 2048 { 4 } else { 2 };
    (instance.memory_mib / share).max(32)
}

/// A copy that stands alone: nobody takes its binlog, so it removes it itself.
pub(super) fn stand_alone(instance: &Instance) -> Result<()> {
    write_readable(&alone_file(instance), b"", instance.run_as.as_ref())
}

fn alone_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("stands-alone")
}

/// What must be restarted for when it differs: the buffer pool is resized while the server runs.
pub(super) fn wants(instance: &Instance) -> [(&'static str, u64); 3] {
    [
        ("max_connections", u64::from(instance.max_connections + OWN_CONNECTIONS)),
        ("max_user_connections", u64::from(instance.max_connections)),
        ("innodb_buffer_pool_size", buffer_pool_mib(instance) << 20),
    ]
}

/// Tells servers apart in a binlog; the upper half of the numbers is for whoever reads it.
fn server_id(instance: &Instance) -> u32 {
    let hash = instance
        .stanza
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash & 0x7fff_ffff).max(1)
}

/// Under which number the agent reads the binlog.
pub(super) fn reader_id(instance: &Instance) -> u32 {
    server_id(instance) | 0x8000_0000
}

pub(super) fn socket(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).run().join("mysqld.sock")
}

/// The server's own name for it.
pub(super) fn socket_lock(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).run().join("mysqld.sock.lock")
}

pub(super) fn pid_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).run().join("mysqld.pid")
}

pub(super) fn settings_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("my.cnf")
}

pub(super) fn write_settings(instance: &Instance) -> Result<()> {
    write_readable(&settings_file(instance), my_cnf(instance).as_bytes(), instance.run_as.as_ref())
}

/// The admin's password, which only the agent can read.
pub(super) fn admin_password(instance: &Instance) -> Result<String> {
    let path = password_file(instance);
    std::fs::read_to_string(&path).map_err(EngineError::io(format!("read {}", path.display())))
}

fn password_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("admin-password")
}

/// Statements for the server's first start, before it listens: the admin gets a password of its own. The file is gone when
/// the guard is dropped.
pub(super) fn first_statements(instance: &Instance) -> Result<Removed> {
    let bytes: [u8; 24] = rand::rng().random();
    let password = bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    write_secret(&password_file(instance), password.as_bytes())?;
    let path = Paths(&instance.folder).conf().join("first.sql");
    // Not logged: a copy that is made from the log has an admin of its own.
    let text =
        format!("SET sql_log_bin = 0;\nALTER USER '{ADMIN}'@'localhost' IDENTIFIED BY '{password}';\n");
    write_readable(&path, text.as_bytes(), instance.run_as.as_ref())?;
    Ok(Removed(path))
}

/// The option file for one run of a MySQL program, which connects through `socket`, and reads its password there and not from its arguments.
pub(super) fn client_options(instance: &Instance, name: &str, socket: &Path) -> Result<Removed> {
    let path = Paths(&instance.folder).run().join(format!("{name}.cnf"));
    let text = format!(
        "[client]\nuser = {ADMIN}\npassword = \"{}\"\nsocket = \"{}\"\nmax-allowed-packet = 1G\n",
        admin_password(instance)?,
        socket.display()
    );
    write_private(&path, text.as_bytes(), instance.run_as.as_ref())?;
    Ok(Removed(path))
}

/// A file that goes when this is dropped.
pub(super) struct Removed(PathBuf);

impl Removed {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // the folder goes with the instance
    }
}

/// There while the disk guard lets nobody write; the server's settings say so too.
pub(super) fn guard(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("read-only")
}

pub(super) fn is_read_only(instance: &Instance) -> bool {
    guard(instance).exists()
}
