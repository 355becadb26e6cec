//! Which server a host has, how an instance of it is started, and the agent's own passwords.

use std::path::{Path, PathBuf};

use holdfast_core::engine::{Network, lets_in_everybody};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::files;
use crate::{EngineError, Instance, Paths, Result};

/// How an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// For everybody who has a password.
    Open,
    /// For the agent, on the loopback address: while it is filled. No replica set, and nothing expires meanwhile.
    Private,
}

/// Name of the replica set of one.
pub(super) const REPLICA_SET: &str = "rs0";

/// The agent's users in an instance, each with the rights that its work needs (`docs/engines/mongodb.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// Makes users, stops the server.
    Admin,
    /// Reads all data and the oplog; base backups and the archive.
    Reader,
    /// Writes data; restores.
    Writer,
}

impl Account {
    pub(super) const ALL: [Self; 3] = [Self::Admin, Self::Reader, Self::Writer];

    pub(super) fn username(self) -> &'static str {
        match self {
            Self::Admin => "holdfast",
            Self::Reader => "holdfast_backup",
            Self::Writer => "holdfast_restore",
        }
    }

    pub(super) fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Admin => &["root"],
            Self::Reader => &["backup", "clusterMonitor"],
            Self::Writer => &["restore", "readWriteAnyDatabase", "dbAdminAnyDatabase"],
        }
    }

    pub(super) fn is_ours(username: &str) -> bool {
        Self::ALL.iter().any(|account| account.username() == username)
    }
}

/// What the agent keeps with an instance, for itself alone.
#[derive(Serialize, Deserialize)]
pub(super) struct Secrets {
    passwords: [String; 3],
}

impl Secrets {
    pub(super) fn make(instance: &Instance) -> Result<Self> {
        let secrets = Self { passwords: [random(), random(), random()] };
        let text = serde_json::to_vec(&secrets).expect("plain strings");
        files::write_secret(&Self::path(instance), &text)?;
        Ok(secrets)
    }

    pub(super) fn read(instance: &Instance) -> Result<Self> {
        let path = Self::path(instance);
        let doing = || format!("read {}", path.display());
        let text = std::fs::read(&path).map_err(EngineError::io(doing()))?;
        serde_json::from_slice(&text)
            .map_err(|error| EngineError::Unexpected { doing: doing(), what: error.to_string() })
    }

    pub(super) fn password(&self, account: Account) -> &str {
        let [admin, reader, writer] = &self.passwords;
        match account {
            Account::Admin => admin,
            Account::Reader => reader,
            Account::Writer => writer,
        }
    }

    fn path(instance: &Instance) -> PathBuf {
        Paths(&instance.folder).conf().join("agent.json")
    }
}

fn random() -> String {
    hex::encode(rand::rng().random::<[u8; 24]>())
}

/// The secret that members of a replica set share; with it, mongod asks clients for passwords.
pub(super) fn write_key_file(instance: &Instance) -> Result<PathBuf> {
    let path = Paths(&instance.folder).run().join("keyfile");
    if !path.exists() {
        files::write_private(&path, random().as_bytes(), instance.run_as.as_ref())?;
    }
    Ok(path)
}

/// Where clients, and the agent, reach the instance.
pub(super) fn address(instance: &Instance, mode: Mode) -> String {
    let cidrs = &instance.allowed_cidrs;
    let is_loopback =
        |cidr: &String| cidr.parse::<Network>().is_ok_and(|network| network.address.is_loopback());
    let loopback_only = !lets_in_everybody(cidrs) && cidrs.iter().all(is_loopback);
    if mode == Mode::Open && !loopback_only { instance.listen.to_string() } else { "127.0.0.1".to_owned() }
}

/// The address that the agent itself uses.
pub(super) fn agent_host(instance: &Instance) -> String {
    match address(instance, Mode::Open).as_str() {
        "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        other => other.to_owned(),
    }
}

/// The whole command line of the server. The oplog's size counts when it is made.
pub(super) fn arguments(instance: &Instance, mode: Mode, oplog_mib: u32) -> Vec<String> {
    let address = address(instance, mode);
    let tls = Certificate::of(instance);
    let bind = if address == "127.0.0.1" { address } else { format!("127.0.0.1,{address}") };
    // mongod takes half of the memory by default, but at least this (manual, storage.wiredTiger).
    let cache_mib = (instance.memory_mib / 2).max(256);
    let mut arguments = vec![
        format!("--dbpath={}", Paths(&instance.folder).data().display()),
        format!("--bind_ip={bind}"),
        format!("--port={}", instance.port),
        format!("--keyFile={}", Paths(&instance.folder).run().join("keyfile").display()),
        format!("--wiredTigerCacheSizeGB={}.{:03}", cache_mib / 1024, cache_mib % 1024 * 1000 / 1024),
        format!("--maxConns={}", instance.max_connections + 20), // the agent's own
        format!("--unixSocketPrefix={}", Paths(&instance.folder).run().display()),
        "--tlsMode=requireTLS".to_owned(),
        format!("--tlsCertificateKeyFile={}", tls.together.display()),
        // It does not start without a chain of trust (SERVER-72839), and with one it asks clients for certificates.
        format!("--tlsCAFile={}", tls.certificate.display()),
        "--tlsAllowConnectionsWithoutCertificates".to_owned(),
        "--quiet".to_owned(),
    ];
    match mode {
        Mode::Open => {
            arguments.extend([format!("--replSet={REPLICA_SET}"), format!("--oplogSize={oplog_mib}")]);
        }
        // What is due would go while it is loaded, and be missed when it is compared.
        Mode::Private => arguments.push("--setParameter=ttlMonitorEnabled=false".to_owned()),
    }
    arguments
}

/// The server's program of a version.
pub(super) fn program(engines_dir: &Path, version: &str) -> Result<PathBuf> {
    let own = engines_dir.join(format!("mongodb-{version}/bin/mongod"));
    let missing = || EngineError::Missing { engine: "MongoDB", version: version.to_owned() };
    own.is_file().then_some(own).ok_or_else(missing)
}

/// Versions that the host can run.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let all = holdfast_core::engine::EngineKind::Mongodb.capability().versions;
    let runs = |version: &&&str| program(engines_dir, version).is_ok();
    all.iter().filter(runs).map(|version| (*version).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_loopback_networks_leaves_the_loopback_address() {
        let mut instance: Instance = serde_json::from_value(serde_json::json!({
            "folder": "/x", "stanza": "s", "version": "7.0", "listen": "0.0.0.0", "port": 27017, "run_as": null,
            "memory_mib": 1024, "max_connections": 100, "allowed_cidrs": []
        }))
        .expect("an instance");
        assert_eq!(address(&instance, Mode::Open), "0.0.0.0");
        assert_eq!(address(&instance, Mode::Private), "127.0.0.1");
        instance.allowed_cidrs = vec!["127.0.0.0/8".to_owned()];
        assert_eq!(address(&instance, Mode::Open), "127.0.0.1");
        instance.allowed_cidrs.push("10.0.0.0/8".to_owned());
        assert_eq!(address(&instance, Mode::Open), "0.0.0.0", "the server tells who comes from where");
        instance.allowed_cidrs.pop();
        let line = arguments(&instance, Mode::Open, 2048).join(" ");
        assert!(line.contains("=127.0.0.1 ") && line.contains("27017"), "{line}");
        assert!(line.contains("/x/conf/server."), "no TLS: {line}");
    }
}
