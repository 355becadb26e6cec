//! The files that configure an instance and its pgBackRest. All lie in `conf/`, which the engine's user may read and not
//! write. What the engine writes by itself (`ALTER SYSTEM`, for superusers alone) is emptied at every start.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::WalTail;
use crate::certificate::Certificate;
use crate::exec::RunAs;
use crate::files::{write_private, write_readable};
use crate::{EngineError, Instance, Paths, RepositoryAccess, Result};

/// Bucket name that the sealing gateway answers to.
const GATEWAY_BUCKET: &str = "holdfast";
/// Seconds after which a piece of log is closed although it is not full. Without a tail it is the bound of what losing the
/// host loses; with one, of what the tail keeps in small objects.
const ARCHIVE_TIMEOUT_SECONDS: u32 = 10;
const ARCHIVE_TIMEOUT_WITH_TAIL_SECONDS: u32 = 60;
/// Included by `postgresql.conf` while it is there.
const SYNCHRONOUS: &str = "synchronous.conf";

/// The whole `postgresql.conf` of an instance.
#[must_use]
pub fn postgresql_conf(instance: &Instance, pgbackrest: &Path, tail: WalTail) -> String {
    let paths = Paths(&instance.folder);
    let conf = paths.conf();
    let mut text = String::from("# Written by Holdfast at every start; changes made here are lost.\n");
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    };
    set("listen_addresses", &instance.listen.to_string());
    set("port", &instance.port.to_string());
    set("unix_socket_directories", &paths.run().to_string_lossy());
    set("unix_socket_permissions", "0700");
    set("hba_file", &conf.join("pg_hba.conf").to_string_lossy());
    set("ident_file", &conf.join("pg_ident.conf").to_string_lossy());
    set("cluster_name", &instance.stanza);
    set("max_connections", &instance.max_connections.to_string());
    // Of these. The agent has up to five at once: the tail's, a look, a measurement, a step's and its tool's.
    set("superuser_reserved_connections", "6");
    // A quarter of the plan's memory for shared buffers, the manual's starting point (PostgreSQL 17, 19.4.1).
    set("shared_buffers", &format!("{}MB", instance.memory_mib / 4));
    set("effective_cache_size", &format!("{}MB", instance.memory_mib * 3 / 4));
    set("maintenance_work_mem", &format!("{}MB", (instance.memory_mib / 16).clamp(64, 1024)));
    set("wal_level", "replica");
    set("archive_mode", "on");
    let archive_timeout = match tail {
        WalTail::Off => ARCHIVE_TIMEOUT_SECONDS,
        WalTail::On | WalTail::Synchronous => ARCHIVE_TIMEOUT_WITH_TAIL_SECONDS,
    };
    set("archive_timeout", &archive_timeout.to_string());
    set("archive_command", &archive_command(instance, pgbackrest));
    set("track_commit_timestamp", "on");
    set("password_encryption", "scram-sha-256");
    set("ssl", "on");
    set("ssl_cert_file", &conf.join("server.crt").to_string_lossy());
    set("ssl_key_file", &conf.join("server.key").to_string_lossy());
    set("ssl_min_protocol_version", "TLSv1.2");
    set("logging_collector", "on");
    set("log_directory", &paths.log().to_string_lossy());
    set("log_filename", "postgresql-%a.log");
    set("log_truncate_on_rotation", "on");
    set("log_rotation_age", "1d");
    set("log_timezone", "UTC");
    set("timezone", "UTC");
    set("log_line_prefix", "%m [%p] ");
    for guard in super::disk::GUARDS.into_iter().chain([SYNCHRONOUS]) {
        let _ = writeln!(text, "include_if_exists '{}'", conf.join(guard).display());
    }
    text
}

fn archive_command(instance: &Instance, pgbackrest: &Path) -> String {
    let config = Paths(&instance.folder).conf().join("pgbackrest.conf");
    format!(
        "{} && \"{}\" --config=\"{}\" --stanza={} archive-push \"%p\"",
        super::disk::may_archive(instance),
        pgbackrest.display(),
        config.display(),
        instance.stanza
    )
}

/// Who may connect from where. The agent comes by the socket as the operating system's user that it is; everybody else by
/// TCP with a password, from the allowed networks only.
#[must_use]
pub fn hba_conf(allowed_cidrs: &[String]) -> String {
    let mut text = String::from(
        "# Written by Holdfast at every start.\n\
         local all postgres peer map=holdfast\n\
         local replication postgres peer map=holdfast\n\
         local all all reject\n\
         host all postgres all reject\n\
         host replication all all reject\n",
    );
    if allowed_cidrs.is_empty() {
        text.push_str("host all all all scram-sha-256\n");
    }
    for cidr in allowed_cidrs {
        let _ = writeln!(text, "host all all {cidr} scram-sha-256");
    }
    text
}

/// While a copy is made: its data, and so its passwords, are still the source's.
const HBA_OF_A_COPY: &str = "# Written by Holdfast while this instance is made: nobody comes in by the network.\n\
    local all postgres peer map=holdfast\n";

fn ident_conf(run_as: Option<&RunAs>) -> String {
    let own = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let mut text = String::from("# Written by Holdfast: the agent and pgBackRest are the only superusers.\n");
    for name in run_as.map(|user| user.name.clone()).into_iter().chain(own) {
        let _ = writeln!(text, "holdfast \"{name}\" postgres");
    }
    text
}

/// pgBackRest's configuration for one repository. Its cipher stays on below our seal: AES-256-CBC inside, AES-256-GCM
/// outside.
fn pgbackrest_conf(instance: &Instance, access: &RepositoryAccess) -> String {
    let paths = Paths(&instance.folder);
    let show = |path: PathBuf| path.to_string_lossy().into_owned();
    format!(
        "[global]\n\
         repo1-type=s3\nrepo1-s3-bucket={GATEWAY_BUCKET}\nrepo1-s3-endpoint=localhost\nrepo1-storage-port={port}\n\
         repo1-storage-ca-file={ca}\nrepo1-s3-uri-style=path\nrepo1-s3-region=us-east-1\n\
         repo1-s3-key={key}\nrepo1-s3-key-secret={secret}\nrepo1-path=/repo\n\
         repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={pass}\n\
         repo1-bundle=y\nrepo1-block=y\nrepo1-retention-full-type=count\nrepo1-retention-full=9999999\n\
         expire-auto=n\nresume=n\narchive-copy=y\narchive-async=n\narchive-timeout=60\n\
         compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\nio-timeout=20\n\
         log-level-file=off\nlog-level-console=warn\nlog-level-stderr=off\n\
         spool-path={spool}\nlog-path={log}\nlock-path={lock}\n\
         [{stanza}]\npg1-path={data}\npg1-socket-path={run}\npg1-port={pg_port}\npg1-user=postgres\n",
        port = access.gateway_port,
        ca = access.gateway_ca_file.display(),
        key = access.access_key,
        secret = access.secret_key,
        pass = access.cipher_passphrase,
        spool = show(paths.spool()),
        log = show(paths.log()),
        lock = show(paths.lock()),
        stanza = instance.stanza,
        data = show(paths.data()),
        run = show(paths.run()),
        pg_port = instance.port,
    )
}

/// Writes all configuration files of an instance.
pub(super) fn write_all(instance: &Instance, pgbackrest: &Path, tail: WalTail) -> Result<()> {
    let paths = Paths(&instance.folder);
    let conf = paths.conf();
    let user = instance.run_as.as_ref();
    let write = |name: &str, text: &str| write_readable(&conf.join(name), text.as_bytes(), user);
    write("postgresql.conf", &postgresql_conf(instance, pgbackrest, tail))?;
    write("pg_hba.conf", &hba_conf(&instance.allowed_cidrs))?;
    write("pg_ident.conf", &ident_conf(user))?;
    Certificate::make(instance)?;
    if let Some(access) = &instance.repository {
        write_pgbackrest_conf(instance, access, "pgbackrest.conf")?;
    }
    write_private(&settings_file(instance), include_line(instance).as_bytes(), user)
}

/// The same for a copy that is being made: only the agent comes in.
pub(super) fn write_private_all(instance: &Instance, pgbackrest: &Path, tail: WalTail) -> Result<()> {
    write_all(instance, pgbackrest, tail)?;
    let hba = Paths(&instance.folder).conf().join("pg_hba.conf");
    write_readable(&hba, HBA_OF_A_COPY.as_bytes(), instance.run_as.as_ref())
}

/// Whether the engine's own settings are as [`write_all`] would write them.
pub(super) fn is_current(instance: &Instance, pgbackrest: &Path, tail: WalTail) -> bool {
    let conf = Paths(&instance.folder).conf();
    let is = |name: &str, text: &str| fs::read_to_string(conf.join(name)).is_ok_and(|found| found == text);
    is("postgresql.conf", &postgresql_conf(instance, pgbackrest, tail))
        && is("pg_hba.conf", &hba_conf(&instance.allowed_cidrs))
}

/// Lets commits wait for the tail, or no longer. Says whether that is a change. It lasts over restarts: a commit waits
/// while there is no tail.
pub(super) fn set_synchronous(instance: &Instance, synchronous: bool) -> Result<bool> {
    let path = Paths(&instance.folder).conf().join(SYNCHRONOUS);
    if path.exists() == synchronous {
        return Ok(false);
    }
    if synchronous {
        let name = super::replication::APPLICATION_NAME;
        let text = format!("# Written by Holdfast (wal_tail).\nsynchronous_standby_names = '{name}'\n");
        write_readable(&path, text.as_bytes(), instance.run_as.as_ref())?;
    } else {
        fs::remove_file(&path).map_err(EngineError::io(format!("remove {}", path.display())))?;
    }
    Ok(true)
}

/// For an instance that stands alone: its own settings file, which comes last, turns archiving off.
pub(super) fn stop_archiving(instance: &Instance) -> Result<()> {
    let text = format!("{}archive_mode = 'off'\n", include_line(instance));
    write_private(&settings_file(instance), text.as_bytes(), instance.run_as.as_ref())
}

fn settings_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).data().join("postgresql.conf")
}

fn include_line(instance: &Instance) -> String {
    format!("include '{}'\n", Paths(&instance.folder).conf().join("postgresql.conf").display())
}

/// The tool's settings by which a copy reads its source's repository.
pub(super) const SOURCE_CONF: &str = "source.conf";

/// As pgBackRest writes it by itself; a segment that the repository does not have (it ends with 1 then, and with another
/// code when it could not tell) comes from the tail. The tail's is never newer: a segment's pieces go when the repository
/// has it.
pub(super) fn restore_command(pgbackrest: &Path, reader: &Instance) -> String {
    let paths = Paths(&reader.folder);
    let tail = paths.tail();
    format!(
        "\"{}\" --config=\"{}\" --stanza={} archive-get %f \"%p\" || \
         {{ code=$?; test $code -eq 1 || exit $code; test -f \"{tail}/%f\" && cp \"{tail}/%f\" \"%p\"; }}",
        pgbackrest.display(),
        paths.conf().join(SOURCE_CONF).display(),
        reader.stanza,
        tail = tail.display(),
    )
}

/// How the tool reaches the instance's own repository.
pub(super) fn write_repository_conf(instance: &Instance) -> Result<()> {
    let access = instance.repository.as_ref().ok_or_else(|| EngineError::Unexpected {
        doing: "write the repository settings".to_owned(),
        what: "the instance has no repository".to_owned(),
    })?;
    write_pgbackrest_conf(instance, access, "pgbackrest.conf")
}

pub(super) fn write_pgbackrest_conf(
    instance: &Instance,
    access: &RepositoryAccess,
    name: &str,
) -> Result<()> {
    let text = pgbackrest_conf(instance, access);
    write_readable(&Paths(&instance.folder).conf().join(name), text.as_bytes(), instance.run_as.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cidrs_all_networks_may_come_and_with_them_only_those() {
        assert!(hba_conf(&[]).contains("host all all all scram-sha-256"));
        let some = hba_conf(&["10.0.0.0/8".to_owned()]);
        assert!(some.contains("host all all 10.0.0.0/8 scram-sha-256"));
        assert!(!some.contains("host all all all scram"));
        assert!(some.contains("host all postgres all reject"), "no superuser by TCP");
    }
}
