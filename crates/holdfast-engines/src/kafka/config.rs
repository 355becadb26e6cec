//! The files that configure an instance. All lie in `conf/`, which the engine's user may read and not write.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::files::{self, make_folder};
use crate::{EngineError, Instance, Paths, Result, java};

/// The agent's own user, the only one that the server knows from its configuration. None of the tenant's may be called so.
pub(super) const AGENT: &str = "holdfast";
/// The node of each cluster of ours.
pub(super) const NODE: i32 = 1;
/// Partitions of the server's own topics: of groups, and of transactions. Enough for one node.
const OWN_PARTITIONS: u32 = 5;

const OWN: &str = "agent.json";
const PROPERTIES: &str = "server.properties";
/// As 3.9 reads it, and as 4.0 and later do.
const LOGGING: &str = "log4j.properties";
const LOGGING2: &str = "log4j2.properties";

/// What the agent keeps of an instance, for itself alone.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Own {
    /// Of [`AGENT`].
    pub password: String,
    /// As Kafka writes it: 16 bytes in base64url.
    pub cluster_id: String,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

impl Own {
    /// Reads it, or makes it for a new instance.
    pub(super) fn ensure(instance: &Instance) -> Result<Self> {
        if path(instance, OWN).exists() {
            return Self::read(instance);
        }
        let mut id = rand::random::<[u8; 16]>();
        id[0] &= 0x7f; // a text that begins with a dash would be an option
        let password = hex::encode(rand::random::<[u8; 32]>());
        let own = Self { password, cluster_id: URL_SAFE_NO_PAD.encode(id) };
        let text = serde_json::to_vec(&own).expect("it has only string keys");
        files::write_secret(&path(instance, OWN), &text)?;
        Ok(own)
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

pub(super) fn path(instance: &Instance, name: &str) -> PathBuf {
    Paths(&instance.folder).conf().join(name)
}

pub(super) fn properties_path(instance: &Instance) -> PathBuf {
    path(instance, PROPERTIES)
}

pub(super) fn logging_arguments(instance: &Instance) -> [OsString; 2] {
    let url = |name| format!("file:{}", path(instance, name).display());
    [
        format!("-Dlog4j.configuration={}", url(LOGGING)).into(),
        format!("-Dlog4j2.configurationFile={}", url(LOGGING2)).into(),
    ]
}

/// A half of the plan's memory; the rest is for the virtual machine itself and for the kernel's cache of the log, which Kafka lives on.
pub(super) fn heap_mib(instance: &Instance) -> u64 {
    (instance.memory_mib / 2).clamp(128, 6144)
}

/// Ports on the loopback address, for what no client has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InnerPorts {
    /// Where the agent comes to, and the broker to itself.
    pub agent: u16,
    pub controller: u16,
}

impl InnerPorts {
    /// Two that nothing listens on now.
    pub(super) fn free() -> Result<Self> {
        let agent = java::free_port()?;
        loop {
            let controller = java::free_port()?;
            if controller != agent {
                return Ok(Self { agent, controller });
            }
        }
    }

    /// Those that the settings name.
    pub(super) fn of(instance: &Instance) -> Option<Self> {
        let text = std::fs::read_to_string(properties_path(instance)).ok()?;
        let listeners = text.lines().find_map(|line| line.strip_prefix("listeners="))?;
        let port = |name: &str| {
            let at = listeners.split(',').find_map(|listener| listener.strip_prefix(name))?;
            at.rsplit_once(':')?.1.parse().ok()
        };
        Some(Self { agent: port("AGENT://")?, controller: port("CONTROLLER://")? })
    }
}

/// The whole `server.properties`: one node that is broker and controller. Clients have a listener of their own, whose connections are
/// limited, and on which only they can log in; the agent comes by another.
pub(super) fn server_properties(instance: &Instance, own: &Own, ports: InnerPorts) -> String {
    let host = |address: IpAddr| match address {
        IpAddr::V6(address) => format!("[{address}]"),
        IpAddr::V4(address) => address.to_string(),
    };
    let (listen, port) = (host(instance.bind()), instance.port);
    let advertised = host(instance.reached_at());
    let InnerPorts { agent: agent_port, controller: controller_port } = ports;
    let paths = Paths(&instance.folder);
    let certificate = Certificate::of(instance);
    let mut text = String::from("# Written by Holdfast at every start; changes made here are lost.\n");
    // So that another size is another text.
    let _ = writeln!(text, "# heap: {} MiB", heap_mib(instance));
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}={}", value.replace('\\', "\\\\"));
    };
    set("process.roles", "broker,controller");
    set("node.id", &NODE.to_string());
    set("controller.quorum.voters", &format!("{NODE}@127.0.0.1:{controller_port}"));
    let inner = format!("AGENT://127.0.0.1:{agent_port}");
    set("listeners", &format!("CLIENT://{listen}:{port},{inner},CONTROLLER://127.0.0.1:{controller_port}"));
    set("advertised.listeners", &format!("CLIENT://{advertised}:{port},{inner}"));
    set("listener.security.protocol.map", "CLIENT:SASL_SSL,AGENT:SASL_SSL,CONTROLLER:SASL_SSL");
    set("inter.broker.listener.name", "AGENT");
    set("controller.listener.names", "CONTROLLER");
    set("sasl.mechanism.inter.broker.protocol", "PLAIN");
    set("sasl.mechanism.controller.protocol", "PLAIN");
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{AGENT}\" \
         password=\"{password}\" user_{AGENT}=\"{password}\";",
        password = own.password
    );
    for listener in ["agent", "controller"] {
        set(&format!("listener.name.{listener}.sasl.enabled.mechanisms"), "PLAIN");
        set(&format!("listener.name.{listener}.plain.sasl.jaas.config"), &plain);
    }
    set("listener.name.client.sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512");
    for mechanism in ["scram-sha-256", "scram-sha-512"] {
        let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        set(&format!("listener.name.client.{mechanism}.sasl.jaas.config"), module);
    }
    set("listener.name.client.max.connections", &instance.max_connections.to_string());
    set("ssl.keystore.type", "PEM");
    set("ssl.keystore.location", &certificate.together.to_string_lossy());
    set("ssl.truststore.type", "PEM");
    set("ssl.truststore.location", &certificate.certificate.to_string_lossy());
    set("ssl.endpoint.identification.algorithm", ""); // it trusts this one certificate, its own
    set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer");
    set("super.users", &format!("User:{AGENT}"));
    set("allow.everyone.if.no.acl.found", "false");
    set("log.dirs", &paths.data().to_string_lossy());
    set("auto.create.topics.enable", "false"); // a name that is misspelt is an error
    set("group.initial.rebalance.delay.ms", "0");
    for own in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{own}.replication.factor"), "1");
        set(&format!("{own}.num.partitions"), &OWN_PARTITIONS.to_string());
    }
    set("transaction.state.log.min.isr", "1");
    set("share.coordinator.state.topic.min.isr", "1");
    // The usual 128 MiB are more than a small heap has.
    set("log.cleaner.dedupe.buffer.size", &((heap_mib(instance) / 8) << 20).to_string());
    text
}

fn logging(instance: &Instance) -> String {
    let file = Paths(&instance.folder).log().join("kafka.log");
    format!(
        "log4j.rootLogger=INFO, file\n\
         log4j.appender.file=org.apache.log4j.RollingFileAppender\n\
         log4j.appender.file.File={}\n\
         log4j.appender.file.MaxFileSize=10MB\n\
         log4j.appender.file.MaxBackupIndex=4\n\
         log4j.appender.file.layout=org.apache.log4j.PatternLayout\n\
         log4j.appender.file.layout.ConversionPattern=[%d] %p %m (%c)%n\n",
        file.display()
    )
}

fn logging2(instance: &Instance) -> String {
    let file = Paths(&instance.folder).log().join("kafka.log");
    format!(
        "rootLogger.level=info\n\
         rootLogger.appenderRef.file.ref=file\n\
         appender.file.type=RollingFile\n\
         appender.file.name=file\n\
         appender.file.fileName={file}\n\
         appender.file.filePattern={file}.%i\n\
         appender.file.layout.type=PatternLayout\n\
         appender.file.layout.pattern=[%d] %p %m (%c)%n\n\
         appender.file.policies.type=Policies\n\
         appender.file.policies.size.type=SizeBasedTriggeringPolicy\n\
         appender.file.policies.size.size=10MB\n\
         appender.file.strategy.type=DefaultRolloverStrategy\n\
         appender.file.strategy.max=4\n",
        file = file.display()
    )
}

pub(super) fn make_folders(instance: &Instance) -> Result<()> {
    files::make_folders(instance)?;
    make_folder(&java::temporary(instance), 0o700, instance.run_as.as_ref())
}

/// Writes all configuration files; whether the server would read other settings than before.
pub(super) fn write_all(instance: &Instance, ports: InnerPorts) -> Result<bool> {
    let own = Own::ensure(instance)?;
    Certificate::make(instance)?;
    let write =
        |path: &Path, text: &str| files::write_readable(path, text.as_bytes(), instance.run_as.as_ref());
    write(&path(instance, LOGGING), &logging(instance))?;
    write(&path(instance, LOGGING2), &logging2(instance))?;
    let (path, text) = (properties_path(instance), server_properties(instance, &own, ports));
    let same = std::fs::read_to_string(&path).is_ok_and(|before| before == text);
    write(&path, &text)?;
    Ok(!same)
}
