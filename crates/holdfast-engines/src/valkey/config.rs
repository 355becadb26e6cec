//! The files that configure an instance. All lie in `conf/`, which the engine's user may read and not write: whoever got hold
//! of the server could not make it load another configuration, other users or another program at its next start.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, make_folder};
use crate::{EngineError, Instance, Paths, Result};

/// Databases that clients can select (the server's own default).
pub(super) const DATABASES: u32 = 16;
pub(super) const AOF_FOLDER: &str = "appendonlydir";
pub(super) const AOF_NAME: &str = "appendonly.aof";

/// What the agent keeps of an instance, for itself alone.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Own {
    /// The password of the server's first user, which only the agent has.
    pub password: String,
    /// Tells the instance's log from that of every other, however alike its files are named.
    pub dataset: String,
    /// Of a restored instance: the incremental file, and the place in it, at which its own log begins.
    #[serde(default)]
    pub begins_at: Option<(u64, u64)>,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("dataset", &self.dataset).finish_non_exhaustive()
    }
}

impl Own {
    /// Reads it, or makes it for a new instance.
    pub(super) fn ensure(instance: &Instance) -> Result<Self> {
        if path(instance, OWN).exists() {
            return Self::read(instance);
        }
        let password = hex(&rand::random::<[u8; 32]>());
        let own = Self { password, dataset: hex(&rand::random::<[u8; 8]>()), begins_at: None };
        own.write(instance)?;
        Ok(own)
    }

    pub(super) fn write(&self, instance: &Instance) -> Result<()> {
        let text = serde_json::to_vec(self).expect("it has only string keys");
        files::write_secret(&path(instance, OWN), &text)
    }

    pub(super) fn read(instance: &Instance) -> Result<Self> {
        let path = path(instance, OWN);
        let text = std::fs::read(&path).map_err(EngineError::io(format!("read {}", path.display())))?;
        serde_json::from_slice(&text).map_err(|error| EngineError::Unexpected {
            doing: format!("read {}", path.display()),
            what: error.to_string(),
        })
    }
}

const OWN: &str = "agent.json";
const CONF: &str = "valkey.conf";
pub(super) const ACL: &str = "users.acl";

/// The log's files that the server has removed and the store has not.
pub(super) fn spool_folder(instance: &Instance) -> PathBuf {
    instance.folder.join("kept-log")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn path(instance: &Instance, name: &str) -> PathBuf {
    Paths(&instance.folder).conf().join(name)
}

pub(super) fn conf_path(instance: &Instance) -> PathBuf {
    path(instance, CONF)
}

pub(super) fn socket(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).run().join("valkey.sock")
}

pub(super) fn aof_folder(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).data().join(AOF_FOLDER)
}

/// Three quarters of the plan's memory for data; the rest is for clients and for pages that change while a snapshot is
/// written.
pub(super) fn max_memory_bytes(instance: &Instance) -> u64 {
    (instance.memory_mib << 20) / 4 * 3
}

/// The whole `valkey.conf` of an instance.
#[must_use]
pub fn valkey_conf(instance: &Instance) -> String {
    let paths = Paths(&instance.folder);
    let mut text = String::from("# Written by Holdfast at every start; changes made here are lost.\n");
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} {value}");
    };
    set("bind", &instance.bind().to_string());
    set("port", &instance.port.to_string());
    set("protected-mode", "no"); // every user has a password
    set("unixsocket", &quoted(&socket(instance)));
    set("unixsocketperm", "700");
    set("daemonize", "yes");
    set("pidfile", &quoted(&paths.data().join("valkey.pid")));
    set("logfile", &quoted(&paths.log().join("valkey.log")));
    set("dir", &quoted(&paths.data()));
    set("aclfile", &quoted(&path(instance, ACL)));
    set("databases", &DATABASES.to_string());
    set("maxclients", &instance.max_connections.to_string());
    set("maxmemory", &max_memory_bytes(instance).to_string());
    set("maxmemory-policy", "noeviction"); // a database, not a cache: nothing goes by itself but what has a deadline
    set("appendonly", "yes");
    set("appenddirname", AOF_FOLDER);
    set("appendfilename", AOF_NAME);
    // `everysec` would answer clients before it writes while the disk is slow (Valkey 9.1, `flushAppendOnlyFile`), and a
    // server that is killed then loses what it acknowledged. So it always writes first, and the log's reader brings the file
    // to disk, every second too.
    set("appendfsync", "no");
    set("aof-timestamp-enabled", "yes");
    set("aof-use-rdb-preamble", "yes");
    set("aof-load-truncated", "yes");
    // Only the agent has it rewritten, after it has made sure that nothing which is not archived yet goes.
    set("auto-aof-rewrite-percentage", "0");
    set("save", "\"\"");
    set("sanitize-dump-payload", "yes"); // users may `RESTORE`, and what they give it must not harm the server
    set("enable-debug-command", "local"); // digests, by the socket, for the agent
    set("enable-module-command", "no");
    set("enable-protected-configs", "no");
    text
}

/// As the configuration file takes a path that may hold spaces.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Makes the folders. What is kept of the log until it is archived is the agent's: the engine cannot touch it.
pub(super) fn make_folders(instance: &Instance) -> Result<()> {
    files::make_folders(instance)?;
    make_folder(&spool_folder(instance), 0o700, None)
}

/// Writes all configuration files but the users'.
pub(super) fn write_all(instance: &Instance) -> Result<()> {
    Own::ensure(instance)?;
    let conf = valkey_conf(instance);
    files::write_readable(&conf_path(instance), conf.as_bytes(), instance.run_as.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_loopback_networks_closes_the_port_to_others() {
        let conf = |cidrs: &[&str]| {
            let mut instance = crate::valkey::tests::instance(Path::new("/nowhere"));
            instance.listen = "10.1.2.3".parse().expect("an address");
            instance.allowed_cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
            instance.bind().to_string()
        };
        assert_eq!(conf(&[]), "10.1.2.3");
        assert_eq!(conf(&["0.0.0.0/0"]), "10.1.2.3");
        assert_eq!(conf(&["127.0.0.0/8"]), "127.0.0.1");
        assert_eq!(conf(&["127.0.0.1/32", "::1/128"]), "127.0.0.1");
    }

    #[test]
    fn a_path_with_a_blank_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/\"c\"")), "\"/a b/\\\"c\\\"\"");
    }
}
